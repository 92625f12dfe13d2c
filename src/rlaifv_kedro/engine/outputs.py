"""What a running node should know of its run: finished chunks, where a work folder is, changed parameters.

A resumed node must not compute finished chunks again, and a training finds its checkpoints where it left
them. Neither is an input in the sense of the method, so neither is an entry of the catalog: the hooks say it
before each node (:mod:`rlaifv_kedro.hooks`).
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from rlaifv_kedro.datasets.versioned import SCRATCH
from rlaifv_kedro.files import writing


@dataclass(frozen=True)
class Outputs:
    """The outputs of one node in one run.

    Attributes:
        finished: Ids of the chunks that all its chunked tables hold.
        paths: Output, without its namespace -> where this run's version of it is or will be.
        changed: What was changed of the run's parameters between its starts, a line each.
    """

    finished: frozenset[str] = frozenset()
    paths: Mapping[str, Path] = field(default_factory=dict)
    changed: Sequence[str] = ()


_NOTHING = Outputs()
_CURRENT: ContextVar[Outputs] = ContextVar("outputs of the running node", default=_NOTHING)


@contextmanager
def running(outputs: Outputs) -> Iterator[None]:
    """Says what the node that runs inside should know of its outputs."""
    token = _CURRENT.set(outputs)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def announce(outputs: Outputs) -> None:
    """Says what the node that runs next in this thread should know of its outputs; for hooks."""
    _CURRENT.set(outputs)


def finished_chunks() -> frozenset[str]:
    """Ids of the running node's finished chunks."""
    return _CURRENT.get().finished


def changed_parameters() -> Sequence[str]:
    """What was changed of the run's parameters between its starts, a line each."""
    return _CURRENT.get().changed


def scratch_folder(output: str) -> Path:
    """An empty hidden folder, to put something together that is then saved as ``output``, which moves it.

    Raises:
        UserError: The folder can't be written.
    """
    folder = _CURRENT.get().paths[output].parent / SCRATCH
    with writing(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    return folder


def work_folder(output: str, name: str | None = None) -> Path:
    """A folder of this run that a node works in and finds again when the run is resumed; it is made.

    Args:
        output: The node's output, such as ``checkpoints``.
        name: None for the output itself, where that is a folder; else the folder of this name whose versions
            lie beside the output's.

    Raises:
        UserError: The folder can't be written.
    """
    path = _CURRENT.get().paths[output]
    version = path.parent
    folder = path if name is None else version.parent.parent / name / version.name / name
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.touch()
        probe.unlink()
    return folder
