"""Long steps in chunks, so that a killed run loses one chunk at most."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from typing import Any, TypeVar

import pandas as pd

from rlaifv_kedro.datasets.chunks import Chunk, Complete
from rlaifv_kedro.engine.items import Pending
from rlaifv_kedro.engine.outputs import finished_chunks
from rlaifv_kedro.params import ComputeParams
from rlaifv_kedro.progress import report

Output = TypeVar("Output", Chunk, Complete)
Frames = pd.DataFrame | tuple[pd.DataFrame, ...]
Work = Callable[[Sequence[Any]], Frames]
MakeWork = Callable[..., AbstractContextManager[Work]]
"""What opens models, gives the work that asks them, and closes them."""


def map_chunks(
    items: Sequence[Any],
    size: int,
    make_work: MakeWork,
    args: tuple[Any, ...],
    label: str,
    tables: int = 1,
    compute: ComputeParams | None = None,
) -> Iterator[Chunk | Complete | tuple[Chunk, ...] | tuple[Complete, ...]]:
    """Works through the items in fixed chunks, and yields what Kedro saves.

    A chunk's rows are yielded as soon as they are there, then the marker. The node itself must be a generator
    function (Kedro streams only those), with its tables as ``ChunkedTableDataset`` entries::

        @contextmanager
        def sampler(policy, params):
            model = open_model(policy)
            with closing_models(model):
                yield lambda rows: sampled_by(model, rows, params)

        def sample(prompts, policy, params):
            yield from map_chunks(rows, 64, sampler, (policy, params), "candidates", tables=2)

        node(sample, inputs=["prompts", ...], outputs=["candidates", "rejects"])

    Kedro saves the tables of one ``yield`` one after the other and only then asks for the next chunk. A kill
    between the two saves leaves a chunk in one table only: hence only the chunks that *all* tables hold are
    finished (:func:`rlaifv_kedro.engine.outputs.finished_chunks`), that chunk is computed again, and its
    first table is replaced by the same bytes. The same holds between the two markers: each table exists only
    with its own, so the node runs again, finds all chunks finished, makes no work and writes both.

    Args:
        items: What to work on, in an order that a resumed run finds again. A chunk's items are all that its
            work is given; :class:`rlaifv_kedro.engine.items.LazyItems` makes them when they are asked for,
            and says which of them a worker should keep to.
        size: Items a chunk; chunk ``i`` has the id ``f"{i:05d}"``.
        make_work: A function of a module, called with ``args`` before the first chunk that is missing; the
            work that it enters with gives rows for one chunk's items: a frame, or one frame for each of
            several tables.
        label: What the status line calls the chunks.
        tables: How many tables the node saves.
        compute: Says whether the chunks are worked in this process or by Ray's workers, each of which makes
            its own work; they may then come in another order. None: in this process.

    Raises:
        ValueError: ``size`` is below 1, or the work returned another number of frames than ``tables``.
    """
    if size < 1:
        raise ValueError(f"a chunk needs at least one item, not {size}")
    finished = finished_chunks()
    starts = {f"{start // size:05d}": start for start in range(0, len(items), size)}
    missing = {chunk_id: start for chunk_id, start in starts.items() if chunk_id not in finished}
    left = Pending(items, missing, size)
    done = len(starts) - len(missing)
    report(label, done, len(starts), done)
    with closing(_worked(left, make_work, args, label, compute)) as worked:
        for number, (chunk_id, found) in enumerate(worked, start=done + 1):
            frames = found if isinstance(found, tuple) else (found,)
            if len(frames) != tables:
                raise ValueError(f"{label}: expected rows for {tables} tables, got {len(frames)}")
            yield _outputs([Chunk(chunk_id, frame) for frame in frames])
            report(label, number, len(starts), done)
    yield _outputs([Complete(list(starts))] * tables)


def _worked(
    left: Pending,
    make_work: MakeWork,
    args: tuple[Any, ...],
    label: str,
    compute: ComputeParams | None,
) -> Iterator[tuple[str, Frames]]:
    """Each chunk's id and rows."""
    if compute is not None and compute.engine == "ray":
        from rlaifv_kedro.engine.ray_workers import on_ray

        yield from on_ray(left, make_work, args, compute, label)
        return
    with ExitStack() as opened:
        work: Work | None = None
        for chunk_id, items in left.in_order():
            work = work or opened.enter_context(make_work(*args))
            yield chunk_id, work(items)


def _outputs(outputs: list[Output]) -> Output | tuple[Output, ...]:
    return outputs[0] if len(outputs) == 1 else tuple(outputs)
