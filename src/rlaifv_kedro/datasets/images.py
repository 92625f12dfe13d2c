"""Pictures that tables name: in a folder or an archive, or fetched one by one."""

from __future__ import annotations

import posixpath
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset

from rlaifv_kedro.datasets.archives import open_archive, open_member
from rlaifv_kedro.datasets.download import DownloadError, download
from rlaifv_kedro.datasets.picture_names import (
    HTTP,
    Places,
    address_below,
    file_of_address,
)
from rlaifv_kedro.datasets.remote import RemoteFileDataset
from rlaifv_kedro.doors import MOST_OF_A_PICTURE, OutsideError, path_inside
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown, writing
from rlaifv_kedro.formats import first_line, shortened
from rlaifv_kedro.images import image_fault

AT_ONCE = 8  # downloads
BATCH = 16
NAMED = 3  # of the missing pictures, in a message
NAME = 100  # characters of a name in a message
BY_HAND = "Put them there by hand, or change `filepath` in the catalog."

Image = dict[str, Any]


class Images:
    """Pictures by their names, wherever in the folder or archive they lie.

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

        Those of a folder are given as their paths, those of an archive as bytes. Each is decoded once.

        Args:
            names: Paths in the folder or archive, or their ends, or file names alone; or http addresses. An
                address has a file of its own; a file that a person put there under the address's last part
                counts if it is the only one, and no other address ends so.

        Raises:
            UserError: Some can't be had, a name means several files, or a file is no picture; names how
                many, the first of them, and what to do.
        """
        names = list(dict.fromkeys(names))
        places, problems = self._known(names)
        missing = [name for name in names if name not in places and name not in problems]
        problems |= self._fetch(missing, places)
        by_hand = self._manual or BY_HAND
        self._refuse(problems, len(names), "can't be had", by_hand)
        images = self._images(names, places)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            faults = zip(names, pool.map(image_fault, images.values()))
        damaged = {name: why for name, why in faults if why}
        again = (
            "Delete them, and they are fetched anew." if self._base_url or self._from_addresses else by_hand
        )
        self._refuse(damaged, len(names), "can't be read", again)
        return images

    def _known(self, names: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
        """The paths of the pictures that are there, and what is wrong with names that mean several."""
        places: dict[str, str] = {}
        problems: dict[str, str] = {}
        by_last_part: dict[str, list[str]] = defaultdict(list)
        for name in names:
            own = self._places.of(file_of_address(name)) if self._is_fetched(name) else []
            found = own or self._places.of(name)
            if len(found) > 1 and not self._is_fetched(name):
                problems[name] = f"several files are called so, {found[0].path} and {found[1].path}"
            elif len(found) == 1:
                places[name] = found[0].path
                if not own and not found[0].by_path:
                    by_last_part[found[0].path].append(name)
        for path, same in by_last_part.items():
            for name in same if len(same) > 1 else []:
                del places[name]
                if not self._is_fetched(name):
                    other = next(each for each in same if each != name)
                    problems[name] = f"{path} is the file of its last part, and of that of {other}, too"
        return places, problems

    def _refuse(self, problems: Mapping[str, str], count: int, what: str, remedy: str) -> None:
        if problems:
            first = islice(problems.items(), NAMED)
            some = "; ".join(f"{shortened(repr(name)[1:-1], NAME)}: {problem}" for name, problem in first)
            raise UserError(
                f"{shown(self._path)}: {len(problems):,} of {count:,} pictures {what}. First: {some}. "
                f"{remedy}"
            )

    def _images(self, names: Sequence[str], places: Mapping[str, str]) -> dict[str, Image]:
        if not self._path.is_file():
            return {name: {"bytes": None, "path": shown(self._path / places[name])} for name in names}
        with self._archive() as archive:
            return {name: {"bytes": _member(archive, places[name]), "path": places[name]} for name in names}

    @cached_property
    def _places(self) -> Places:
        if self._path.is_file():
            with self._archive() as archive:
                members = [member for member in archive.namelist() if not member.endswith("/")]
        else:
            files = sorted(path for path in self._path.rglob("*") if path.is_file())
            members = [path.relative_to(self._path).as_posix() for path in files]
        return Places(member for member in members if not posixpath.basename(member).startswith("."))

    @contextmanager
    def _archive(self) -> Iterator[zipfile.ZipFile]:
        try:
            with open_archive(self._path) as archive:
                yield archive
        except UserError:
            raise
        except Exception as error:  # of zipfile, of what members are packed by, and of the system
            raise UserError(
                f"{shown(self._path)} is damaged or no zip archive ({first_line(error)}). Delete it, and it "
                "is fetched anew."
            ) from error

    def _is_fetched(self, name: str) -> bool:
        """Whether a name is an address from which the picture is fetched."""
        return self._from_addresses and name.startswith(HTTP) and not self._path.is_file()

    def _source(self, name: str) -> tuple[str, str]:
        """The path that a missing picture gets in the folder, and its address.

        Raises:
            DownloadError: It can't be fetched.
        """
        if self._is_fetched(name):
            return file_of_address(name), name
        if self._path.is_file() or not self._base_url or name.startswith(HTTP):
            raise DownloadError("not there")
        try:
            path_inside(self._path, name, own=True)
        except OutsideError as error:
            raise DownloadError(f"not there, and not fetched by such a name: {error}") from error
        if twin := self._places.twin(name):
            raise DownloadError(f"not there, but {twin} is: one file, where capitals don't count")
        return name, address_below(self._base_url, name)

    def _fetch(self, names: Sequence[str], places: dict[str, str]) -> dict[str, str]:
        """Fetch pictures into the folder and add their paths; returns why some couldn't be.

        Gives up after a batch of which none came.
        """
        from filelock import FileLock

        def fetch(name: str) -> str | None:
            try:
                path, url = self._source(name)
                download([url], self._path / path, lock=False, check=_fault_of_file, most=MOST_OF_A_PICTURE)
            except DownloadError as error:
                return str(error)
            self._places.add(path)
            places[name] = path
            return None

        problems: dict[str, str] = {}
        if not (self._base_url or self._from_addresses) or self._path.is_file() or not names:
            return dict.fromkeys(names, "not there")
        with writing(self._path):
            self._path.mkdir(parents=True, exist_ok=True)
        with FileLock(self._path / ".lock"), ThreadPoolExecutor(AT_ONCE) as pool:
            for start in range(0, len(names), BATCH):
                batch = names[start : start + BATCH]
                failed = {name: why for name, why in zip(batch, pool.map(fetch, batch)) if why}
                problems |= failed
                if len(failed) == len(batch):
                    return problems | dict.fromkeys(names[start + BATCH :], "not tried")
        return problems


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    with open_member(archive, name, MOST_OF_A_PICTURE) as member:
        return member.read()


def _fault_of_file(path: Path) -> str | None:
    return image_fault({"bytes": None, "path": str(path)})


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
