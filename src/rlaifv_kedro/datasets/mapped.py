"""Long tables whose rows lie in a file that is mapped into memory, so that the kernel can take them back."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain, groupby
from pathlib import Path

import pyarrow as pa

from rlaifv_kedro.files import writing

SMALL = 16 << 20
"""Bytes of a table that stays in memory."""


def mapped(parts: Iterable[pa.Table], folder: Path) -> list[pa.Table]:
    """The parts, those of equal columns after each other in one table each, without metadata.

    A table of more than ``SMALL`` bytes is written to a file without a name, uncompressed, which is gone once
    nobody reads it or the process ends. Texts that pandas is given of it aren't copied.

    Args:
        folder: Where the file lies; where that can't be written, among the system's temporary files.

    Raises:
        UserError: The disk is full.
    """
    plain = (part.replace_schema_metadata(None) for part in parts)
    return [_mapped(schema, same, folder) for schema, same in groupby(plain, key=lambda part: part.schema)]


def _mapped(schema: pa.Schema, parts: Iterator[pa.Table], folder: Path) -> pa.Table:
    held: list[pa.Table] = []
    for part in parts:
        held.append(part)
        if sum(each.nbytes for each in held) > SMALL:
            break
    else:
        return pa.concat_tables(held)
    schema = _as_pandas_holds(schema)
    place = folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir())
    with writing(place), tempfile.TemporaryFile(dir=place, prefix=".") as file:
        with pa.ipc.new_stream(file, schema) as writer:
            for part in chain(held, parts):
                writer.write_table(part.cast(schema))
        file.flush()
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return pa.ipc.open_stream(pa.BufferReader(pa.py_buffer(content))).read_all()


def _as_pandas_holds(schema: pa.Schema) -> pa.Schema:
    """The schema with texts in the type that pandas takes without copying where each begins."""
    return pa.schema(
        [field.with_type(pa.large_string()) if pa.types.is_string(field.type) else field for field in schema]
    )
