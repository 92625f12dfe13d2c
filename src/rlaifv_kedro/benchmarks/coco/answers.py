"""Answers about images of COCO that were made elsewhere, and the objects in them."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from rlaifv_kedro.benchmarks.record_files import read_records
from rlaifv_kedro.benchmarks.records import IMAGE_NAMES, Record, image_name, short
from rlaifv_kedro.errors import UserError

_NUMBER = re.compile(r"(?:COCO_\w+_)?([0-9]{1,18})")  # 18 digits fit a table's whole numbers


def coco_number(record: Record) -> int:
    """COCO's number of the record's image: as it is, or in the name of a file such as ``000000000139.jpg``.

    Raises:
        UserError: There is none.
    """
    named = record.identifier_if_any(*IMAGE_NAMES)
    number = _NUMBER.fullmatch(image_name(named or ""))
    if number is None:
        raise UserError(
            f"{record.where}: 'image_id' should be COCO's number of the image, but is {short(named)}. Add it "
            "to the record."
        )
    return int(number[1])


def coco_ids(records: Sequence[Record]) -> list[tuple[str, int]]:
    """(item_id, image_id) of records about images of COCO.

    Without an item_id it is the image's, and from an image's second record on IMAGE/2, ...

    Raises:
        UserError: A record doesn't say its image, or an item_id comes twice; names the line.
    """
    seen: Counter[int] = Counter()
    ids: dict[str, tuple[int, str]] = {}
    for record in records:
        number = coco_number(record)
        seen[number] += 1
        item_id = record.identifier_if_any("item_id") or (
            str(number) if seen[number] == 1 else f"{number}/{seen[number]}"
        )
        if item_id in ids:
            raise UserError(
                f"{record.where}: item {item_id!r} was there before, {ids[item_id][1]}. Leave one of the "
                "two out."
            )
        ids[item_id] = (number, record.where)
    return [(item_id, number) for item_id, (number, _) in ids.items()]


def coco_answers(records: Sequence[Record]) -> pd.DataFrame:
    """Table of answers: item_id, image_id, question ("" without one), answer.

    Raises:
        UserError: A record is damaged; names the line.
    """
    rows = [
        (*ids, record.question() or "", record.answer()) for ids, record in zip(coco_ids(records), records)
    ]
    return pd.DataFrame(rows, columns=["item_id", "image_id", "question", "answer"])


def extracted_objects(path: str | Path, answers: pd.DataFrame) -> dict[str, list[str]]:
    """Objects by item_id, of a file with item_id (or image_id) and ``objects``.

    A record whose objects are null is as if it weren't there.

    Raises:
        UserError: A record is damaged, of no answer, or of one of several answers about an image and doesn't
            say which; names the line.
    """
    records = read_records(path)
    known = set(answers["item_id"])
    by_item = all(record.get("item_id") is not None for record in records)
    ids = (
        [record.identifier("item_id") for record in records]
        if by_item
        else [item_id for item_id, _ in coco_ids(records)]
    )
    several = set() if by_item else set(answers["image_id"][answers["image_id"].duplicated()])
    for item_id, record in zip(ids, records):
        if several and coco_number(record) in several:
            raise UserError(
                f"{record.where}: there are several answers about image {coco_number(record)}. Add the "
                "'item_id' to the records of both files."
            )
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
