"""Preference pairs to reference log-probs to checkpoints."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from rlaifv_kedro.datasets.chunks import Chunk, Complete
from rlaifv_kedro.datasets.pair_store import PairStore
from rlaifv_kedro.engine.chunks import Work, map_chunks
from rlaifv_kedro.engine.outputs import work_folder
from rlaifv_kedro.params import ComputeParams, ModelsParams, TrainingParams
from rlaifv_kedro.seeds import seed_for


def gather_pairs(
    policy: Path,
    seed: int,
    params: TrainingParams,
    models: ModelsParams,
    compute: ComputeParams,
    *sources: Any,
) -> Iterator[tuple[Chunk | Complete, Chunk | Complete]]:
    """The pairs to train on, of all sources of the mix, as rows that can be mapped into memory.

    Their ``idx`` is their place in the mix.

    Args:
        policy: Its tokenizer and processor are read, not its weights.
        sources: What the catalog's entries ``params.sources()`` hold, in that order.

    Yields:
        (rejects, training_pairs) of a chunk. In rejects are rows that are no pair, damaged or missing images,
        questions that leave no room for an answer, and answers that are the same in the policy's tokens.

    Raises:
        UserError: A source holds no pairs, or its filter leaves none; the policy's processor can't be loaded.
    """
    from rlaifv_kedro.models import Loading, load_encoder
    from rlaifv_kedro.preference.data import Truncation, fault_of_pair
    from rlaifv_kedro.preference.mix import gather, make_mix

    encoder = load_encoder(policy, Loading.of(models.policy, compute))
    fault = partial(fault_of_pair, encoder=encoder, truncation=Truncation.of(params))
    mix = make_mix(dict(zip(params.sources(), sources, strict=True)), params.mix, seed)
    work = partial(gather, mix, fault=fault)
    positions = range(len(mix))
    yield from map_chunks(positions, params.gather_chunk_size, nullcontext, (work,), "gathering pairs", 2)


def compute_reference(
    pairs: PairStore,
    rejects: pd.DataFrame,
    policy: Path,
    params: TrainingParams,
    models: ModelsParams,
    compute: ComputeParams,
) -> Iterator[Chunk | Complete]:
    """Log-probs of all chosen and rejected answers by the policy the iteration starts from.

    With them goes the fingerprint of what they depend on.

    Args:
        rejects: Of the pairs.

    Yields:
        Chunks of ``reference_log_probs``, by prompts.

    Raises:
        UserError: More than ``max_reject_share`` of the pairs can't be used; ``training.freeze`` or
            ``training.lora`` doesn't fit the policy.
    """
    from rlaifv_kedro.preference.mix import refuse_too_many

    refuse_too_many(pairs, rejects, params.max_reject_share)
    yield from map_chunks(
        pairs.by_prompt(),
        params.chunk_size,
        reference_scorer,
        (pairs, policy, params, models, compute),
        "reference log-probs",
        compute=compute,
    )


@contextmanager
def reference_scorer(
    pairs: PairStore, policy: Path, params: TrainingParams, models: ModelsParams, compute: ComputeParams
) -> Iterator[Work]:
    """Loads the policy; the work gives ``reference_log_probs`` of prompts, each the rows of its pairs."""
    from rlaifv_kedro.models import Loading, load_model
    from rlaifv_kedro.preference.data import Truncation
    from rlaifv_kedro.preference.reference import expected_fingerprint, reference_log_probs
    from rlaifv_kedro.preference.weights import Reduction
    from rlaifv_kedro.training.numerics import compute_as_training_does

    loading = Loading.of(models.policy, compute, params.micro_batch_size)
    model = load_model(policy, loading)
    compute_as_training_does(model, params, loading.dtype)
    mark = expected_fingerprint(policy, pairs, model, params, loading.dtype)

    def work(prompts: list[list[int]]) -> pd.DataFrame:
        rows = reference_log_probs(model, pairs, prompts, Truncation.of(params), Reduction.of(params))
        rows.attrs["fingerprint"] = mark
        return rows

    yield work


def train_policy(
    pairs: PairStore,
    reference: pd.DataFrame,
    policy: Path,
    seed: int,
    iteration: int,
    params: TrainingParams,
    models: ModelsParams,
    compute: ComputeParams,
) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """DPO from the policy, in this process or in as many as the parameters ask for.

    See :mod:`rlaifv_kedro.training.launch`. TensorBoard's files and the processes' log go to the folder
    ``training_logs`` beside ``training_log``.

    Returns:
        checkpoints, training_log.

    Raises:
        UserError: The reference log-probs belong to another policy, other pairs, another template or dtype.
    """
    from rlaifv_kedro.training.card import provenance, write_cards
    from rlaifv_kedro.training.launch import REFERENCE, run_training
    from rlaifv_kedro.training.worker import TrainingSpec

    folder, logs = work_folder("checkpoints"), work_folder("training_log", "training_logs")
    spec = TrainingSpec(
        policy=policy,
        pairs=pairs.files,
        reference=logs / REFERENCE,
        fingerprint=reference.attrs.get("fingerprint"),
        folder=folder,
        logs=logs,
        seed=seed_for(seed, "training", iteration),
        training=params,
        model=models.policy,
        compute=compute,
    )
    result = run_training(spec, pairs, reference)
    origin = provenance(
        policy,
        reference.attrs["fingerprint"],
        len(pairs),
        iteration,
        seed,
        params.model_dump(mode="json", exclude={"launch"}),
        processes=result.ran.world_size,
        engine=result.ran.engine,
    )
    write_cards(folder, result.checkpoints, result.log, origin)
    return result.checkpoints, result.log
