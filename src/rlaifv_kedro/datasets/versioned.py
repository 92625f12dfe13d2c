"""The base of the project's datasets: one version a run."""

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Generic, TypeVar

from kedro.io.core import AbstractVersionedDataset, Version, VersionNotFoundError

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown

SCRATCH = ".scratch"
"""Hidden folder of a version in which a node puts together what it then saves."""

_numbers_of_runs: list[Callable[[], Mapping[str, int]]] = []

In = TypeVar("In")
Out = TypeVar("Out")


def order_versions_by(numbers: Callable[[], Mapping[str, int]]) -> None:
    """Has the newest version be that of the run with the highest number; versions of no run come before.

    Args:
        numbers: Gives the number of each run, by its id.
    """
    _numbers_of_runs[:] = [numbers]


class RunVersionedDataset(AbstractVersionedDataset[In, Out], Generic[In, Out]):
    """A local dataset whose version is the id of the run that wrote it.

    A version lies at ``<filepath>/<run id>/<name of filepath>``. This class differs from Kedro's base in
    three ways: only a *complete* version counts as there; a run may write its own version again (a resumed
    node does); and a missing version is a :class:`UserError`. Versions loaded by a run are pinned by
    ``rlaifv_kedro.hooks``; elsewhere (notebooks, Kedro-Viz) the complete version of the newest run is loaded.
    """

    def __init__(
        self, filepath: str, version: Version | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        """Names the place.

        Args:
            filepath: Local path; with versions, the folder that holds them.
            version: Set by Kedro for entries with ``versioned: true``.
            metadata: For plugins such as Kedro-Viz.
        """
        super().__init__(filepath=PurePosixPath(filepath), version=version)
        self.metadata = metadata

    def is_complete(self, path: Path) -> bool:
        """Whether ``path`` (of one version) holds everything."""
        return path.is_file()

    def complete_versions(self) -> list[str]:
        """Run ids with a complete version, in string order."""
        folder = Path(self._filepath)
        names = sorted(child.name for child in folder.iterdir()) if folder.is_dir() else []
        return [name for name in names if self.is_complete(folder / name / folder.name)]

    def load_path(self) -> Path:
        """Where to load from.

        Raises:
            UserError: No complete version is there.
        """
        try:
            path = Path(self._get_load_path())
        except VersionNotFoundError as error:
            raise UserError(f"{shown(self._filepath)} has no complete version. {self.remedy()}") from error
        if not path.exists():
            raise UserError(f"{shown(path)} does not exist. {self.remedy()}")
        return path

    def save_path(self) -> Path:
        """Where to save; an existing version of the same run may be written again."""
        version = self.resolve_save_version()
        return Path(self._get_versioned_path(version) if version else self._filepath)

    def remedy(self) -> str:
        """What to do about a missing or damaged version, as a sentence."""
        if self._version is None:
            return "Put the right file there, or change `filepath` in the catalog."
        run = f" with run_id={self._version.load}" if self._version.load else ""
        return f"Delete what is left of it and run the pipeline that makes it again{run}."

    def _get_versions(self) -> list[str]:
        numbers = _numbers_of_runs[0]() if _numbers_of_runs else {}

        def order(version: str) -> tuple[int, int, str]:
            path = Path(self._get_versioned_path(version))
            return numbers.get(version, -1), path.stat().st_mtime_ns, str(path)

        return [
            self._get_versioned_path(version)
            for version in sorted(self.complete_versions(), key=order, reverse=True)
        ]

    def _exists(self) -> bool:
        return self.is_complete(Path(self._get_load_path()))

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath, "version": self._version}
