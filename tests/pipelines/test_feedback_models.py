"""The splitter that the parameters of feedback ask for."""

from pathlib import Path

import pytest

from rlaifv_kedro import models
from rlaifv_kedro.claims import Claim
from rlaifv_kedro.claims.llm_splitter import LLMSplitter
from rlaifv_kedro.miniature.splitter import MiniatureSplitter
from rlaifv_kedro.models import Decoding
from rlaifv_kedro.params import ComputeParams, FeedbackParams, ModelsParams, TransformersParams
from rlaifv_kedro.pipelines.feedback.models import open_splitter
from rlaifv_kedro.seeds import seed_for
from scripted_text import Scripted

DIVIDED = "### Facts\n- A dog sits.\n- It is not brown."
ASKED = "### Questions\n- Does a dog sit?\n- Is it not brown?"
CLAIMS = [Claim("A dog sits.", "Does a dog sit?"), Claim("It is not brown.", "Is it not brown?")]


def open_with(
    monkeypatch: pytest.MonkeyPatch, by_role: dict[str, Scripted], params: FeedbackParams, seed: int = 0
) -> LLMSplitter:
    """The splitter whose models answer from scripts; all that were opened are handed on to be closed."""
    by_path = {None: by_role["splitter"], "writer": by_role.get("question_writer")}
    monkeypatch.setattr(
        models, "open_text_model", lambda params, compute, batch_size, role: by_path[params.path]
    )
    writer = TransformersParams(path="writer") if "question_writer" in by_role else None
    splitter, opened = open_splitter(seed, params, ModelsParams(question_writer=writer), ComputeParams())
    assert opened == list(by_role.values())
    return splitter


def test_the_rule_of_the_miniature_asks_no_model() -> None:
    params = FeedbackParams(splitter="miniature", count_repeats=False)
    splitter, opened = open_splitter(0, params, ModelsParams(), ComputeParams())
    assert isinstance(splitter, MiniatureSplitter) and not splitter.count_repeats
    assert opened == []


def test_two_models_with_all_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    divider, writer = Scripted({"ANSWER": DIVIDED}), Scripted({"- ": ASKED})
    mine = tmp_path / "mine.txt"
    mine.write_text("Mine. {question} {answer}")
    params = FeedbackParams(
        divide_prompt=str(mine),
        splitter_tries=2,
        splitter_temperature=0.5,
        splitter_top_p=0.8,
        splitter_max_new_tokens=100,
    )
    made = open_with(monkeypatch, {"splitter": divider, "question_writer": writer}, params, seed=3)
    decoding = Decoding(temperature=0.5, max_new_tokens=100, top_p=0.8)
    same = LLMSplitter(divider, writer, seed=3, divide_prompt=mine, tries=2, decoding=decoding)
    assert (made.tries, made.decoding) == (same.tries, same.decoding)
    assert (made.divide_prompt, made.question_prompt) == (same.divide_prompt, same.question_prompt)
    assert made.split(["Q"], ["ANSWER"]) == [CLAIMS]
    assert divider.prompts == ["Mine. Q ANSWER"]
    assert divider.asked[0][1] == seed_for(3, "splitter", "divide", "Mine. Q ANSWER", 0)


def test_without_a_question_writer_the_divider_does_both(monkeypatch: pytest.MonkeyPatch) -> None:
    both = Scripted({"<answer>": DIVIDED, "The statements:\n- A dog sits.\n- It is not brown.": ASKED})
    splitter = open_with(monkeypatch, {"splitter": both}, FeedbackParams())
    assert splitter.split(["Q"], ["ANSWER"]) == [CLAIMS]
