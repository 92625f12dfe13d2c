"""What the report says of answers and replies that could not be taken as they are."""

import pandas as pd

from rlaifv_kedro.params import ReportingParams
from rlaifv_kedro.reporting.report import write_report
from rlaifv_kedro.schemas import table

NAMES = ("response_hallucination", "mention_hallucination", "object_recall", "mean_words", "repeat_rate")
METRICS = table("loop_metrics").frame(
    [(k, f"i{k}", "chair", name, 0.5, 10, 0, 0.1, "greedy") for k in (0, 1) for name in NAMES]
)
PROMPTS = table("prompts").frame([])
SCORES = table("item_scores").frame([])


def answers(*reasons: str) -> pd.DataFrame:
    return table("answers").frame(
        [("base", "chair", f"p{i}", "what?", "a cup", 3, reason) for i, reason in enumerate(reasons)]
    )


def report(verdicts: list[tuple[object, ...]], last: pd.DataFrame) -> str:
    tables = {
        "answers_0": answers("stop", "stop"),
        "answers_1": last,
        "scores_0": SCORES,
        "scores_1": SCORES,
        "verdicts_1": table("verdicts").frame(verdicts),
        "rejects_verdicts_1": table("rejects").frame([]),
    }
    return write_report(METRICS, PROMPTS, ReportingParams(), **tables)


def test_replies_that_are_no_verdict_are_counted_with_their_first_tokens() -> None:
    read, unread = ("p", 0, 0, 0.9, 0.1, True, "Yes"), ("p", 1, 0, 0.0, 0.0, None, "<Sorry>")
    page = report([read, unread], answers("stop"))
    assert "Iteration 1: 1 of 2 replies of the labeler (50.0%) are neither yes nor no" in page
    assert "&lt;Sorry&gt;" in page and "<Sorry>" not in page
    assert "neither yes nor no" not in report([read], answers("stop"))


def test_parameters_that_were_changed_on_the_way_are_said() -> None:
    tables = {"answers_0": answers(), "answers_1": answers(), "scores_0": SCORES, "scores_1": SCORES}
    changed = ["training.micro_batch_size: 8, then 4", "reporting.examples: 6, then 2"]
    page = write_report(METRICS, PROMPTS, ReportingParams(), changed, **tables)
    assert "starts: training.micro_batch_size: 8, then 4; reporting.examples: 6, then 2." in page
    assert "starts:" not in write_report(METRICS, PROMPTS, ReportingParams(), **tables)


def test_cut_off_answers_are_counted() -> None:
    page = report([], answers("length", "length", "stop"))
    assert (
        "Cut off at evaluation.max_new_tokens, and scored as they are: 2 of 3 answers (iteration 1)" in page
    )
    assert "scored as they are" not in report([], answers("stop"))
