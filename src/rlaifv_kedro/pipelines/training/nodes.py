"""Preference pairs to reference log-probs to checkpoints."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from rlaifv_kedro.params import ComputeParams, TrainingParams
from rlaifv_kedro.preference.reference import fingerprint, reference_log_probs, refuse_mismatch
from rlaifv_kedro.seeds import seed_for

if TYPE_CHECKING:
    from rlaifv_kedro.models.transformers_backend import TransformersModel


def compute_reference(pairs: pd.DataFrame, policy: Path, params: TrainingParams, compute: ComputeParams) -> pd.DataFrame:
    """Log-probs of all chosen and rejected answers by the policy the iteration starts from, with the fingerprint of what they depend on."""
    model = _load(policy, params, compute)
    reference = reference_log_probs(model, pairs)
    reference.attrs["fingerprint"] = fingerprint(policy, pairs, model.processor.chat_template, compute.dtype)
    return reference


def train_policy(
    pairs: pd.DataFrame,
    reference: pd.DataFrame,
    policy: Path,
    folder: Path,
    seed: int,
    iteration: int,
    params: TrainingParams,
    compute: ComputeParams,
) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """DPO from the policy; see :func:`rlaifv_kedro.preference.training.train`.

    Returns:
        checkpoints, training_log.

    Raises:
        UserError: The reference log-probs belong to another policy, other pairs, another template or dtype.
    """
    from rlaifv_kedro.preference.training import train

    model = _load(policy, params, compute)
    refuse_mismatch(reference.attrs.get("fingerprint"), fingerprint(policy, pairs, model.processor.chat_template, compute.dtype))
    return train(model, policy, pairs, reference, folder, seed_for(seed, "training", iteration), params, compute.dtype)


def _load(policy: Path, params: TrainingParams, compute: ComputeParams) -> "TransformersModel":
    from rlaifv_kedro.models import load_model

    return load_model(policy, dtype=compute.dtype, device=compute.device, batch_size=params.micro_batch_size)
