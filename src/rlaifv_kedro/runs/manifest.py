"""What a run was: ``data/runs/<run id>/manifest.json``.

It is written at the run's start, after every saved dataset, and at its end.
"""

import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError, field_validator

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import content_sha256, read_bytes, shown, write_atomically
from rlaifv_kedro.params.messages import with_new_names
from rlaifv_kedro.runs.lineage import ROOTS, Lineage, recipe_of

RUNS = Path("data/runs")
FILE = "manifest.json"


class Entry(BaseModel):
    """One catalog entry that a run read or wrote.

    ``path`` is relative to the project where it lies in it; ``sha256`` is None until the entry is complete,
    and where it is no local file.
    """

    path: str | None
    version: str | None
    sha256: str | None = None


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

    ``status`` is what the run wrote last: use :meth:`state` to know whether it still lives. ``parameters``
    are those of the last start, and ``changes`` says what they were before: ``at``, ``parameter``, ``from``,
    ``to``. ``found_out`` says of each LLaVA that was loaded, by its folder, how its pictures and prompts were
    prepared.
    """

    run_id: str
    number: int = 0
    status: str = "running"
    started: str
    ended: str | None = None
    resumed: int = 0
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
        """Writes the manifest atomically.

        Raises:
            UserError: The folder cannot be written.
        """
        write_atomically(path_of(project, self.run_id), self.model_dump_json(indent=2).encode() + b"\n")

    def state(self) -> str:
        """One of ``running``, ``finished``, ``failed`` and ``killed``.

        A killed run is running by its own word, but its process is gone from this machine.
        """
        here = self.host == socket.gethostname()
        return "killed" if self.status == "running" and here and not self._alive() else self.status

    def _alive(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return self.pid_started is None or self.pid_started == process_started(self.pid)

    def order(self) -> tuple[int, str, str]:
        """Sorts runs, the newest last: by their number, so that a clock that was wrong changes nothing."""
        return self.number, self.started, self.run_id

    def seconds(self) -> float | None:
        """From the first start to the end; None while there is no end."""
        if self.ended is None:
            return None
        return (datetime.fromisoformat(self.ended) - datetime.fromisoformat(self.started)).total_seconds()

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


def load(project: Path, run_id: str) -> Manifest | None:
    """The run's manifest, or None where there is no such run.

    Raises:
        UserError: The manifest is damaged.
    """
    path = path_of(project, run_id)
    if not path.exists():
        return None
    remedy = "Delete it, and start with another run_id."
    try:
        return Manifest.model_validate_json(read_bytes(path, remedy))
    except ValidationError as error:
        raise UserError(f"{shown(path)} is damaged ({error.errors()[0]['msg']}). {remedy}") from error


def all_runs(project: Path, on_damage: Callable[[str], object]) -> list[Manifest]:
    """All runs with a readable manifest, the newest last; ``on_damage`` is told of the others."""
    manifests = []
    for path in sorted((project / RUNS).glob(f"*/{FILE}")):
        try:
            manifests.append(load(project, path.parent.name))
        except UserError as error:
            on_damage(f"A run is left out: {error.message}")
    return sorted((manifest for manifest in manifests if manifest), key=Manifest.order)


def entry_of(
    project: Path,
    path: Path | None,
    version: str | None,
    complete: bool = True,
    sha256_of: Callable[[Path], str] = content_sha256,
) -> Entry:
    """The manifest's record of what is at ``path`` now; hashed where it is complete and local."""
    if path is None:
        return Entry(path=None, version=version)
    return Entry(
        path=relative(project, path),
        version=version,
        sha256=sha256_of(path) if complete and path.exists() else None,
    )


def relative(project: Path, path: Path) -> str:
    """The path as manifests hold it: relative to the project where it lies in it."""
    return (path.relative_to(project) if path.is_relative_to(project) else path).as_posix()


def now() -> str:
    """The time, UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def process_started(pid: int) -> str | None:
    """When the process was started, in the kernel's clock, so that a reused pid is not taken for it.

    None where there is no ``/proc``.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None
