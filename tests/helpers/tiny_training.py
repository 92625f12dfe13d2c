"""Trainings of the tiny checkpoint on twelve pairs, shared by the tests that look at them."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file

from pair_files import store_of
from rlaifv_kedro.models import load_model
from rlaifv_kedro.models.backends.transformers import TransformersModel
from rlaifv_kedro.params import TrainingParams
from rlaifv_kedro.preference.data import Truncation
from rlaifv_kedro.preference.reference import reference_log_probs
from rlaifv_kedro.preference.weights import SUM, Reduction
from rlaifv_kedro.training.resume import resume_point
from rlaifv_kedro.training.training import Ran, TrainingJob, result_of, train

NOUNS = ["cup", "dog", "bus", "kite", "clock", "boat", "book", "bench", "bowl", "tv", "cat", "bird"]
# 12 pairs in batches of 4: 3 steps an epoch, 6 in all, a checkpoint every 2.
PARAMS = TrainingParams(
    learning_rate=5e-4,
    batch_size=4,
    micro_batch_size=4,
    epochs=2,
    checkpoint_every=0.66,
    gradient_checkpointing=False,
    warmup_ratio=0.2,
)
WHOLE = Truncation()
IDENTITY = "these pairs with these parameters"


def make_pairs(images: list[dict[str, Any]], rows: Iterable[tuple[int, int, str, str, str]]) -> pd.DataFrame:
    """Pairs of rows (idx, number of the image, question, chosen, rejected)."""
    columns = ["idx", "image", "question", "chosen", "rejected"]
    return pd.DataFrame([(idx, images[image], *texts) for idx, image, *texts in rows], columns=columns)


def reference_of(
    model: TransformersModel, pairs: pd.DataFrame, truncation: Truncation = WHOLE, reduction: Reduction = SUM
) -> pd.DataFrame:
    store = store_of(pairs)
    return reference_log_probs(model, store, store.by_prompt(), truncation, reduction)


class Runner:
    """Trains the tiny checkpoint, or another, into a folder."""

    def __init__(self, tiny: Path, pairs: pd.DataFrame, reference: pd.DataFrame):
        self.tiny, self.pairs, self.reference = tiny, pairs, reference

    def __call__(
        self, folder: Path, policy: Path | None = None, **changes: Any
    ) -> tuple[list[dict], pd.DataFrame]:
        """Keywords are ``pairs``, ``reference``, ``dtype``, or parameters that differ from ``PARAMS``."""
        policy, dtype = policy or self.tiny, changes.pop("dtype", "float32")
        pairs, reference = changes.pop("pairs", self.pairs), changes.pop("reference", self.reference)
        params, store = PARAMS.model_copy(update=changes), store_of(pairs)
        steps = params.checkpoint_steps(len(store))
        start = resume_point(folder, steps, IDENTITY)
        if start < steps[-1]:
            model = load_model(policy, device="cpu", dtype=dtype)
            job = TrainingJob(policy, folder, 5, params, dtype, resume=start, identity=IDENTITY)
            train(model, store, reference, job)
        result = result_of(folder, params, len(store), Ran(1, "none"))
        return result.checkpoints, result.log


class Spy:
    """Replaces a function by itself and remembers what it was called with and what it returned."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        self.calls: list[tuple[tuple[Any, ...], Any]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self.function(*args, **kwargs)
        self.calls.append((args, result))
        return result

    def __get__(self, instance: Any, owner: type) -> Callable[..., Any]:
        """As a method: the first argument is the object."""
        return self if instance is None else lambda *args, **kwargs: self(instance, *args, **kwargs)


def batches_seen(calls: list[tuple[tuple[Any, ...], Any]]) -> list[list[int]]:
    """The idx of the pairs of each batch that a spied ``PreferenceCollator.__call__`` made, in the batch's
    order.
    """
    return [[int(e.pair.idx) for e in examples] for (_, examples), _ in calls]


def weights(folder: Path, name: str = "model.safetensors") -> dict[str, torch.Tensor]:
    return load_file(folder / name)


def changed(folder: Path, start: Path) -> set[str]:
    before, after = weights(start), weights(folder)
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def last(folder: Path, checkpoints: list[dict]) -> Path:
    return folder / checkpoints[-1]["path"]
