"""What all parts of the GPU check share: the model's shape, where it computes, how often things are timed."""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from shapes import IMAGE_TOKENS, SHAPES, Shape, build
from side_by_side import Bench

from rlaifv_kedro.preflight.sizes import ModelSize

PROJECT = Path(__file__).resolve().parents[2]
GIB = 2**30
VOCABULARIES = {"llava-7b": 32000, "smallest": 256}

Row = dict[str, Any]
"""One line of a part's table: title of a column -> value."""


class Different(Exception):
    """Two ways that must give the same result did not."""


@dataclass(frozen=True)
class Setting:
    """How a part is measured.

    Attributes:
        device: ``cuda`` or ``cpu``.
        repeats: Timed runs of each way; the median counts.
        peak_tflops: Of the GPU in dense bfloat16, for MFU.
    """

    device: str
    shape: Shape
    repeats: int
    peak_tflops: float

    @classmethod
    def of(cls, device: str, shape: str, peak_tflops: float) -> "Setting":
        """The setting that the command line names."""
        if shape == "tiny":
            return cls(device, SHAPES["smallest"], 1, peak_tflops)
        return cls(device, SHAPES[shape], 5, peak_tflops)

    @property
    def vocabulary(self) -> int:
        """Words, without the rows that stand for images."""
        return VOCABULARIES[self.shape.name]

    @property
    def dtype(self) -> str:
        """In which the model computes, as a parameter names it."""
        return str(self.shape.dtype).removeprefix("torch.")

    def model(self) -> Any:
        """A LLaVA of this shape with random weights."""
        return build(self.shape, self.vocabulary, self.device)

    def bench(self) -> Bench:
        """What the scripts in perf/ measure with."""
        options = argparse.Namespace(
            quick=False, checkpointing=False, prompts=1, peak_tflops=self.peak_tflops
        )
        return Bench(self.shape, self.vocabulary, self.device, self.repeats, self.model(), options)

    def seconds(self, run: Callable[[], Any]) -> float:
        """The median of the timed runs; one more before them warms up."""
        run()
        found = []
        for _ in range(self.repeats):
            start = self.now()
            run()
            found.append(self.now() - start)
        return statistics.median(found)

    def now(self) -> float:
        """Seconds: on a GPU of the clock, when it has done what it was given; else the processor's."""
        if self.device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def peak_gib(self, run: Callable[[], Any]) -> float | None:
        """The most GPU memory that torch had allocated during a run; None without a GPU."""
        if self.device != "cuda":
            run()
            return None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() / GIB


def size_of(model: torch.nn.Module) -> ModelSize:
    """The size of a model in memory, as ``rlaifv check`` reads it from a checkpoint."""
    text = model.config.get_text_config()
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    return ModelSize(
        sum(weight.numel() for weight in model.parameters()),
        text.hidden_size,
        text.num_hidden_layers,
        text.num_key_value_heads * (text.hidden_size // text.num_attention_heads),
        text.vocab_size,
        IMAGE_TOKENS,
        shapes,
        IMAGE_TOKENS,
    )


def weights_bytes(model: torch.nn.Module) -> int:
    """Bytes of a model's weights."""
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())
