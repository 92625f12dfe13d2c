"""What a benchmark is: one object that says what is asked, judged, scored and shown.

Each benchmark has a module that ends with its object; :data:`rlaifv_kedro.benchmarks.registry.BENCHMARKS`
lists them. Nothing else knows a benchmark by its name.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from rlaifv_kedro.benchmarks.judgement import Judge, Judgement
from rlaifv_kedro.benchmarks.records import Record, image_name
from rlaifv_kedro.datasets.images import Images
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.images import image_fault
from rlaifv_kedro.params import BenchmarkDataParams, BenchmarksParams
from rlaifv_kedro.schemas import check, table


@dataclass(frozen=True)
class Item:
    """One question of a benchmark, as the published files state it.

    Attributes:
        item_id, question: As in the tables.
        where: File and record, for messages.
        reference: What the scorer has to know of the item; its keys become columns beside ``answer``.
        kind: The item's type, None without one.
        image_id: Number of the image, None without one.
        picture: The bytes of the picture, or the name by which ``Benchmark.pictures`` finds it.
        number: What the published file numbers it by, where ``item_id`` says more. An answer that was made
            elsewhere may have it.
        image_key: What such an answer may call the image beside ``picture``.
    """

    item_id: str
    question: str
    where: str
    reference: Mapping[str, Any] = field(default_factory=dict)
    kind: str | None = None
    image_id: int | None = None
    picture: bytes | str | None = None
    number: str | None = None
    image_key: str | None = None


@dataclass(frozen=True)
class Submission:
    """One policy's answers to a benchmark, and what there is to score them with.

    Attributes:
        answered: The answered items: item_id, question, image_id, kind, answer, and a column for each key of
            ``Item.reference``.
        judgements: Those of the judge; empty without one.
        judge: Who that was, for the protocol.
        known: What ``Benchmark.knowledge`` names, loaded.
    """

    answered: pd.DataFrame
    judgements: Sequence[Judgement] = ()
    judge: str = ""
    known: Mapping[str, Any] = field(default_factory=dict)
    params: BenchmarksParams = BenchmarksParams()


@dataclass(frozen=True)
class Scored:
    """A benchmark's result for one policy.

    Attributes:
        items: One row an item and metric: item_id, kind (the item's type, None without one), image_id (as
            text; items of one image are not independent), metric, value (NaN: not defined for this item, or
            its judgement failed), weight (the metric is sum(value * weight) / sum(weight): mentions for a
            rate of mentions, 1 for a mean over items, 0 where there is no value), note (what was found, for
            people).
        metrics: metric, value, n, failed, standard_error, protocol; shares are fractions 0..1. Those of one
            type of items are called METRIC_TYPE.
    """

    items: pd.DataFrame
    metrics: pd.DataFrame

    @classmethod
    def joined(cls, parts: Sequence["Scored"]) -> "Scored":
        """The tables of several in one: of a benchmark's parts, or of all policies."""
        tables = ([part.items for part in parts], [part.metrics for part in parts])
        return cls(*(pd.concat(each, ignore_index=True) for each in tables))


@dataclass(frozen=True)
class Judging:
    """What a benchmark asks a text LLM.

    Attributes:
        ask: Asks the judge all there is to ask about the answers (``Submission.answered``).
        read: The verdict in a reply; None if it holds none.
        step: What one of its questions about an item is called, for messages.
        steps: A regular expression of what all of them are called; None where ``step`` is the only one.
        prompts: Parameter that names another wording (``benchmarks.NAME``) -> the places for texts in it.
        wanted: Whether these parameters want a judge at all.
        instead: What to say of doing without a judge, where none is named.
        not_counted: What the estimate of the cost can't know, for people.
    """

    ask: Callable[[pd.DataFrame, Judge, BenchmarksParams], list[Judgement]]
    read: Callable[[str], Any]
    step: str
    steps: str | None = None
    prompts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    wanted: Callable[[BenchmarksParams], bool] = lambda params: True
    instead: str = ""
    not_counted: str = ""

    def is_step(self, name: str) -> bool:
        """Whether one of its questions is called so."""
        return name == self.step if self.steps is None else re.fullmatch(self.steps, name) is not None


@dataclass(frozen=True)
class PublishedFile:
    """A file that ``rlaifv score --annotations FOLDER`` looks for.

    Attributes:
        pattern: A regular expression of its name, whatever the case.
        example: Its published name, for messages.
        optional: Whether the folder may lack it.
    """

    pattern: str
    example: str
    optional: bool = False

    def fits(self, path: Path) -> bool:
        """Whether a file is called so."""
        return re.fullmatch(self.pattern, path.name, re.IGNORECASE) is not None


@dataclass(frozen=True)
class AnswerFiles:
    """What ``rlaifv score`` was given.

    Attributes:
        answers: File of records with item_id or image_id, question, answer.
        annotations: Folder of the published files: COCO's instances and captions, or the benchmark's own.
        vocabulary: File of words in the published format; None is our own.
        extracted: File of the objects of each answer.
        judgements: File of a judge's replies.
        spacy: Name or folder of a pipeline, or ``exact``.
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


@dataclass(frozen=True)
class AnswersElsewhere:
    """How ``rlaifv score`` reads answers to a benchmark that were made elsewhere.

    Attributes:
        options: Which of its options the benchmark has a use for, beside ``answers``.
        published: Argument of ``Benchmark.items`` -> the file in the folder of ``--annotations``.
        annotations: What the folder should hold, for the message that it is missing.
        without_items: ``Submission.answered`` of the records alone, where there are no items; None: the
            published files are needed.
        known: ``Submission.known``, from files.
        params: Parameters as the options say.
    """

    options: frozenset[str] = frozenset({"annotations"})
    published: Mapping[str, PublishedFile] = field(default_factory=dict)
    annotations: str = "the published files"
    without_items: Callable[[Sequence[Record]], pd.DataFrame] | None = None
    known: Callable[[AnswerFiles, pd.DataFrame], Mapping[str, Any]] = lambda files, answered: {}
    params: Callable[[AnswerFiles], BenchmarksParams] = lambda files: BenchmarksParams()


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: In parameters, entries of the catalog and tables.
        title: For people.
        inputs: Argument of ``items`` -> entry of the catalog, or parameters (``params:...``), that it is.
        items: The questions, of these inputs.
        pictures: Entry of the catalog that finds the items' pictures; None where the items hold their bytes.
        score: Metrics of a policy's answers.
        headline: The metrics that are published, and without which these mislead.
        verdicts: Metrics whose value of an item is the verdict on its answer -> whether a high value is good.
        judging: What a text LLM is asked, None if nothing.
        knowledge: Argument of ``Submission.known`` -> entry of the catalog: what the scorer has to know
            beside the items. The parameters say by which words COCO's captions are read.
        refuse_unready: Looks whether what the scorer needs, such as a spaCy pipeline, is installed.
        is_yes_no: Whether an item of this kind is to be answered by yes or no.
        image_key: Of what an answer made elsewhere, or an item, calls its image, what all names of it share.
        elsewhere: How answers that were made elsewhere are read.
    """

    name: str
    title: str
    inputs: Mapping[str, str]
    items: Callable[..., list[Item]]
    score: Callable[[Submission], Scored]
    headline: tuple[str, ...]
    verdicts: Mapping[str, bool]
    pictures: str | None = None
    judging: Judging | None = None
    knowledge: Callable[[BenchmarkDataParams], Mapping[str, str]] = lambda params: {}
    refuse_unready: Callable[[BenchmarksParams], None] = lambda params: None
    is_yes_no: Callable[[str | None], bool] = lambda kind: False
    image_key: Callable[[str], str] = image_name
    elsewhere: AnswersElsewhere = AnswersElsewhere()

    def is_judged(self, params: BenchmarksParams) -> bool:
        """Whether a text LLM is asked about the answers."""
        return self.judging is not None and self.judging.wanted(params)

    def decoding(self, params: BenchmarksParams) -> str:
        """How policies answer, for the protocol: answers that an LLM judges are searched by beams."""
        return f"by {params.beams} beams" if self.is_judged(params) and params.beams > 1 else "greedy"

    def item_table(
        self, pictures: Images | None = None, params: BenchmarkDataParams | None = None, **inputs: Any
    ) -> pd.DataFrame:
        """The table ``benchmark_items``.

        Args:
            pictures: Where the items' pictures are; without it the items of most benchmarks have none (null).
            params: One of the inputs of ``items``, if it is among them: Kedro makes an object of parameters
                where an argument says of which type it is.
            inputs: The other inputs of ``items``.

        Raises:
            UserError: A published file is of another form, or a picture is missing or damaged; names the
                record or the picture.
        """
        inputs |= {} if params is None else {"params": params}
        items = self.items(**inputs)
        for item in items:
            if isinstance(item.picture, bytes) and (why := image_fault({"bytes": item.picture})):
                raise UserError(f"{item.where}: the picture can't be read ({why}). Give the published file.")
        return item_table(self, items, pictures)


def item_table(benchmark: Benchmark, items: Sequence[Item], pictures: Images | None = None) -> pd.DataFrame:
    """The table ``benchmark_items`` of some items; see :meth:`Benchmark.item_table`."""
    found = {} if pictures is None else pictures.find([_picture_name(item) for item in items])
    rows = [
        (
            benchmark.name,
            item.item_id,
            item.question,
            {"bytes": item.picture, "path": None}
            if isinstance(item.picture, bytes)
            else found.get(item.picture),
            item.image_id,
            item.kind,
            json.dumps(_reference(item), ensure_ascii=False),
        )
        for item in items
    ]
    frame = table("benchmark_items").frame(rows).astype({"image_id": "Int64"})
    return check("benchmark_items", frame, where=benchmark.title)


def _reference(item: Item) -> Mapping[str, Any]:
    """What the scorer has to know; also the picture's name, where it has no number: items may share it."""
    named = item.image_id is None and isinstance(item.picture, str)
    return ({"image_id": item.picture} if named else {}) | dict(item.reference)


def _picture_name(item: Item) -> str:
    if not isinstance(item.picture, str):
        raise UserError(f"{item.where}: it names no picture. Give the published file.")
    return item.picture
