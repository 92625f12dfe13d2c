"""Which version each catalog entry has in a run: its own for outputs, a chosen one for inputs."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset, DataCatalog
from kedro.io.core import is_parameter
from kedro.pipeline import Pipeline

from rlaifv_kedro.datasets.checkpoint import CheckpointDataset
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown
from rlaifv_kedro.runs import manifest as manifests
from rlaifv_kedro.runs.asked import lost_since, refuse_unread, replayed
from rlaifv_kedro.runs.entries import (
    FETCHED,
    at_its_place,
    complete_versions,
    fault,
    is_there,
    notes_of,
    recorded,
    same_place,
    spoilt_versions,
)
from rlaifv_kedro.runs.integrity import Integrity, made_by
from rlaifv_kedro.runs.kedro_private import (
    dataset,
    is_versioned,
    nodes_to_run,
    overwrites,
    path_of,
    saved_version,
    set_version,
)
from rlaifv_kedro.runs.lineage import GROWN, ROOTS, Lineage, recipe_of
from rlaifv_kedro.runs.manifest import Entry
from rlaifv_kedro.runs.missing import OVERWRITTEN, Missing, listed, missing, of_other_lineage, told
from rlaifv_kedro.runs.mixture import warn_if_mixed
from rlaifv_kedro.runs.outdated import outdated
from rlaifv_kedro.runs.resume_command import adopt_command, whole_command

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pinned:
    """What a run reads, by name with path, version and content hash; and what it grows from."""

    read: dict[str, Entry]
    lineage: Lineage


def pin(
    project: Path,
    pipeline: Pipeline,
    catalog: DataCatalog,
    run_params: dict[str, Any],
    before_fetching: Callable[[], None],
) -> Pinned:
    """Fixes the version of every versioned dataset of the pipeline, in the catalog.

    What the pipeline writes gets the run id. Free inputs get, in this order: what the run read when it was
    started first; what the run ``replay`` read (or else wrote); what ``--load-versions`` says; the run's own
    version; the complete version of the newest run with the same lineage, or else one that no run has made.
    Where the last choice mixes runs, a warning says so.

    Args:
        before_fetching: Called if something is to be fetched, when all other inputs have their versions: what
            would stop the run is said before anybody waits for gigabytes.

    Raises:
        UserError: Inputs are missing, are there only from runs of another lineage, are damaged checkpoints,
            differ from what the replayed run read, or an output has no version.
    """
    return _Pinning(project, pipeline, catalog, run_params).pinned(before_fetching)


def problems_of_inputs(
    project: Path, pipeline: Pipeline, catalog: DataCatalog, run_params: dict[str, Any]
) -> dict[str, Missing]:
    """What is wrong with the free inputs of a run that is not started, by entry.

    Versions are chosen in the catalog as the run would choose them; nothing is fetched, and only what runs
    grow from is hashed.

    Args:
        run_params: What Kedro gives to ``before_pipeline_run``, at least run_id, env, runtime_params and
            load_versions.
    """
    return _Pinning(project, pipeline, catalog, run_params).problems()


class _Pinning:
    """One run's choice of versions."""

    def __init__(self, project: Path, pipeline: Pipeline, catalog: DataCatalog, run_params: dict[str, Any]):
        self.project, self.pipeline, self.catalog, self.run_params = project, pipeline, catalog, run_params
        self.run_id: str = run_params["run_id"]
        self.asked: Mapping[str, str] = run_params["load_versions"] or {}
        refuse_unread(self.asked, pipeline, catalog)
        self.adopt = adopt_command(run_params, self.run_id)
        self.own = manifests.load(project, self.run_id, self.adopt)
        self.runs = manifests.all_runs(project, logger.warning)
        self.by_id = {run.run_id: run for run in self.runs}
        self.replay = replayed(project, run_params, self.runs)
        seed = catalog.load("params:seed") if "params:seed" in catalog else None
        self.lineage = Lineage(recipe=recipe_of(run_params["env"]), seed=seed)
        self.read: dict[str, Entry] = {}
        self.unasked: set[str] = set()
        self.integrity = Integrity(project, run_params, self.own, self.replay, self.by_id)

    def pinned(self, before_fetching: Callable[[], None]) -> Pinned:
        """Pins outputs, then inputs, those that are to be fetched last; compares all with their hashes."""
        for name in sorted(self.pipeline.all_outputs()):
            self._pin_output(name)
        self.integrity.check_outputs(self.pipeline, self.catalog)
        self._refuse(self._missing(*lost) for lost in lost_since(self.replay, self.pipeline, self.catalog))
        self.lineage = self._with_roots()
        there = {name: dataset(self.catalog, name) for name in self._free() if name in self.catalog}
        fetched = {name: found for name, found in there.items() if isinstance(found, FETCHED)}
        self._refuse(self._pin_input(name) for name in self._free() if name not in fetched)
        if any(found.waits() for found in fetched.values()):
            before_fetching()
        self._refuse(map(self._pin_input, fetched))
        models = {name for name in self.read if isinstance(dataset(self.catalog, name), CheckpointDataset)}
        warn_if_mixed(self.read, models, self.unasked, self.runs)
        return Pinned(self.read, self.lineage)

    def _refuse(self, problems: Iterable[Missing | str | None]) -> None:
        if found := self._told(problems):
            raise UserError(listed(found))

    def _told(self, problems: Iterable[Missing | str | None]) -> list[Missing | str]:
        return told([one for one in problems if one], self.integrity.damaged(), self.run_params)

    def problems(self) -> dict[str, Missing]:
        """What is missing, or there only from runs of another lineage."""
        self.lineage = self._with_roots()
        there = {name: dataset(self.catalog, name) for name in self._free() if name in self.catalog}
        lacking = (self._choose(name, found)[1] for name, found in there.items())
        return {problem.name: problem for problem in self._told(lacking)}

    def _free(self) -> list[str]:
        return sorted(name for name in self.pipeline.inputs() if not is_parameter(name))

    def _with_roots(self) -> Lineage:
        """The run's lineage with the content of base policy and pool, also where its pipeline reads neither.

        One that the run is going to write is not known before; the hooks add it then.
        """
        if self.own is not None and self.own.lineage is not None:
            return self.own.lineage
        there = [name for name in ROOTS if name in self.catalog and name not in self.pipeline.all_outputs()]
        return self.lineage.model_copy(update={name: self._hash_of_root(name) for name in there})

    def _hash_of_root(self, name: str) -> str | None:
        """The content of base policy or pool; None where it isn't there, or a replayed run doesn't tell."""
        found = dataset(self.catalog, name)
        if self.replay is not None and self._recorded_entry(name, found) is None:
            return getattr(self.replay.grown_from(), name)
        version = self._pin_version(name, found)
        path = path_of(found, version)
        there = is_there(found, version) and path is not None and path.exists()
        return self.integrity.compared(name, found, recorded(self.project, found, version)) if there else None

    def _pin_output(self, name: str) -> None:
        found = dataset(self.catalog, name)
        if overwrites(found):
            raise UserError(f"`{name}` would be overwritten by every run. {OVERWRITTEN}")
        set_version(found, self.run_id, self.run_id)
        path = path_of(found, saved_version(found))
        if self.own is None and saved_version(found) and path is not None and path.exists():
            raise UserError(
                f"{shown(path)} is there, but run `{self.run_id}` has no manifest. If it is the "
                f"run's: `{self.adopt}`. Else choose another run_id, or delete {shown(path.parent)}."
            )
        # An input of this very pipeline may be an older version of what it makes: a loop can learn from the
        # reward of an older loop's policy.
        own_read = self.own.read if self.own else {}
        others = {n: entry for n, entry in own_read.items() if n not in self.pipeline.inputs()}
        read = same_place(self.project, others, name, found)
        if read is not None and read.version != self.run_id:
            raise UserError(
                f"Run `{self.run_id}` has read `{name}` of run `{read.version}` and cannot write its own "
                "now. Choose another run_id."
            )

    def _pin_input(self, name: str) -> Missing | str | None:
        """Pins one free input and records it; what is wrong with it otherwise."""
        if name not in self.catalog:
            remedy = "Add it to conf/, or run the pipeline that makes it together with this one."
            return f"`{name}` is not in the catalog. {remedy}"
        found = dataset(self.catalog, name)
        if not getattr(found, "IS_FILE", True):
            return None
        version, lacking = self._choose(name, found)
        before = self._recorded_entry(name, found)
        if lacking:
            # Deleted since, and nothing is to be made of it any more.
            return None if before and self.own and name not in self._still_read() else lacking
        if not before and name not in self.asked:
            self.unasked.add(name)
        lacking = fault(found) if isinstance(found, FETCHED) and found.waits() else None  # fetches it
        self.read[name] = now = recorded(self.project, found, version)
        if problem := lacking or self.integrity.problem_of_input(name, found, before, now) or fault(found):
            return problem
        grown_from = getattr(self.lineage, name) if name in ROOTS and not before else None
        if grown_from not in (None, self.read[name].sha256):  # the lineage is that of an earlier start
            return (
                f"`{name}` ({self.read[name].path}) is not the one that run `{self.run_id}` has grown from so"
                " far. Choose another run_id for a new run, or take the right one with --load-versions."
            )
        return None

    def _still_read(self) -> set[str]:
        """What the nodes read that a resumed run will run."""
        late = outdated(self.own)
        again = {node for node in self.pipeline.nodes if late.keys() & set(node.outputs)}
        waiting = again | nodes_to_run(self.pipeline, self.catalog)
        return {name for node in waiting for name in node.inputs}

    def _choose(self, name: str, found: AbstractDataset) -> tuple[str | None, Missing | None]:
        """Pins an input's version: the version, and what to say where it isn't there."""
        version = self._pin_version(name, found)
        return version, None if is_there(found, version) else self._missing(name, found, version)

    def _pin_version(self, name: str, found: AbstractDataset) -> str | None:
        recorded = self._recorded_entry(name, found)
        asked = self.asked.get(name)
        own = same_place(self.project, self.own.written, name, found) if self.own else None
        before = recorded or own
        if before and asked not in (None, before.version):
            raise UserError(
                f"--load-versions {name}:{asked}: this run reads `{name}` of run `{before.version}`, as it "
                "did before, or as the run did that it replays. Leave the option out, or choose another "
                "run_id without replay."
            )
        version = (recorded.version if recorded else asked) or self._newest(name, found)
        set_version(found, version, self.run_id)
        return version

    def _newest(self, name: str, found: AbstractDataset) -> str | None:
        """The version of a free input that nobody asked for; a damaged one is refused, not passed over."""
        if not is_versioned(found):
            return None
        available = [*complete_versions(found), *spoilt_versions(self.project, self.runs, name, found)]
        if self.run_id in available:
            return self.run_id
        fitting = [version for version in available if not self._differences(name, found, version)]
        return max(fitting, key=self._order, default=None)

    def _order(self, version: str) -> tuple:
        """Runs come after what no run has made, the newest last; the own seed comes last of all."""
        run = self.by_id.get(version)
        if run is None:
            return False, False, 0, "", version
        return True, run.grown_from().seed == self.lineage.seed, *run.order()

    def _differences(self, name: str, found: AbstractDataset, version: str) -> list[str]:
        """How the lineage of the run that made a version differs from this run's."""
        if notes_of(found).get("lineage") == "any":
            return []
        run = self.by_id.get(version)
        if run is None:
            damaged = manifests.path_of(self.project, version).exists()
            return ["its manifest is damaged"] if damaged else []
        # `reward_policy` is the last iteration's `trained_policy`, and grows from what that one grows from.
        names = [name, *at_its_place(self.project, run.written, found)]
        grown = any(GROWN.match(known) for known in names)
        return self.lineage.differences(run.grown_from(), roots=grown)

    def _missing(self, name: str, found: AbstractDataset, version: str | None) -> Missing:
        others = {}
        if version is None and is_versioned(found):
            others = {v: self._differences(name, found, v) for v in complete_versions(found)}
        said = missing(self.catalog, name, version, self.runs)
        maker = self.by_id.get(version)
        if maker and same_place(self.project, maker.written, name, found):
            command = whole_command(maker.command, maker.pipelines)
            return said._replace(maker=None, remedy=made_by(found, path_of(found, version), command))
        return of_other_lineage(name, others, self.by_id, self.lineage, said) if others else said

    def _recorded_entry(self, name: str, found: AbstractDataset) -> Entry | None:
        """What this run read when it was started first, or what the replayed run read, or else wrote."""
        entry = same_place(self.project, self.own.read, name, found) if self.own else None
        if entry is not None or self.replay is None:
            return entry
        entry = same_place(self.project, self.replay.read, name, found) or same_place(
            self.project, self.replay.written, name, found
        )
        if entry is None and name in self.pipeline.inputs():
            raise UserError(
                f"Run `{self.replay.run_id}` neither read nor wrote `{name}`, so this cannot replay it. "
                "Replay its own pipelines, or leave out `replay`."
            )
        return entry
