"""Feedback, reference log-probs, sampling and a DPO step's gradients beside the release's way (perf/*.py)."""

from collections.abc import Callable, Iterator
from functools import partial

import dpo_step
import feedback
import reference_log_probs
import sampling
from gpu.setting import GIB, Row, Setting, size_of, weights_bytes
from side_by_side import Bench, Result

from rlaifv_kedro.params import ComputeParams, DataGenerationParams
from rlaifv_kedro.preflight import sizes

Measure = Callable[[Bench], Iterator[Result]]


def feedback_rows(setting: Setting) -> Iterator[Row]:
    """60 questions about an image."""
    budget = ComputeParams().max_tokens_per_pack
    yield from _rows(
        setting, feedback.measure, lambda size: sizes.labeling_memory(size, 1, budget, setting.dtype)
    )


def reference_rows(setting: Setting) -> Iterator[Row]:
    """Answers of about 100 tokens, of one pair and of two pairs of a prompt."""
    yield from _rows(setting, reference_log_probs.measure)


def sampling_rows(setting: Setting) -> Iterator[Row]:
    """10 answers of 64 tokens."""
    for count in (1, sampling.TOGETHER) if setting.device == "cuda" else (1,):
        params = DataGenerationParams(
            batch_size=count, candidates=sampling.SAMPLES, max_new_tokens=sampling.NEW_TOKENS
        )
        yield from _rows(
            setting,
            partial(sampling.measured, count=count),
            partial(sizes.sampling_memory, params=params, dtype=setting.dtype),
        )


def gradient_rows(setting: Setting) -> Iterator[Row]:
    """Forward and backward of all weights, without an optimiser."""
    yield from _rows(setting, dpo_step.measure)


def _rows(
    setting: Setting, measure: Measure, predicted: Callable[[sizes.ModelSize], int] | None = None
) -> Iterator[Row]:
    bench = setting.bench()
    weights, size = weights_bytes(bench.model), size_of(bench.model)
    for result in measure(bench):
        row = {
            "step": result.step,
            "peer": result.peer,
            "ratio": result.ratio,
            "lowest": min(result.ratios),
            "highest": max(result.ratios),
            "ours ms": 1000 * result.seconds_ours,
            "peer ms": 1000 * result.seconds_peer,
            "largest difference": result.largest_difference,
            **result.further,
            "ours GiB": (weights + result.bytes_ours) / GIB,
            "peer GiB": (weights + result.bytes_peer) / GIB,
        }
        yield row | ({"check sizes GiB": predicted(size) / GIB} if predicted else {})
