"""What a run is made of, for the rules that look at it before its first node."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kedro.io import DataCatalog
from kedro.io.core import DatasetError, is_parameter
from kedro.pipeline import Pipeline

from rlaifv_kedro.benchmarks.registry import BENCHMARKS
from rlaifv_kedro.datasets.checkpoint import CheckpointDataset
from rlaifv_kedro.datasets.tables import TableDataset
from rlaifv_kedro.params import BackendParams, Parameters, WeightsParams
from rlaifv_kedro.preflight.checkpoints import Look, UsedModel, look_at
from rlaifv_kedro.preflight.inputs import Inputs, look_at_inputs, own_tables
from rlaifv_kedro.preflight.sizes import ModelSize
from rlaifv_kedro.runs.entries import notes_of
from rlaifv_kedro.runs.kedro_private import dataset
from rlaifv_kedro.runs.missing import Missing
from rlaifv_kedro.tags import Role, Task

if TYPE_CHECKING:
    import pyarrow.parquet as pq


@dataclass(frozen=True, eq=False)
class RunSetup:
    """Parameters, nodes and catalog of a run.

    Attributes:
        pipeline: The nodes that will run.
        missing: Entries that the run reads and would not find, by the rules by which it chooses versions.
        starting: Whether the run is about to begin. Then its versions are chosen, and what is missing has
            been told (``rlaifv_kedro.runs.versions``).
    """

    parameters: Parameters
    pipeline: Pipeline
    catalog: DataCatalog
    missing: Mapping[str, Missing] = field(default_factory=dict)
    starting: bool = False

    @cached_property
    def tags(self) -> frozenset[str]:
        """All tags of the nodes."""
        return frozenset(tag for node in self.pipeline.nodes for tag in node.tags)

    def does(self, *tasks: Task) -> bool:
        """Whether a node has one of these tasks."""
        return not self.tags.isdisjoint(tasks)

    def node_of(self, task: Task) -> str:
        """The name of the first node with this task, without its namespace."""
        return next(node.short_name for node in self.pipeline.nodes if task in node.tags)

    @cached_property
    def written(self) -> frozenset[str]:
        """The artifacts that the run writes, without their namespaces."""
        return frozenset(name.rpartition(".")[2] for name in self.pipeline.all_outputs())

    @cached_property
    def read(self) -> list[str]:
        """The catalog entries that the run reads and doesn't make."""
        return sorted(name for name in self.pipeline.inputs() if not is_parameter(name))

    def benchmarks_with(self, task: Task) -> list[str]:
        """The benchmarks of which a node has this task."""
        return [name for name in BENCHMARKS if any({name, task} <= node.tags for node in self.pipeline.nodes)]

    def iterations(self) -> int:
        """How many iterations the nodes go through: those of the loop, or the one of a stage run."""
        boxes = {
            name.partition(".")[0] for name in self.pipeline.all_outputs() if name.startswith("iteration_")
        }
        return len(boxes) or 1

    def asked(self) -> dict[str, BackendParams]:
        """The roles that the nodes ask, with how each model is loaded or asked."""
        models = self.parameters.models
        used: dict[str, BackendParams | None] = {}
        if Role.POLICY in self.tags:
            used["policy"] = models.policy
        if Role.LABELER in self.tags:
            used["labeler"] = models.labeler
        if Role.SPLITTER in self.tags:
            used |= {"splitter": models.splitter, "question_writer": models.question_writer}
        if Role.JUDGE in self.tags:
            used["judge"] = models.judge
        return {name: params for name, params in used.items() if params is not None}

    def checkpoint_entries(self, role: Role) -> list[str]:
        """The catalog's checkpoints that nodes read for a role; they need not be there."""
        read = {name for node in self.pipeline.nodes if role in node.tags for name in node.inputs}
        return [
            name
            for name in self.read
            if name in read
            and name in self.catalog
            and isinstance(dataset(self.catalog, name), CheckpointDataset)
            and (name == "labeler") == (role is Role.LABELER)
        ]

    def metadata(self, name: str) -> Mapping[str, Any]:
        """What a recipe says of an entry: how to get it (``fetch``), what its model needs (``packages``)."""
        return notes_of(dataset(self.catalog, name)) if name in self.catalog else {}

    @cached_property
    def models(self) -> list[UsedModel]:
        """The models that the run loads itself, of those that can be looked at before."""
        return [*self._policies(), *self._other_models()]

    def _policies(self) -> Iterable[UsedModel]:
        params = self.parameters.models.policy
        yield from self._in_catalog(Role.POLICY, "policy", params)
        if self.does(Task.BENCHMARK_ANSWERS):
            for named in self.parameters.evaluation.policies():
                yield UsedModel("policy", named, "evaluation.policy", params)

    def _other_models(self) -> Iterable[UsedModel]:
        for name, params in self.asked().items():
            if not isinstance(params, WeightsParams) or name == "policy":
                continue
            if params.path is not None:
                yield UsedModel(name, params.path, f"models.{name}.path", params, vision=name == "labeler")
            elif name == "labeler":
                yield from self._in_catalog(Role.LABELER, name, params)

    def _in_catalog(self, role: Role, name: str, params: WeightsParams) -> Iterable[UsedModel]:
        for entry in self.checkpoint_entries(role):
            folder = self.folder(entry)
            if folder is not None:
                fetch = self.metadata(entry).get("fetch", "")
                yield UsedModel(name, folder, f"the catalog's {entry}", params, fetch)

    def folder(self, entry: str) -> str | None:
        """Where a checkpoint of the catalog lies; None if it isn't there."""
        found = dataset(self.catalog, entry)
        try:
            return str(found.load_path()) if found.exists() else None
        except DatasetError:
            return None

    def footer(self, entry: str) -> "pq.FileMetaData | None":
        """What a table's file says of its rows and columns; None where the entry isn't there, or no table."""
        found = dataset(self.catalog, entry) if entry in self.catalog else None
        return found.footer() if isinstance(found, TableDataset) else None

    @cached_property
    def inspected(self) -> list[tuple[UsedModel, Look]]:
        """The models with what was found out about each."""
        return [(model, look_at(model)) for model in self.models]

    @cached_property
    def sizes(self) -> dict[str, ModelSize]:
        """Sizes of the models that are there, by role."""
        return {model.role: look.size for model, look in self.inspected if look.size is not None}

    @cached_property
    def inputs(self) -> Inputs:
        """What was found out about the entries that the run reads; at its start only about the user's own."""
        names = own_tables(self.read, self.catalog) if self.starting else self.read
        return look_at_inputs(names, self.catalog, self.missing)
