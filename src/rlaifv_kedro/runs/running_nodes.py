"""What the manifest says of a node while it runs: its time, its inputs, the parameters that it has read."""

import time
from dataclasses import dataclass, field
from typing import Any

from kedro.io.core import is_parameter
from kedro.pipeline.node import Node

from rlaifv_kedro.params.base import Params, noting
from rlaifv_kedro.runs.manifest import NodeRecord


@dataclass
class RunningNode:
    """A node since its start.

    Attributes:
        before: What earlier starts have recorded.
        reads: What is read of the parameters; see :class:`rlaifv_kedro.runs.manifest.NodeRecord`.
    """

    node: Node
    before: NodeRecord
    reads: set[str] = field(default_factory=set)
    started: float = field(default_factory=time.perf_counter)

    def noted(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The node's parameters as copies, which note what is read of them; one that is no group is read."""
        parameters = {name: value for name, value in inputs.items() if is_parameter(name)}
        groups = {name: value for name, value in parameters.items() if isinstance(value, Params)}
        self.reads |= {_full_name(name) for name in parameters.keys() - groups.keys()}
        return {name: noting(value, _full_name(name), self.reads) for name, value in groups.items()}

    def at_start(self) -> NodeRecord:
        """The record while nothing is saved: all that the node may read."""
        may_read = {_full_name(name) for name in self.node.inputs if is_parameter(name)}
        return self._record(self.before.seconds, self.reads | may_read)

    def so_far(self) -> NodeRecord:
        """The record of the time since the start, and what was read in it."""
        return self._record(self.before.seconds + time.perf_counter() - self.started, self.reads)

    def _record(self, seconds: float, reads: set[str]) -> NodeRecord:
        return NodeRecord(seconds=round(seconds, 3), inputs=data_inputs(self.node), reads=sorted(reads))


def data_inputs(node: Node) -> list[str]:
    """The entries that a node reads, without parameters."""
    return sorted(name for name in node.inputs if not is_parameter(name))


def _full_name(entry: str) -> str:
    return entry.removeprefix("params:")
