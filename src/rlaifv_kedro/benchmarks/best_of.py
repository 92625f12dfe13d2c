"""Best-of-N: a policy answers every question N times, and the answer with the highest reward counts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from rlaifv_kedro.benchmarks.chair import CHAIR
from rlaifv_kedro.benchmarks.loop import load_policy
from rlaifv_kedro.datasets.chunks import Chunk, Complete
from rlaifv_kedro.engine.chunks import Work, map_chunks
from rlaifv_kedro.images import open_image
from rlaifv_kedro.params import ComputeParams, EvaluationParams, ModelsParams, RewardParams
from rlaifv_kedro.preference.candidates import KEY
from rlaifv_kedro.preference.reward import COLUMN
from rlaifv_kedro.schemas import table
from rlaifv_kedro.seeds import seed_for


def sample_answers(
    policy: Path,
    prompts: pd.DataFrame,
    seed: int,
    params: EvaluationParams,
    reward: RewardParams,
    models: ModelsParams,
    compute: ComputeParams,
) -> Iterator[Chunk | Complete]:
    """``best_of`` sampled answers of a policy to every prompt.

    Those of a smaller N are the first of a larger one. A forward pass holds ``batch_size`` sequences, or one
    prompt's.

    Yields:
        Chunks of ``answer_candidates``, by prompts; empty and cut-off answers among them.
    """
    yield from map_chunks(
        list(prompts.itertuples(index=False)),
        reward.chunk_size,
        answer_sampler,
        (policy, seed, params, models, compute),
        "sampling answers",
        compute=compute,
    )


@contextmanager
def answer_sampler(
    policy: Path, seed: int, params: EvaluationParams, models: ModelsParams, compute: ComputeParams
) -> Iterator[Work]:
    """Loads the policy; the work gives ``answer_candidates`` of some rows of ``prompts``."""
    from rlaifv_kedro.models import Decoding, Question

    model = load_policy(policy, max(1, params.batch_size // params.best_of), models, compute)
    decoding = Decoding(
        params.best_of_temperature,
        params.max_new_tokens,
        top_k=params.best_of_top_k,
        repetition_penalty=params.best_of_repetition_penalty,
    )

    def work(rows: list[Any]) -> pd.DataFrame:
        questions = [Question(open_image(row.image, f"prompt {row.prompt_id}"), row.question) for row in rows]
        seeds = [[seed_for(seed, "best of", row.prompt_id, k) for k in range(params.best_of)] for row in rows]
        candidates = [
            (row.prompt_id, k, answer.text, answer.token_count, answer.finish_reason, seeds[i][k])
            for i, (row, answers) in enumerate(zip(rows, model.sample(questions, seeds, decoding)))
            for k, answer in enumerate(answers)
        ]
        return table("candidates").frame(candidates)

    yield work


def choose_answers(
    prompts: pd.DataFrame, candidates: pd.DataFrame, rewards: pd.DataFrame, policy: str, reward: RewardParams
) -> pd.DataFrame:
    """The answer with the highest reward to every prompt, the first on a tie: the ``answers`` table.

    Answers that are cut off or empty have no reward: one is taken only where no answer to a prompt has one,
    and an empty one only where all are empty.

    Args:
        policy: How the table calls the policy.
    """
    known = candidates.merge(rewards[[*KEY, COLUMN[reward.ranking]]], on=KEY, how="left")
    ranked = known.assign(empty=known["answer"].str.strip() == "").sort_values(
        [COLUMN[reward.ranking], "empty", "candidate"], ascending=[False, True, True], na_position="last"
    )
    best = ranked.drop_duplicates("prompt_id")[["prompt_id", "answer", "token_count", "finish_reason"]]
    answers = prompts[["prompt_id", "question"]].merge(
        best, on="prompt_id", how="left", validate="one_to_one"
    )
    named = answers.rename(columns={"prompt_id": "item_id"}).assign(policy=policy, benchmark=CHAIR.name)
    return named[table("answers").schema.names]


def decoding_of(params: EvaluationParams, reward: RewardParams) -> str:
    """How the answers were come by, for a metric's protocol."""
    own = "the policy itself (for the base policy the loop's last) against the base policy"
    models = own if params.best_of_reward == "own" else "reward_policy against reward_reference"
    sampling = f"temperature {params.best_of_temperature:g}"
    if params.best_of_top_k is not None:
        sampling += f", top-k {params.best_of_top_k}"
    if params.best_of_repetition_penalty != 1:
        sampling += f", repetition penalty {params.best_of_repetition_penalty:g}"
    return f"best of {params.best_of} at {sampling}, by the {reward.ranking} reward of {models}"
