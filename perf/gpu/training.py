"""Steps of the project's own trainer at the real shape: LoRA; all weights, also with offloaded ZeRO-2.

Batches, loss, optimiser and schedule are real. The peer is the same trainer with the release's forward:
chosen and rejected as rows of one batch. The runs stop before the first checkpoint, so nothing large
is written.
"""

import gc
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import torch
from gpu.pairs import sampled_pairs, store_of, wrapped
from gpu.setting import GIB, PROJECT, Different, Row, Setting, size_of
from operations import Learning, Work
from release_way import concatenated_log_probs
from side_by_side import ROUNDED

from rlaifv_kedro.branching import Pack, branch_log_probs
from rlaifv_kedro.datasets import PairStore
from rlaifv_kedro.params import LoraParams, TrainingParams
from rlaifv_kedro.preference.data import Truncation
from rlaifv_kedro.preference.loss import PreferenceLoss
from rlaifv_kedro.preference.reference import reference_log_probs
from rlaifv_kedro.preflight import sizes
from rlaifv_kedro.training.numerics import compute_as_training_does
from rlaifv_kedro.training.trainer import PreferenceTrainer
from rlaifv_kedro.training.training import TrainingJob, train

PAIRS = 4  # a step
HOST_BYTES = 16
"""Of a weight that learns, where its optimiser lies in the host's memory: in float32 itself, its gradient and
AdamW's two moments."""
ANSWER = 100  # tokens
LOSSES_APART = {"float32": 1e-3, "bfloat16": ROUNDED["losses"]}


class _Enough(Exception):
    """As many steps as wanted are done."""


@dataclass(frozen=True)
class _Ran:
    """Steps of a training.

    Attributes:
        seconds: Of the steps after the first one.
        losses: Of all steps' pairs, in their order.
        packs: Of all steps, in their order.
        peak_gib: Of the whole training; None without a GPU.
    """

    seconds: list[float]
    losses: list[float]
    packs: list[Pack]
    peak_gib: float | None


def lora_rows(setting: Setting) -> Iterator[Row]:
    """LoRA as the release has it: rank 64 on all linear layers of the language model, and the projector.

    One pair a forward pass, and all of a step: adapters are many small products, which a GPU waits for.
    """
    for together in (1, PAIRS):
        params = _params(6, lora=LoraParams(dropout=0.0), micro_batch_size=together)
        yield from _against_release(setting, params, "LoRA", "adapters")


def full_rows(setting: Setting) -> Iterator[Row]:
    """Full fine-tuning on one GPU, as the recipes have it: without DeepSpeed.

    Raises:
        RuntimeError: What ``rlaifv check`` sizes is more than the GPU has.
    """
    params = _params(3)
    if setting.device == "cuda":
        needed = _sized(size_of(setting.model()), params, setting) / GIB
        there = torch.cuda.mem_get_info()[1] / GIB
        if needed > there:
            raise RuntimeError(f"{needed:.0f} GiB of the GPU's memory are needed, and it has {there:.0f}")
    yield from _full(setting, params, "full")


def offload_rows(setting: Setting) -> Iterator[Row]:
    """Full fine-tuning on one GPU under ZeRO-2, the optimiser's state in the host's memory.

    Raises:
        RuntimeError: The host has too little memory.
    """
    import deepspeed  # noqa: F401 (said first if it is not there)

    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29577"}
    needed = HOST_BYTES * sum(weight.numel() for weight in setting.model().parameters()) / GIB
    free = psutil.virtual_memory().available / GIB
    if needed > free:
        raise RuntimeError(f"{needed:.0f} GiB of the host's memory are needed, and {free:.0f} GiB are free")
    params = _params(3, deepspeed=str(PROJECT / "conf/deepspeed/zero2_offload.json"))
    yield from _full(setting, params, "full, ZeRO-2 with offload")


def _full(setting: Setting, params: TrainingParams, name: str) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        store = _pairs(setting, Path(folder))
        ran = _train(setting, params, store, Path(folder) / "work", branch_log_probs)
    ours, _ = _works(ran, setting, "all", params.gradient_checkpointing)
    yield _row(setting, name, params, ran, ours) | {"peer": "none was run"}


def _against_release(
    setting: Setting, params: TrainingParams, name: str, learning: Learning
) -> Iterator[Row]:
    """Steps by both ways, from the same weights.

    Raises:
        Different: The losses of a pair are too far apart; said after the row.
    """
    with tempfile.TemporaryDirectory() as folder:
        store = _pairs(setting, Path(folder))
        ran = {
            way: _train(setting, params, store, Path(folder) / way, log_probs)
            for way, log_probs in (("ours", branch_log_probs), ("peer", concatenated_log_probs))
        }
    ours, peer = ran["ours"], ran["peer"]
    apart = max(abs(a - b) for a, b in zip(ours.losses, peer.losses, strict=True))
    works = _works(ours, setting, learning, params.gradient_checkpointing)
    ratios = [b / a for a, b in zip(ours.seconds, peer.seconds)]
    row = _row(setting, name, params, ours, works[0]) | {
        "peer": "the same trainer, a row an answer",
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "peer ms": 1000 * statistics.median(peer.seconds),
        "largest difference of losses": apart,
    }
    if setting.device == "cuda":
        mfu = works[1] / statistics.median(peer.seconds) / (1e12 * setting.peak_tflops)
        row |= {"peer MFU": mfu, "peer GiB": peer.peak_gib}
    yield row
    if not apart <= LOSSES_APART[setting.dtype]:
        raise Different(f"{name}: losses differ by {apart:.3g}")


def _params(steps: int, **changes: object) -> TrainingParams:
    """The recipe's, but for a higher learning rate, by which losses move in a few steps.

    A step is an epoch, since it takes all pairs.
    """
    given = {
        "batch_size": PAIRS,
        "micro_batch_size": 1,
        "epochs": steps,
        "checkpoint_every": steps,
        "learning_rate": 1e-6,
        "warmup_ratio": 0.0,
        "report_to": [],
    }
    return TrainingParams(**given | changes)


def _pairs(setting: Setting, folder: Path) -> PairStore:
    model = wrapped(setting.model(), setting.vocabulary)
    return store_of(folder, sampled_pairs(model, setting.vocabulary, PAIRS, ANSWER))


def _train(
    setting: Setting, params: TrainingParams, store: PairStore, folder: Path, log_probs: Callable
) -> _Ran:
    """Train from the same weights, with another way to compute the answers' log-probs."""
    _free_memory(setting)
    reference_model = wrapped(setting.model(), setting.vocabulary)
    compute_as_training_does(reference_model, params, setting.dtype)
    reference = reference_log_probs(reference_model, store, store.by_prompt(), Truncation())
    del reference_model
    _free_memory(setting)
    times, losses, packs, pair_loss = [], [], [], PreferenceTrainer._pair_loss

    def watched(trainer: PreferenceTrainer, model: torch.nn.Module, inputs: dict[str, Any]) -> PreferenceLoss:
        result = pair_loss(trainer, model, inputs)
        losses.extend(result.losses.detach().float().tolist())
        packs.extend(inputs["packed"].unpack())
        return result

    def on_step(step: int) -> None:
        times.append(setting.now())
        if step == params.epochs:
            raise _Enough

    def run() -> None:
        policy = wrapped(setting.model(), setting.vocabulary)
        job = TrainingJob(Path("random"), folder, 5, params, setting.dtype, setting.device)
        with (
            mock.patch.object(PreferenceTrainer, "_pair_loss", watched),
            # The release's forward rounds otherwise than the reference log-probs, which are ours
            mock.patch.object(PreferenceTrainer, "_check_reference", lambda *_: None),
            mock.patch("rlaifv_kedro.training.trainer.branch_log_probs", log_probs),
        ):
            try:
                train(policy, store, reference, job, on_step)
            except _Enough:
                return

    peak = setting.peak_gib(run)
    return _Ran([b - a for a, b in zip(times, times[1:])], losses, packs, peak)


def _free_memory(setting: Setting) -> None:
    """Let earlier models go: hooks refer to them, and they to their hooks."""
    gc.collect()
    if setting.device == "cuda":
        torch.cuda.empty_cache()


def _works(ran: _Ran, setting: Setting, learning: Learning, again: bool) -> tuple[float, float]:
    """Operations of a step, ours and the peer's."""
    packs = ran.packs[:PAIRS]
    answers = sum(len(branch) for pack in packs for branch in pack.branches)
    ours, peer = Work.packed(packs, answers), Work.separate(packs)
    return tuple(work.operations(setting.shape, setting.vocabulary, learning, again) for work in (ours, peer))


def _row(setting: Setting, name: str, params: TrainingParams, ran: _Ran, operations: float) -> Row:
    seconds = statistics.median(ran.seconds)
    size = size_of(setting.model())
    row = {
        "step": f"{name}, {PAIRS} pairs a step, {params.micro_batch()} a forward pass",
        "ours ms": 1000 * seconds,
        "pairs/s": PAIRS / seconds,
        "ours GiB": ran.peak_gib,
        "check sizes GiB": _sized(size, params, setting) / GIB,
    }
    if setting.device == "cuda":
        row["ours MFU"] = operations / seconds / (1e12 * setting.peak_tflops)
    return row


def _sized(size: sizes.ModelSize, params: TrainingParams, setting: Setting) -> int:
    """Bytes of the GPU's memory, as ``rlaifv check`` sizes them."""
    return sizes.training_memory(size, params, ANSWER, setting.dtype)
