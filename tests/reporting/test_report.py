"""What the report says of answers and replies that could not be taken as they are."""

import pandas as pd
from PIL import Image

from rlaifv_kedro.images import png_bytes
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


HOSTILE = "<script>alert(1)</script><img src=x onerror='alert(1)'>\"{{ 7 * 7 }}"


def test_texts_of_strangers_are_escaped() -> None:
    """Answers, notes, reasons of rejects and first tokens come from models and tables."""
    image = {"bytes": png_bytes(Image.new("RGB", (2, 2))), "path": HOSTILE}
    prompts = table("prompts").frame([(HOSTILE, HOSTILE, image, 1, HOSTILE, HOSTILE)])
    answer = table("answers").frame([("base", "chair", HOSTILE, HOSTILE, HOSTILE, 3, "stop")])
    score = ("base", "chair", HOSTILE, None, "1", "chair_s", 1.0, 1.0, HOSTILE)
    scores = table("item_scores").frame([score])
    page = write_report(
        METRICS.assign(protocol=HOSTILE),
        prompts,
        ReportingParams(),
        [HOSTILE],
        answers_0=answer,
        answers_1=answer,
        scores_0=scores,
        scores_1=scores,
        rejects_sampling_1=table("rejects").frame([("sampling", HOSTILE, HOSTILE)]),
        verdicts_1=table("verdicts").frame([("p", 1, 0, 0.0, 0.0, None, HOSTILE)]),
    )
    assert page.count("&lt;script&gt;alert(1)") >= 6
    assert "<script" not in page and "<img src=x" not in page
    assert "{{ 7 * 7 }}" in page  # and it is no template


def test_cut_off_answers_are_counted() -> None:
    page = report([], answers("length", "length", "stop"))
    assert (
        "Cut off at evaluation.max_new_tokens, and scored as they are: 2 of 3 answers (iteration 1)" in page
    )
    assert "scored as they are" not in report([], answers("stop"))
