"""COCO's annotation files, read as a stream.

The four of 2014 are 600 MB of JSON, most of it polygons that nobody here needs.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from rlaifv_kedro.datasets.archives import open_archive, open_member
from rlaifv_kedro.datasets.remote import RemoteFileDataset
from rlaifv_kedro.doors import MOST_OF_A_DOCUMENT, open_regular
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown
from rlaifv_kedro.formats import first_line, shortened

BUFFER = 1 << 20  # bytes read at once
_FILE = re.compile(r"(?P<kind>instances|captions)_(?P<split>\w+)\.json")

FIELDS: dict[str, dict[str, tuple[str, ...]]] = {
    "instances": {
        "images": ("id", "file_name"),
        "annotations": ("id", "image_id", "category_id"),
        "categories": ("id", "name"),
    },
    "captions": {"images": ("id", "file_name"), "annotations": ("id", "image_id", "caption")},
}
"""What is read of each kind of file: its lists, and which fields of their entries."""
_TEXT = {"file_name", "caption", "name"}


class CocoAnnotations:
    """Pairs of ``instances_<split>.json`` and ``captions_<split>.json``, in a folder or a zip archive.

    Nothing is read before it is asked for.

    Args:
        path: Folder or archive; both may hold a folder ``annotations``, and other files.

    Raises:
        UserError: It holds no instances file, or one without captions.
    """

    def __init__(self, path: Path):
        self._path = path
        self._names: dict[tuple[str, str], str] = {}
        for name in self._listing():
            match = _FILE.fullmatch(name.rpartition("/")[2])
            if match:
                self._names[match["kind"], match["split"]] = name
        self.splits = sorted(split for kind, split in self._names if kind == "instances")
        """Such as ``train2014``."""
        if not self.splits:
            raise UserError(
                f"{shown(path)} holds no instances_*.json. Give the folder or the archive of COCO's "
                "annotations."
            )
        for split in self.splits:
            if ("captions", split) not in self._names:
                raise UserError(
                    f"{shown(path)} holds instances_{split}.json, but no captions_{split}.json. Put it "
                    "beside the other."
                )

    def where(self, kind: str, split: str) -> str:
        """File and folder, for people."""
        return f"{shown(self._path)}, {self._names[kind, split]}"

    def entries(self, kind: str, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The entries of a file's lists, in their order: (list, the fields that :data:`FIELDS` names).

        Raises:
            UserError: The file is damaged, lacks a list, or an entry lacks a field or has one of another
                type; names the entry.
        """
        where, fields = self.where(kind, split), FIELDS[kind]
        seen = set()
        try:
            with self._open(self._names[kind, split]) as file:
                for part, entry in _entries(file, fields):
                    seen.add(part)
                    if entry is not None:
                        yield part, _checked(part, entry, fields[part], where)
        except UserError:
            raise
        except Exception as error:  # of ijson, zipfile, zlib and the system
            raise UserError(
                f"{where} is damaged ({shortened(first_line(error), 200)}). Delete it and fetch it again."
            ) from error
        for part in fields:
            if part not in seen:
                raise UserError(_no_part(where, part, kind))

    def _listing(self) -> list[str]:
        if self._path.is_dir():
            return sorted(
                path.relative_to(self._path).as_posix()
                for path in [*self._path.glob("*.json"), *self._path.glob("annotations/*.json")]
            )
        try:
            with open_archive(self._path) as archive:
                return archive.namelist()
        except Exception as error:  # of zipfile and the system
            raise UserError(
                f"{shown(self._path)} is damaged or no zip archive ({shortened(first_line(error), 200)}). "
                "Give the folder or the archive of COCO's annotations."
            ) from error

    @contextmanager
    def _open(self, name: str) -> Iterator[BinaryIO]:
        if self._path.is_dir():
            with open_regular(self._path / name, MOST_OF_A_DOCUMENT) as file:
                yield file
            return
        with (
            open_archive(self._path) as archive,
            open_member(archive, name, MOST_OF_A_DOCUMENT) as member,
        ):
            yield io.BufferedReader(member, BUFFER)


def _entries(
    file: BinaryIO, fields: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """(list, entry), and (list, None) where a list begins. Polygons pass as single numbers and are let go."""
    import ijson

    begins = {part: part for part in fields}
    ends = {f"{part}.item": part for part in fields}
    wanted = {f"{part}.item.{name}": name for part, names in fields.items() for name in names}
    known = {**begins, **ends, **wanted}
    entry: dict[str, Any] = {}
    for prefix, event, value in ijson.parse(file, use_float=True, buf_size=BUFFER):
        if prefix not in known:
            continue
        if prefix in wanted:
            entry[wanted[prefix]] = value
        elif prefix in ends and event == "end_map":
            yield ends[prefix], entry
            entry = {}
        elif prefix in begins and event == "start_array":
            yield prefix, None


def _no_part(where: str, part: str, kind: str) -> str:
    return f"{where}: the file has no {part!r}. Give the {kind}_*.json of COCO's annotations."


def _checked(part: str, entry: dict[str, Any], names: Sequence[str], where: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise UserError(
            f"{where}: in {part!r} an entry is {shortened(repr(entry), 60)}, and should be an object. Fetch "
            "it again."
        )
    for name in names:
        value = entry.get(name)
        if type(value) is not (str if name in _TEXT else int):
            kind = "text" if name in _TEXT else "a whole number"
            raise UserError(
                f"{where}: in {part!r} the entry of id {shortened(repr(entry.get('id')), 60)} has {name!r} = "
                f"{shortened(repr(value), 60)}, which should be {kind}. The file is damaged or of another "
                "kind: fetch it again."
            )
    return entry


class CocoDocuments:
    """The annotations of one split that are read already, with the methods of :class:`CocoAnnotations`.

    Args:
        split: Such as ``test``; the documents are called ``test_instances`` and ``test_captions``, as the
            catalog's entries.
    """

    def __init__(self, split: str, instances: Mapping[str, Any], captions: Mapping[str, Any]):
        self.splits = [split]
        self._documents = {"instances": instances, "captions": captions}

    def where(self, kind: str, split: str) -> str:
        """Which document it is, for people."""
        return f"{split}_{kind}"

    def entries(self, kind: str, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """See :meth:`CocoAnnotations.entries`."""
        document, where = self._documents[kind], self.where(kind, split)
        for part, names in FIELDS[kind].items():
            if not isinstance(document, dict) or not isinstance(document.get(part), list):
                raise UserError(_no_part(where, part, kind))
            yield from ((part, _checked(part, entry, names, where)) for entry in document[part])


class CocoAnnotationsDataset(RemoteFileDataset):
    """The published archive, or a folder in its place. Loads as :class:`CocoAnnotations`."""

    def load(self) -> CocoAnnotations:
        """The annotations, of which nothing is read yet.

        Raises:
            UserError: It can't be fetched, or holds no annotations.
        """
        return CocoAnnotations(self.fetch())
