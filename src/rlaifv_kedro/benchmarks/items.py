"""The published benchmarks as one table, ``benchmark_items``: what is asked about which picture, and what a
scorer has to know.

``reference`` is JSON with the columns that the benchmark's scorer takes beside item_id, question and answer.
Pictures are left out (null) where none are given: answers made elsewhere are scored without them.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import pandas as pd

from rlaifv_kedro.benchmarks.amber import GENERATIVE
from rlaifv_kedro.benchmarks.answer_files import Record
from rlaifv_kedro.benchmarks.mmhal import TYPES, type_of
from rlaifv_kedro.benchmarks.pope import SPLITS
from rlaifv_kedro.benchmarks.published import YES_NO, image_number
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.schemas import check, table
from rlaifv_kedro.seeds import seed_for

Entry = dict[str, Any]


class Pictures(Protocol):
    """Pictures by name, as ``datasets.Images`` finds them."""

    def find(self, names: Iterable[str]) -> dict[str, Any]: ...


def object_halbench_items(questions: Sequence[Entry]) -> pd.DataFrame:
    """Object HalBench's prompts with their pictures; the truth about these is COCO's, by image_id.

    Args:
        questions: ``obj_halbench_300_with_image.jsonl``: image_id, question, image (base64).

    Raises:
        UserError: A record is not of that form; names it.
    """
    rows = []
    for number, record in enumerate(_records(questions, "Object HalBench's questions")):
        image_id = record.identifier("image_id") or ""
        if not image_id.isdecimal():
            raise UserError(
                f"{record.where}: 'image_id' should be COCO's number of the image, but is {image_id!r}. "
                "Give the published file."
            )
        picture = {"bytes": _decoded(record), "path": None}
        rows.append(
            _row("object_halbench", str(number), record.text("question"), picture, int(image_id), None, {})
        )
    return _table(rows, "Object HalBench")


def caption_items(
    truth: pd.DataFrame, pictures: Pictures, *, images: int, split: str, prompt: str, seed: int
) -> pd.DataFrame:
    """CHAIR on images of COCO: one prompt for all of them.

    Args:
        truth: A table ``coco_truth``.
        images: How many are drawn.
        split: Of which.
        seed: Which ones; fewer images with the same seed are among the more.

    Raises:
        UserError: The split has fewer images, or pictures are missing.
    """
    rows = truth.loc[truth["split"] == split, ["image_id", "file_name"]]
    if len(rows) < images:
        known = ", ".join(sorted(truth["split"].unique())) or "none"
        raise UserError(
            f"benchmark_data.chair_images={images}: coco_truth has {len(rows):,} images of {split} (its "
            f"splits: {known}). Lower it."
        )
    order = sorted(rows.itertuples(index=False), key=lambda row: seed_for(seed, "chair", row.image_id))
    drawn = sorted(order[:images], key=lambda row: row.image_id)
    found = pictures.find(row.file_name for row in drawn)
    return _table(
        [
            _row("chair", str(row.image_id), prompt, found[row.file_name], row.image_id, None, {})
            for row in drawn
        ],
        "CHAIR",
    )


def mmhal_items(questions: Sequence[Entry], pictures: Pictures | None = None) -> pd.DataFrame:
    """MMHal-Bench; item_id is the index, from 0, which says the type as well.

    Args:
        questions: The published JSON: question_type, image_id, image_src, image_content, question, gt_answer.

    Raises:
        UserError: A record is not of that form, or not of the type that its index says; names it. Pictures
            are missing.
    """
    records = _records(questions, "MMHal-Bench's questions")
    found = _found(pictures, (record.text("image_src") for record in records))
    rows = []
    for index, record in enumerate(records):
        kind = record.choice("question_type", TYPES)
        if kind != type_of(index):
            raise UserError(
                f"{record.where}: its type is {kind!r}, and should be {type_of(index)!r}. Give the "
                "questions in the published order."
            )
        reference = {
            "image_id": record.text("image_id"),
            "image_content": record.texts("image_content"),
            "gt_answer": record.text("gt_answer"),
        }
        rows.append(
            _row(
                "mmhal",
                str(index),
                record.text("question"),
                found.get(record.text("image_src")),
                None,
                kind,
                reference,
            )
        )
    return _table(rows, "MMHal-Bench")


def refomb_items(
    questions: Sequence[Entry], reference: Sequence[Entry], pictures: Pictures | None = None
) -> pd.DataFrame:
    """RefoMB.

    Args:
        questions: ``RefoMB_dev.jsonl``: id, image_url, question, description, type.
        reference: The same with GPT-4V's answers: id, question, answer.

    Raises:
        UserError: A record is not of that form, or a question has no answer by GPT-4V; names it. Pictures are
            missing.
    """
    records = _records(questions, "RefoMB's questions")
    answers = {record.identifier("id"): record for record in _records(reference, "GPT-4V's answers")}
    found = _found(pictures, (record.text("image_url") for record in records))
    rows = []
    for record in records:
        item_id = record.identifier("id") or ""
        answered = answers.get(item_id)
        if (
            answered is None
            or answered.text("question") != record.text("question")
            or not answered.text("answer").strip()
        ):
            raise UserError(
                f"{record.where}: GPT-4V's answers have none to this question, id {item_id}. Give both "
                "files of the same split."
            )
        known = {"description": record.text("description"), "reference_answer": answered.text("answer")}
        rows.append(
            _row(
                "refomb",
                item_id,
                record.text("question"),
                found.get(record.text("image_url")),
                None,
                record.text("type"),
                known,
            )
        )
    return _table(rows, "RefoMB")


def amber_items(
    questions: Sequence[Entry], annotations: Sequence[Entry], pictures: Pictures | None = None
) -> pd.DataFrame:
    """AMBER, descriptions and yes/no questions; image_id is the number in the picture's name.

    Args:
        questions: ``query_all.json`` or another query file: id, image, query.
        annotations: ``annotations.json``: id, type, truth, and hallu for descriptions.

    Raises:
        UserError: A record is not of that form, or a question has no annotation; names it. Pictures are
            missing.
    """
    known = {record.identifier("id"): record for record in _records(annotations, "AMBER's annotations")}
    records = _records(questions, "AMBER's questions")
    found = _found(pictures, (record.text("image") for record in records))
    rows = []
    for record in records:
        item_id = record.identifier("id") or ""
        if item_id not in known:
            raise UserError(
                f"{record.where}: AMBER's annotations have none of id {item_id}. Give both files of the "
                "same release."
            )
        annotation, name = known[item_id], record.text("image")
        kind = annotation.text("type")
        if kind == GENERATIVE:
            truth = {"truth": annotation.texts("truth"), "hallu": annotation.texts("hallu")}
        else:
            truth = {"truth": annotation.choice("truth", YES_NO)}
        number = image_number(name)
        image_id = int(number) if number.isdecimal() else None
        rows.append(_row("amber", item_id, record.text("query"), found.get(name), image_id, kind, truth))
    return _table(rows, "AMBER")


def pope_items(splits: dict[str, Sequence[Entry]], pictures: Pictures | None = None) -> pd.DataFrame:
    """POPE; item_id is SPLIT/QUESTION_ID, kind the split.

    Args:
        splits: Of each split its file: question_id, image (a file name of COCO), text, label.

    Raises:
        UserError: A split is unknown, or a record is not of that form; names it. Pictures are missing.
    """
    rows = []
    for split, questions in splits.items():
        if split not in SPLITS:
            raise UserError(f"POPE has no split {split!r}. Its splits: {', '.join(SPLITS)}.")
        records = _records(questions, f"POPE's {split} questions")
        found = _found(pictures, (record.text("image") for record in records))
        for record in records:
            name, number = record.text("image"), image_number(record.text("image"))
            if not number.isdecimal():
                raise UserError(
                    f"{record.where}: 'image' should be a file name of COCO with the image's number, but is "
                    f"{name!r}."
                )
            label = {"label": record.choice("label", YES_NO)}
            item_id = f"{split}/{record.identifier('question_id')}"
            rows.append(
                _row("pope", item_id, record.text("text"), found.get(name), int(number), split, label)
            )
    return _table(rows, "POPE")


def _records(entries: Any, name: str) -> list[Record]:
    """The entries, each of which knows its place, counted from 1."""
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{name}: the file is no list of JSON objects. Give the published file.")
    return [
        Record(entry, f"{name}, record {number} (from 1)") for number, entry in enumerate(entries, start=1)
    ]


def _decoded(record: Record) -> bytes:
    try:
        return base64.b64decode(record.text("image"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(
            f"{record.where}: 'image' is no base64 ({error}). Give the published file with its images."
        ) from error


def _found(pictures: Pictures | None, names: Iterable[str]) -> dict[str, Any]:
    return {} if pictures is None else pictures.find(list(names))


def _row(
    benchmark: str,
    item_id: str,
    question: str,
    image: Any,
    image_id: int | None,
    kind: str | None,
    reference: Entry,
) -> tuple:
    return benchmark, item_id, question, image, image_id, kind, json.dumps(reference, ensure_ascii=False)


def _table(rows: list[tuple], name: str) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=table("benchmark_items").schema.names)
    return check("benchmark_items", frame.astype({"image_id": "Int64"}), where=name)
