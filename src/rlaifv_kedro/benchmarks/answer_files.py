"""Answers, extracted objects and judgements that were made elsewhere: files with a JSON object a line, or
one JSON list.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import read_bytes, shown

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
                f"{self.where}: {named} should be a text, but is {_short(value)}. Mend the record, or leave "
                "it out."
            )
        return value

    def identifier(self, *names: str) -> str | None:
        """A text or whole number, as text; None if there is none.

        Raises:
            UserError: It is something else.
        """
        value = self.get(*names)
        if value is None or (
            isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip()
        ):
            return None if value is None else str(value).strip()
        raise UserError(
            f"{self.where}: {names[0]!r} should be a text or a whole number, but is {_short(value)}. Mend "
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
                f"{self.where}: {name!r} is {_short(value)}. It should be one of {', '.join(allowed)}."
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
                f"{self.where}: {name!r} should be a list of texts, but is {_short(value)}. Mend the "
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


def _lines(text: str, name: str) -> Iterator[tuple[Any, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{name}, line {number}"
            try:
                yield json.loads(line), where
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{where}: not JSON ({error.msg}, column {error.colno}). Each line should be one JSON "
                    "object."
                ) from error


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
            f'{where}: {_short(value)} is no JSON object. A record has braces: {{"item_id": ..., "answer": '
            f"...}}."
        )
    return Record(value, where)


def _short(value: Any) -> str:
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def coco_ids(records: Sequence[Record]) -> list[tuple[str, int]]:
    """(item_id, image_id) of records about images of COCO. Without an item_id it is the image's, and from an
    image's second record on IMAGE/2, ...

    Raises:
        UserError: An image_id is no whole number, or an item_id comes twice; names the line.
    """
    seen: Counter[int] = Counter()
    ids: dict[str, tuple[int, str]] = {}
    for record in records:
        image_id = record.identifier("image_id")
        if image_id is None or not image_id.isdecimal():
            raise UserError(
                f"{record.where}: 'image_id' should be COCO's number of the image, but is "
                f"{_short(image_id)}. Add it to the record."
            )
        number = int(image_id)
        seen[number] += 1
        item_id = record.identifier("item_id") or (
            str(number) if seen[number] == 1 else f"{number}/{seen[number]}"
        )
        if item_id in ids:
            raise UserError(
                f"{record.where}: item {item_id!r} was there before, {ids[item_id][1]}. Leave one of the "
                "two out."
            )
        ids[item_id] = (number, record.where)
    return [(item_id, number) for item_id, (number, _) in ids.items()]


def coco_answers(path: str | Path) -> pd.DataFrame:
    """item_id, image_id, question ("" without one), answer.

    Raises:
        UserError: A record is damaged; names the line.
    """
    records = read_records(path)
    rows = [
        (*ids, record.get("question") or "", record.text(*ANSWER_NAMES))
        for ids, record in zip(coco_ids(records), records)
    ]
    return pd.DataFrame(rows, columns=["item_id", "image_id", "question", "answer"])


def extracted_objects(path: str | Path, answers: pd.DataFrame) -> dict[str, list[str]]:
    """item_id -> objects, of a file with image_id (or item_id) and ``objects``; a record whose objects are
    null is as if it weren't there.

    Raises:
        UserError: A record is damaged, or of no answer; names the line.
    """
    records = read_records(path)
    known = set(answers["item_id"])
    by_item = all(record.get("item_id") is not None for record in records)
    ids = (
        [str(record.identifier("item_id")) for record in records]
        if by_item
        else [item_id for item_id, _ in coco_ids(records)]
    )
    for item_id, record in zip(ids, records):
        if item_id not in known:
            raise UserError(
                f"{record.where}: there is no answer with the item_id or image_id {item_id!r}. Give both "
                "files of the same run."
            )
    return {
        item_id: record.texts("objects")
        for item_id, record in zip(ids, records)
        if record.get("objects") is not None
    }


def judged_replies(
    path: str | Path, known: set[str], is_step: Callable[[str], bool], example: str
) -> pd.DataFrame:
    """item_id, step, reply (None: none came) and error of a file of a judge's replies.

    Args:
        known: The items that were answered.
        is_step: Whether the benchmark has a step of that name; ``example`` is one.

    Raises:
        UserError: A record is damaged, of no answer, of no step of the benchmark, or there twice; names the
            line.
    """
    rows: dict[tuple[str, str], tuple] = {}
    for record in read_records(path):
        item_id, step = record.identifier(*ITEM_NAMES), record.text("step")
        if item_id not in known:
            raise UserError(
                f"{record.where}: there is no answer with the item_id {_short(item_id)}. Give both files of "
                "the same run."
            )
        if not is_step(step):
            raise UserError(
                f"{record.where}: {step!r} is no step of this benchmark. A step of it is {example!r}."
            )
        if (item_id, step) in rows:
            raise UserError(
                f"{record.where}: item {item_id!r} has a reply of step {step!r} before. Leave one of the "
                "two out."
            )
        reply = None if record.get("reply") is None else record.text("reply")
        rows[item_id, step] = (item_id, step, reply, record.get("error"))
    return pd.DataFrame(list(rows.values()), columns=["item_id", "step", "reply", "error"])
