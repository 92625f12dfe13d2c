"""Whether a run may go on with other parameters than before: by what they change, and by who has read them.

What a node has read is noted while it runs (:mod:`rlaifv_kedro.runs.running_nodes`): a result that was
computed without asking for a parameter can't depend on it.
"""

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown
from rlaifv_kedro.formats import flatten
from rlaifv_kedro.params import RUN_NAMES
from rlaifv_kedro.params.base import Effect
from rlaifv_kedro.params.effects import effect_of
from rlaifv_kedro.redaction import redacted
from rlaifv_kedro.runs.kedro_private import dataset, is_versioned, path_of
from rlaifv_kedro.runs.manifest import Manifest
from rlaifv_kedro.runs.running_nodes import data_inputs

EVERYTHING = ""
"""Stands for all parameters among those that a node has read: nobody knows which it was made with."""
OF_THE_RUN = ("--env", "seed", "iteration")
"""What names a run's artifacts, so that it is the same to the end."""
_MOST_PATHS = 12
"""So many folders has an iteration before its training."""


@dataclass(frozen=True)
class Made:
    """A node of which the run has outputs.

    Attributes:
        reads: Full names of the parameters that it has read, or of whole groups.
        finished: Whether all its outputs are complete.
        paths: Its outputs, as far as they are there; none where the pipeline lacks the node.
    """

    name: str
    reads: frozenset[str]
    finished: bool
    paths: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Change:
    """A parameter that has another value than before.

    Attributes:
        read_by: The nodes that stand against it: their results would not be those of the new value.
    """

    parameter: str
    before: Any
    now: Any
    effect: Effect
    read_by: tuple[Made, ...]

    def refused(self) -> bool:
        """Whether the run can't go on with it."""
        return bool(self.read_by) or self.parameter in OF_THE_RUN

    def record(self, at: str) -> dict[str, Any]:
        """The change as manifests hold it; None also stands for what there was or is not."""
        return {"at": at, "parameter": self.parameter, "from": _held(self.before), "to": _held(self.now)}

    def line(self) -> str:
        """The change, for people."""
        values = f"{self.parameter}: {self.before!r} in the run, {self.now!r} now"
        if not self.refused():
            return f"{values} ({self.effect.value})"
        nodes = ", ".join(f"{m.name} ({'finished' if m.finished else 'begun'})" for m in self.read_by)
        return f"{values} ({self.effect.value}; read by {nodes or 'the whole run'})"


class _NotSet:
    def __repr__(self) -> str:
        return "not set"


_NOT_SET = _NotSet()


def _held(value: Any) -> Any:
    """The value as JSON holds it; an earlier version admitted addresses with passwords."""
    if isinstance(value, str):
        return redacted(value)
    return None if value is _NOT_SET else value


def changes_since(
    old: Manifest, env: str | None, parameters: Mapping[str, Any], made: Iterable[Made]
) -> list[Change]:
    """What is other than at the run's last start.

    Args:
        env, parameters: Of the start to come; all parameters, nested.
        made: See :func:`made_nodes`.
    """
    before, now = ({"--env": e, **flatten(p)} for e, p in ((old.env, old.parameters), (env, parameters)))
    found = []
    for name, was, is_ in differing(before, now):
        if name not in RUN_NAMES:
            effect = effect_of(name)
            found.append(Change(name, was, is_, effect, tuple(_against(name, effect, made))))
    return found


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Names with their values before and now, where these differ; what isn't there is written ``not set``."""
    for name in {**before, **now}:
        was, is_ = before.get(name, _NOT_SET), now.get(name, _NOT_SET)
        if was != is_:
            yield name, was, is_


def _against(name: str, effect: Effect, made: Iterable[Made]) -> list[Made]:
    """The nodes that have computed something with the old value that depends on it."""
    if name in OF_THE_RUN or effect is Effect.EXECUTION:
        return []
    return [
        node
        for node in made
        if any(_overlap(read, name) for read in node.reads)
        and not (effect is Effect.DIVISION and node.finished)
    ]


def _overlap(read: str, name: str) -> bool:
    """Whether one of the names is the other, or of a group that the other is in."""
    return read in (EVERYTHING, name) or read.startswith(f"{name}.") or name.startswith(f"{read}.")


def refuse(run_id: str, changes: Iterable[Change], made: Iterable[Made], pipeline: Pipeline) -> None:
    """Refuses to go on with other parameters where results are there that would not be those of the new ones.

    Raises:
        UserError: Names these parameters, the nodes that have read them, and what may be deleted to have it
            made again.
    """
    refused = [change for change in changes if change.refused()]
    if refused:
        listed = "\n".join(f"  {change.line()}" for change in refused)
        raise UserError(
            f"Run `{run_id}` has results that were made with other parameters:\n{listed}\nGo on with the "
            f"same parameters{_or_delete(refused, made, pipeline)}, or choose another run_id (or none) for a "
            "new run."
        )


def _or_delete(refused: Iterable[Change], made: Iterable[Made], pipeline: Pipeline) -> str:
    """What to delete, where that is little: what these nodes have made, and all that was made from it."""
    against = {node.name: node for change in refused for node in change.read_by}
    if not all(node.paths for node in against.values()) or any(not change.read_by for change in refused):
        return ""
    again = {node.name for node in pipeline.from_nodes(*against).nodes}
    folders = dict.fromkeys(shown(path.parent) for node in made if node.name in again for path in node.paths)
    if len(folders) > _MOST_PATHS:
        return ""
    return f", or delete what is to be made again with the new ones (rm -r {shlex.join(folders)})"


def made_nodes(pipeline: Pipeline, catalog: DataCatalog, old: Manifest) -> list[Made]:
    """The nodes of which a run has outputs; of those that the pipeline lacks only the manifest tells."""
    found = [
        Made(node.name, _read_by(node, old), _is_finished(node, old), tuple(paths))
        for node in pipeline.nodes
        if (paths := outputs_there(node, catalog, old.run_id))
    ]
    known = {node.name for node in pipeline.nodes}
    others = {name: record for name, record in old.nodes.items() if name not in known}
    return found + [Made(name, frozenset(record.reads), True) for name, record in others.items()]


def outputs_there(node: Node, catalog: DataCatalog, run_id: str) -> list[Path]:
    """Where a run has something of this node's outputs, complete or not."""
    found = (dataset(catalog, name) for name in node.outputs)
    paths = (path_of(output, run_id) for output in found if is_versioned(output))
    return [path for path in paths if path is not None and _holds_something(path)]


def _holds_something(path: Path) -> bool:
    return any(not part.name.startswith(".") for part in path.iterdir()) if path.is_dir() else path.exists()


def _read_by(node: Node, old: Manifest) -> frozenset[str]:
    """What the node has read; everything, if nobody knows, or if it would read other entries now."""
    record = old.nodes.get(node.name)
    same = record is not None and record.inputs == data_inputs(node)
    return frozenset(record.reads if same else [EVERYTHING])


def _is_finished(node: Node, old: Manifest) -> bool:
    entries = [old.written.get(name) for name in node.outputs]
    return all(entry is not None and entry.sha256 is not None for entry in entries)
