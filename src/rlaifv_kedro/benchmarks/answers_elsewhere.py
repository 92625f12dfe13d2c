"""Answers that were made elsewhere, scored from files: ``rlaifv score``."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from rlaifv_kedro.benchmarks.benchmark import (
    AnswerFiles,
    Benchmark,
    Judging,
    PublishedFile,
    Scored,
    Submission,
    item_table,
)
from rlaifv_kedro.benchmarks.judgement import Judgement, judgements_of
from rlaifv_kedro.benchmarks.matching import match_answers
from rlaifv_kedro.benchmarks.record_files import read_records
from rlaifv_kedro.benchmarks.records import ITEM_NAMES, Record, short
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
        answers = match_answers(items, records, benchmark.image_key, files.answers.name)
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
    if not path.is_dir() and len(published) > 1:  # one of several files, such as one of POPE's splits
        fitting = {name: sought for name, sought in published.items() if sought.fits(path)}
        if not fitting or not all(sought.optional for sought in published.values()):
            raise UserError(
                f"{shown(path)} is no folder. Give the folder with {benchmark.elsewhere.annotations}."
            )
        published = fitting
    found = {
        name: file for name, sought in published.items() if (file := published_file(path, sought)) is not None
    }
    if not found:
        examples = ", ".join(sought.example for sought in published.values())
        raise UserError(f"{shown(path)} holds none of {examples}. Give the folder with the published files.")
    return {name: read_records(file) for name, file in found.items()}


def published_file(path: Path, sought: PublishedFile) -> Path | None:
    """The one file in a folder, or else in its subfolders, whose name fits; None if an optional one lacks.

    A path that is no folder is the file itself.

    Raises:
        UserError: No file fits, or several.
    """
    if not path.is_dir():
        return path
    fitting = [file for file in sorted(path.glob("*")) if sought.fits(file)] or [
        file for file in sorted(path.glob("*/*")) if sought.fits(file)
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
                "two out; of several policies, give the replies to one."
            )
        reply = None if record.get("reply") is None else record.text("reply")
        rows[item_id, step] = (item_id, step, reply, record.get("error"))
    return pd.DataFrame(list(rows.values()), columns=["item_id", "step", "reply", "error"])
