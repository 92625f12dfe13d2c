"""The six benchmarks by one rule: items and a policy's answers to judgements, and these to scores."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import pandas as pd

from rlaifv_kedro.benchmarks import amber, mmhal, object_halbench, pope, refomb
from rlaifv_kedro.benchmarks.benchmark import Judge, Judgement, Scored, judgements_of
from rlaifv_kedro.benchmarks.chair import score_chair
from rlaifv_kedro.benchmarks.coco.truth import truth_of
from rlaifv_kedro.benchmarks.coco.vocabulary import Vocabulary
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import Benchmark, BenchmarksParams, ModelsParams

BENCHMARKS: tuple[Benchmark, ...] = get_args(Benchmark)


@dataclass(frozen=True)
class Known:
    """What is known beside the items.

    Attributes:
        truth: image_id -> categories of COCO; of CHAIR and Object HalBench.
        vocabulary: The words that the truth was made with.
        words: AMBER's.
    """

    truth: Mapping[int, frozenset[str]] = field(default_factory=dict)
    vocabulary: Vocabulary | None = None
    words: amber.Words | None = None


def is_judged(benchmark: Benchmark, params: BenchmarksParams) -> bool:
    """Whether a text LLM is asked about the answers."""
    return benchmark in ("mmhal", "refomb") or (benchmark == "object_halbench" and params.extraction == "llm")


def needs_truth(benchmark: Benchmark) -> bool:
    """Whether the objects of an answer are compared with those of COCO's images."""
    return benchmark in ("chair", "object_halbench")


def refuse_unready(
    judged: Collection[Benchmark],
    scored: Collection[Benchmark],
    params: BenchmarksParams,
    models: ModelsParams,
) -> None:
    """Looks for what judging and scoring will need, before anything is computed or paid for.

    Raises:
        UserError: No judge is named, or a spaCy pipeline isn't installed.
    """
    from rlaifv_kedro.benchmarks.judging.judge import named_judge

    if judged:
        try:
            named_judge(models)
        except UserError as error:
            rules = " Or take benchmarks.extraction=rules." if set(judged) == {"object_halbench"} else ""
            raise UserError(f"{' and '.join(judged)}: {error.message}{rules}") from None
    from rlaifv_kedro.benchmarks.spacy_pipeline import load_pipeline

    if "object_halbench" in scored and params.extraction == "llm":
        load_pipeline(params.object_halbench_pipeline)
    if "amber" in scored and params.amber_pipeline != amber.EXACT:
        amber.VectorMatcher(load_pipeline(params.amber_pipeline))


def decoding_of(benchmark: Benchmark, params: BenchmarksParams) -> str:
    """How the answers are come by, for the protocol."""
    return f"by {params.beams} beams" if is_judged(benchmark, params) and params.beams > 1 else "greedy"


def known_of(
    truth: pd.DataFrame | None,
    vocabulary: Path | None,
    relation: Mapping[str, Sequence[str]] | None,
    safe_words: str | None,
) -> Known:
    """From the catalog's entries, those that a benchmark has no use for being None.

    Args:
        truth: Table ``coco_truth``.
        vocabulary: File of words that it was made with; None for the project's own.
        relation, safe_words: AMBER's ``relation.json`` and ``safe_words.txt``.
    """
    words = (
        None
        if relation is None
        else amber.Words(relation, frozenset(filter(None, map(str.strip, (safe_words or "").split("\n")))))
    )
    if truth is None:
        return Known(words=words)
    read = Vocabulary.from_file(vocabulary) if vocabulary else Vocabulary.own()
    return Known(truth_of(truth, read), read, words)


def stored_judgements(
    benchmark: Benchmark, table: pd.DataFrame | None, policy: str
) -> tuple[list[Judgement], str]:
    """A policy's judgements in ``policy_judgements``, read again from the replies; and who judged."""
    if table is None:
        return [], ""
    own = table[table["policy"] == policy]
    models = sorted(set(own["returned_model"].dropna()) or set(own["asked_model"]))
    return judgements_of(own, lambda _, reply: read_verdict(benchmark, reply)), " and ".join(models)


def answered_items(items: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """The items with a column ``answer`` and one for each part of their reference: what scorers take.

    Raises:
        UserError: The answers are not those to these items.
    """
    strangers = set(items["item_id"]) ^ set(answers["item_id"])
    if strangers:
        raise UserError(
            f"{items['benchmark'].iloc[0]}: the answers are to other items than these, e.g. "
            f"{min(strangers)!r} is in one of the two alone. The items "
            "were made anew after the policy answered: answer them again, in a new run."
        )
    reference = pd.DataFrame([json.loads(text) for text in items["reference"]], index=items.index)
    known = items.drop(columns=["image", "reference", *(c for c in items.columns if c in reference)]).join(
        reference
    )
    joined = known.merge(answers[["item_id", "answer"]], on="item_id", validate="one_to_one")
    return joined.assign(type=joined["kind"])


def judge_answers(
    benchmark: Benchmark, answered: pd.DataFrame, judge: Judge, params: BenchmarksParams
) -> list[Judgement]:
    """Ask about the answers to a benchmark.

    Args:
        answered: Of :func:`answered_items`.
    """
    if benchmark == "mmhal":
        return mmhal.rate(answered, judge, params.mmhal_prompt)
    if benchmark == "refomb":
        return refomb.compare(
            answered,
            judge,
            runs=params.refomb_runs,
            swap=params.refomb_swap,
            overall_prompt=params.refomb_overall_prompt,
            trustworthiness_prompt=params.refomb_trustworthiness_prompt,
        )
    return object_halbench.extract_objects(answered, judge, params.object_halbench_prompt)


def read_verdict(benchmark: Benchmark, reply: str) -> object:
    """The verdict in a reply about a benchmark's item; None if it holds none."""
    return {
        "mmhal": mmhal.read_rating,
        "refomb": refomb.read_verdict,
        "object_halbench": object_halbench.read_objects,
    }[benchmark](reply)


def score_answers(
    benchmark: Benchmark,
    answered: pd.DataFrame,
    judgements: Sequence[Judgement],
    known: Known,
    params: BenchmarksParams,
    judge: str,
) -> Scored:
    """Items' values and metrics.

    Args:
        answered: Of :func:`answered_items`.
        judgements: Empty for a benchmark without a judge.
        judge: Who that was, for the protocol.

    Raises:
        UserError: A spaCy pipeline isn't installed.
    """
    if benchmark == "chair":
        return score_chair(answered, known.truth, known.vocabulary)
    if benchmark == "mmhal":
        return mmhal.score_mmhal(answered, judgements, f"rated by {judge}")
    if benchmark == "refomb":
        return refomb.score_refomb(answered, judgements, f"compared by {judge}")
    if benchmark == "pope":
        return pope.score_pope(answered)
    if benchmark == "amber":
        return amber.score_amber(answered, known.words, _matcher(answered, known.words, params))
    if params.extraction == "rules":
        return object_halbench.score_by_rule(answered, known.truth, known.vocabulary)
    from rlaifv_kedro.benchmarks.spacy_pipeline import label_of, load_pipeline

    pipeline = load_pipeline(params.object_halbench_pipeline)
    objects = object_halbench.analysed(judgements, pipeline, known.vocabulary)
    how = f"objects by {judge}, analysed by {label_of(pipeline)}"
    return object_halbench.score_extracted(answered, objects, known.truth, known.vocabulary, how)


def _matcher(answered: pd.DataFrame, words: amber.Words, params: BenchmarksParams) -> amber.Matcher:
    if params.amber_pipeline == amber.EXACT or not (answered["kind"] == amber.GENERATIVE).any():
        return amber.ExactMatcher(words)
    from rlaifv_kedro.benchmarks.spacy_pipeline import load_pipeline

    return amber.VectorMatcher(load_pipeline(params.amber_pipeline))
