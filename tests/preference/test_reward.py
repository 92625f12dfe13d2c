"""The reward: its arithmetic, its scores for pairs, and the models behind it."""

import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models import Question, load_model
from rlaifv_kedro.models.backends.transformers import TransformersModel
from rlaifv_kedro.preference.reward import Reward, reward_scores, with_rewards

QUESTION = "describe the image in detail."
ANSWERS = ["there is a cup.", "there is a dog and a cup and a bus.", "there is a cup."]


@pytest.fixture(scope="module")
def aligned(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint a step away, as training would leave it."""
    folder = tmp_path_factory.mktemp("aligned") / "checkpoint"
    shutil.copytree(tiny, folder)
    weights = load_file(folder / "model.safetensors")
    torch.manual_seed(0)
    save_file(
        {name: w + 0.01 * torch.randn_like(w) for name, w in weights.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    return folder


@pytest.fixture(scope="module")
def asked(pictures: list[Image.Image]) -> tuple[list[Question], list[pd.DataFrame]]:
    """Five images, three candidates each, two of them the same."""
    groups = [
        pd.DataFrame({"prompt_id": f"p{i}", "candidate": [0, 1, 2], "answer": ANSWERS}) for i in range(5)
    ]
    return [Question(picture, QUESTION) for picture in pictures[:5]], groups


def test_worked_by_hand():
    """beta 0.1. Short answer, 4 tokens: log-ratio -10 - -12 = 2, sum 0.2, a token 0.05. Long one, 20 tokens:
    -30 - -31 = 1, 0.1, 0.005. One that training made less likely, 10 tokens: -25 - -22 = -3, -0.3, -0.03.
    """
    log_probs = pd.DataFrame(
        {
            "policy_log_prob": [-10.0, -30.0, -25.0],
            "reference_log_prob": [-12.0, -31.0, -22.0],
            "token_count": [4, 20, 10],
        }
    )
    rewards = with_rewards(log_probs, beta=0.1)
    assert rewards["reward_sum"].tolist() == pytest.approx([0.2, 0.1, -0.3])
    assert rewards["reward"].tolist() == pytest.approx([0.05, 0.005, -0.03])


def test_length_decides_between_the_two_rankings():
    """Two nats lost over 5 tokens are -0.4 a token, three over 15 only -0.2: the sum prefers the short
    answer, the quotient the long one.
    """
    log_probs = pd.DataFrame(
        {"policy_log_prob": [-7.0, -18.0], "reference_log_prob": [-5.0, -15.0], "token_count": [5, 15]}
    )
    rewards = with_rewards(log_probs, beta=1.0)
    assert rewards["reward_sum"].idxmax() == 0
    assert rewards["reward"].idxmax() == 1


def test_scores_worked_by_hand():
    """Prompt a: 1, 3, mean 2, squares 1 + 1. Prompt b: 0, 0, 6, mean 2, squares 4 + 4 + 16. Pooled
    variance (2 + 24) / (5 - 2) = 26 / 3.
    """
    rewards = pd.DataFrame(
        {
            "prompt_id": list("aabbb"),
            "candidate": [0, 1, 0, 1, 2],
            "reward": [1.0, 3, 0, 0, 6],
            "reward_sum": [9.0, 9, 9, 9, 12],
        }
    )
    scores = reward_scores(rewards, "normalised")
    assert list(scores.columns) == ["prompt_id", "candidate", "score"]
    assert (scores["score"] * math.sqrt(26 / 3)).tolist() == pytest.approx([1, 3, 0, 0, 6])
    # Summed: a has squares 0, b 1 + 1 + 4: variance 6 / 3 = 2.
    assert (reward_scores(rewards, "summed")["score"] * math.sqrt(2)).tolist() == pytest.approx(
        [9, 9, 9, 9, 12]
    )


@pytest.mark.parametrize("prompts", [["a", "b"], ["a", "a"]])
def test_no_spread_no_scores(prompts: list[str]):
    """One candidate a prompt, or equal ones: nothing can be preferred, and nothing is divided by zero."""
    rewards = pd.DataFrame(
        {"prompt_id": prompts, "candidate": [0, 1], "reward": [0.5, 0.5], "reward_sum": [1.0, 1.0]}
    )
    assert reward_scores(rewards, "normalised")["score"].tolist() == [0, 0]


def test_table_is_what_each_model_says(tiny: Path, aligned: Path, asked):
    """Log-probs as of answers that were scored one by one, end-of-sequence token counted: "there is a cup
    ." and the end are 6 tokens.
    """
    questions, groups = asked
    policy, reference = (load_model(path, device="cpu") for path in (aligned, tiny))
    rows = Reward(policy, reference, beta=0.5).table(questions, groups)
    assert rows[["prompt_id", "candidate"]].values.tolist() == [
        [f"p{i}", k] for i in range(5) for k in range(3)
    ]
    for row in rows.itertuples():
        question, answer = questions[int(row.prompt_id[1:])], ANSWERS[row.candidate]
        (((pi, count),),) = policy.branch_log_probs([question], [[answer]])
        (((ref, _),),) = reference.branch_log_probs([question], [[answer]])
        assert row.token_count == count
        assert row.policy_log_prob == pytest.approx(pi, abs=1e-4)
        assert row.reward == pytest.approx(0.5 * (pi - ref) / count, abs=1e-4)
        assert abs(pi - ref) > 0.01
    assert rows.loc[rows["candidate"] == 0, "token_count"].unique().tolist() == [6]
    same = rows[rows["candidate"] != 1].groupby("prompt_id")["reward"].nunique()
    assert (same == 1).all()


def test_reward_does_not_depend_on_the_batch(tiny: Path, aligned: Path, asked):
    questions, groups = asked
    tables = [
        Reward(
            load_model(aligned, device="cpu", batch_size=size),
            load_model(tiny, device="cpu", batch_size=size),
            1.0,
        ).table(questions, groups)
        for size in (1, 2, 5)
    ]
    for other in tables[1:]:
        pd.testing.assert_frame_equal(tables[0], other, rtol=0, atol=1e-4)


def test_a_policy_is_no_reward_of_itself(model: TransformersModel, asked):
    assert (Reward(model, model, 1.0).table(*asked)["reward"] == 0).all()


def test_models_with_other_tokens_are_refused(tiny: Path, asked, tmp_path: Path):
    """The same words under other ids: log-probs of both would be computed without any complaint, and mean
    nothing.
    """
    folder = tmp_path / "renumbered"
    shutil.copytree(tiny, folder)
    path = folder / "tokenizer.json"
    described = json.loads(path.read_text())
    vocabulary = described["model"]["vocab"]
    vocabulary["cup"], vocabulary["dog"] = vocabulary["dog"], vocabulary["cup"]
    path.write_text(json.dumps(described))
    reward = Reward(load_model(folder, device="cpu"), load_model(tiny, device="cpu"), 1.0)
    with pytest.raises(UserError, match="reward_policy and reward_reference") as error:
        reward.table(*asked)
    assert (
        "prompt p0" in error.value.message
        and "renumbered" in error.value.message
        and "there is a cup." in error.value.message
    )


def test_another_chat_template_is_said(
    tiny: Path, model: TransformersModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    template = tmp_path / "other.jinja"
    template.write_text(model.processor.chat_template + " ")
    Reward(load_model(tiny, device="cpu", chat_template=str(template)), model, 1.0)
    assert "different chat templates" in caplog.text
