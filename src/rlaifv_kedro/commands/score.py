"""``rlaifv score``: answers that were made elsewhere, scored without any policy."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from rlaifv_kedro.benchmarks import amber, mmhal, object_halbench, pope, refomb
from rlaifv_kedro.benchmarks.answer_files import coco_answers, extracted_objects, judged_replies, read_records
from rlaifv_kedro.benchmarks.benchmark import Judge, Judgement, Scored, judgements_of
from rlaifv_kedro.benchmarks.chair import score_chair
from rlaifv_kedro.benchmarks.coco.truth import coco_truth, truth_of
from rlaifv_kedro.benchmarks.coco.vocabulary import Vocabulary
from rlaifv_kedro.benchmarks.published import (
    amber_items,
    image_number,
    mmhal_items,
    mmhal_kinds,
    pope_items,
    put_to,
    refomb_items,
    without_items,
)
from rlaifv_kedro.errors import UserError


@dataclass(frozen=True)
class ScoreInputs:
    """What is scored, and against what.

    Attributes:
        answers: File of records with item_id or image_id, question, answer.
        annotations: Folder of the published files: COCO's instances and captions, MMHal-Bench, RefoMB, AMBER
            or POPE.
        vocabulary: File of words in the published format; None is our own.
        extracted: File of the objects of each answer.
        judgements: File of a judge's replies.
        spacy: Name or folder of a pipeline, or :data:`amber.EXACT`.
        judge: Asked where no judgements are given.
        judge_label: Who that is, for the protocol.
    """

    answers: Path
    annotations: Path | None = None
    vocabulary: Path | None = None
    extracted: Path | None = None
    judgements: Path | None = None
    spacy: str | None = None
    judge: Judge | None = None
    judge_label: str = ""


def score_file(benchmark: str, inputs: ScoreInputs) -> Scored:
    """The scores of a file of answers.

    Args:
        benchmark: A key of :data:`BENCHMARKS`.

    Raises:
        UserError: A file is missing or damaged, or given to a benchmark that has no use for it.
    """
    scorer, used = BENCHMARKS[benchmark]
    for name in ("annotations", "vocabulary", "extracted", "judgements", "spacy"):
        if getattr(inputs, name) is not None and name not in used:
            raise UserError(f"--{name}: {benchmark} has no use for it. Leave it out.")
    return scorer(inputs)


def as_json(benchmark: str, scored: Scored) -> dict[str, Any]:
    """For programs: benchmark, items, and metrics by name, each with value, n, failed, standard_error
    (null where not defined) and protocol.
    """

    def plain(value: Any) -> Any:
        return None if isinstance(value, float) and math.isnan(value) else value

    rows = scored.metrics.set_index("metric").to_dict("index")
    metrics = {name: {key: plain(value) for key, value in row.items()} for name, row in rows.items()}
    return {"benchmark": benchmark, "items": int(scored.items["item_id"].nunique()), "metrics": metrics}


def show(benchmark: str, scored: Scored) -> None:
    """A table for people."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{benchmark}: {scored.items['item_id'].nunique():,} answers")
    table.add_column("metric", no_wrap=True)
    for title in ("value", "standard error", "n", "failed"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in scored.metrics.itertuples():
        numbers = (
            "-" if math.isnan(number) else f"{number:.4f}" for number in (row.value, row.standard_error)
        )
        table.add_row(row.metric, *numbers, f"{row.n:,}", f"{row.failed:,}")
    console = Console()
    console.width = max(console.width, 110)
    console.print(table)
    for protocol in scored.metrics["protocol"].unique():
        console.print(protocol, markup=False, highlight=False)


def _chair(inputs: ScoreInputs) -> Scored:
    vocabulary = _vocabulary(inputs)
    return score_chair(coco_answers(inputs.answers), _truth(inputs, vocabulary), vocabulary)


def _object_halbench(inputs: ScoreInputs) -> Scored:
    """By rule, unless objects, replies or a judge are given."""
    if inputs.extracted and inputs.judgements:
        raise UserError("--extracted and --judgements: both say what the objects are. Give one of the two.")
    answers, vocabulary = coco_answers(inputs.answers), _vocabulary(inputs)
    if inputs.extracted:
        objects = extracted_objects(inputs.extracted, answers)
        return object_halbench.score_extracted(
            answers, objects, _truth(inputs, vocabulary), vocabulary, f"objects of {inputs.extracted.name}"
        )
    if inputs.judgements is None and inputs.judge is None:
        if inputs.spacy is not None:
            raise UserError(
                "--spacy: without --judgements there are no objects to analyse. Give the extractor's "
                "replies, or leave it out."
            )
        return object_halbench.score_by_rule(answers, _truth(inputs, vocabulary), vocabulary)
    from rlaifv_kedro.benchmarks.spacy_pipeline import label_of, load_pipeline

    def is_step(name: str) -> bool:
        return name == object_halbench.STEP

    pipeline = load_pipeline(inputs.spacy or object_halbench.PIPELINE)  # before anything costs money
    found, who = _judgements(
        inputs,
        answers,
        is_step,
        object_halbench.STEP,
        object_halbench.read_objects,
        lambda judge: object_halbench.extract_objects(answers, judge),
    )
    objects = object_halbench.analysed(found, pipeline, vocabulary)
    how = f"objects by {who}, analysed by {label_of(pipeline)}"
    return object_halbench.score_extracted(answers, objects, _truth(inputs, vocabulary), vocabulary, how)


def _mmhal(inputs: ScoreInputs) -> Scored:
    records = read_records(inputs.answers)
    if inputs.annotations:
        items = mmhal_items(inputs.annotations)
        answers = put_to(items, records)
    else:
        items = answers = without_items(records)
        answers["kind"] = mmhal_kinds(answers)
    found, who = _judgements(
        inputs,
        answers,
        lambda name: name == mmhal.STEP,
        mmhal.STEP,
        mmhal.read_rating,
        lambda judge: mmhal.rate(answers, judge),
    )
    return _partly(mmhal.score_mmhal(answers, found, f"rated by {who}"), answers, items)


def _refomb(inputs: ScoreInputs) -> Scored:
    records = read_records(inputs.answers)
    items = refomb_items(inputs.annotations) if inputs.annotations else without_items(records)
    answers = put_to(items, records) if inputs.annotations else items
    example = refomb.step(refomb.OVERALL, 1, False)
    found, who = _judgements(
        inputs,
        answers,
        refomb.is_step,
        example,
        refomb.read_verdict,
        lambda judge: refomb.compare(answers, judge),
    )
    return _partly(refomb.score_refomb(answers, found, f"compared by {who}"), answers, items)


def _amber(inputs: ScoreInputs) -> Scored:
    if inputs.annotations is None:
        raise UserError(
            "--annotations is missing: give the folder with AMBER's annotations.json, relation.json and "
            "safe_words.txt."
        )
    items, words = amber_items(inputs.annotations)
    answers = put_to(items, read_records(inputs.answers))
    matcher: amber.Matcher
    if inputs.spacy == amber.EXACT or not (answers["type"] == amber.GENERATIVE).any():
        matcher = amber.ExactMatcher(words)
    else:
        from rlaifv_kedro.benchmarks.spacy_pipeline import load_pipeline

        try:
            matcher = amber.VectorMatcher(load_pipeline(inputs.spacy or amber.PIPELINE))
        except UserError as error:
            raise UserError(
                f"{error.message} Or --spacy {amber.EXACT} matches words exactly, without any model."
            ) from error
    return _partly(amber.score_amber(answers, words, matcher), answers, items)


def _pope(inputs: ScoreInputs) -> Scored:
    records = read_records(inputs.answers)
    if inputs.annotations:
        items = pope_items(inputs.annotations)
        return _partly(pope.score_pope(answers := put_to(items, records, image_number)), answers, items)
    answers = without_items(records)
    for record, label, kind in zip(records, answers["label"], answers["kind"]):
        if label is None:
            raise UserError(
                f"{record.where}: it has no 'label' (yes or no). Add it, or give POPE's questions with "
                "--annotations."
            )
        if (kind is None) != (answers["kind"][0] is None):
            raise UserError(
                f"{record.where}: some records have a 'split', others don't. Add it to all, or to none."
            )
    return pope.score_pope(answers)


BENCHMARKS: dict[str, tuple[Callable[[ScoreInputs], Scored], frozenset[str]]] = {
    "chair": (_chair, frozenset(("annotations", "vocabulary"))),
    "object_halbench": (
        _object_halbench,
        frozenset(("annotations", "vocabulary", "extracted", "judgements", "spacy")),
    ),
    "mmhal": (_mmhal, frozenset(("annotations", "judgements"))),
    "refomb": (_refomb, frozenset(("annotations", "judgements"))),
    "amber": (_amber, frozenset(("annotations", "spacy"))),
    "pope": (_pope, frozenset(("annotations",))),
}
"""Name -> what scores its answers, and which options that has a use for."""


def _vocabulary(inputs: ScoreInputs) -> Vocabulary:
    return Vocabulary.from_file(inputs.vocabulary) if inputs.vocabulary else Vocabulary.own()


def _truth(inputs: ScoreInputs, vocabulary: Vocabulary) -> dict[int, frozenset[str]]:
    from rlaifv_kedro.datasets.coco_annotations import CocoAnnotations

    if inputs.annotations is None:
        raise UserError(
            "--annotations is missing: give the folder (or zip) with COCO's instances_*2014.json and "
            "captions_*2014.json."
        )
    return truth_of(coco_truth(CocoAnnotations(inputs.annotations), vocabulary), vocabulary)


def _judgements(
    inputs: ScoreInputs,
    answers: pd.DataFrame,
    is_step: Callable[[str], bool],
    example: str,
    read: Callable[[str], Any],
    ask: Callable[[Judge], list[Judgement]],
) -> tuple[list[Judgement], str]:
    """Of the file, or else of the judge; and who judged."""
    if inputs.judgements is not None:
        table = judged_replies(inputs.judgements, set(answers["item_id"]), is_step, example)
        return judgements_of(table, lambda _, reply: read(reply)), inputs.judgements.name
    if inputs.judge is None:
        raise UserError(
            "--judgements is missing: give a file with the judge's replies, a record each with item_id, "
            f"step ({example!r}) and reply."
        )
    if inputs.annotations is None:
        raise UserError(
            "--annotations is missing: the judge needs what is known about the images. Give the folder with "
            "the published files."
        )
    return ask(inputs.judge), inputs.judge_label


def _partly(scored: Scored, answers: pd.DataFrame, items: pd.DataFrame) -> Scored:
    """Says in the protocol if not all items are answered."""
    if len(answers) == len(items):
        return scored
    said = f"; answers to {len(answers):,} of {len(items):,} items"
    return replace(scored, metrics=scored.metrics.assign(protocol=scored.metrics["protocol"] + said))
