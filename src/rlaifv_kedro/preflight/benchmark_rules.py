"""Rules about the published benchmarks: their judge, its price, and what their answers are scored with."""

from collections.abc import Iterator

from rlaifv_kedro.preflight.feedback_rules import unreadable_prompt
from rlaifv_kedro.preflight.finding import Finding, refusal
from rlaifv_kedro.preflight.setup import RunSetup
from rlaifv_kedro.tags import Task


def benchmarks_can_be_scored(setup: RunSetup) -> Iterator[Finding]:
    """A judge is named where one is asked, and spaCy's pipelines are installed."""
    from rlaifv_kedro.benchmarks.scoring import refuse_unready

    judged = setup.benchmarks_with(Task.BENCHMARK_JUDGING)
    scored = setup.benchmarks_with(Task.BENCHMARK_SCORING)
    if not judged and not scored:
        return
    asked = judged, scored, setup.parameters.benchmarks, setup.parameters.models
    ready = Finding(True, f"what scores {', '.join(scored)} is there", "benchmarks")
    yield from refusal("a benchmark can't be scored", "benchmarks", refuse_unready, *asked) or [ready]


def judge_prices_can_be_read(setup: RunSetup) -> Iterator[Finding]:
    """The file with prices is read before a judge on a server is paid, unless ``models.judge`` has prices."""
    from rlaifv_kedro.benchmarks.judging.prices import price_of

    judge = setup.parameters.models.judge
    if judge is not None and setup.does(Task.BENCHMARK_JUDGING):
        what, prices = "the judge's prices can't be read", setup.parameters.judge.prices
        yield from refusal(what, "judge.prices", price_of, judge, prices)


def judge_prompts_can_be_read(setup: RunSetup) -> Iterator[Finding]:
    """Another wording of a judge's prompt is a file with the places for its texts."""
    from rlaifv_kedro.benchmarks.registry import BENCHMARKS

    for benchmark in setup.benchmarks_with(Task.BENCHMARK_JUDGING):
        for name, places in BENCHMARKS[benchmark].judging.prompts.items():
            path = getattr(setup.parameters.benchmarks, name)
            yield from unreadable_prompt(
                "the judge's prompt can't be used", f"benchmarks.{name}", path, places
            )


def answers_can_be_searched(setup: RunSetup) -> Iterator[Finding]:
    """Only a policy in this process searches with beams, as protocols with a judge want it."""
    judged = set(setup.benchmarks_with(Task.BENCHMARK_JUDGING))
    beams, backend = setup.parameters.benchmarks.beams, setup.parameters.models.policy.backend
    if (
        beams > 1
        and backend != "transformers"
        and judged & set(setup.benchmarks_with(Task.BENCHMARK_ANSWERS))
    ):
        what = f"a policy with backend {backend} can't search for answers with {beams} beams"
        remedy = "Set it to 1 for greedy answers, or models.policy.backend: transformers."
        yield Finding(False, what, "benchmarks.beams", remedy)


RULES = (
    benchmarks_can_be_scored,
    judge_prices_can_be_read,
    judge_prompts_can_be_read,
    answers_can_be_searched,
)
