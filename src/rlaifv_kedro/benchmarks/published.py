"""The benchmarks' published files as tables of items, and answers put to the items."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from rlaifv_kedro.benchmarks.amber import GENERATIVE, Words
from rlaifv_kedro.benchmarks.answer_files import ANSWER_NAMES, ITEM_NAMES, Record, read_records
from rlaifv_kedro.benchmarks.mmhal import TYPES, type_of
from rlaifv_kedro.benchmarks.pope import SPLITS
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import read_bytes, shown

YES_NO = ("yes", "no")


def mmhal_items(path: Path) -> pd.DataFrame:
    """MMHal-Bench: item_id ("0" to "95"), image_id, kind, image_content, question, gt_answer.

    Args:
        path: The published JSON, or a folder with it alone.

    Raises:
        UserError: There is no such file, or it is damaged; names the record.
    """
    rows = [
        (
            str(i),
            r.text("image_id"),
            r.choice("question_type", TYPES),
            r.texts("image_content"),
            r.text("question"),
            r.text("gt_answer"),
        )
        for i, r in enumerate(
            read_records(
                _file(path, r"(.*mmhal.*|response_template)\.jsonl?", "mmhal-bench_answer_template.json")
            )
        )
    ]
    return pd.DataFrame(
        rows, columns=["item_id", "image_id", "kind", "image_content", "question", "gt_answer"]
    )


def refomb_items(folder: Path) -> pd.DataFrame:
    """RefoMB: item_id, image_id (its address), kind, description, question, reference_answer (GPT-4V's).

    Args:
        folder: With the questions (``RefoMB_dev.jsonl``) and the answers of GPT-4V
            (``gpt4v_RefoMB_dev_*.jsonl``).

    Raises:
        UserError: A file is missing or damaged, or a question has no answer; names the line.
    """
    reference = {
        r.identifier("id"): r.text("answer")
        for r in read_records(_file(folder, r".*gpt4v.*\.jsonl", "gpt4v_RefoMB_dev.jsonl"))
    }
    rows = []
    for r in read_records(_file(folder, r"(?!.*gpt4v).*RefoMB.*\.jsonl", "RefoMB_dev.jsonl")):
        item_id = r.identifier("id")
        if item_id not in reference:
            raise UserError(
                f"{r.where}: GPT-4V's answers have none to id {item_id}. Give both files of the same split."
            )
        rows.append(
            (
                item_id,
                r.identifier("image_url"),
                r.text("type"),
                r.text("description"),
                r.text("question"),
                reference[item_id],
            )
        )
    return pd.DataFrame(
        rows, columns=["item_id", "image_id", "kind", "description", "question", "reference_answer"]
    )


def amber_items(folder: Path) -> tuple[pd.DataFrame, Words]:
    """AMBER: item_id, type, truth, hallu; and its words.

    Args:
        folder: With ``annotations.json``, ``relation.json`` and ``safe_words.txt``.

    Raises:
        UserError: A file is missing or damaged; names the record.
    """
    rows = []
    for r in read_records(folder / "annotations.json"):
        described = r.text("type") == GENERATIVE
        truth = r.texts("truth") if described else r.choice("truth", YES_NO)
        rows.append((r.identifier("id"), r.text("type"), truth, r.texts("hallu") if described else []))
    relation = _object(folder / "relation.json")
    safe = (
        read_bytes(folder / "safe_words.txt", "Give AMBER's folder data.")
        .decode("utf-8", errors="replace")
        .split("\n")
    )
    words = Words(
        {word: relation.texts(word) for word in relation.fields},
        frozenset(filter(None, map(str.strip, safe))),
    )
    return pd.DataFrame(rows, columns=["item_id", "type", "truth", "hallu"]), words


def pope_items(folder: Path) -> pd.DataFrame:
    """POPE: item_id (SPLIT/QUESTION_ID), image_id (the number in the image's name), kind (the split),
    question, label.

    Args:
        folder: With ``coco_pope_random.json``, ``coco_pope_popular.json`` and ``coco_pope_adversarial.json``,
            or some of them.

    Raises:
        UserError: There is none, or one is damaged; names the line.
    """
    files = {split: path for split in SPLITS for path in sorted(folder.glob(f"*{split}*.json*"))}
    if not files:
        raise UserError(
            f"{shown(folder)} holds no *random*.json, *popular*.json or *adversarial*.json. Give the folder "
            "with POPE's questions."
        )
    rows = [
        (
            f"{split}/{r.identifier('question_id')}",
            image_number(r.text("image")),
            split,
            r.text("text"),
            r.choice("label", YES_NO),
        )
        for split, path in files.items()
        for r in read_records(path)
    ]
    return pd.DataFrame(rows, columns=["item_id", "image_id", "kind", "question", "label"])


def image_number(name: str) -> str:
    """The number that an image's name ends with: "COCO_val2014_000000310196.jpg" is 310196. A name without
    one stays as it is.
    """
    digits = re.search(r"(\d+)(\.\w+)?$", name)
    return str(int(digits[1])) if digits else name


def put_to(
    items: pd.DataFrame, records: Sequence[Record], image_key: Callable[[str], str] = str
) -> pd.DataFrame:
    """The items that are answered, in their order, with a column answer.

    An answer is put to the item of its item_id; without one to all items with its image_id and question (with
    the image_id alone, if items have no questions or the record has none).

    Raises:
        UserError: An answer fits no item, or an item has two different answers; names the lines.
    """
    by_id: dict[tuple, list[int]] = {}
    for position, row in enumerate(items.itertuples()):
        for key in _keys(row):
            by_id.setdefault(key, []).append(position)
    found: dict[int, Record] = {}
    for record in records:
        key = _key(record, image_key)
        if key not in by_id:
            named = f"{key[0]} {' and '.join(map(repr, key[1:]))}"
            raise UserError(
                f"{record.where}: there is no item with {named}. Give the annotations of these questions."
            )
        for position in by_id[key]:
            before = found.setdefault(position, record)
            if before.text(*ANSWER_NAMES) != record.text(*ANSWER_NAMES):
                raise UserError(
                    f"{record.where}: there is another answer to the same question, {before.where}. Leave "
                    "one of the two out."
                )
    answered = items.iloc[sorted(found)].copy()
    answered["answer"] = [found[position].text(*ANSWER_NAMES) for position in sorted(found)]
    return answered.reset_index(drop=True)


def _keys(row) -> list[tuple]:
    keys = [("item_id", row.item_id)]
    if hasattr(row, "image_id"):
        keys += [("image_id and question", row.image_id, row.question.strip()), ("image_id", row.image_id)]
    return keys


def _key(record: Record, image_key: Callable[[str], str]) -> tuple:
    item_id = record.identifier(*ITEM_NAMES)
    if item_id is not None:
        return ("item_id", item_id)
    image_id = record.identifier("image_id", "image", "image_url")
    if image_id is None:
        raise UserError(
            f"{record.where}: it has neither item_id nor image_id. Add one, to say what it answers."
        )
    question = record.get("question")
    return (
        ("image_id and question", image_key(image_id), question.strip())
        if isinstance(question, str)
        else ("image_id", image_key(image_id))
    )


def without_items(records: Sequence[Record]) -> pd.DataFrame:
    """What answers say about themselves, where there are no annotations: item_id (without one their position,
    from 0), kind and label (None if they say nothing), answer.

    Raises:
        UserError: An item_id comes twice.
    """
    rows: dict[str, tuple] = {}
    for position, record in enumerate(records):
        item_id = record.identifier(*ITEM_NAMES) or str(position)
        if item_id in rows:
            raise UserError(f"{record.where}: item {item_id!r} was there before. Leave one of the two out.")
        kind = record.get("kind", "split", "question_type", "type")
        label = record.choice("label", YES_NO) if record.get("label") is not None else None
        rows[item_id] = (item_id, kind, label, record.text(*ANSWER_NAMES))
    return pd.DataFrame(list(rows.values()), columns=["item_id", "kind", "label", "answer"], dtype=object)


def mmhal_kinds(answers: pd.DataFrame) -> list[str | None]:
    """Each answer's type: as it says, or by its index, which is its item_id."""
    pairs = zip(answers["kind"], answers["item_id"])
    return [kind or (type_of(int(item_id)) if item_id.isdecimal() else None) for kind, item_id in pairs]


def _file(path: Path, pattern: str, example: str) -> Path:
    """The path itself if it is no folder, else the one file in it whose name fits.

    Raises:
        UserError: None does, or several.
    """
    if not path.is_dir():
        return path
    fitting = [file for file in sorted(path.iterdir()) if re.fullmatch(pattern, file.name, re.IGNORECASE)]
    if len(fitting) != 1:
        found = " and ".join(file.name for file in fitting) or "none"
        raise UserError(
            f"{shown(path)} should hold one file such as {example}; there is {found}. Give the folder with "
            "the published files."
        )
    return fitting[0]


def _object(path: Path) -> Record:
    """A file that is one JSON object.

    Raises:
        UserError: It is none.
    """
    try:
        value = json.loads(read_bytes(path, "Give AMBER's folder data."))
    except ValueError as error:
        raise UserError(f"{shown(path)}: not JSON ({error}). The file is damaged: fetch it again.") from error
    if not isinstance(value, dict):
        raise UserError(f"{shown(path)} is no JSON object of words. Give the published file.")
    return Record(value, shown(path))
