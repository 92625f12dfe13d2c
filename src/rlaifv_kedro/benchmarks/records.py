"""Records of files from outside, JSON lines or one JSON list, each of which knows where it stands."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import json_lines, read_bytes, shown
from rlaifv_kedro.formats import shortened

YES_NO = ("yes", "no")
# what the published files call it
ITEM_NAMES = ("item_id", "id")
ANSWER_NAMES = ("answer", "response", "model_answer")


@dataclass(frozen=True)
class Record:
    """One record of a file, which knows where it stands."""

    fields: dict[str, Any]
    where: str

    def get(self, *names: str) -> Any:
        """The first of the fields that is there and not null, else None."""
        return next((self.fields[name] for name in names if self.fields.get(name) is not None), None)

    def text(self, *names: str) -> str:
        """The first of the fields that is there.

        Raises:
            UserError: None is, or it is no text.
        """
        value = self.get(*names)
        if not isinstance(value, str):
            named = " or ".join(map(repr, names))
            raise UserError(
                f"{self.where}: {named} should be a text, but is {short(value)}. Mend the record, or leave "
                "it out."
            )
        return value

    def identifier_if_any(self, *names: str) -> str | None:
        """As :meth:`identifier`; None if there is none."""
        return None if self.get(*names) is None else self.identifier(*names)

    def identifier(self, *names: str) -> str:
        """A text or whole number, as text.

        Raises:
            UserError: There is none, or it is something else.
        """
        value = self.get(*names)
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
            return str(value).strip()
        raise UserError(
            f"{self.where}: {names[0]!r} should be a text or a whole number, but is {short(value)}. Mend "
            "the record, or leave it out."
        )

    def choice(self, name: str, allowed: Sequence[str]) -> str:
        """A field with one of the allowed texts, in small letters.

        Raises:
            UserError: It has none of them.
        """
        value = self.text(name).strip().lower()
        if value not in allowed:
            raise UserError(
                f"{self.where}: {name!r} is {short(value)}. It should be one of {', '.join(allowed)}."
            )
        return value

    def texts(self, name: str) -> list[str]:
        """A list of texts.

        Raises:
            UserError: It is something else.
        """
        value = self.get(name)
        if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
            raise UserError(
                f"{self.where}: {name!r} should be a list of texts, but is {short(value)}. Mend the "
                "record, or leave it out."
            )
        return value


def read_records(path: str | Path) -> list[Record]:
    """All records of a file.

    Raises:
        UserError: It can't be read, is empty, or holds something that is no JSON object; names the line, or
            the position in the list.
    """
    name = shown(path)
    content = read_bytes(path, "Give a file with a JSON object a line.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name}, line {content[: error.start].count(10) + 1}: not UTF-8 text. Write the file as UTF-8."
        ) from error
    records = [
        _record(value, where)
        for value, where in (_list(text, name) if text.lstrip().startswith("[") else _lines(text, name))
    ]
    if not records:
        raise UserError(f"{name} holds no record. Give a file with a JSON object a line.")
    return records


def as_records(entries: Any, name: str) -> list[Record]:
    """The entries of a published file as records.

    Args:
        entries: JSON objects, as the catalog loads them; or records, as :func:`read_records` does.
        name: What the file holds, for messages.

    Raises:
        UserError: They are something else.
    """
    if isinstance(entries, list) and all(isinstance(entry, Record) for entry in entries):
        return entries
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{name}: the file is no list of JSON objects. Give the published file.")
    return [
        Record(entry, f"{name}, record {number} (from 1)") for number, entry in enumerate(entries, start=1)
    ]


def answers_alone(records: Sequence[Record]) -> pd.DataFrame:
    """What answers say about themselves, where there are no published files.

    Returns:
        item_id (without one the position, from 0), kind and label (None if they say nothing), answer.

    Raises:
        UserError: An item_id comes twice; names the line.
    """
    rows: dict[str, tuple] = {}
    for position, record in enumerate(records):
        item_id = record.identifier_if_any(*ITEM_NAMES) or str(position)
        if item_id in rows:
            raise UserError(f"{record.where}: item {item_id!r} was there before. Leave one of the two out.")
        kind = record.get("kind", "split", "question_type", "type")
        label = record.choice("label", YES_NO) if record.get("label") is not None else None
        rows[item_id] = (item_id, kind, label, record.text(*ANSWER_NAMES))
    return pd.DataFrame(list(rows.values()), columns=["item_id", "kind", "label", "answer"], dtype=object)


def image_number(name: str) -> str:
    """The number that an image's name ends with: "COCO_val2014_000000310196.jpg" is 310196.

    A name without one stays as it is.
    """
    digits = re.search(r"(\d+)(\.\w+)?$", name)
    return str(int(digits[1])) if digits else name


def _lines(text: str, name: str) -> Iterator[tuple[Any, str]]:
    try:
        documents = json_lines(text)
    except ValueError as error:
        raise UserError(f"{name}, {error}. Each line should be one JSON object.") from error
    yield from ((document, f"{name}, line {number}") for number, document in documents)


def _list(text: str, name: str) -> Iterator[tuple[Any, str]]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{name}, line {error.lineno}: not JSON ({error.msg}, column {error.colno}). The file may be "
            "cut: make it again."
        ) from error
    yield from ((value, f"{name}, record {number} (from 1)") for number, value in enumerate(values, start=1))


def _record(value: Any, where: str) -> Record:
    if not isinstance(value, dict):
        raise UserError(
            f'{where}: {short(value)} is no JSON object. A record has braces: {{"item_id": ..., "answer": '
            f"...}}."
        )
    return Record(value, where)


def short(value: Any) -> str:
    """A value as messages show it."""
    return "missing" if value is None else shortened(repr(value), 60)
