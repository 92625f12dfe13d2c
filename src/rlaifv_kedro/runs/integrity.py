"""Whether artifacts are what their runs wrote, by the manifests' hashes; and what to do where one is not."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kedro.io import AbstractDataset, DataCatalog
from kedro.pipeline import Pipeline

from rlaifv_kedro.datasets.chunks import ChunkedTableDataset
from rlaifv_kedro.files import shown
from rlaifv_kedro.runs.entries import recorded, same_place
from rlaifv_kedro.runs.kedro_private import dataset, saved_version
from rlaifv_kedro.runs.manifest import Entry, Manifest
from rlaifv_kedro.runs.missing import Missing
from rlaifv_kedro.runs.outdated import all_outdated, outdated
from rlaifv_kedro.runs.resume_command import resume_command, whole_command

NAMED = 5
"""Files of an artifact that a message names; it counts the others."""


class Integrity:
    """Compares what a run reads, and what it has written before, with the hashes in manifests.

    Args:
        run_params: What Kedro gives to ``before_pipeline_run``.
        own: The run's manifest, where it is resumed.
        replay: That of the run that it replays.
        by_id: All runs.
    """

    def __init__(
        self,
        project: Path,
        run_params: Mapping[str, Any],
        own: Manifest | None,
        replay: Manifest | None,
        by_id: Mapping[str, Manifest],
    ) -> None:
        self._project, self._own, self._replay, self._by_id = project, own, replay, by_id
        self._asked: Mapping[str, str] = run_params["load_versions"] or {}
        self._command = resume_command(dict(run_params), run_params["run_id"])
        self._damages: list[_Damage] = []

    def check_outputs(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Compares what lets nodes be skipped; not what is made again in any case."""
        written, late = (self._own.written, outdated(self._own)) if self._own else ({}, {})
        for name in sorted(pipeline.all_outputs() & written.keys() - late.keys()):
            found, entry = dataset(catalog, name), written[name]
            if entry.sha256 is not None and found.exists():
                now = recorded(self._project, found, saved_version(found))
                if _differs(entry, now):
                    self._note(name, found, entry, now, self._own.run_id, self._command)

    def compared(self, name: str, found: AbstractDataset, now: Entry) -> str | None:
        """The content of what a run grows from; :meth:`damaged` says where it isn't what its run wrote."""
        self._is_damaged(name, found, now)
        return now.sha256

    def problem_of_input(
        self, name: str, found: AbstractDataset, before: Entry | None, now: Entry
    ) -> Missing | str | None:
        """What is wrong with an input; where it isn't what its run wrote, :meth:`damaged` says so.

        Args:
            before: What this run has read before, or the replayed one.
        """
        if self._is_damaged(name, found, now):
            return None
        maker = self._by_id.get(now.version)
        chosen = before or name in self._asked or now.version is None
        late = None if chosen or maker is None else all_outdated(maker).get(name)
        if late:
            why = f"was made of an earlier `{late}`, which run `{maker.run_id}` has made again since"
            return Missing(name, why, "", f"Make it with: {whole_command(maker.command, maker.pipelines)}")
        if not _differs(before, now) or (self._own and now.version == self._own.run_id):
            return None
        what = ", ".join(_changed_files(self._project, before, now))
        if self._own and same_place(self._project, self._own.read, name, found):
            return (
                f"`{name}` has changed since run `{self._own.run_id}` read it: {what}. Restore it, or choose "
                "another run_id for a new run."
            )
        return (
            f"`{name}` has changed since run `{self._replay.run_id}` used it, which therefore cannot be "
            f"replayed: {what}."
        )

    def damaged(self) -> list[Missing]:
        """What isn't what its run wrote; for each run one command, which removes that and makes it again."""
        remove: dict[str, list[str]] = {}
        for one in self._damages:
            remove.setdefault(one.command, []).extend(str(shown(path)) for path in one.remove)
        remedies = {command: _made_anew(paths, command) for command, paths in remove.items()}
        return [
            Missing(
                name=one.name,
                why=f"is not what run `{one.run_id}` wrote",
                where=", ".join(one.files),
                remedy=remedies[one.command],
            )
            for one in self._damages
        ]

    def _is_damaged(self, name: str, found: AbstractDataset, now: Entry) -> bool:
        """Whether content isn't what its run wrote, which is noted."""
        maker = self._by_id.get(now.version)
        written = same_place(self._project, maker.written, name, found) if maker else None
        if not _differs(written, now):
            return False
        self._note(name, found, written, now, maker.run_id, whole_command(maker.command, maker.pipelines))
        return True

    def _note(
        self, name: str, found: AbstractDataset, written: Entry, now: Entry, run_id: str, command: str
    ) -> None:
        """Notes damage; of a table in chunks, only the chunks that changed are to be removed."""
        path = self._project / now.path
        remove = [path]
        if isinstance(found, ChunkedTableDataset) and written.files:
            remove = [path / file for file in _changed(written, now) if file in now.files]
        damage = _Damage(name, run_id, command, _changed_files(self._project, written, now), remove)
        if damage not in self._damages:
            self._damages.append(damage)


def made_by(found: AbstractDataset, path: Path, command: str) -> str:
    """What to do about a version that isn't whole and that a command has its run make again.

    What is left of it is removed first, but for a table in chunks: its run keeps those that are whole.
    """
    if not path.exists() or isinstance(found, ChunkedTableDataset):
        return f"Make it with: {command}"
    return _made_anew([str(shown(path))], command)


def _made_anew(paths: list[str], command: str) -> str:
    return f"Remove and make it with: {shlex.join(['rm', '-r', *paths])} && {command}"


class _Damage(NamedTuple):
    """An artifact that isn't what a run wrote.

    Attributes:
        name: The entry.
        run_id: The run.
        command: What goes on with that run.
        files: What has happened to which of its files.
        remove: What is to be removed, so that the run makes it again.
    """

    name: str
    run_id: str
    command: str
    files: list[str]
    remove: list[Path]


def _differs(recorded: Entry | None, now: Entry) -> bool:
    """Whether content differs from a record; not where there is none."""
    return recorded is not None and recorded.sha256 is not None and recorded.sha256 != now.sha256


def _changed_files(project: Path, recorded: Entry, now: Entry) -> list[str]:
    """What has happened to which files, for people; the artifact itself where its files aren't known."""
    folder = project / now.path
    if not recorded.files:
        return [f"{shown(folder)} has changed"]
    said = [f"{shown(folder / name)} {_what(name, recorded, now)}" for name in _changed(recorded, now)]
    return said[:NAMED] + ([f"and {len(said) - NAMED} more files"] if len(said) > NAMED else [])


def _changed(recorded: Entry, now: Entry) -> list[str]:
    names = sorted({*recorded.files, *now.files})
    return [name for name in names if recorded.files.get(name) != now.files.get(name)]


def _what(name: str, recorded: Entry, now: Entry) -> str:
    if name not in now.files:
        return "is missing"
    return "has changed" if name in recorded.files else "is not of the run"
