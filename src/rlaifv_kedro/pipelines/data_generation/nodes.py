"""Prompts to candidates."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from rlaifv_kedro.datasets.chunks import Chunk, Complete
from rlaifv_kedro.engine.chunks import Work, map_chunks
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.images import readable_images
from rlaifv_kedro.params import ComputeParams, DataGenerationParams, LoopParams, ModelsParams, missing_prompts
from rlaifv_kedro.placeholders import Cleaner
from rlaifv_kedro.schemas import table
from rlaifv_kedro.seeds import seed_for


def draw_prompts(
    pool: pd.DataFrame,
    iteration: int,
    seed: int,
    params: DataGenerationParams,
    loop: LoopParams,
    drawn: pd.DataFrame | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The prompts of one iteration, none of which an earlier iteration had.

    Each prompt has a number of its own from (seed, prompt_id), and an iteration takes those with the smallest
    numbers that are left: the pool's order doesn't matter, and a pool that has grown repeats none.

    Args:
        drawn: Which prompts earlier iterations have drawn; None for the first.

    Returns:
        prompts, in the order of their numbers; and drawn_prompts, of this and all earlier iterations.

    Raises:
        UserError: The pool is too small for all iterations of the loop; said at the first one.
    """
    missing = missing_prompts(len(pool), iteration, params, loop)
    if missing:
        raise UserError(missing)
    drawn = table("drawn_prompts").frame([]) if drawn is None else drawn
    left = pool[~pool["prompt_id"].isin(drawn["prompt_id"])]
    if len(left) < params.prompts:
        raise UserError(
            f"prompt_pool has {len(left):,} prompts that no earlier iteration has drawn, and iteration "
            f"{iteration} needs data_generation.prompts={params.prompts}. Add prompts, or lower "
            "data_generation.prompts."
        )
    numbers = left["prompt_id"].map(lambda prompt: seed_for(seed, "prompt pool", prompt))
    own = left.loc[numbers.sort_values(kind="stable").index[: params.prompts]].reset_index(drop=True)
    return own, pd.concat([drawn, own[["prompt_id"]].assign(iteration=iteration)], ignore_index=True)


def sample_candidates(
    prompts: pd.DataFrame,
    policy: Path,
    seed: int,
    params: DataGenerationParams,
    models: ModelsParams,
    compute: ComputeParams,
) -> Iterator[tuple[Chunk | Complete, Chunk | Complete]]:
    """Sample every prompt's candidates, chunk by chunk; each candidate has a seed of its own.

    Yields:
        (rejects, candidates) of a chunk. Prompts whose image can't be read, or whose question asks nothing,
        and empty or failed answers are in rejects.
    """
    yield from map_chunks(
        list(prompts.itertuples(index=False)),
        params.chunk_size,
        sampler,
        (policy, seed, params, models, compute),
        "sampling candidates",
        2,
        compute,
    )


@contextmanager
def sampler(
    policy: Path, seed: int, params: DataGenerationParams, models: ModelsParams, compute: ComputeParams
) -> Iterator[Work]:
    """Opens the policy; the work gives (rejects, candidates) of some rows of ``prompts``."""
    from rlaifv_kedro.models import Decoding, Question, closing_models, open_model

    clean = Cleaner.for_servers()
    model = open_model(models.policy, policy, compute, params.batch_size, "policy")
    decoding = Decoding(
        params.temperature,
        params.max_new_tokens,
        top_k=params.top_k,
        repetition_penalty=params.repetition_penalty,
    )

    def work(rows: list[Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
        blank = {row.prompt_id for row in rows if not clean(row.question).strip()}
        readable, rejects = readable_images([r for r in rows if r.prompt_id not in blank], "data_generation")
        why = "the question is empty, but for words that stand for an image or the end of a turn"
        rejects += [("data_generation", r.prompt_id, why) for r in rows if r.prompt_id in blank]
        numbers = range(params.candidates)
        seeds = [[seed_for(seed, "candidate", row.prompt_id, k) for k in numbers] for row, _ in readable]
        questions = [Question(image, row.question) for row, image in readable]
        sampled = model.sample(questions, seeds, decoding) if questions else []
        candidates = []
        for (row, _), row_seeds, answers in zip(readable, seeds, sampled):
            for k, (answer, item_seed) in enumerate(zip(answers, row_seeds)):
                if answer.text:
                    candidates.append(
                        (row.prompt_id, k, answer.text, answer.token_count, answer.finish_reason, item_seed)
                    )
                else:
                    why = answer.error or "the policy gave an empty answer"
                    rejects.append(("data_generation", json.dumps([row.prompt_id, k]), why))
        return table("rejects").frame(rejects), table("candidates").frame(candidates)

    with closing_models(model):
        yield work
