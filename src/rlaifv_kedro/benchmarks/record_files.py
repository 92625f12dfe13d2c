"""Files of records from outside: JSON lines, one JSON list, CSV, TSV or parquet; each record knows its place.

All files of answers, judgements and verdicts that the commands ``score`` and ``calibrate`` take come in here.
"""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rlaifv_kedro.benchmarks.records import Record, short
from rlaifv_kedro.datasets.parquet import reading
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import json_lines, json_value, read_bytes, shown
from rlaifv_kedro.formats import first_line
from rlaifv_kedro.schemas import refuse_repeated

REMEDY = "Give a file with a JSON object a line, or a table as .csv, .tsv or .parquet."
TABLES = (".csv", ".tsv")
SEPARATORS = ",;\t"
LISTS = ("sentences", "data", "results", "answers", "annotations")
"""Names under which other programs put the list of records into one object; for the message alone."""
_FOREIGN = {
    b"PK\x03\x04": "a zip archive or a workbook (.xlsx). Save the table as .csv, or unpack the archive",
    b"\x1f\x8b": "compressed (gzip). Unpack it",
    b"\xff\xfe": "UTF-16 text. Write the file as UTF-8",
    b"\xfe\xff": "UTF-16 text. Write the file as UTF-8",
    b"<": "a page of HTML or XML. Fetch the file itself, not the page that shows it",
}
"""How files that hold no records begin -> what they are."""


def read_records(path: str | Path) -> list[Record]:
    """All records of a file.

    What the file is its suffix says, if that is .csv or .tsv, and its content otherwise.

    Raises:
        UserError: It can't be read, is empty, or holds something that is no record; names the line, the row
            or the position in the list.
    """
    name, content = shown(path), read_bytes(path, REMEDY)
    if content.startswith(b"PAR1"):
        found = _rows(content, Path(path))
    else:
        text = _text(content, name)
        found = (_table if Path(path).suffix.lower() in TABLES else _json)(text, name)
    records = [Record(value, where) for value, where in found]
    if not records:
        raise UserError(f"{name} holds no record. {REMEDY}")
    return records


def _text(content: bytes, name: str) -> str:
    start = content[:256].lstrip()
    for beginning, what in _FOREIGN.items():
        if start.startswith(beginning):
            raise UserError(f"{name} is {what}.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{name}, line {line}: not UTF-8 text. Write the file as UTF-8.") from error


def _json(text: str, name: str) -> Iterator[tuple[dict[str, Any], str]]:
    for value, where in _list(text, name) if text.lstrip().startswith("[") else _lines(text, name):
        if not isinstance(value, dict):
            raise UserError(
                f"{where}: {short(value)} is no JSON object. A record has braces: "
                '{"item_id": ..., "answer": ...}.'
            )
        yield value, where


def _lines(text: str, name: str) -> Iterator[tuple[Any, str]]:
    try:
        documents = json_lines(text)
    except ValueError as error:
        _refuse_one_object(text, name)
        raise UserError(f"{name}, {error}. Each line should be one JSON object.") from error
    if len(documents) == 1:
        _refuse_one_object(text, name)
    yield from ((document, f"{name}, line {number}") for number, document in documents)


def _refuse_one_object(text: str, name: str) -> None:
    """Refuses an object that holds the records, or item ids with their answers, as if it were one record."""
    try:
        value = json_value(text)
    except ValueError:
        return
    inside = [key for key in LISTS if isinstance(value, dict) and isinstance(value.get(key), list)]
    if inside:
        raise UserError(f"{name} is one JSON object. Give the list that it has under {inside[0]!r} alone.")
    if isinstance(value, dict) and value and all(key.strip().isdecimal() for key in value):
        raise UserError(
            f"{name} is one JSON object from ids to answers, and doesn't say what the ids are of. Write an "
            f'object a line: {{"item_id": {json.dumps(next(iter(value)))}, "answer": ...}}.'
        )


def _list(text: str, name: str) -> Iterator[tuple[Any, str]]:
    try:
        values = json_value(text, names_once=True)
    except ValueError as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UserError(
            f"{name}{line}: not JSON ({first_line(error)}). The file may be cut: make it again."
        ) from error
    yield from ((value, f"{name}, record {number} (from 1)") for number, value in enumerate(values, start=1))


def _table(text: str, name: str) -> Iterator[tuple[dict[str, Any], str]]:
    """The rows of a table of text; an empty cell is no value, as it can't be told from an empty text.

    Cells are separated by what there is most of in the first line, which names the columns.
    """
    separator = max(SEPARATORS, key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        header = [column.strip() for column in next(reader, [])]
        refuse_repeated(header, name)
        for row in reader:
            where = f"{name}, line {reader.line_num}"
            if row and len(row) != len(header):
                raise UserError(
                    f"{where}: it has {len(row)} cells, and the first line names {len(header)} columns. Put "
                    "texts with separators or line ends in quotes."
                )
            if row:
                yield {name: cell or None for name, cell in zip(header, row)}, where
    except csv.Error as error:
        raise UserError(
            f"{name}, line {reader.line_num}: no row of a table ({error}). Export the table again."
        ) from error


def _rows(content: bytes, path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    name = shown(path)
    with reading(path, "Make it again."):
        table = pq.ParquetFile(pa.BufferReader(content)).read()
        refuse_repeated(table.column_names, name)
        rows = table.to_pylist()
    yield from ((row, f"{name}, row {number} (from 0)") for number, row in enumerate(rows))
