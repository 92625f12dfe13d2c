"""Mixes of pairs: weights, filters, and rows that can't be trained on."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import tiny_processors
from pair_files import picture, published, store_of, write_published
from rlaifv_kedro.datasets.pair_sources import FramePairs, PairSource, ParquetPairs
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.encoding import ChatEncoder
from rlaifv_kedro.params import ComputeParams, MixSource, ModelsParams, TrainingParams, validate_parameters
from rlaifv_kedro.pipelines.training.nodes import compute_reference
from rlaifv_kedro.preference.data import Truncation, fault_of_pair
from rlaifv_kedro.preference.mix import (
    Fault,
    Mix,
    drawn_rows,
    gather,
    make_mix,
    matching_rows,
    refuse_too_many,
)

ROWS = np.arange(1000)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ChatEncoder:
    """Of a policy that has a token for every byte."""
    return ChatEncoder(tiny_processors.qwen(tmp_path_factory.mktemp("qwen")), "policy")


def look(encoder: ChatEncoder, *truncation: Any) -> Fault:
    return partial(fault_of_pair, encoder=encoder, truncation=Truncation(*truncation))


def frame(count: int, **changes: list) -> pd.DataFrame:
    return pd.DataFrame([published(i) for i in range(count)]).assign(**changes)


def source(count: int, **changes: list) -> FramePairs:
    return FramePairs(frame(count, **changes), "own")


def whole(*sources: PairSource) -> Mix:
    return make_mix(
        {f"s{i}": s for i, s in enumerate(sources)}, {f"s{i}": MixSource() for i in range(len(sources))}, 0
    )


@pytest.mark.parametrize(
    ("weight", "times"), [(0, {0}), (0.5, {0, 1}), (1, {1}), (1.5, {1, 2}), (2, {2}), (0.001, {0, 1})]
)
def test_a_weight_is_how_often_a_row_is_used_on_average(weight: float, times: set[int]) -> None:
    counts = np.bincount(drawn_rows(ROWS, weight, 0, "a"), minlength=1000)
    assert counts.sum() == 1000 * weight
    assert set(counts) == times


def test_the_draw_depends_on_seed_source_and_row_alone() -> None:
    half = set(drawn_rows(ROWS, 0.5, 0, "a"))
    assert half == set(drawn_rows(ROWS, 0.5, 0, "a"))
    others = [set(drawn_rows(ROWS, 0.5, seed, name)) for seed, name in ((1, "a"), (0, "b"))]
    assert all(150 < len(half & other) < 350 for other in others)  # two halves drawn apart share a quarter
    assert set(drawn_rows(ROWS, 0.25, 0, "a")) < half < set(drawn_rows(ROWS, 0.75, 0, "a"))
    # Without the rows above 900 the others' order stays: only where the half ends moves.
    fewer = set(drawn_rows(ROWS[:900], 0.5, 0, "a"))
    assert len(fewer ^ {row for row in half if row < 900}) < 60


def test_a_mix_holds_the_sources_one_after_the_other(encoder: ChatEncoder) -> None:
    entries = {"own": frame(4), "published": source(3)}
    mix = make_mix(entries, {"own": MixSource(weight=2), "published": MixSource()}, 0)
    assert mix.source.tolist() == [0] * 8 + [1] * 3
    assert mix.row.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 0, 1, 2]
    rejects, pairs = gather(mix, range(6, 10), look(encoder))
    assert len(rejects) == 0
    assert pairs["idx"].tolist() == [6, 7, 8, 9]
    assert list(zip(pairs["source"], pairs["source_idx"])) == [
        ("own", 3),
        ("own", 3),
        ("published", 0),
        ("published", 1),
    ]
    assert pairs["chosen"].tolist() == ["A colour, 3.", "A colour, 3.", "A colour, 0.", "A colour, 1."]
    store = store_of(pairs)
    assert store.prompts.tolist() == [0, 0, 1, 2]
    assert store.origin(0) == ("drawn", published(3)["origin_split"])


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ({}, range(12)),
        ({"model": "a"}, range(0, 12, 2)),
        ({"model": ["a", "b"]}, range(12)),
        ({"iteration": 1}, range(1, 12, 3)),
        ({"iteration": ["1", 2]}, [1, 2, 4, 5, 7, 8, 10, 11]),
        ({"model": "b", "iteration": [0]}, [3, 9]),
    ],
)
def test_filters_look_into_origin_split(tmp_path: Path, where: dict, rows: list[int]) -> None:
    files = [
        write_published(tmp_path / f"{k}.parquet", [published(k * 6 + i) for i in range(6)], row_group=4)
        for k in range(2)
    ]
    assert matching_rows(ParquetPairs(files), where, "x").tolist() == list(rows)
    assert matching_rows(source(12), where, "x").tolist() == list(rows)


def test_filters_that_can_t_be_meant() -> None:
    with pytest.raises(
        UserError,
        match=r"mix.x.where.modle: no row's origin_split has this key; the keys there are: iteration, "
        r"model, type",
    ):
        matching_rows(source(3), {"modle": "a"}, "x")
    with pytest.raises(
        UserError, match=r"training.mix.x.where.model leaves no row. The values that there are: a, b"
    ):
        matching_rows(source(3), {"model": "c"}, "x")
    with pytest.raises(UserError, match=r"where.iteration leaves no row. The values that there are: 0, 1, 2"):
        matching_rows(
            source(4), {"model": "b", "iteration": 2}, "x"
        )  # each has rows, both together have none
    with pytest.raises(UserError, match="a JSON object in none of the 2 rows"):
        matching_rows(source(2, origin_split=["train", None]), {"model": "a"}, "x")


def test_rows_without_json_match_no_filter_and_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    splits = [
        json.dumps({"model": "a"}),
        "train",
        None,
        json.dumps(["a"]),
        json.dumps({"labeler": "x"}),
        "[" * 200_000,
    ]
    assert matching_rows(source(6, origin_split=splits), {"model": "a"}, "x").tolist() == [0]
    assert "x: 4 rows are left out" in caplog.text
    assert len(matching_rows(source(6, origin_split=splits), {}, "x")) == 6


def test_rows_that_can_t_be_used_are_rejects_with_file_and_row(tmp_path: Path, encoder: ChatEncoder) -> None:
    """Damaged, truncated, missing and no pair at all: each keeps its place in the mix, so the others' idx
    doesn't depend on it.
    """
    (tmp_path / "there.png").write_bytes(picture(9))
    rows = [
        published(0),
        published(1, image={"bytes": b"no picture", "path": "x.png"}),
        published(2, image={"bytes": picture(2)[:40], "path": None}),
        published(3, image={"bytes": None, "path": "gone.png"}),
        published(4, chosen=""),
        published(5, image={"bytes": None, "path": "there.png"}),
    ]
    mix = whole(ParquetPairs([write_published(tmp_path / "some.parquet", rows)], folder=tmp_path))
    rejects, pairs = gather(mix, range(6), look(encoder))
    assert pairs["idx"].tolist() == [0, 5]
    assert pairs["image"][1] == {"bytes": picture(9), "path": "there.png"}
    assert rejects["key"].tolist() == ["1", "2", "3", "4"]
    assert all(f"some.parquet, row {key}: " in why for key, why in zip(rejects["key"], rejects["why"]))
    for why, part in zip(rejects["why"], ["x.png", "can't be read", "gone.png", "chosen answer is empty"]):
        assert part in why


def test_pairs_that_the_policy_cannot_be_trained_on_are_rejects(tmp_path: Path, encoder: ChatEncoder) -> None:
    """Each is looked at in the policy's tokens: 36 of them are the prompt's without its question."""
    [empty], [asked] = (encoder.prompts([q], encoder.blank((4, 4))) for q in ("", "What is in picture 0?"))
    room = 40
    most = len(asked) + room
    same = "A dog and a cat and a cup and a red table. " * 4
    rows = [
        published(0),
        published(1, question="Describe it. " * 60),
        published(2, chosen=f"{same} A cup.", rejected=f"{same} A dog."),
        published(3, chosen="A dog.<|im_end|>", rejected="A dog."),
        published(4, question="<image>"),
        published(5, rejected=" <|im_end|>"),
        published(6, question="<image>\nWhat?", chosen="\nA dog.", rejected="\n\nA cup."),
        published(7, chosen="A dog. \U0001f436 \0 \u2028 \u200f\u05e9", rejected="A dog. \U0001f42f"),
    ]
    mix = whole(ParquetPairs([write_published(tmp_path / "some.parquet", rows)]))
    rejects, pairs = gather(mix, range(8), look(encoder, most))
    assert pairs["idx"].tolist() == [0, 6, 7]
    for row, part in [
        (1, f"its image and question have .* no room for an answer in training.max_length={most}"),
        (2, f"are the same in the policy's tokens, cut to training.max_length={most}"),
        (3, "are the same in the policy's tokens, cut"),
        (4, "the question is empty without words that stand for an image"),
        (5, "the rejected answer is empty without words"),
    ]:
        [why] = rejects.loc[rejects["key"] == str(row), "why"]
        assert re.search(rf"some.parquet, row {row}: .*{part}", why)
    assert len(rejects) == 5
    # Cut on the left, a question's beginning goes instead, and the answers differ again.
    rejects, pairs = gather(mix, [1, 2], look(encoder, len(empty) + 250, "left"))
    assert pairs["idx"].tolist() == [1, 2]
    assert gather(mix, [1, 2], look(encoder))[1]["idx"].tolist() == [1, 2]


def test_paths_count_from_the_source_s_folder_then_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: ChatEncoder
) -> None:
    monkeypatch.chdir(tmp_path)
    row = published(0, image={"bytes": None, "path": "images/a.png"})
    file = write_published(tmp_path / "source/some.parquet", [row])
    mix = whole(ParquetPairs([file], folder=file.parent))
    for number, folder in enumerate([tmp_path / "images", tmp_path / "source/images"]):
        folder.mkdir()
        (folder / "a.png").write_bytes(picture(number))
        assert gather(mix, range(1), look(encoder))[1]["image"][0]["bytes"] == picture(number)


def test_too_many_rejects_stop_the_training() -> None:
    pairs, rejects = (
        store_of(frame(9)),
        pd.DataFrame({"stage": ["training"], "key": ["3"], "why": ["a.parquet, row 3: bad"]}),
    )
    refuse_too_many(pairs, rejects, 0.1)
    with pytest.raises(
        UserError, match=r"1 of 10 pairs.*max_reject_share=0.05. The first: a.parquet, row 3: bad"
    ):
        refuse_too_many(pairs, rejects, 0.05)
    with pytest.raises(UserError, match="1 of 1 pairs"):
        refuse_too_many(store_of(frame(1)[:0]), rejects, 1.0)
    params = TrainingParams(max_reject_share=0.05)
    with pytest.raises(UserError, match="1 of 10 pairs"):  # before the model is looked for
        next(compute_reference(pairs, rejects, Path("nowhere"), params, ModelsParams(), ComputeParams()))


def test_a_mix_without_pairs_is_refused() -> None:
    with pytest.raises(UserError, match="leaves no pair of own"):
        make_mix({"own": frame(1)}, {"own": MixSource(weight=0.1)}, 0)


class TestParameters:
    def test_own_pairs_are_in_every_mix_unless_their_weight_is_0(self) -> None:
        assert TrainingParams().sources() == ["preference_pairs"]
        assert TrainingParams(mix={"published_pairs": {"weight": 0.5}}).sources() == [
            "preference_pairs",
            "published_pairs",
        ]
        assert TrainingParams(mix={"preference_pairs": {"weight": 0}, "published_pairs": {}}).sources() == [
            "published_pairs"
        ]

    @pytest.mark.parametrize(
        ("mix", "message"),
        [
            ({"preference_pairs": {"weight": 0}}, "all weights are 0"),
            (
                {"published_pairs": {"wieght": 1}},
                "training.mix.published_pairs.wieght: unknown parameter; did you mean",
            ),
            ({"published_pairs": {"weight": -1}}, "allowed: >= 0 and <= 1000"),
            ({"published_pairs": {"where": {"model": {"a": 1}}}}, "training.mix.published_pairs.where"),
        ],
    )
    def test_impossible_ones_are_refused(self, mix: dict, message: str) -> None:
        with pytest.raises(UserError) as caught:
            validate_parameters({"training": {"mix": mix}})
        assert message in caught.value.message

    def test_values_keep_their_types(self) -> None:
        where = {"iteration": [1, "2"], "model": "a", "balanced": True, "score": 0.5, "type": None}
        assert TrainingParams(mix={"a": {"where": where}}).mix["a"].where == where
