"""Candidates to their rewards."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rlaifv_kedro.datasets.chunks import Chunk, Complete
from rlaifv_kedro.engine.chunks import Work, map_chunks
from rlaifv_kedro.engine.items import LazyItems
from rlaifv_kedro.images import open_image
from rlaifv_kedro.params import (
    ComputeParams,
    DataGenerationParams,
    ModelsParams,
    RewardParams,
    TrainingParams,
)
from rlaifv_kedro.preference.by_prompt import ByPrompt
from rlaifv_kedro.preference.candidates import cut_off_rejects
from rlaifv_kedro.preference.pairs import refuse_unknown_prompts


def compute_rewards(
    prompts: pd.DataFrame,
    candidates: pd.DataFrame,
    policy: Path,
    reference: Path,
    generation: DataGenerationParams,
    params: RewardParams,
    training: TrainingParams,
    models: ModelsParams,
    compute: ComputeParams,
) -> Iterator[Chunk | Complete]:
    """The reward of every candidate that is neither empty nor cut off, by two models in memory together.

    Args:
        policy: pi, the aligned model.
        reference: pi_ref, the model that it started from.
        generation: ``cut_off=keep`` gives cut-off answers a reward too.

    Yields:
        Chunks of ``candidate_rewards``, by prompts.

    Raises:
        UserError: Candidates belong to other prompts, the picture of an answered prompt can't be read, or the
            models write an answer in different tokens.
    """
    refuse_unknown_prompts(prompts, candidates)
    complete = ~candidates.index.isin(cut_off_rejects(candidates, generation).index)
    said = np.fromiter((bool(text.strip()) for text in candidates["answer"]), bool, len(candidates))
    by_prompt = ByPrompt(candidates, complete & said)
    answered = [row for row in prompts.itertuples(index=False) if row.prompt_id in by_prompt]
    yield from map_chunks(
        LazyItems(answered, lambda rows: [(row, by_prompt[row.prompt_id]) for row in rows]),
        params.chunk_size,
        rewarder,
        (policy, reference, params, training, models, compute),
        "rewards",
        compute=compute,
    )


@contextmanager
def rewarder(
    policy: Path,
    reference: Path,
    params: RewardParams,
    training: TrainingParams,
    models: ModelsParams,
    compute: ComputeParams,
) -> Iterator[Work]:
    """Loads both models; the work gives ``candidate_rewards`` of (row of ``prompts``, its candidates)."""
    from rlaifv_kedro.models import Loading, Question, load_model
    from rlaifv_kedro.preference.reward import Reward

    loading = Loading.of(models.policy, compute, params.batch_size)
    reward = Reward(load_model(policy, loading), load_model(reference, loading), training.beta)

    def work(items: list[tuple[Any, pd.DataFrame]]) -> pd.DataFrame:
        questions = [
            Question(open_image(row.image, f"prompt {row.prompt_id}"), row.question) for row, _ in items
        ]
        return reward.table(questions, [candidates for _, candidates in items])

    yield work
