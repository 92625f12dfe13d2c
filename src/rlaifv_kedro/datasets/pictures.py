"""The pictures of a table: they stay in its file until one is asked for.

A table of 83,132 prompts has 12 GB of pictures. So a frame with a column of pictures holds a
:class:`StoredPicture` in each row, which is read when a stage needs it, and the column is written some rows
at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from rlaifv_kedro.datasets.parquet import BATCH, StoredRows
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown, writing
from rlaifv_kedro.images import embed_image
from rlaifv_kedro.schemas import IMAGE, cast_arrow, conform_column

GROUP_BYTES = 8 << 20
"""A group of rows ends once its pictures take so many bytes: that much is in memory at once."""

Picture = Mapping[str, Any]


class StoredPicture(Picture):
    """A picture with its ``bytes`` and ``path``, read whenever one of them is asked for.

    ``dict(picture)`` holds both in memory.
    """

    __slots__ = ("column", "row")

    def __init__(self, column: PictureColumn | _Copies, row: int):
        self.column, self.row = column, row

    def __getitem__(self, name: str) -> Any:
        return self.column.read(self.row)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(("bytes", "path"))

    def __len__(self) -> int:
        return 2

    def __repr__(self) -> str:
        return f"<picture of row {self.row}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle: another process, maybe on another host, gets the bytes, also those of a named file."""
        return dict, (_with_bytes(dict(self)),)


def _with_bytes(picture: dict[str, Any]) -> dict[str, Any]:
    """The picture with the bytes of the file that it names, if that can be read; who opens it says if not."""
    try:
        return {**picture, "bytes": embed_image(picture, None, "")["bytes"]}
    except UserError:
        return picture


class PictureColumn:
    """The column of pictures in a parquet file.

    Args:
        path: The file.
        name: The column.
        remedy: What to do if the file is damaged.
    """

    def __init__(self, path: Path, name: str, remedy: str):
        self._name, self._rows = name, StoredRows(path, [name], remedy)

    def read(self, row: int) -> dict[str, Any]:
        """A picture.

        Raises:
            UserError: The file is damaged.
        """
        [picture] = cast_arrow(pa.chunked_array([self._rows[row][0]]), IMAGE).to_pylist()
        return picture

    def checked(self, table_name: str) -> list[StoredPicture | None]:
        """All rows of the column. Each is decoded once, and compared with the table's schema.

        Raises:
            UserError: The file is damaged, or the column is not as the schema says.
        """
        found: list[StoredPicture | None] = []
        for batch in self._rows:
            values, where = pa.chunked_array([batch[0]]), shown(self._rows.path)
            column = conform_column(table_name, self._name, values, where, len(found))
            missing = column.is_null().to_pylist()
            found += [None if no else StoredPicture(self, row) for row, no in enumerate(missing, len(found))]
        return found


def grouped(
    table_name: str, name: str, pictures: Iterable[Picture | None], where: str, most: int
) -> Iterator[pa.Array | pa.ChunkedArray]:
    """The column some rows at a time, as the table's schema wants it.

    Args:
        most: Rows of a group; it ends earlier where ``GROUP_BYTES`` are reached.

    Raises:
        UserError: A picture is missing or is none, or can't be read.
    """
    group: list[Any] = []
    size = start = 0
    for number, picture in enumerate(pictures, 1):
        group.append(dict(picture) if isinstance(picture, StoredPicture) else picture)
        if isinstance(picture, Mapping):
            size += len(group[-1].get("bytes") or b"")
        if len(group) == most or size >= GROUP_BYTES:
            yield conform_column(table_name, name, pd.Series(group, dtype=object), where, start)
            group, size, start = [], 0, number
    if group:
        yield conform_column(table_name, name, pd.Series(group, dtype=object), where, start)


@contextmanager
def in_turn(pictures: Sequence[Picture | None], scratch: Path) -> Iterator[Sequence[Picture | None]]:
    """The pictures, so that whoever reads them one after the other finds each at once.

    Those that are asked for in another order than they lie on the disk are first copied, in the order in
    which they lie, to a file that is mapped into memory and removed at the end: to find one, a row group has
    to be decoded, and that of a user's file may be as large as the file.

    Raises:
        UserError: A picture can't be read, or the disk is full.
    """
    stored = [picture for picture in pictures if isinstance(picture, StoredPicture)]
    if _ascend(stored):
        yield pictures
        return
    try:
        copies = _Copies(stored, scratch)
        yield [copies.of(picture) if isinstance(picture, StoredPicture) else picture for picture in pictures]
    finally:
        with writing(scratch):
            scratch.unlink(missing_ok=True)


def _ascend(pictures: Sequence[StoredPicture]) -> bool:
    """Whether those of each file come in the order in which they lie there."""
    last: dict[int, int] = {}
    for picture in pictures:
        if picture.row < last.get(id(picture.column), 0):
            return False
        last[id(picture.column)] = picture.row
    return True


class _Copies:
    """Copies of stored pictures, in a file that is mapped into memory."""

    def __init__(self, pictures: Sequence[StoredPicture], scratch: Path):
        distinct = {(id(picture.column), picture.row): picture for picture in pictures}
        in_order = sorted(distinct)
        self._places = {key: place for place, key in enumerate(in_order)}
        schema = pa.schema({"image": IMAGE})
        lying = (distinct[key] for key in in_order)
        with writing(scratch):
            scratch.parent.mkdir(parents=True, exist_ok=True)
            with pa.OSFile(str(scratch), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
                while part := [{"image": dict(picture)} for picture in islice(lying, BATCH)]:
                    writer.write_batch(pa.RecordBatch.from_pylist(part, schema))
            self._column = pa.ipc.open_file(pa.memory_map(str(scratch))).read_all()["image"]

    def of(self, picture: StoredPicture) -> StoredPicture:
        """The copy of a picture."""
        return StoredPicture(self, self._places[id(picture.column), picture.row])

    def read(self, row: int) -> dict[str, Any]:
        """A copy by its place."""
        return self._column[row].as_py()
