"""Answers that were made elsewhere, scored from files: ``rlaifv score``."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from rlaifv_kedro.benchmarks.benchmark import (
    AnswerFiles,
    Benchmark,
    Item,
    Judging,
    PublishedFile,
    Scored,
    Submission,
    item_table,
)
from rlaifv_kedro.benchmarks.judgement import Judgement, judgements_of
from rlaifv_kedro.benchmarks.records import ANSWER_NAMES, ITEM_NAMES, Record, read_records, short
from rlaifv_kedro.benchmarks.scoring import answered_items
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown
from rlaifv_kedro.params import BenchmarksParams

OPTIONS = ("annotations", "vocabulary", "extracted", "judgements", "spacy")
"""Fields of :class:`AnswerFiles` that are not every benchmark's."""


def score_file(benchmark: Benchmark, files: AnswerFiles) -> Scored:
    """The scores of a file of answers.

    Raises:
        UserError: A file is missing or damaged, or given to a benchmark that has no use for it.
    """
    elsewhere = benchmark.elsewhere
    for name in OPTIONS:
        if getattr(files, name) is not None and name not in elsewhere.options:
            raise UserError(f"--{name}: {benchmark.name} has no use for it. Leave it out.")
    params = elsewhere.params(files)
    answered, partly = _answered(benchmark, files)
    known = elsewhere.known(files, answered)
    judgements: list[Judgement] = []
    judge = ""
    if benchmark.is_judged(params):
        if files.judgements is None and files.judge is not None:
            benchmark.refuse_unready(params)  # before anything costs money
        judgements, judge = _judgements(benchmark, files, answered, params)
    scored = benchmark.score(Submission(answered, judgements, judge, known, params))
    return replace(scored, metrics=scored.metrics.assign(protocol=scored.metrics["protocol"] + partly))


def _answered(benchmark: Benchmark, files: AnswerFiles) -> tuple[pd.DataFrame, str]:
    """``Submission.answered``, and what to say in the protocol if not all items are answered."""
    records = read_records(files.answers)
    if benchmark.elsewhere.published and files.annotations is not None:
        items = benchmark.items(**_published_records(benchmark, files.annotations))
        answers = match_answers(items, records, benchmark.image_key)
        table = item_table(benchmark, items)
        answered = answered_items(table[table["item_id"].isin(answers["item_id"])], answers)
        few = f"; answers to {len(answered):,} of {len(items):,} items"
        return answered, few if len(answered) < len(items) else ""
    if benchmark.elsewhere.without_items is None:
        raise UserError(f"--annotations is missing: give the folder with {benchmark.elsewhere.annotations}.")
    return benchmark.elsewhere.without_items(records), ""


def _published_records(benchmark: Benchmark, path: Path) -> dict[str, list[Record]]:
    """Argument of the benchmark's ``items`` -> the records of its file.

    Raises:
        UserError: A file is missing, or several fit.
    """
    published = benchmark.elsewhere.published
    if len(published) > 1 and not path.is_dir():
        raise UserError(
            f"{shown(path)} is no folder. Give the folder with {benchmark.elsewhere.annotations}."
        )
    found = {
        name: file for name, sought in published.items() if (file := published_file(path, sought)) is not None
    }
    if not found:
        examples = ", ".join(sought.example for sought in published.values())
        raise UserError(f"{shown(path)} holds none of {examples}. Give the folder with the published files.")
    return {name: read_records(file) for name, file in found.items()}


def published_file(path: Path, sought: PublishedFile) -> Path | None:
    """The one file in a folder whose name fits; None if the folder lacks an optional one.

    A path that is no folder is the file itself.

    Raises:
        UserError: No file fits, or several.
    """
    if not path.is_dir():
        return path
    fitting = [
        file for file in sorted(path.iterdir()) if re.fullmatch(sought.pattern, file.name, re.IGNORECASE)
    ]
    if not fitting and sought.optional:
        return None
    if len(fitting) != 1:
        found = " and ".join(file.name for file in fitting) or "none"
        raise UserError(
            f"{shown(path)} should hold one file such as {sought.example}; there is {found}. Give the folder "
            "with the published files."
        )
    return fitting[0]


def match_answers(
    items: Sequence[Item], records: Sequence[Record], image_key: Callable[[str], str] = str
) -> pd.DataFrame:
    """Find the item or items that each record answers.

    An answer belongs to the item of its item_id; without one to all items with its image_id and question
    (with the image_id alone, if the record has no question).

    Returns:
        item_id and answer of the items that are answered, in the order of the items.

    Raises:
        UserError: An answer fits no item, or an item has two different answers; names the lines.
    """
    items_of: dict[tuple[str, ...], list[str]] = {}
    for item in items:
        for key in _keys(item):
            items_of.setdefault(key, []).append(item.item_id)
    found: dict[str, Record] = {}
    for record in records:
        key = _key(record, image_key)
        if key not in items_of:
            named = f"{key[0]} {' and '.join(map(repr, key[1:]))}"
            raise UserError(
                f"{record.where}: there is no item with {named}. Give the annotations of these questions."
            )
        for item_id in items_of[key]:
            before = found.setdefault(item_id, record)
            if before.text(*ANSWER_NAMES) != record.text(*ANSWER_NAMES):
                raise UserError(
                    f"{record.where}: there is another answer to the same question, {before.where}. Leave "
                    "one of the two out."
                )
    rows = [
        (item.item_id, found[item.item_id].text(*ANSWER_NAMES)) for item in items if item.item_id in found
    ]
    return pd.DataFrame(rows, columns=["item_id", "answer"])


def _keys(item: Item) -> list[tuple[str, ...]]:
    keys = [("item_id", item.item_id)]
    if item.image_key is not None:
        keys.append(("image_id and question", item.image_key, item.question.strip()))
        keys.append(("image_id", item.image_key))
    return keys


def _key(record: Record, image_key: Callable[[str], str]) -> tuple[str, ...]:
    item_id = record.identifier_if_any(*ITEM_NAMES)
    if item_id is not None:
        return "item_id", item_id
    image_id = record.identifier_if_any("image_id", "image", "image_url")
    if image_id is None:
        raise UserError(
            f"{record.where}: it has neither item_id nor image_id. Add one, to say what it answers."
        )
    question = record.get("question")
    if isinstance(question, str):
        return "image_id and question", image_key(image_id), question.strip()
    return "image_id", image_key(image_id)


def _judgements(
    benchmark: Benchmark, files: AnswerFiles, answered: pd.DataFrame, params: BenchmarksParams
) -> tuple[list[Judgement], str]:
    """The judgements of the file, or else of the judge; and who judged."""
    judging = benchmark.judging
    if files.judgements is not None:
        table = judged_replies(files.judgements, set(answered["item_id"]), judging)
        return judgements_of(table, judging.read), files.judgements.name
    if files.judge is None:
        raise UserError(
            "--judgements is missing: give a file with the judge's replies, a record each with item_id, "
            f"step ({judging.step!r}) and reply."
        )
    if files.annotations is None:
        raise UserError(
            "--annotations is missing: the judge needs what is known about the images. Give the folder with "
            "the published files."
        )
    return judging.ask(answered, files.judge, params), files.judge_label


def judged_replies(path: str | Path, known: set[str], judging: Judging) -> pd.DataFrame:
    """item_id, step, reply (None: none came) and error of a file of a judge's replies.

    Args:
        known: The items that were answered.

    Raises:
        UserError: A record is damaged, of no answer, of no step of the benchmark, or there twice; names the
            line.
    """
    rows: dict[tuple[str, str], tuple] = {}
    for record in read_records(path):
        item_id, step = record.identifier_if_any(*ITEM_NAMES), record.text("step")
        if item_id not in known:
            raise UserError(
                f"{record.where}: there is no answer with the item_id {short(item_id)}. Give both files of "
                "the same run."
            )
        if not judging.is_step(step):
            raise UserError(
                f"{record.where}: {step!r} is no step of this benchmark. A step of it is {judging.step!r}."
            )
        if (item_id, step) in rows:
            raise UserError(
                f"{record.where}: item {item_id!r} has a reply of step {step!r} before. Leave one of the "
                "two out."
            )
        reply = None if record.get("reply") is None else record.text("reply")
        rows[item_id, step] = (item_id, step, reply, record.get("error"))
    return pd.DataFrame(list(rows.values()), columns=["item_id", "step", "reply", "error"])
