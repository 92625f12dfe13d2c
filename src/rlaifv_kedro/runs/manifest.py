"""What a run was: ``data/runs/<run id>/manifest.json``.

It is written at the run's start, after every saved dataset, and at its end. It holds a checksum of itself,
and is restored from a copy beside it where it is damaged or deleted.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError, field_validator

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import read_json, shown, write_atomically, writing
from rlaifv_kedro.params.messages import with_new_names
from rlaifv_kedro.runs.lineage import ROOTS, Lineage, recipe_of

logger = logging.getLogger(__name__)

RUNS = Path("data/runs")
FILE = "manifest.json"
COPY = f".{FILE}"


class Entry(BaseModel):
    """One catalog entry that a run read or wrote.

    ``path`` is relative to the project where it lies in it; ``sha256`` is None until the entry is complete,
    and where it is no local file. ``files`` has the sha256 of a folder's files by their names. ``made_of``
    has the sha256 of what the node had read that wrote the entry, by the names of its inputs.
    """

    path: str | None
    version: str | None
    sha256: str | None = None
    files: dict[str, str] = {}
    made_of: dict[str, str] = {}


class NodeRecord(BaseModel):
    """One node, over all the run's starts.

    Attributes:
        seconds: How long it took.
        inputs: The entries that it read, without parameters.
        reads: Full names of the parameters that it has read, or of whole groups: all that it may read while
            nothing is saved. The empty name stands for all parameters: runs of earlier versions didn't note
            them.
    """

    seconds: float = 0.0
    inputs: list[str] = []
    reads: list[str] = [""]


class Manifest(BaseModel):
    """One run, over all its starts.

    ``status`` is what the run wrote last: :func:`rlaifv_kedro.runs.alive.state` tells whether it still lives.
    ``adopted`` is when the manifest was rebuilt, by ``rlaifv runs adopt``, from what the run had made.
    ``parameters`` are those of the last start, and ``changes`` says what they were before: ``at``,
    ``parameter``, ``from``, ``to``. ``found_out`` says of each LLaVA that was loaded, by its folder, how its
    pictures and prompts were prepared.
    """

    run_id: str
    number: int = 0
    status: str = "running"
    started: str
    ended: str | None = None
    resumed: int = 0
    adopted: str | None = None
    pid: int
    pid_started: str | None = None
    host: str
    command: str
    env: str | None = None
    pipelines: list[str]
    parameters: dict[str, Any]
    changes: list[dict[str, Any]] = []
    replay: str | None = None
    lineage: Lineage | None = None
    error: str | None = None
    read: dict[str, Entry] = {}
    written: dict[str, Entry] = {}
    nodes: dict[str, NodeRecord] = {}
    found_out: dict[str, str] = {}
    packages: dict[str, str]
    python: str
    git_commit: str | None = None
    git_dirty: bool | None = None

    @field_validator("parameters")
    @classmethod
    def _new_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        """Runs of earlier versions called some parameters otherwise."""
        return with_new_names(value)

    def save(self, project: Path) -> None:
        """Writes the manifest atomically, then its copy.

        Raises:
            UserError: The folder cannot be written.
        """
        document = json.loads(self.model_dump_json())
        document["checksum"] = _checksum(document)
        content = json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"
        path = path_of(project, self.run_id)
        write_atomically(path, content)
        copy = path.with_name(COPY)
        with writing(copy):
            copy.write_bytes(content)  # a kill here leaves the manifest itself whole

    def order(self) -> tuple[int, str, str]:
        """Sorts runs, the newest last: by their number, so that a clock that was wrong changes nothing."""
        return self.number, self.started, self.run_id

    def seconds(self) -> float | None:
        """From the first start to the end; None while there is no end."""
        if self.ended is None:
            return None
        return (datetime.fromisoformat(self.ended) - datetime.fromisoformat(self.started)).total_seconds()

    def changed(self) -> list[str]:
        """The parameters that were changed between its starts, for people."""
        return [f"{c['parameter']}: {c['from']!r}, then {c['to']!r}" for c in self.changes]

    def finished(self, name: str) -> Entry | None:
        """The record of an artifact that the run has finished, as a local file; None where it hasn't."""
        entry = self.written.get(name)
        return entry if entry and entry.path and entry.sha256 else None

    def grown_from(self) -> Lineage:
        """The run's lineage; of a run that was made before runs recorded it, as far as its manifest tells."""
        if self.lineage is not None:
            return self.lineage
        known = {**self.read, **self.written}
        seed = self.parameters.get("seed")
        return Lineage(
            recipe=recipe_of(self.env),
            seed=seed if isinstance(seed, int) else None,
            **{name: known[name].sha256 for name in ROOTS if name in known},
        )


def path_of(project: Path, run_id: str) -> Path:
    """Where the run's manifest is."""
    return project / RUNS / run_id / FILE


def has_begun(project: Path, run_id: str) -> bool:
    """Whether there is a manifest or its copy, damaged or not."""
    path = path_of(project, run_id)
    return path.exists() or path.with_name(COPY).exists()


def load(project: Path, run_id: str, adopt: str = "") -> Manifest | None:
    """The run's manifest, restored from its copy where it is damaged or deleted; None where there is no run.

    Args:
        adopt: The command that rebuilds it from what the run has made, where its options are known.

    Raises:
        UserError: The manifest is damaged or deleted, and so is its copy.
    """
    path = path_of(project, run_id)
    copy = path.with_name(COPY)
    if not has_begun(project, run_id):
        return None
    try:
        return _read(path)
    except UserError as error:
        damage = error.message.strip()
    try:
        restored = _read(copy)
    except UserError as error:
        raise UserError(
            f"{damage} Its copy can't be used either. Rebuild it from what the run has made, with the "
            f"options that it was started with: `{adopt or f'rlaifv runs adopt {run_id}'}`"
        ) from error
    logger.warning("%s It is restored from its copy, %s.", damage, shown(copy))
    with suppress(UserError):
        write_atomically(path, copy.read_bytes())
    return restored


def existing(project: Path, run_id: str) -> Manifest:
    """The run's manifest.

    Raises:
        UserError: There is no such run; names one that is spelled alike. Or its manifest is damaged.
    """
    run = load(project, run_id)
    if run is None:
        near = get_close_matches(run_id, [path.name for path in (project / RUNS).glob("*")], n=1)
        meant = f"Did you mean {near[0]}? " if near else ""
        raise UserError(f"There is no run `{run_id}`. {meant}Those that there are: rlaifv runs")
    return run


def _read(path: Path) -> Manifest:
    """One of the two files.

    Raises:
        UserError: It is damaged or not there.
    """
    document = read_json(path, "")
    # Earlier versions wrote neither checksum nor copy.
    known = isinstance(document, dict) and ("checksum" in document or not path.with_name(COPY).exists())
    if not known or document.get("checksum", _checksum(document)) != _checksum(document):
        raise UserError(f"{shown(path)} is damaged (its checksum is not that of its content).")
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        raise UserError(f"{shown(path)} is damaged ({error.errors()[0]['msg']}).") from error


def _checksum(document: dict[str, Any]) -> str:
    """The sha256 of a manifest's content, without its own checksum."""
    content = {name: value for name, value in document.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def all_runs(project: Path, on_damage: Callable[[str], object]) -> list[Manifest]:
    """All runs with a readable manifest, the newest last; ``on_damage`` is told of the others."""
    manifests = []
    for run_id in _run_ids(project):
        try:
            manifests.append(load(project, run_id))
        except UserError as error:
            on_damage(f"A run is left out: {error.message}")
    return sorted((manifest for manifest in manifests if manifest), key=Manifest.order)


def _run_ids(project: Path) -> list[str]:
    return sorted({path.parent.name for name in (FILE, COPY) for path in (project / RUNS).glob(f"*/{name}")})


def numbers_of_runs(project: Path) -> dict[str, int]:
    """The number of each run with a readable manifest, by its id.

    A notebook asks for it with every table that it loads: a manifest is read anew only once it has changed.
    """
    numbers = {}
    for run_id in _run_ids(project):
        try:
            numbers[run_id] = _number_of(project, run_id, *_as_it_is(path_of(project, run_id)))
        except UserError as error:  # damaged, or removed meanwhile
            logger.debug("A run is left out: %s", error.message)
    return numbers


@cache
def _number_of(project: Path, run_id: str, size: int, mtime_ns: int) -> int:
    return existing(project, run_id).number


def _as_it_is(path: Path) -> tuple[int, int]:
    """What changes with a file's content: size, and time of modification; of no file zeros."""
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def relative(project: Path, path: Path) -> str:
    """The path as manifests hold it: relative to the project where it lies in it."""
    return (path.relative_to(project) if path.is_relative_to(project) else path).as_posix()


def now() -> str:
    """The time, UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
