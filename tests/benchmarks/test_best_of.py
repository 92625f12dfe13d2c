"""Best-of-N: which answers are sampled, and which is taken."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from rlaifv_kedro.benchmarks.best_of import choose_answers, decoding_of, sample_answers
from rlaifv_kedro.datasets.chunks import Chunk
from rlaifv_kedro.engine.outputs import Outputs, running
from rlaifv_kedro.images import png_bytes
from rlaifv_kedro.params import ComputeParams, EvaluationParams, ModelsParams, RewardParams
from rlaifv_kedro.schemas import table

CPU = ComputeParams(device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def prompts(pictures: list[Image.Image]) -> pd.DataFrame:
    """Three prompts about three images."""
    images = [{"bytes": png_bytes(picture), "path": f"{i}.png"} for i, picture in enumerate(pictures[:3])]
    return pd.DataFrame(
        {
            "prompt_id": ["p0", "p1", "p2"],
            "question": "describe the image in detail.",
            "image": images,
            "image_id": [7, 8, 9],
        }
    )


def sampled(
    policy: Path, prompts: pd.DataFrame, chunk_size: int = 2, finished: frozenset[str] = frozenset(), **params
) -> pd.DataFrame:
    """Rows of the chunks that were computed."""
    evaluation = EvaluationParams(max_new_tokens=12, **params)
    yielded = sample_answers(
        policy,
        prompts,
        3,
        evaluation,
        RewardParams(chunk_size=chunk_size),
        ModelsParams(),
        CPU,
    )
    with running(Outputs(finished=finished)):
        return pd.concat([item.frame for item in yielded if isinstance(item, Chunk)], ignore_index=True)


def test_a_smaller_n_are_the_first_of_a_larger_one(tiny: Path, prompts: pd.DataFrame):
    few, many = (sampled(tiny, prompts, best_of=n, best_of_temperature=1.0) for n in (2, 5))
    assert many.groupby("prompt_id").size().tolist() == [5, 5, 5]
    assert many.groupby("prompt_id")["answer"].nunique().max() > 1
    pd.testing.assert_frame_equal(few, many[many["candidate"] < 2].reset_index(drop=True))


def test_samples_depend_on_nothing_but_their_seeds(tiny: Path, prompts: pd.DataFrame):
    """Not on batches, on chunks, or on which chunks were there already."""
    whole = sampled(tiny, prompts, best_of=4)
    other = sampled(tiny, prompts, chunk_size=3, batch_size=1, best_of=4)
    pd.testing.assert_frame_equal(whole, other)
    rest = sampled(tiny, prompts, finished=frozenset({"00000"}), best_of=4)
    pd.testing.assert_frame_equal(rest, whole[whole["prompt_id"] == "p2"].reset_index(drop=True))


def test_the_highest_reward_is_taken_worked_by_hand(prompts: pd.DataFrame):
    """p0: 1 by the reward, 2 by the sum. p1: 0 and 2 tie, the first wins. p2: all answers are empty, and
    have no reward.
    """
    candidates = pd.DataFrame(
        {
            "prompt_id": ["p0"] * 3 + ["p1"] * 3 + ["p2"] * 2,
            "candidate": [0, 1, 2, 0, 1, 2, 0, 1],
            "answer": ["a", "b", "c", "d", "", "f", "", ""],
            "token_count": [3, 4, 5, 6, 1, 7, 1, 1],
            "finish_reason": "stop",
        }
    )
    rewards = pd.DataFrame(
        {
            "prompt_id": ["p0"] * 3 + ["p1"] * 2,
            "candidate": [0, 1, 2, 0, 2],
            "reward": [-0.3, 0.2, 0.1, -0.5, -0.5],
            "reward_sum": [-0.9, 0.8, 1.0, -3.0, -3.5],
        }
    )
    chosen = choose_answers(prompts, candidates, rewards, "base", RewardParams())
    assert list(chosen.columns) == table("answers").schema.names
    assert set(chosen["policy"]) == {"base"}
    assert chosen["answer"].tolist() == ["b", "d", ""]
    assert chosen["token_count"].tolist() == [4, 6, 1]
    assert choose_answers(prompts, candidates, rewards, "base", RewardParams(ranking="summed"))[
        "answer"
    ].tolist() == ["c", "d", ""]


def test_a_cut_off_answer_is_taken_only_without_a_better_one(prompts: pd.DataFrame):
    """Cut-off answers have no reward. p0: one is whole. p1: all are cut off or empty. p2: all are empty."""
    candidates = pd.DataFrame(
        {
            "prompt_id": ["p0"] * 2 + ["p1"] * 2 + ["p2"] * 2,
            "candidate": [0, 1] * 3,
            "answer": ["a cup and a", "a cup.", "", "a dog and a", "", ""],
            "token_count": 4,
            "finish_reason": ["length", "stop", "stop", "length", "stop", "stop"],
        }
    )
    rewards = pd.DataFrame({"prompt_id": ["p0"], "candidate": [1], "reward": [-9.0], "reward_sum": [-9.0]})
    chosen = choose_answers(prompts, candidates, rewards, "base", RewardParams())
    assert chosen["answer"].tolist() == ["a cup.", "a dog and a", ""]


def test_order_is_the_prompts(prompts: pd.DataFrame):
    """A chunked table may come in another order."""
    candidates = pd.DataFrame(
        {
            "prompt_id": ["p2", "p0", "p1"],
            "candidate": 0,
            "answer": ["x", "y", "z"],
            "token_count": 2,
            "finish_reason": "stop",
        }
    )
    rewards = pd.DataFrame(
        {"prompt_id": ["p2", "p0", "p1"], "candidate": 0, "reward": [0.1, 0.2, 0.3], "reward_sum": 0.5}
    )
    chosen = choose_answers(prompts, candidates, rewards, "base", RewardParams())
    assert chosen[["item_id", "answer"]].values.tolist() == [["p0", "y"], ["p1", "z"], ["p2", "x"]]


@pytest.mark.parametrize(
    ("settings", "sampling"),
    [
        ({"best_of_top_k": None}, ""),
        ({}, ", top-k 50"),
        ({"best_of_repetition_penalty": 1.1}, ", top-k 50, repetition penalty 1.1"),
    ],
)
def test_the_protocol_names_number_sampling_and_reward(settings: dict[str, Any], sampling: str):
    said = decoding_of(
        EvaluationParams(best_of=8, best_of_temperature=0.5, best_of_reward="catalog", **settings),
        RewardParams(ranking="summed"),
    )
    assert said == (
        f"best of 8 at temperature 0.5{sampling}, by the summed reward of reward_policy against "
        "reward_reference"
    )
