"""Folders that other tools read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaifv_kedro.datasets.export_formats import FORMATS
from rlaifv_kedro.datasets.versioned import RunVersionedDataset
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import replacing_folder

if TYPE_CHECKING:
    from kedro.io.core import Version


class ExportFolderDataset(RunVersionedDataset[Iterable[Mapping[str, Any]], Path]):
    """A folder with pairs in another tool's form; see :mod:`rlaifv_kedro.datasets.export_formats`.

    Loads as its path. Records are written as they come, so that memory doesn't grow with their number; the
    folder gets its name when all are.
    """

    def __init__(
        self,
        filepath: str,
        format: str,
        version: Version | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Names the folder and the form.

        Args:
            filepath: The folder.
            format: One of ``published``, ``trl``, ``llama_factory``, ``ms_swift``.
            version: Set by Kedro for entries with ``versioned: true``.
            metadata: For plugins such as Kedro-Viz.
        """
        super().__init__(filepath, version, metadata)
        if format not in FORMATS:
            raise UserError(f"There is no format called `{format}`. Use one of: {', '.join(FORMATS)}.")
        self._format = format

    def is_complete(self, path: Path) -> bool:
        """Whether the folder is there: it gets its name when all is in it."""
        return path.is_dir()

    def load(self) -> Path:
        """The folder."""
        return self.load_path()

    def save(self, data: Iterable[Mapping[str, Any]]) -> None:
        """Writes the records in the tool's form, in place of what is there.

        Raises:
            UserError: An image is no picture, a text can't be written in that form, or the disk is full.
        """
        with replacing_folder(self.save_path()) as unfinished:
            unfinished.mkdir()
            FORMATS[self._format](unfinished, data)

    def _describe(self) -> dict[str, Any]:
        return {**super()._describe(), "format": self._format}
