"""Which version each catalog entry has in a run: the run's own for what it writes, a complete older one
for what it reads.
"""

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kedro.framework.project import pipelines
from kedro.io import AbstractDataset, CachedDataset, DataCatalog
from kedro.io.core import AbstractVersionedDataset, Version, VersionNotFoundError, is_parameter
from kedro.pipeline import Pipeline

from rlaifv_kedro.datasets.checkpoint import CheckpointDataset
from rlaifv_kedro.datasets.images import ImagesDataset
from rlaifv_kedro.datasets.pair_sources import PairSourceDataset
from rlaifv_kedro.datasets.remote import RemoteFileDataset
from rlaifv_kedro.datasets.versioned import RunVersionedDataset
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import content_sha256, shown
from rlaifv_kedro.runs import manifest as manifests
from rlaifv_kedro.runs.manifest import Entry, Manifest
from rlaifv_kedro.runs.session import resume_command

logger = logging.getLogger(__name__)

FETCHED = PairSourceDataset | RemoteFileDataset | ImagesDataset
"""They fetch what isn't there, or say how to: at the start of a run, before anything costs hours."""
ITERATION = re.compile(r"iteration_(?P<number>\d+)\.(?P<name>.+)")


def pin(
    project: Path, pipeline: Pipeline, catalog: DataCatalog, run_params: dict[str, Any]
) -> dict[str, Entry]:
    """Fixes the version of every versioned dataset of the pipeline, in the catalog.

    What the pipeline writes, and views with ``OF_THIS_RUN``, get the run id. Free inputs get, in this order:
    what the run read when it was started first; what the run ``replay`` read (or else wrote); the run's own
    version; the complete version of the newest run with this seed, or else with any. Where the last choice
    mixes runs or seeds, a warning says so.

    Returns:
        Free inputs by name, with path, version and content hash.

    Raises:
        UserError: Inputs are missing, are damaged checkpoints, differ from what the replayed run read, or an
            output has no version.
    """
    run_id = run_params["run_id"]
    own = manifests.load(project, run_id)
    runs = manifests.all_runs(project, logger.warning)
    for name in sorted(pipeline.all_outputs()):
        _pin_output(project, catalog, name, run_id, own, pipeline.inputs())
    free = sorted(name for name in pipeline.inputs() if not is_parameter(name))
    replay = _replayed(project, run_params, runs)
    seeds = _Seeds(runs, catalog)
    read, unasked, problems = {}, set(), []
    for name in free:
        if name not in catalog:
            problems.append(
                f"`{name}` is not in the catalog. Add it to conf/, or run the pipeline that makes it "
                "together with this one."
            )
            continue
        found = dataset(catalog, name)
        if getattr(found, "OF_THIS_RUN", False):
            _set_version(found, run_id, run_id)
            continue
        if getattr(found, "_EPHEMERAL", False):
            continue
        recorded = (_recorded(project, own.read, name, found) if own else None) or (
            _as_read(project, replay, name, found) if replay else None
        )
        asked = (
            recorded.version
            if recorded
            else (run_params["load_versions"] or {}).get(name)
            if _versioned(found)
            else None
        )
        version = asked or _newest(found, run_id, runs, seeds)
        _set_version(found, version, run_id)
        there = _is_there(found, version) or isinstance(found, FETCHED)
        problem = _damage(found) if there else _missing(catalog, name, version, run_params, runs)
        if problem:
            problems.append(problem)
            continue
        if not asked:
            unasked.add(name)
        read[name] = manifests.entry_of(project, path_of(found, version), version, sha256_of=sha256_of(found))
        if replay and recorded and recorded.sha256 != read[name].sha256:
            problems.append(
                f"`{name}` ({read[name].path}) has changed since run `{replay.run_id}` used it, which "
                "therefore cannot be replayed."
            )
    if problems:
        raise UserError("\n".join(problems))
    _warn_if_mixed(catalog, read, unasked, runs)
    others = [
        f"{name} of run {read[name].version}" for name in sorted(unasked) if seeds.other(read[name].version)
    ]
    if others:
        logger.warning(
            "Inputs of runs with another seed than %s: %s. To choose: --load-versions NAME:RUN,...",
            seeds.own,
            "; ".join(others),
        )
    return read


def dataset(catalog: DataCatalog, name: str) -> AbstractDataset:
    """The entry's dataset, made from its pattern where it has one; what a cache wraps."""
    found = catalog.get(name, fallback_to_runtime_pattern=True)
    return found._dataset if isinstance(found, CachedDataset) else found


def pinned(found: AbstractDataset) -> str | None:
    """The version that the dataset saves, or None."""
    version = getattr(found, "_version", None)
    return version.save if version else None


def path_of(found: AbstractDataset, version: str | None) -> Path | None:
    """Where this version is, or None for what is not a local file."""
    filepath = getattr(found, "_filepath", None)
    if filepath is None or getattr(found, "_protocol", "file") != "file":
        return None
    return Path(
        found._get_versioned_path(version)
        if version and isinstance(found, AbstractVersionedDataset)
        else filepath
    )


def sha256_of(found: AbstractDataset) -> Callable[[Path], str]:
    """How the dataset's content is hashed for the manifest: its own way, or all its files."""
    return getattr(found, "content_sha256", content_sha256)


def _pin_output(
    project: Path, catalog: DataCatalog, name: str, run_id: str, own: Manifest | None, inputs: set[str]
) -> None:
    found = dataset(catalog, name)
    if isinstance(found, AbstractVersionedDataset) and found._version is None:
        raise UserError(
            f"`{name}` would be overwritten by every run. Add `versioned: true` to its entry in the catalog."
        )
    _set_version(found, run_id, run_id)
    path = path_of(found, pinned(found))
    if own is None and pinned(found) and path is not None and path.exists():
        raise UserError(
            f"{shown(path)} is there, but run `{run_id}` has no manifest. Choose another run_id, or delete "
            f"{shown(path.parent)}."
        )
    # An input of this very pipeline may be an older version of what it makes: a loop can learn from the
    # reward of an older loop's policy.
    read = (
        _recorded(project, {n: entry for n, entry in own.read.items() if n not in inputs}, name, found)
        if own
        else None
    )
    if read is not None and read.version != run_id:
        raise UserError(
            f"Run `{run_id}` has read `{name}` of run `{read.version}` and cannot write its own now. Choose "
            "another run_id."
        )


def _versioned(found: AbstractDataset) -> bool:
    return isinstance(found, AbstractVersionedDataset) and found._version is not None


def _set_version(found: AbstractDataset, load: str | None, save: str) -> None:
    if _versioned(found):
        found._version = Version(load, save)
        found._clear_version_cache()


def _is_there(found: AbstractDataset, version: str | None) -> bool:
    if _versioned(found) and version is None:
        return False
    if type(found)._exists is AbstractDataset._exists:
        return True  # a dataset that cannot tell, e.g. an API
    return found.exists()


def _damage(found: AbstractDataset) -> str | None:
    """What is wrong with a checkpoint or with what is fetched, which else would come out only when a node
    loads it, maybe hours later.
    """
    if isinstance(found, CheckpointDataset | FETCHED):
        try:
            found.load()
        except UserError as error:
            return error.message
    return None


class _Seeds:
    """Which versions are of runs with another seed, and so maybe of another world and other models. A
    project without the parameter has none.
    """

    def __init__(self, runs: list[Manifest], catalog: DataCatalog):
        self.own = catalog.load("params:seed") if "params:seed" in catalog else None
        self._of = {run.run_id: run.parameters.get("seed", self.own) for run in runs}

    def other(self, version: str | None) -> bool:
        return self._of.get(version, self.own) != self.own


def _newest(found: AbstractDataset, run_id: str, runs: list[Manifest], seeds: _Seeds) -> str | None:
    """The version of a free input that nobody asked for, if possible of a run with the same seed; None where
    there is none, or the dataset has no versions.
    """
    if not _versioned(found):
        return None
    available = complete_versions(found)
    if run_id in available:
        return run_id
    started = {run.run_id: run.started for run in runs}
    return max(
        available,
        key=lambda version: (not seeds.other(version), started.get(version, ""), version),
        default=None,
    )


def complete_versions(found: AbstractVersionedDataset) -> list[str]:
    """Versions that can be loaded."""
    if isinstance(found, RunVersionedDataset):
        return found.complete_versions()
    try:
        return found.list_versions(full_path=False)
    except VersionNotFoundError:
        return []


def _warn_if_mixed(
    catalog: DataCatalog, read: dict[str, Entry], unasked: set[str], runs: list[Manifest]
) -> None:
    """One line where the newest versions are of different runs. Models often are, and versions without a
    manifest came with the project.
    """
    known = {run.run_id for run in runs}
    sources: dict[str, list[str]] = {}
    for name, entry in read.items():
        if entry.version in known and not isinstance(dataset(catalog, name), CheckpointDataset):
            sources.setdefault(entry.version, []).append(name)
    related = any(
        set(sources) <= _ancestors(run, runs) for run in sources
    )  # a chain of stage runs, each of which read the one before
    if (
        len(sources) > 1
        and not related
        and any(name in unasked for names in sources.values() for name in names)
    ):
        mixed = "; ".join(f"{', '.join(names)} of run {run}" for run, names in sources.items())
        logger.warning(
            "The inputs are of different runs: %s. To choose: --load-versions NAME:RUN,... or --params "
            "replay=RUN",
            mixed,
        )


def _ancestors(run_id: str, runs: list[Manifest]) -> set[str]:
    """The run, the runs whose versions it read, those that these read, and so on."""
    reads = {run.run_id: {entry.version for entry in run.read.values() if entry.version} for run in runs}
    found, waiting = set(), [run_id]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting += reads.get(current, ())
    return found


def _replayed(project: Path, run_params: dict[str, Any], runs: list[Manifest]) -> Manifest | None:
    name = (run_params["runtime_params"] or {}).get("replay")
    if name is None:
        return None
    replay = manifests.load(project, name)
    if replay is None:
        known = ", ".join(run.run_id for run in runs[-5:]) or "none"
        raise UserError(
            f"There is no run `{name}` to replay in {shown(project / manifests.RUNS)}. The newest runs: "
            f"{known}."
        )
    return replay


def _recorded(project: Path, entries: Mapping[str, Entry], name: str, found: AbstractDataset) -> Entry | None:
    """The record of what is at the dataset's path, maybe under another name: a stage's ``candidates`` are
    the loop's ``iteration_1.candidates``.
    """
    if path_of(found, None) is None:
        return entries.get(name)
    same = {
        other: entry
        for other, entry in entries.items()
        if entry.path == manifests.relative(project, path_of(found, entry.version))
    }
    return same.get(name) or next(iter(same.values()), None)


def _as_read(project: Path, replay: Manifest, name: str, found: AbstractDataset) -> Entry:
    entry = _recorded(project, replay.read, name, found) or _recorded(project, replay.written, name, found)
    if entry is None:
        raise UserError(
            f"Run `{replay.run_id}` neither read nor wrote `{name}`, so this cannot replay it. Replay its "
            "own pipelines, or leave out `replay`."
        )
    return entry


def _missing(
    catalog: DataCatalog, name: str, version: str | None, run_params: dict[str, Any], runs: list[Manifest]
) -> str:
    """What is missing, where it should be, and which command makes it."""
    found = dataset(catalog, name)
    path = path_of(found, version) if version else getattr(found, "_filepath", None)
    where = (
        f": {shown(path)} holds no complete version"
        if path and not version
        else f": {shown(path)}"
        if path
        else ""
    )
    message = f"`{name}` is not there{'' if version else ' yet'}{where}."
    fetch = (getattr(found, "metadata", None) or {}).get("fetch")
    if fetch:
        return f"{message} Get it with: {fetch}"
    runtime = {
        key: value
        for key, value in (run_params["runtime_params"] or {}).items()
        if key not in manifests.RUNTIME_ONLY
    }
    maker, iteration = _maker(catalog, name)
    if maker is None:
        return f"{message} Put it there, or correct `filepath` in the catalog."
    if iteration is not None:
        runtime["iteration"] = iteration
    command = resume_command(
        {"env": run_params["env"], "pipeline_names": [maker], "runtime_params": runtime}, run_id=None
    )
    begun = [run for run in runs if name in run.written and run.written[name].sha256 is None]
    unfinished = (
        f" Run `{begun[-1].run_id}` began it; to go on with that one: {begun[-1].command}" if begun else ""
    )
    return f"{message} Make it with: {command}{unfinished}"


def _maker(catalog: DataCatalog, name: str) -> tuple[str | None, int | None]:
    """The smallest registered pipeline that writes this entry or another with its path, and the iteration
    to run it with, if not the same.
    """
    pipelines.set_requested(None)  # Kedro has loaded only the requested ones
    writers = {
        key: made.all_outputs()
        for key, made in sorted(pipelines.items(), key=lambda item: len(item[1].nodes))
    }
    iteration = None
    if not any(name in written for written in writers.values()):
        path = getattr(dataset(catalog, name), "_filepath", None)
        everything = sorted(output for output in set().union(*writers.values()) if output in catalog)
        same = [
            output
            for output in everything
            if path and getattr(dataset(catalog, output), "_filepath", None) == path
        ]
        name = next((output for output in same if not ITERATION.match(output)), same[0] if same else name)
        namespaced = ITERATION.match(name)
        if namespaced:  # the stage run that writes what the loop writes under this name
            name, iteration = namespaced["name"], int(namespaced["number"])
    return next((key for key, written in writers.items() if name in written), None), iteration
