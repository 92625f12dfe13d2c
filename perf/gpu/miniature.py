"""The miniature's training: on this device beside the CPU, and under ZeRO-2 in another process (NCCL)."""

import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from first_step import pair_store
from gpu.setting import PROJECT, Different, Row, Setting
from safetensors.torch import load_file

from rlaifv_kedro.models import load_model
from rlaifv_kedro.params import ComputeParams, TrainingParams, TransformersParams
from rlaifv_kedro.preference.data import Truncation
from rlaifv_kedro.preference.reference import expected_fingerprint, reference_log_probs
from rlaifv_kedro.training.launch import REFERENCE, run_training
from rlaifv_kedro.training.worker import TrainingSpec

POLICY = PROJECT / "data/06_models/miniature/seed_0/base_policy/shipped/base_policy"
WATCHED = ["loss", "reward_margin", "log_ratio_chosen", "log_ratio_rejected"]
# By how much what is watched may differ: losses, and log-ratios in nats, summed over an answer; and the norm
# of the weights' difference over their norm. GPUs compute the tower's convolution in TF32, and AdamW's first
# steps are as long for a gradient of rounding errors as for any other.
ALLOWED, WEIGHTS_ALLOWED = 2e-2, 2e-3


def device_rows(setting: Setting) -> Iterator[Row]:
    """Six steps of full fine-tuning in float32, on the CPU and on this device.

    Raises:
        Different: What is logged, or the weights at the end, are farther apart than float32 explains.
    """
    yield from _compared({"the CPU": ("cpu", None), f"this device, {setting.device}": (setting.device, None)})


def zero_rows(setting: Setting) -> Iterator[Row]:
    """The same on this device in this process, and under ZeRO-2 by torchrun.

    Raises:
        Different: See :func:`device_rows`.
    """
    import deepspeed  # noqa: F401 (said first if it is not there)

    zero2 = str(PROJECT / "conf/deepspeed/zero2.json")
    yield from _compared({"one process": (setting.device, None), "ZeRO-2": (setting.device, zero2)})


def _compared(ways: dict[str, tuple[str, str | None]]) -> Iterator[Row]:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, (device, deepspeed)) in enumerate(ways.items()):
            # A process each: accelerate keeps the device that it saw first.
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                asked = pool.submit(trained, Path(folder) / str(number), device, deepspeed)
                found[name] = asked.result()
    (first, (log, weights)), (second, (other_log, other_weights)) = found.items()
    apart = float(np.abs(log[WATCHED].to_numpy() - other_log[WATCHED].to_numpy()).max())
    norm = sum(float((w.double() ** 2).sum()) for w in weights.values()) ** 0.5
    difference = sum(float(((w - other_weights[n]).double() ** 2).sum()) for n, w in weights.items()) ** 0.5
    yield {
        "ways": f"{first}; {second}",
        "steps": len(log),
        "reward margin at the end": float(log["reward_margin"].iloc[-1]),
        "log apart": apart,
        "allowed": ALLOWED,
        "weights apart": difference / norm,
        "weights allowed": WEIGHTS_ALLOWED,
    }
    if not (apart <= ALLOWED and difference / norm <= WEIGHTS_ALLOWED):
        raise Different(f"{first} and {second} train otherwise")


def trained(folder: Path, device: str, deepspeed: str | None) -> tuple[pd.DataFrame, dict[str, torch.Tensor]]:
    """The log and the last weights of a training of the shipped base policy."""
    torch.set_num_threads(1)
    logs = folder / "logs"
    logs.mkdir(parents=True)
    params = TrainingParams(
        learning_rate=1e-4,
        beta=0.1,
        epochs=2,
        batch_size=4,
        micro_batch_size=2,
        checkpoint_every=2,
        warmup_ratio=0.0,
        report_to=[],
        deepspeed=deepspeed,
    )
    compute = ComputeParams(device=device, dtype="float32", threads=1)
    pairs, model = pair_store(folder), load_model(POLICY, device=device, dtype="float32")
    reference = reference_log_probs(model, pairs, pairs.by_prompt(), Truncation())
    spec = TrainingSpec(
        policy=POLICY,
        pairs=pairs.files,
        reference=logs / REFERENCE,
        fingerprint=expected_fingerprint(POLICY, pairs, model, params, "float32"),
        folder=folder / "work",
        logs=logs,
        seed=5,
        training=params,
        model=TransformersParams(),
        compute=compute,
    )
    result = run_training(spec, pairs, reference)
    last = folder / "work" / result.checkpoints[-1]["path"] / "model.safetensors"
    return result.log, load_file(last)
