"""Two ways to compute one thing, side by side: equal results first, then seconds and bytes in turn.

A ratio is the median of the ratios of neighbouring runs, peer / ours, so that what else the machine does
falls on both. The run whose results and memory are compared is the warm-up. On CPU everything runs in one
thread and seconds are the processor's: what a clock on the wall says when nothing else runs.
"""

import argparse
import json
import statistics
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from shapes import SHAPES, Shape, Texts, build
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

QUICK_REPEATS = 3
PEAK_TFLOPS = 989.0
"""Of an H100 and an H200 in dense bfloat16, by their datasheets."""

# How far two right ways may be apart in bfloat16; the strict comparison is in float32 (gpu/equality.py). With
# 32 layers of random weights each is off float32 by 0.14 in a token's log-prob (root mean square; 0.6 at
# most), and by 9 % in its gradients; a sum over 100 tokens by ten times the former.
ROUNDED = {"probabilities": 0.1, "sums": 6.0, "losses": 0.2, "gradients": 0.25, "greedy ids": 1.0}


class ResultsDiffer(Exception):
    """Ours and a peer computed different things, so that comparing their speed means nothing."""


@dataclass(frozen=True)
class Bench:
    """What all comparisons of one model share."""

    shape: Shape
    vocabulary: int
    device: str
    repeats: int
    model: Any
    options: argparse.Namespace

    @property
    def exact(self) -> bool:
        return self.shape.dtype == torch.float32

    def texts(self, seed: int = 0) -> Texts:
        return Texts(self.shape, self.vocabulary, self.device, seed)

    def described(self) -> dict[str, Any]:
        return {
            "shape": self.shape.name,
            "vocabulary": self.vocabulary,
            "device": self.device,
            "threads": torch.get_num_threads(),
            "dtype": str(self.shape.dtype).removeprefix("torch."),
        }


@dataclass(frozen=True)
class Result:
    """One peer. Ratios of seconds are peer / ours, the one of bytes is ours / peer."""

    step: str
    peer: str
    ratio: float
    memory_ratio: float
    largest_difference: float
    target: str
    seconds_ours: float
    seconds_peer: float
    ratios: list[float]
    bytes_ours: int
    bytes_peer: int
    differences: dict[str, float]
    setting: dict[str, Any]
    further: dict[str, float] = field(default_factory=dict)

    def line(self) -> str:
        values = asdict(self)
        setting, further = values.pop("setting"), values.pop("further")
        return json.dumps(values | setting | further)


class SavedActivations(AbstractContextManager["SavedActivations"]):
    """Bytes that autograd keeps for the backward pass: each storage once, without parameters and inputs.

    With gradient checkpointing these are the layers' inputs and what follows the layers, without the one
    layer at a time that is computed again.
    """

    def __init__(self, model: torch.nn.Module, inputs: Iterable[torch.Tensor]):
        self.bytes = 0
        self._seen = {
            t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), *inputs)
        }
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._saved, lambda tensor: tensor)

    def _saved(self, tensor: torch.Tensor) -> torch.Tensor:
        # Its address stays taken: autograd keeps it until the backward pass, where nothing is saved any more
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor

    def __enter__(self) -> "SavedActivations":
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)


class PeakTensors(TorchDispatchMode):
    """The most bytes that tensors made inside held at once, on any device."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self._live = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for tensor in _tensors((args, kwargs)):
            self._known.add(
                tensor.untyped_storage()
            )  # what comes from outside isn't counted, nor are views of it
        made = func(*args, **(kwargs or {}))
        for tensor in _tensors(made):
            self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self._live += size
        self.bytes = max(self.bytes, self._live)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self._live -= size


class CudaPeak(AbstractContextManager["CudaPeak"]):
    """The most bytes allocated on the GPU above those at the start."""

    def __enter__(self) -> "CudaPeak":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        self._start = torch.cuda.memory_allocated()
        return self

    def __exit__(self, *_: Any) -> None:
        torch.cuda.synchronize()
        self.bytes = torch.cuda.max_memory_allocated() - self._start


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))


def compare(
    bench: Bench,
    step: str,
    peer: str,
    ours_fn: Callable[[], Any],
    peer_fn: Callable[[], Any],
    difference_fn: Callable[[Any, Any], dict[str, float]],
    tolerance: dict[str, float],
    memory_fn: Callable[[], Any],
    *,
    target: str,
    before: Callable[[], None] = lambda: None,
) -> Result:
    """Measure ours against a peer.

    Args:
        target: What to reach in the full shapes; not shown with ``--quick``.
        difference_fn: Differences of two results by name; each has its tolerance.
        memory_fn: Makes what counts the bytes on CPU; on cuda it's always the allocator's peak.
        before: Runs before each run and isn't timed, e.g. to drop gradients.

    Raises:
        ResultsDiffer: A difference above its tolerance.
    """
    bytes_ours, result_ours = _first_run(bench, ours_fn, memory_fn, before)
    bytes_peer, result_peer = _first_run(bench, peer_fn, memory_fn, before)
    differences = difference_fn(result_ours, result_peer)
    for name, value in differences.items():
        if not value <= tolerance[name]:
            raise ResultsDiffer(
                f"{step}, peer {peer!r}: {name} differ by {value:.3g}, more than {tolerance[name]:.3g}. "
                "Nothing was timed."
            )
    del result_ours, result_peer
    seconds = [
        (_seconds(bench, ours_fn, before), _seconds(bench, peer_fn, before)) for _ in range(bench.repeats)
    ]
    ratios = [theirs / ours for ours, theirs in seconds]
    ours, theirs = (statistics.median(column) for column in zip(*seconds))
    return Result(
        step,
        peer,
        statistics.median(ratios),
        bytes_ours / bytes_peer,
        max(differences.values()),
        "" if bench.options.quick else target,
        ours,
        theirs,
        ratios,
        bytes_ours,
        bytes_peer,
        differences,
        bench.described(),
    )


def _first_run(
    bench: Bench, fn: Callable[[], Any], memory_fn: Callable[[], Any], before: Callable[[], None]
) -> tuple[int, Any]:
    if bench.device == "cpu":
        before()
        with memory_fn() as memory:
            result = fn()
        return memory.bytes, result
    # Once without counting: kernels are loaded, and gradients are allocated, which any way of computing them
    # has. Gradients of an earlier way are let go first, or this one would be added to them.
    before()
    fn()
    with CudaPeak() as memory:
        fn()
    before()
    return memory.bytes, fn()


def _seconds(bench: Bench, fn: Callable[[], Any], before: Callable[[], None]) -> float:
    before()
    if bench.device == "cpu":
        start = time.process_time()
        fn()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    fn()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def with_speed(bench: Bench, result: Result, ours: float, peer: float) -> Result:
    """The result with operations a second, and on a GPU their share of its peak (MFU).

    Args:
        ours, peer: Floating-point operations that each way of computing needs for its own tokens; see
            ``operations.py``.
    """
    ways = {"ours": ours / result.seconds_ours, "peer": peer / result.seconds_peer}
    further = {f"{name} TFLOP/s": speed / 1e12 for name, speed in ways.items()}
    if bench.device == "cuda":
        peak = 1e12 * bench.options.peak_tflops
        further |= {f"{name} MFU": speed / peak for name, speed in ways.items()}
    return replace(result, further={**result.further, **further})


def largest(ours: torch.Tensor, peer: torch.Tensor) -> float:
    """Largest absolute difference."""
    return float((ours.double() - peer.double()).abs().max())


def run(
    description: str,
    measure: Callable[[Bench], Iterator[Result]],
    add_options: Callable[[argparse.ArgumentParser], Any] | None = None,
) -> None:
    """The command line of a benchmark."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a line a peer instead of a table"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--shape", choices=["tiny", "llava-7b"], default="tiny")
    parser.add_argument("--vocabulary", type=int, nargs="+", help="2000 32000 by default, 32000 for llava-7b")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"2 layers, vocabulary 2000, {QUICK_REPEATS} repeats: under a minute",
    )
    parser.add_argument(
        "--peak-tflops", type=float, default=PEAK_TFLOPS, help="of the GPU in dense bfloat16, for MFU"
    )
    if add_options:
        add_options(parser)
    options = parser.parse_args()
    if options.quick:
        options.shape, options.vocabulary, options.repeats = "quick", [2000], QUICK_REPEATS
    if options.device == "cpu":
        torch.set_num_threads(1)
    results = []
    for vocabulary in options.vocabulary or ([32000] if options.shape == "llava-7b" else [2000, 32000]):
        shape = SHAPES[options.shape]
        bench = Bench(
            shape,
            vocabulary,
            options.device,
            options.repeats,
            build(shape, vocabulary, options.device),
            options,
        )
        try:
            for result in measure(bench):
                results.append(result)
                if options.json:
                    print(result.line(), flush=True)
        except ResultsDiffer as error:
            sys.exit(str(error))
        del bench
    if not options.json:
        _show(results)


def _show(results: list[Result]) -> None:
    table = Table(
        title=f"ours side by side with peers ({', '.join(f'{k} {v}' for k, v in _common(results).items())})"
    )
    for name in ("step", "vocabulary", "peer"):
        table.add_column(name)
    further = list(results[0].further)
    for name in (
        "ours s",
        "peer s",
        "peer / ours",
        "least .. most",
        "target",
        "memory ours / peer",
        "largest difference",
        *further,
    ):
        table.add_column(name, justify="right")
    for r in results:
        table.add_row(
            r.step,
            f"{r.setting['vocabulary']:,}",
            r.peer,
            f"{r.seconds_ours:.3f}",
            f"{r.seconds_peer:.3f}",
            f"{r.ratio:.2f}",
            f"{min(r.ratios):.2f} .. {max(r.ratios):.2f}",
            r.target,
            f"{r.memory_ratio:.2f}",
            f"{r.largest_difference:.1e}",
            *(f"{r.further[name]:.3g}" for name in further),
        )
    Console(width=max(150, Console().width)).print(table)


def _common(results: list[Result]) -> dict[str, Any]:
    return {k: v for k, v in results[0].setting.items() if k != "vocabulary"} | {
        "repeats": len(results[0].ratios)
    }
