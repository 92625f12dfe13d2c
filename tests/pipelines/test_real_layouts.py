"""From prompts to a trained policy with models as they are published: an original LLaVA answers, an LLM
behind a server divides, OmniLMM judges.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from real_layouts import (
    PARITY,
    QUESTIONS,
    Body,
    RealLayouts,
    claims_of,
    question_about,
    question_of,
    splitter,
)
from rlaifv_kedro.images import open_image
from rlaifv_kedro.models import Decoding, Question, load_model
from rlaifv_kedro.models.backends.transformers import TransformersModel
from rlaifv_kedro.runs.manifest import load
from whole_project import make_project

SURROUNDINGS = (
    "OPENAI_API_KEY",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
)
KEY = ["prompt_id", "candidate"]


@dataclass(frozen=True)
class Finished:
    """A project after run ``full``, all three stages, and run ``lora``, another training on the same
    pairs; and what the server was asked.
    """

    project: RealLayouts
    requests: list[Body]
    prompts: pd.DataFrame
    candidates: pd.DataFrame
    verdicts: pd.DataFrame
    pairs: pd.DataFrame

    def questions(self, prompt_ids: pd.Series) -> list[Question]:
        rows = self.prompts.set_index("prompt_id").loc[prompt_ids]
        return [
            Question(open_image(image, "a test"), text)
            for image, text in zip(rows["image"], rows["question"])
        ]

    def log_probs(self, model: TransformersModel) -> np.ndarray:
        """Of the chosen and the rejected answer of each pair, with their token counts: (pairs, 2, 2)."""
        answers = self.pairs[["chosen", "rejected"]].to_numpy().tolist()
        return np.array(model.branch_log_probs(self.questions(self.pairs["prompt_id"]), answers))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    project = RealLayouts(make_project(tmp_path_factory.mktemp("real") / "project").path)
    with pytest.MonkeyPatch.context() as patch, splitter() as server:
        for name in SURROUNDINGS:
            patch.delenv(name, raising=False)
        project.furnish(server.url)
        project.kedro("--pipelines", "data_generation,feedback,training", "--params", "run_id=full")
        project.kedro(
            "--pipelines",
            "training",
            "--params",
            "run_id=lora,training.lora.rank=4,training.learning_rate=0.01",
        )
        tables = [
            project.table(name, "full")
            for name in ("prompts.parquet", "candidates", "verdicts", "preference_pairs.parquet")
        ]
        yield Finished(project, list(server.bodies), *tables)


@pytest.fixture(scope="module")
def policy(finished: Finished) -> TransformersModel:
    """Read only."""
    return load_model(finished.project.policy, device="cpu")


@pytest.fixture(scope="module", params=["full", "lora"])
def trained(finished: Finished, request: pytest.FixtureRequest) -> tuple[str, TransformersModel]:
    """Run id, and the policy that it ended with. Read only."""
    return request.param, load_model(finished.project.checkpoint(request.param), device="cpu")


def test_the_manifest_says_how_pictures_and_prompts_were_prepared(finished: Finished) -> None:
    found = load(finished.project.path, "full").found_out
    assert found["models/llava"] == (
        "pictures are padded to a square with the mean colour; prompts are written by the checkpoint's own "
        "chat template"
    )


def test_every_prompt_has_its_candidates(finished: Finished, policy: TransformersModel) -> None:
    """They are those of the policy asked on its own, whatever else was in the batch."""
    assert len(finished.prompts) == finished.prompts["prompt_id"].nunique() == 6
    assert "<image>\nDescribe it." in set(finished.prompts["question"]) <= set(QUESTIONS)
    assert finished.candidates[KEY].values.tolist() == [
        [p, k] for p in finished.prompts["prompt_id"] for k in range(4)
    ]
    assert finished.candidates["answer"].nunique() == 24 and finished.candidates["answer"].str.strip().all()
    assert not finished.candidates["answer"].str.contains("<image>|<pad>|<unused", regex=True).any()
    assert finished.project.table("data_generation_rejects", "full").empty
    seeds = finished.candidates["seed"].to_numpy().reshape(6, 4).tolist()
    for question, row, part in zip(
        finished.questions(finished.prompts["prompt_id"][:2]),
        seeds,
        finished.candidates["answer"].to_numpy().reshape(6, 4),
    ):
        [alone] = policy.sample([question], [row], Decoding(1.0, 12))
        assert [answer.text for answer in alone] == part.tolist()


def test_claims_are_the_servers_in_its_order(finished: Finished) -> None:
    claims = finished.project.table("claims", "full")
    expected = [
        [row.prompt_id, row.candidate, k, claim, question_about(claim)]
        for row in finished.candidates.itertuples()
        for k, claim in enumerate(claims_of(row.answer))
    ]
    assert claims[[*KEY, "claim", "text", "question"]].values.tolist() == expected
    assert {2, 3} == set(claims.groupby(KEY).size())
    assert finished.project.table("feedback_rejects", "full").empty


def test_the_server_is_asked_once_about_an_answer_and_once_about_its_claims(finished: Finished) -> None:
    asked = finished.prompts.set_index("prompt_id")["question"]
    divide = [question_of(body) for body in finished.requests if "<answer>" in question_of(body)]
    found = sorted(
        re.search(r"<question>\n(.*)\n</question>.*<answer>\n(.*)\n</answer>", text, re.DOTALL).groups()
        for text in divide
    )
    assert found == sorted(
        (asked[p].removeprefix("<image>\n"), answer)
        for p, answer in zip(finished.candidates["prompt_id"], finished.candidates["answer"])
    )
    assert len(finished.requests) == 2 * len(divide)
    assert {(b["model"], b["temperature"], b["top_p"], b["max_tokens"]) for b in finished.requests} == {
        ("tiny", 0.2, 0.9, 512)
    }


def test_verdicts_are_the_labelers_first_tokens(finished: Finished) -> None:
    verdicts = finished.verdicts.merge(finished.project.table("claims", "full"), on=[*KEY, "claim"])
    assert len(verdicts) == len(finished.verdicts) and set(verdicts["accepted"]) == {True, False}
    one = verdicts[verdicts["prompt_id"] == finished.prompts["prompt_id"][1]]
    [question] = finished.questions(one["prompt_id"][:1])
    labeler = load_model(finished.project.labeler, device="cpu")
    [replies] = labeler.first_tokens(
        [question.image],
        [[f"{q} Please answer yes or no." for q in one["question"]]],
        [["yes", "Yes"], ["no"]],
    )
    expected = np.array([reply.probs for reply in replies])
    np.testing.assert_allclose(one[["p_yes", "p_no"]].to_numpy(), expected, rtol=0, atol=1e-6)
    assert np.ptp(expected, axis=0).min() > 1e-4  # so that verdicts of other claims would be seen
    assert (verdicts["accepted"] == (verdicts["p_yes"] > verdicts["p_no"])).all()


def test_pairs_prefer_fewer_rejected_claims(finished: Finished) -> None:
    answers = finished.candidates.set_index(KEY)["answer"]
    rejected_claims = (~finished.verdicts.set_index(KEY)["accepted"]).groupby(level=KEY).sum()
    assert len(finished.pairs) >= 4 and finished.pairs["prompt_id"].nunique() >= 3
    for pair in finished.pairs.itertuples():
        chosen, rejected = (pair.prompt_id, pair.chosen_candidate), (pair.prompt_id, pair.rejected_candidate)
        assert (pair.chosen, pair.rejected) == (answers[chosen], answers[rejected])
        assert (
            rejected_claims[chosen] == -pair.chosen_score < -pair.rejected_score == rejected_claims[rejected]
        )


@pytest.mark.parametrize("run_id", ["full", "lora"])
def test_the_policy_is_its_own_reference(finished: Finished, policy: TransformersModel, run_id: str) -> None:
    expected = finished.log_probs(policy)
    reference = (
        finished.project.table("reference_log_probs", run_id).set_index("idx").loc[finished.pairs["idx"]]
    )
    np.testing.assert_allclose(
        reference[["chosen", "rejected"]].to_numpy(), expected[..., 0], rtol=0, atol=1e-4
    )
    assert reference[["chosen_tokens", "rejected_tokens"]].to_numpy().tolist() == expected[..., 1].tolist()
    log = finished.project.table("training_log.parquet", run_id)
    assert log["step"].tolist() == list(range(1, math.ceil(len(finished.pairs) / 2) + 1))
    assert log["loss"][0] == pytest.approx(math.log(2), abs=1e-5) and log["reward_margin"][
        0
    ] == pytest.approx(0, abs=1e-5)


def test_training_moves_the_language_model_towards_the_chosen_answers(
    finished: Finished, policy: TransformersModel, trained: tuple[str, TransformersModel]
) -> None:
    run_id, model = trained
    log_ratios = (finished.log_probs(model) - finished.log_probs(policy))[..., 0]
    assert (log_ratios[:, 0] - log_ratios[:, 1]).mean() > 0.5
    before, after = policy.module.state_dict(), model.module.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    layers = {name for name in before if re.search(r"language_model\.layers\..*_proj\.weight", name)}
    learning = {name for name in before if "vision_tower" not in name}
    adapted = layers | {name for name in before if "multi_modal_projector" in name}
    assert before.keys() == after.keys() and changed == (adapted if run_id == "lora" else learning)


def test_what_is_saved_is_an_ordinary_checkpoint(
    finished: Finished, trained: tuple[str, TransformersModel], tmp_path: Path
) -> None:
    """Of whole weights, or of merged ones: in transformers' layout, the vision tower as it was published."""
    run_id, model = trained
    folder = finished.project.checkpoint(run_id)
    if run_id == "lora":
        assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
            finished.project.policy
        )
        names = load_file(folder / "adapter_model.safetensors")
        assert all(re.search(r"language_model.*lora_[AB]|multi_modal_projector", name) for name in names)
        folder = tmp_path
        model.module.save_pretrained(folder)
        model.processor.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("llava", ["LlavaForConditionalGeneration"])
    weights, published = (
        load_file(folder / "model.safetensors"),
        load_file(PARITY / "llava_original" / "model.safetensors"),
    )
    tower = {
        f"model.vision_tower.{name}": weight for name, weight in weights.items() if "vision_tower" in name
    }  # llava-hf's names
    assert tower.keys() == {name for name in published if "vision_tower" in name}
    assert all(torch.equal(weight, published[name].float()) for name, weight in tower.items())

    plain, report = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report.values())
    loaded, ours = plain.state_dict(), load_model(folder, device="cpu").module.state_dict()
    assert all(
        torch.equal(ours[name], weight) and torch.equal(loaded[name], weight)
        for name, weight in model.module.state_dict().items()
    )
    [question], answer = finished.questions(finished.pairs["prompt_id"][:1]), finished.pairs["chosen"][0]
    assert log_prob(plain.eval(), AutoProcessor.from_pretrained(folder), question, answer) == pytest.approx(
        finished.log_probs(model)[0, 0, 0], abs=1e-3
    )


@torch.no_grad()
def log_prob(model: torch.nn.Module, processor: AutoProcessor, question: Question, answer: str) -> float:
    """Of an answer, by transformers alone, over the original vocabulary."""
    asked = {
        "role": "user",
        "content": [{"type": "image"}, {"type": "text", "text": question.text.replace("<image>\n", "")}],
    }
    reply = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
    texts = [
        processor.apply_chat_template(chat, add_generation_prompt=len(chat) == 1)
        for chat in ([asked], [asked, reply])
    ]
    prompt, whole = (
        processor(text=text, images=question.image.convert("RGB"), return_tensors="pt") for text in texts
    )
    start = prompt["input_ids"].shape[1]
    log_probs = model(**whole).logits[0, start - 1 : -1, :320].log_softmax(-1)
    return float(log_probs.gather(1, whole["input_ids"][0, start:, None]).sum())
