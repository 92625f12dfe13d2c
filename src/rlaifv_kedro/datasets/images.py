"""Pictures that tables name: in a folder or an archive, or fetched one by one."""

from __future__ import annotations

import posixpath
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from kedro.io import AbstractDataset

from rlaifv_kedro.datasets.download import DownloadError, download
from rlaifv_kedro.datasets.remote import RemoteFileDataset
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown, writing

AT_ONCE = 8  # downloads
BATCH = 16
NAMED = 3  # of the missing pictures, in a message
HTTP = ("http://", "https://")
BY_HAND = "Put them there by hand, or change `filepath` in the catalog."

Image = dict[str, Any]


class Images:
    """Pictures by their file names, wherever in the folder or archive they lie.

    Args:
        path: Folder or zip archive.
        base_url: Where a picture that the folder lacks is fetched from by its name.
        from_addresses: Whether one that is named by its address is fetched from there.
        manual: How to get all of them by hand, as a sentence.
    """

    def __init__(
        self, path: Path, base_url: str | None = None, from_addresses: bool = False, manual: str = ""
    ):
        self._path, self._base_url = path, base_url
        self._from_addresses, self._manual = from_addresses, manual

    def find(self, names: Iterable[str]) -> dict[str, Image]:
        """The pictures by the names as given, for an ``image`` column.

        Those of a folder are given as their paths, those of an archive as bytes.

        Args:
            names: File names, or http addresses, whose last part is the file name.

        Raises:
            UserError: Some can't be had; names how many, the first of them, and what to do.
        """
        files = {name: file_name(name) for name in names}
        missing = {file: self._address(name) for name, file in files.items() if file not in self._places}
        problems = [f"{file}: not there" for file, url in missing.items() if not url]
        problems += self._fetch({file: url for file, url in missing.items() if url})
        if problems:
            some = "; ".join(problems[:NAMED])
            raise UserError(
                f"{shown(self._path)} lacks {len(problems):,} of {len(set(files.values())):,} pictures, and "
                f"they can't be fetched. First: {some}. "
                f"{self._manual or BY_HAND}"
            )
        if not self._path.is_file():
            return {name: {"bytes": None, "path": shown(self._places[file])} for name, file in files.items()}
        with zipfile.ZipFile(self._path) as archive:
            return {
                name: {"bytes": archive.read(self._places[file]), "path": file}
                for name, file in files.items()
            }

    @cached_property
    def _places(self) -> dict[str, str]:
        """File name -> member of the archive, or path in the folder."""
        if self._path.is_file():
            try:
                with zipfile.ZipFile(self._path) as archive:
                    return {
                        posixpath.basename(member): member
                        for member in archive.namelist()
                        if not member.endswith("/")
                    }
            except (zipfile.BadZipFile, OSError) as error:
                raise UserError(
                    f"{shown(self._path)} is damaged or no zip archive ({error}). Delete it, and it is "
                    "fetched anew."
                ) from error
        return {
            path.name: str(path)
            for path in sorted(self._path.rglob("*"))
            if path.is_file() and not path.name.startswith(".")
        }

    def _address(self, name: str) -> str | None:
        if self._path.is_file():
            return None
        if name.startswith(HTTP):
            return name if self._from_addresses else None
        return posixpath.join(self._base_url, name) if self._base_url else None

    def _fetch(self, missing: dict[str, str]) -> list[str]:
        """Fetch pictures into the folder, by file name and address; returns why some couldn't be. Gives up
        after a batch of which none came.
        """

        from filelock import FileLock

        def fetch(file: str) -> str | None:
            try:
                download([missing[file]], self._path / file, lock=False)
            except DownloadError as error:
                return str(error)
            self._places[file] = str(self._path / file)
            return None

        problems: list[str] = []
        files = list(missing)
        if not files:
            return problems
        with writing(self._path):
            self._path.mkdir(parents=True, exist_ok=True)
        with FileLock(self._path / ".lock"), ThreadPoolExecutor(AT_ONCE) as pool:
            for start in range(0, len(files), BATCH):
                batch = files[start : start + BATCH]
                failed = list(filter(None, pool.map(fetch, batch)))
                problems += failed
                if len(failed) == len(batch):
                    return problems + [f"{missing[file]}: not tried" for file in files[start + BATCH :]]
        return problems


class ImagesDataset(AbstractDataset[Images, None]):
    """A folder or a zip archive of pictures, which loads as :class:`Images`.

    A folder grows as pictures are asked for, so a run's manifest holds no hash of it.
    """

    def __init__(
        self,
        filepath: str,
        url: str | list[str] | None = None,
        sha256: str | None = None,
        base_url: str | None = None,
        from_addresses: bool = False,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Names the folder or archive, and where pictures come from.

        Args:
            filepath: The folder; or the archive, by a name that ends in ``.zip``.
            url: Where the archive is fetched from.
            sha256: Of the archive, where one is published.
            base_url: Where single pictures are fetched from by their names, into the folder.
            from_addresses: Whether pictures that are named by their addresses are fetched into the folder.
            metadata: ``licence``, ``manual``, and what plugins want.
        """
        self.folder, self.metadata = Path(filepath), metadata
        self._base_url, self._from_addresses = base_url, from_addresses
        self._archive = (
            RemoteFileDataset(filepath, url, sha256, metadata=metadata) if filepath.endswith(".zip") else None
        )
        if url and not self._archive:
            raise UserError(
                f"The catalog's entry of {shown(filepath)}: a `url` is that of a .zip archive. Name "
                "`filepath` so, or use `base_url`."
            )

    def waits(self) -> bool:
        """Whether ``load`` will need a network."""
        return self._archive is not None and self._archive.waits()

    def grows(self) -> bool:
        """Whether pictures that the folder lacks are fetched, one by one, when they are asked for."""
        return self._archive is None and bool(self._base_url or self._from_addresses)

    def load(self) -> Images:
        """The pictures, after fetching an archive that isn't there.

        Raises:
            UserError: The archive can't be fetched, or there is no folder and nothing to fetch pictures from.
        """
        manual = (self.metadata or {}).get("manual", "")
        if self._archive is not None:
            self._archive.fetch()
        elif not (self.folder.is_dir() or self.grows()):
            raise UserError(
                f"{shown(self.folder)} is not there, and its pictures can't be fetched by a program. "
                f"{manual or BY_HAND}"
            )
        return Images(self.folder, self._base_url, self._from_addresses, manual)

    def save(self, data: Any) -> None:
        """Refused."""
        raise TypeError("pictures are read only")

    def _exists(self) -> bool:
        return True  # a picture that isn't there is fetched, or named in a message, when it is asked for

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self.folder), "base_url": self._base_url}


def file_name(name: str) -> str:
    """The file name in an address, or the name itself."""
    return (
        unquote(posixpath.basename(urlsplit(name).path))
        if name.startswith(HTTP)
        else posixpath.basename(name)
    )
