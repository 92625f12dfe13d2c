"""The nodes of feedback on tables made by hand, where no model is asked."""

import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.images import png_bytes
from rlaifv_kedro.params import (
    ComputeParams,
    DataGenerationParams,
    FeedbackParams,
    ModelsParams,
    RewardParams,
)
from rlaifv_kedro.pipelines.feedback import nodes
from rlaifv_kedro.schemas import table

PICTURE = {"bytes": png_bytes(Image.new("RGB", (8, 8), "red")), "path": None}
PROMPTS = table("prompts").frame([(f"p{i}", "what is there?", PICTURE, i, "toy", None) for i in range(3)])
LONG = "there is a cup. there is a"


def candidates(cut_off: set[tuple[str, int]]) -> pd.DataFrame:
    """Four a prompt, the named ones cut off."""
    return table("candidates").frame(
        [
            (p, k, *((LONG, 9, "length") if (p, k) in cut_off else ("there is a cup.", 6, "stop")), k)
            for p in PROMPTS["prompt_id"]
            for k in range(4)
        ]
    )


def divided(
    sampled: pd.DataFrame, generation: DataGenerationParams | None = None, **feedback: object
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables ``rejects`` and ``claims`` of the rule for the miniature's language."""
    params = FeedbackParams(splitter="miniature", chunk_size=2, **feedback)
    generation = generation or DataGenerationParams()
    *chunks, _ = nodes.divide(PROMPTS, sampled, 0, generation, params, ModelsParams(), ComputeParams())
    return tuple(pd.concat(part.frame for part in parts) for parts in zip(*chunks))


def test_cut_off_answers_are_rejects_and_have_no_claims():
    rejects, claims = divided(candidates({("p1", 2)}))
    assert [json.loads(key) for key in rejects["key"]] == [["p1", 2]]
    assert "cut off" in rejects["why"].iloc[0]
    assert len(claims) == 11 and ("p1", 2) not in set(zip(claims["prompt_id"], claims["candidate"]))


def test_kept_ones_are_divided():
    kept = DataGenerationParams(cut_off="keep")
    sampled = candidates({("p1", 2)}).replace(LONG, "there is a cup. there is a dog.")
    rejects, claims = divided(sampled, kept)
    assert rejects.empty and claims.groupby(["prompt_id", "candidate"]).size()["p1", 2] == 2


def test_too_many_cut_off_answers_stop_before_a_model_is_opened():
    params = FeedbackParams(splitter="llm")  # which names no model, so none can be opened
    asked = (PROMPTS, candidates({("p0", 0), ("p2", 1)}), 0, DataGenerationParams(), params)
    with pytest.raises(UserError, match="2 of 12 answers") as error:
        next(nodes.divide(*asked, ModelsParams(), ComputeParams()))
    assert "2 times: cut off at the limit of tokens" in error.value.message
    assert "data_generation.cut_off=keep" in error.value.message and '["p0", 0]' in error.value.message


def test_too_many_cut_off_answers_have_no_reward():
    sampled = candidates({("p0", 0), ("p2", 1)})
    rewards = sampled[sampled["finish_reason"] == "stop"]
    with pytest.raises(UserError, match="2 times: cut off"):
        nodes.score_rewards(
            PROMPTS, sampled, rewards, DataGenerationParams(), FeedbackParams(), RewardParams()
        )


def test_a_cut_off_candidate_gets_no_reward():
    """Neither in pairs without a labeler nor in the best of N."""
    from rlaifv_kedro.params import TrainingParams
    from rlaifv_kedro.pipelines.reward.nodes import compute_rewards

    shipped = Path(__file__).parents[2] / "data/06_models/miniature/seed_0/base_policy/shipped/base_policy"
    sampled = candidates({("p1", 2)})
    cpu = ComputeParams(device="cpu", dtype="float32")

    def rewarded(generation: DataGenerationParams) -> set[tuple[str, int]]:
        asked = (PROMPTS, sampled, shipped, shipped, generation, RewardParams())
        chunk, _ = compute_rewards(*asked, TrainingParams(), ModelsParams(), cpu)
        return set(zip(chunk.frame["prompt_id"], chunk.frame["candidate"]))

    every = set(zip(sampled["prompt_id"], sampled["candidate"]))
    assert rewarded(DataGenerationParams()) == every - {("p1", 2)}
    assert rewarded(DataGenerationParams(cut_off="keep")) == every


def test_scores_of_whole_answers_go_by_key(tiny: Path):
    """Whatever the order of the candidates, and however many of a prompt can be used."""
    texts = ["a cup.", "a dog and a cat.", "a bus.", "a clock and a bowl."]
    sampled = candidates(set()).assign(answer=texts * 3)
    verdicts = table("verdicts").frame(
        [(c.prompt_id, c.candidate, 0, 0.9, 0.1, True, "yes") for c in sampled.itertuples()]
    )
    verdicts.loc[5, ["p_yes", "p_no"]] = 0.0  # p1's candidate 1
    params = FeedbackParams(scoring="answer", max_reject_share=0.5, batch_size=1, chunk_size=2)
    cpu = ComputeParams(device="cpu", dtype="float32")

    def scored(order: list[int]) -> pd.Series:
        given = sampled.iloc[order].reset_index(drop=True)
        claims = verdicts[["prompt_id", "candidate"]]
        asked = (PROMPTS, given, claims, tiny, tiny, params, ModelsParams(), cpu)
        *chunks, _ = nodes.score_whole_answers(*asked)
        answers = pd.concat(chunk.frame for chunk in chunks)
        found = nodes.score(
            PROMPTS, given, verdicts.iloc[order[::-1]], table("rejects").frame([]), params, answers
        )
        return found.set_index(["prompt_id", "candidate"])["score"].sort_index()

    in_order = scored(list(range(12)))
    assert len(in_order) == 11 and in_order.nunique() > 3 and ("p1", 1) not in in_order.index
    mixed = scored([7, 0, 11, 3, 5, 2, 9, 1, 8, 4, 10, 6])
    pd.testing.assert_series_equal(mixed, in_order, rtol=1e-5)
