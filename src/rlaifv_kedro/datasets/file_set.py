"""Folders: of files that are made together, and of what runs share."""

from pathlib import Path, PurePosixPath
from typing import Any

from kedro.io import AbstractDataset

from rlaifv_kedro.datasets.versioned import In
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import replacing_folder, write_atomically, writing


class _Folder(AbstractDataset[In, Path]):
    """A folder without versions."""

    def __init__(self, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        """Names the folder.

        Args:
            filepath: The folder.
            metadata: For plugins such as Kedro-Viz.
        """
        self._filepath, self.metadata = PurePosixPath(filepath), metadata

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}


class FileSetDataset(_Folder[dict[str, bytes]]):
    """A folder that is saved as {path in it: content}, whole or not at all, and loads as its path.

    It stands for files that others publish, which have one place. Saving again replaces all of it.
    """

    def save(self, data: dict[str, bytes]) -> None:
        """Writes the folder anew, or leaves the old one.

        Raises:
            UserError: The folder can't be written.
        """
        with replacing_folder(Path(self._filepath)) as unfinished:
            for name, content in data.items():
                write_atomically(unfinished / name, content)

    def load(self) -> Path:
        """The folder.

        Raises:
            UserError: It isn't there.
        """
        if not self._exists():
            raise UserError(f"{self._filepath} is not there. Run the pipeline that makes it.")
        return Path(self._filepath)

    def _exists(self) -> bool:
        return Path(self._filepath).is_dir()


class SharedFolderDataset(_Folder[None]):
    """A folder that all runs share and add to, such as a judge's replies; it loads as its path.

    What a run finds there is no part of what it reads: it may change at any time.
    """

    IS_FILE = False

    def load(self) -> Path:
        """The folder, which is made if it isn't there."""
        folder = Path(self._filepath)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def save(self, data: None) -> None:
        """Refused."""
        raise TypeError("a shared folder is only loaded; its files are written one by one")

    def _exists(self) -> bool:
        return True
