"""Reference log-probs: whose they are, what they depend on, and how they are computed and resumed."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from kedro.io.core import Version

from pair_files import store_of
from rlaifv_kedro.datasets.chunks import Chunk, ChunkedTableDataset, Complete
from rlaifv_kedro.engine.outputs import Outputs, running
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models import Question, load_model
from rlaifv_kedro.models.backends.transformers import TransformersModel
from rlaifv_kedro.params import ComputeParams, ModelsParams
from rlaifv_kedro.pipelines.training.nodes import compute_reference, train_policy
from rlaifv_kedro.preference.data import Truncation
from rlaifv_kedro.preference.reference import fingerprint, refuse_mismatch
from rlaifv_kedro.preference.weights import Reduction
from tiny_training import PARAMS, WHOLE, Spy, last, make_pairs, reference_of

COMPUTE = ComputeParams(device="cpu", dtype="float32")
NO_REJECTS = pd.DataFrame(columns=["stage", "key", "why"])


def test_reference_log_probs_are_those_of_the_pairs(
    model: TransformersModel, pairs: pd.DataFrame, reference: pd.DataFrame, pictures: list
) -> None:
    """Row 7, idx 57, about image 1, asked alone. ``there is a bench .`` and its end make 6 tokens."""
    question = Question(pictures[1], pairs.at[7, "question"])
    [[chosen, rejected]] = model.branch_log_probs(
        [question], [[pairs.at[7, "chosen"], pairs.at[7, "rejected"]]]
    )
    row = reference.set_index("idx").loc[57]
    np.testing.assert_allclose([row["chosen"], row["rejected"]], [chosen[0], rejected[0]], rtol=1e-5)
    assert (row["chosen_tokens"], row["rejected_tokens"]) == (9, 6)


def test_rows_are_by_prompt_and_equal_to_one_pair_at_a_time(
    model: TransformersModel, pairs: pd.DataFrame, reference: pd.DataFrame
) -> None:
    """Rows i and i + 6 of ``pairs`` are one prompt's. A pair alone has only its own two answers in its
    pack.
    """
    assert reference["idx"].tolist() == [50, 56, 51, 57, 52, 58, 53, 59, 54, 60, 55, 61]
    alone = pd.concat(
        [reference_of(model, pairs[pairs["idx"] == i]) for i in reference["idx"]], ignore_index=True
    )
    pd.testing.assert_frame_equal(reference, alone, rtol=1e-5)
    assert reference["rejected"].nunique() == 12 and reference["chosen"].nunique() == 6


def test_neither_batch_size_nor_order_matters(
    tiny: Path, pairs: pd.DataFrame, reference: pd.DataFrame
) -> None:
    shuffled = reference_of(
        load_model(tiny, device="cpu", batch_size=2), pairs.sample(frac=1, random_state=3)
    )
    pd.testing.assert_frame_equal(
        shuffled.sort_values("idx", ignore_index=True),
        reference.sort_values("idx", ignore_index=True),
        rtol=1e-5,
    )


def test_a_prompts_distinct_answers_are_computed_once(
    model: TransformersModel, images: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The method's worst case: of four candidates, every one is in three pairs; 12 answers, 4 of them
    different. The other prompt has two more.
    """
    answers = ["i see a cup.", "i see a dog.", "there is a kite and a clock.", "it contains a tv."]
    rows = [
        (10 * i + j, 0, "name three objects in the image.", answers[i], answers[j])
        for i in range(4)
        for j in range(i + 1, 4)
    ]
    frame = make_pairs(images, [*rows, (99, 1, "name three objects in the image.", answers[0], answers[1])])
    spy = Spy(TransformersModel.pack_log_probs)
    monkeypatch.setattr(TransformersModel, "pack_log_probs", spy)
    found = reference_of(model, frame)
    packs = [pack for (_, _, packs), _ in spy.calls for pack in packs]
    assert [len(pack.branches) for pack in packs] == [4, 2]
    assert all(len(set(map(tuple, pack.branches))) == len(pack.branches) for pack in packs)
    values = {
        (row.chosen, row.rejected): log_probs
        for row, log_probs in zip(frame.itertuples(), found.itertuples())
        if row.idx != 99
    }
    assert len({v.chosen for (chosen, _), v in values.items() if chosen == answers[0]}) == 1
    assert (
        values[answers[0], answers[1]].rejected == values[answers[1], answers[2]].chosen
    )  # the same number, since computed once


def test_fingerprint_names_the_part_that_differs(
    tiny: Path, pairs: pd.DataFrame, tmp_path: Path, trained: tuple
) -> None:
    own = load_model(tiny, device="cpu").processor
    stored = fingerprint(tiny, store_of(pairs), own, "float32", WHOLE)
    padding, other_words = (
        load_model(tiny, device="cpu", **changes).processor
        for changes in ({"image_aspect_ratio": "pad"}, {"chat_template": "llava_v1"})
    )
    refuse_mismatch(
        stored,
        fingerprint(Path(shutil.copytree(tiny, tmp_path / "copy")), store_of(pairs), own, "float32", WHOLE),
    )
    other = {
        "another policy": fingerprint(last(*trained[:2]), store_of(pairs), own, "float32", WHOLE),
        "another chat template": fingerprint(tiny, store_of(pairs), other_words, "float32", WHOLE),
        "another preprocessing of pictures": fingerprint(tiny, store_of(pairs), padding, "float32", WHOLE),
        "another way to compute": fingerprint(tiny, store_of(pairs), own, "bfloat16", WHOLE),
    }
    swapped = pairs.rename(columns={"chosen": "rejected", "rejected": "chosen"})
    one_word = pairs.assign(chosen=[*pairs["chosen"][:-1], "a cup."])
    one_image = pairs.assign(image=[*pairs["image"][:-1], pairs["image"][0]])
    for frame in (swapped, one_word, one_image, pairs.iloc[::-1], pairs.iloc[:-1]):
        with pytest.raises(UserError, match="belongs to other preference pairs or another truncation "):
            refuse_mismatch(stored, fingerprint(tiny, store_of(frame), own, "float32", WHOLE))
    for truncation in (Truncation(64), Truncation(None, "left")):
        with pytest.raises(UserError, match="belongs to other preference pairs or another truncation "):
            refuse_mismatch(stored, fingerprint(tiny, store_of(pairs), own, "float32", truncation))
    mean, weighted = (
        fingerprint(tiny, store_of(pairs), own, "float32", WHOLE, Reduction(kind))
        for kind in ("mean", "weighted")
    )
    with pytest.raises(
        UserError, match=r"belongs to another reduction of log-probs \(log_probs sum, now mean\)"
    ):
        refuse_mismatch(stored, mean)
    with pytest.raises(
        UserError, match=r"belongs to another reduction of log-probs \(log_probs weighted 5, now sum\)"
    ):
        refuse_mismatch(weighted, stored)
    for part, now in other.items():
        with pytest.raises(UserError, match=f"belongs to {part} ") as caught:
            refuse_mismatch(stored, now)
        assert " and " not in caught.value.message.partition(". Compute")[0]
    with pytest.raises(UserError, match="no fingerprint"):
        refuse_mismatch(None, stored)


def test_the_sum_is_over_what_truncation_leaves(
    model: TransformersModel, pairs: pd.DataFrame, pictures: list
) -> None:
    """All answers cut to 4 tokens: ``it contains a cup``, without an end of sequence. Row 0 by the model's
    own forward pass.
    """
    question = pairs.at[0, "question"]
    image = model.encoder.image(pictures[0])
    prompt, [answer] = model.encoder.answers(question, [pairs.at[0, "chosen"]], image)
    found = reference_of(model, pairs, Truncation(len(prompt) + 4))
    assert set(found["chosen_tokens"]) == set(found["rejected_tokens"]) == {4}
    with torch.no_grad():
        logits = model.module(input_ids=torch.tensor([prompt + answer]), **image.inputs).logits[
            0, len(prompt) - 1 :
        ]  # (tokens + 1, vocabulary)
    tokens = logits[:-1].log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).squeeze(1)
    assert found["chosen"][0] == pytest.approx(float(tokens[:4].sum()), rel=1e-5)
    assert len(answer) == 9


def _train(folder: Path, *arguments: Any) -> tuple[list[dict], pd.DataFrame]:
    """train_policy as Kedro runs it, with its checkpoints in ``work``."""
    paths = {"checkpoints": folder / "work", "training_log": folder / "log/run/log"}
    with running(Outputs(paths=paths)):
        return train_policy(*arguments)


class Node:
    """compute_reference with its two catalog entries, as Kedro runs it."""

    def __init__(self, folder: Path, tiny: Path, pairs: pd.DataFrame):
        self.folder, self.tiny, self.pairs = folder, tiny, pairs
        entry = {"filepath": str(folder), "table": "reference_log_probs", "version": Version("run", "run")}
        self.table = ChunkedTableDataset(**entry)

    def run(self, outputs: int | None = None, policy: Path | None = None, **changes: Any) -> list[Any]:
        """Run to its end, or, as if killed, until so many outputs are saved."""
        params = PARAMS.model_copy(update={"chunk_size": 2, **changes})
        saved = []
        stream = compute_reference(
            store_of(self.pairs),
            NO_REJECTS,
            policy or self.tiny,
            params,
            ModelsParams(),
            COMPUTE,
        )
        with running(Outputs(finished=frozenset(self.table.finished_chunks()))):
            while len(saved) != outputs and (output := next(stream, None)) is not None:
                self.table.save(output)
                saved.append(output)
        stream.close()
        return saved

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}


def test_chunks_are_of_prompts_and_the_table_is_the_whole(
    tmp_path: Path, tiny: Path, pairs: pd.DataFrame, reference: pd.DataFrame
) -> None:
    """Six prompts of two pairs each, two prompts a chunk."""
    node = Node(tmp_path / "reference", tiny, pairs)
    *chunks, marker = node.run()
    assert [chunk.id for chunk in chunks] == ["00000", "00001", "00002"]
    files = sorted(node.table.save_path().glob("*.parquet"))
    assert [len(pd.read_parquet(file)) for file in files] == [4, 4, 4]
    assert marker == Complete(["00000", "00001", "00002"])
    table = node.table.load()
    pd.testing.assert_frame_equal(table, reference, rtol=1e-5, check_dtype=False)
    assert table.attrs["fingerprint"] == fingerprint(
        tiny, store_of(pairs), load_model(tiny).processor, "float32", Truncation(2048)
    )


def test_a_killed_reference_goes_on_with_the_missing_chunks(
    tmp_path: Path, tiny: Path, pairs: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after each output in turn: finished chunks are neither computed nor written again, and the
    files end up the same.
    """
    spy = Spy(TransformersModel.pack_log_probs)
    monkeypatch.setattr(TransformersModel, "pack_log_probs", spy)
    whole = Node(tmp_path / "whole", tiny, pairs)
    whole.run()
    expected = whole.files()
    chunks = ["00000.parquet", "00001.parquet", "00002.parquet"]
    assert sorted(expected) == [".chunks.sha256", *chunks, "_complete.json"]
    computed = [pack for (_, _, packs), _ in spy.calls for pack in packs]
    for killed in range(4):
        spy.calls.clear()
        node = Node(tmp_path / f"killed {killed}", tiny, pairs)
        assert all(isinstance(output, Chunk) for output in node.run(outputs=killed))
        assert not node.table.exists()
        resumed = node.run()
        assert [getattr(output, "id", "marker") for output in resumed] == [
            *["00000", "00001", "00002"][killed:],
            "marker",
        ]
        assert [
            pack for (_, _, packs), _ in spy.calls for pack in packs
        ] == computed  # over both runs, each once
        assert node.files() == expected


def test_a_damaged_chunk_is_computed_again(tmp_path: Path, tiny: Path, pairs: pd.DataFrame) -> None:
    node = Node(tmp_path / "reference", tiny, pairs)
    node.run()
    expected = node.files()
    [damaged] = node.folder.rglob("00001.parquet")
    damaged.write_bytes(b"PAR1")
    assert [getattr(output, "id", "marker") for output in node.run()] == ["00001", "marker"]
    assert node.files() == expected


def test_chunks_of_two_policies_are_not_mixed(
    tmp_path: Path, tiny: Path, pairs: pd.DataFrame, trained: tuple
) -> None:
    """Should a run be resumed with another policy, what it finished before gives it away."""
    node = Node(tmp_path / "reference", tiny, pairs)
    node.run(outputs=1)
    node.run(policy=last(*trained[:2]))
    with pytest.raises(UserError, match="mixes chunks of different fingerprints"):
        node.table.load()


@pytest.mark.parametrize(
    "changes", [{"max_length": 64}, {"max_length": None}, {"truncation": "left"}, {"log_probs": "mean"}]
)
def test_training_refuses_a_reference_of_another_truncation_or_reduction(
    tmp_path: Path, tiny: Path, pairs: pd.DataFrame, changes: dict[str, Any]
) -> None:
    """Though here nothing is long enough to be cut: whether it is, is known only after tokenising."""
    node = Node(tmp_path / "reference", tiny, pairs)
    node.run()
    params = PARAMS.model_copy(update=changes)
    named = (
        "another reduction of log-probs"
        if "log_probs" in changes
        else "other preference pairs or another truncation"
    )
    with pytest.raises(UserError, match=f"belongs to {named} .*Compute it again"):
        _train(
            tmp_path,
            store_of(pairs),
            node.table.load(),
            tiny,
            0,
            1,
            params,
            ModelsParams(),
            COMPUTE,
        )
    assert not list((tmp_path / "work").glob("checkpoint-*"))


def test_training_refuses_a_reference_of_another_policy(
    tmp_path: Path, tiny: Path, pairs: pd.DataFrame, trained: tuple
) -> None:
    """The mistake of the original release: iteration 2 against iteration 1's reference."""
    node = Node(tmp_path / "reference", tiny, pairs)
    node.run()
    with pytest.raises(UserError, match="belongs to another policy "):
        _train(
            tmp_path,
            store_of(pairs),
            node.table.load(),
            last(*trained[:2]),
            0,
            1,
            PARAMS,
            ModelsParams(),
            COMPUTE,
        )


@pytest.mark.parametrize("log_probs", ["sum", "weighted"])
def test_the_node_and_the_training_agree(
    tmp_path: Path, tiny: Path, pairs: pd.DataFrame, log_probs: str
) -> None:
    """From the one node to the other through the files, with answers that are cut: the loss begins at ln
    2.
    """
    prompt = len(
        (encoder := load_model(tiny, device="cpu").encoder).prompts(
            [pairs.at[0, "question"]], encoder.placeholder(36)
        )[0]
    )
    node = Node(tmp_path / "reference", tiny, pairs)
    changes = {"max_length": prompt + 5, "log_probs": log_probs}
    node.run(**changes)
    params = PARAMS.model_copy(update={**changes, "epochs": 1 / 3})
    _, log = _train(
        tmp_path,
        store_of(pairs),
        node.table.load(),
        tiny,
        0,
        1,
        params,
        ModelsParams(),
        COMPUTE,
    )
    assert log["loss"].tolist() == pytest.approx([np.log(2)], abs=1e-5)
