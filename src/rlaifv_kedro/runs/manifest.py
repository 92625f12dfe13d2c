"""What a run was: ``data/runs/<run id>/manifest.json``, written at its start, after every saved dataset,
and at its end.
"""

import logging
import os
import platform
import socket
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError, field_validator

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import content_sha256, read_bytes, shown, write_atomically
from rlaifv_kedro.formats import flatten
from rlaifv_kedro.params.messages import with_new_names
from rlaifv_kedro.software import git_state, package_versions

logger = logging.getLogger(__name__)

RUNS = Path("data/runs")
FILE = "manifest.json"
RUNTIME_ONLY = ("run_id", "replay")
"""Runtime parameters that name runs and change no result."""


class Entry(BaseModel):
    """One catalog entry that a run read or wrote.

    ``path`` is relative to the project where it lies in it; ``sha256`` is None until the entry is complete,
    and where it is no local file.
    """

    path: str | None
    version: str | None
    sha256: str | None = None


class NodeRecord(BaseModel):
    """How long a node took, in seconds, over all the run's starts."""

    seconds: float = 0.0


class Manifest(BaseModel):
    """One run, over all its starts. ``status`` is what the run wrote last: use :meth:`state` to know
    whether it still lives.
    """

    run_id: str
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
    replay: str | None = None
    error: str | None = None
    read: dict[str, Entry] = {}
    written: dict[str, Entry] = {}
    nodes: dict[str, NodeRecord] = {}
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
        """``running``, ``finished``, ``failed``, or ``killed``: running by its own word, but its process
        is gone from this machine.
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

    def seconds(self) -> float | None:
        """From the first start to the end; None while there is no end."""
        return (
            (datetime.fromisoformat(self.ended) - datetime.fromisoformat(self.started)).total_seconds()
            if self.ended
            else None
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
    """All runs with a readable manifest, the newest start last; ``on_damage`` is told of each that cannot
    be read.
    """
    manifests = []
    for path in sorted((project / RUNS).glob(f"*/{FILE}")):
        try:
            manifests.append(load(project, path.parent.name))
        except UserError as error:
            on_damage(f"A run is left out: {error.message}")
    return sorted(
        (manifest for manifest in manifests if manifest),
        key=lambda manifest: (manifest.started, manifest.run_id),
    )


def begin(
    project: Path,
    *,
    run_id: str,
    command: str,
    env: str | None,
    pipelines: list[str],
    parameters: Mapping[str, Any],
    replay: str | None,
    read: dict[str, Entry],
) -> Manifest:
    """Starts a run's manifest, or takes up that of a run that is resumed, and writes it.

    Other code or packages than at the start are not refused, since a mended bug must not cost the run; a
    warning names them.

    Raises:
        UserError: The run is running in another process, or was started with other parameters, another
            environment, or other inputs.
    """
    commit, dirty = git_state(project)
    fresh = Manifest(
        run_id=run_id,
        started=now(),
        pid=os.getpid(),
        pid_started=process_started(os.getpid()),
        host=socket.gethostname(),
        command=command,
        env=env,
        pipelines=pipelines,
        parameters=dict(parameters),
        replay=replay,
        read=read,
        packages=package_versions(),
        python=platform.python_version(),
        git_commit=commit,
        git_dirty=dirty,
    )
    old = load(project, run_id)
    if old is not None:
        check_resumable(old, fresh)
        changed = "; ".join(
            f"{name} {was} then, {now_} now"
            for name, was, now_ in differences(_software(old), _software(fresh))
        )
        if changed:
            logger.warning(
                "Run %s goes on with other software than it was started with, and may give other results: %s",
                run_id,
                changed,
            )
        kept = {
            "started": old.started,
            "resumed": old.resumed + 1,
            "written": old.written,
            "nodes": old.nodes,
        }
        merged = {
            "pipelines": sorted({*old.pipelines, *pipelines}),
            "read": {**old.read, **read},
            "replay": old.replay or replay,
        }
        fresh = fresh.model_copy(update={**kept, **merged})
    fresh.save(project)
    return fresh


def check_resumable(old: Manifest, new: Manifest) -> None:
    """Refuses to go on with a run as something else than it was.

    Raises:
        UserError: It still runs, or parameters, environment or the content of an input differ; names what
            differs.
    """
    where = f"Run `{old.run_id}`"
    if old.state() == "running" and (old.pid, old.host) != (os.getpid(), socket.gethostname()):
        raise UserError(
            f"{where} is still running (process {old.pid} on {old.host}). Wait for it, or stop it first, or "
            "choose another run_id."
        )
    differing = differences(comparable(old), comparable(new))
    if differing:
        lines = "\n".join(f"  {name}: {was} in the run, {now_} now" for name, was, now_ in differing)
        raise UserError(
            f"{where} was started with other parameters:\n{lines}\nGo on with the same parameters, or "
            "choose another run_id (or none) for a new run."
        )
    for name, entry in new.read.items():
        before = old.read.get(name)
        if before and before.sha256 != entry.sha256:
            raise UserError(
                f"`{name}` ({entry.path}) has changed since run `{old.run_id}` read it. Restore it, or "
                "choose another run_id for a new run."
            )


def comparable(manifest: Manifest) -> dict[str, Any]:
    """The flat parameters that a resumed run must share."""
    flat = flatten(manifest.parameters)
    return {
        "--env": manifest.env,
        **{name: value for name, value in flat.items() if name.split(".")[0] not in RUNTIME_ONLY},
    }


def _software(manifest: Manifest) -> dict[str, Any]:
    return {"git commit": manifest.git_commit, "python": manifest.python, **manifest.packages}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Names with their old and new values, where the two differ."""
    names = [name for name in {**old, **new} if name not in old or name not in new or old[name] != new[name]]
    return [
        (name, repr(old[name]) if name in old else "not set", repr(new[name]) if name in new else "not set")
        for name in names
    ]


def entry_of(
    project: Path,
    path: Path | None,
    version: str | None,
    complete: bool = True,
    sha256_of: Callable[[Path], str] = content_sha256,
) -> Entry:
    """The manifest's record of what is at ``path`` now; with a hash, by ``sha256_of``, where it is
    complete and local.
    """
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
    """When the process was started, in the kernel's clock, so that a reused pid is not taken for it; None
    where there is no ``/proc``.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None
