"""Preference pairs to reference log-probs to checkpoints."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from rlaifv_kedro.datasets.chunks import Chunk, Complete
from rlaifv_kedro.engine.chunks import map_chunks
from rlaifv_kedro.params import ComputeParams, ModelsParams, TrainingParams
from rlaifv_kedro.seeds import seed_for

if TYPE_CHECKING:
    from rlaifv_kedro.datasets import PairStore
    from rlaifv_kedro.models.transformers_backend import TransformersModel
    from rlaifv_kedro.preference.data import Truncation


def gather_pairs(
    finished_rejects: set[str], finished: set[str], params: TrainingParams, preference_pairs: pd.DataFrame
) -> Iterator[tuple[Chunk | Complete, Chunk | Complete]]:
    """The pairs to train on, as rows that can be mapped into memory.

    Yields:
        (rejects, training_pairs) of a chunk.
    """
    from rlaifv_kedro.datasets.pair_store import with_keys

    def work(rows: list[int]) -> tuple[pd.DataFrame, pd.DataFrame]:
        part = preference_pairs.iloc[rows]
        columns = ["question", "chosen", "rejected", "image", "origin_dataset", "origin_split"]
        return pd.DataFrame(columns=["stage", "key", "why"]), with_keys(
            part[columns].assign(idx=rows, source="preference_pairs", source_idx=part["idx"])
        )

    yield from map_chunks(range(len(preference_pairs)), 1000, finished & finished_rejects, work, "gathering pairs", 2)


def compute_reference(
    pairs: "PairStore", policy: Path, finished: set[str], params: TrainingParams, models: ModelsParams, compute: ComputeParams
) -> Iterator[Chunk | Complete]:
    """Log-probs of all chosen and rejected answers by the policy the iteration starts from, with the fingerprint of what they depend on.

    Yields:
        Chunks of ``reference_log_probs``, by prompts.
    """
    from rlaifv_kedro.preference.reference import reference_log_probs

    model = _load(policy, params, models, compute)
    mark = _fingerprint(policy, pairs, model, params, compute)

    def work(prompts: list[list[int]]) -> pd.DataFrame:
        rows = reference_log_probs(model, pairs, prompts, _truncation(params))
        rows.attrs["fingerprint"] = mark
        return rows

    yield from map_chunks(pairs.by_prompt(), params.chunk_size, finished, work, "reference log-probs")


def train_policy(
    pairs: "PairStore",
    reference: pd.DataFrame,
    policy: Path,
    folder: Path,
    seed: int,
    iteration: int,
    params: TrainingParams,
    models: ModelsParams,
    compute: ComputeParams,
) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """DPO from the policy; see :func:`rlaifv_kedro.preference.training.train`.

    Returns:
        checkpoints, training_log.

    Raises:
        UserError: The reference log-probs belong to another policy, other pairs, another template or dtype.
    """
    from rlaifv_kedro.preference.reference import refuse_mismatch
    from rlaifv_kedro.preference.training import train

    model = _load(policy, params, models, compute)
    refuse_mismatch(reference.attrs.get("fingerprint"), _fingerprint(policy, pairs, model, params, compute))
    return train(model, policy, pairs, reference, folder, seed_for(seed, "training", iteration), params, compute.dtype)


def _truncation(params: TrainingParams) -> "Truncation":
    from rlaifv_kedro.preference.data import Truncation

    return Truncation(params.max_length, params.truncation)


def _fingerprint(policy: Path, pairs: "PairStore", model: "TransformersModel", params: TrainingParams, compute: ComputeParams) -> dict[str, str]:
    from rlaifv_kedro.preference.reference import fingerprint

    return fingerprint(policy, pairs, model.processor.chat_template, compute.dtype, _truncation(params))


def _load(policy: Path, params: TrainingParams, models: ModelsParams, compute: ComputeParams) -> "TransformersModel":
    from rlaifv_kedro.models import load_model

    return load_model(policy, batch_size=params.micro_batch_size, **{**compute.loading(), **models.policy.loading()})
