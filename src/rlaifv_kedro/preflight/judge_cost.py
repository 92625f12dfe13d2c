"""What judging the answers of a run that has answered benchmarks would still take."""

from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from rlaifv_kedro.benchmarks.judging.dry_run import DryJudge
from rlaifv_kedro.benchmarks.judging.judge import named_judge, open_store
from rlaifv_kedro.benchmarks.judging.prices import Price, price_and_currency
from rlaifv_kedro.benchmarks.registry import BENCHMARKS
from rlaifv_kedro.benchmarks.scoring import answered_items
from rlaifv_kedro.datasets import ChunkedTableDataset, TableDataset
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import Parameters, validate_parameters
from rlaifv_kedro.runs.manifest import existing
from rlaifv_kedro.runs.resume_command import resume_command
from rlaifv_kedro.runs.session import checked_run_id, load_context


class Cost(NamedTuple):
    """What judging one benchmark's answers takes, those of all policies of a run.

    :class:`rlaifv_kedro.benchmarks.judging.dry_run.DryJudge` says what is counted.

    Attributes:
        cost: Of one reply to each prompt, as long as it may be; None where the model has no price.
        most_cost: The same, if as many replies as ``judge.tries`` are needed each time.
    """

    benchmark: str
    judge: str
    stored: int
    calls: int
    prompt_tokens: int
    reply_tokens: int
    cost: float | None
    most_cost: float | None
    currency: str


def judge_cost(project: Path, run_id: str, params: dict[str, Any]) -> list[Cost]:
    """Counts the calls that judging a run's answers still needs; nothing is asked.

    Args:
        params: Parameters that are to be others than the run's: another judge, say.

    Raises:
        UserError: There is no such run, it has no answers that an LLM judges, or no judge is named.
    """
    run = existing(project, checked_run_id("--run", run_id))
    merged = OmegaConf.to_container(OmegaConf.merge(run.parameters, params))
    parameters = validate_parameters(merged)
    answered = {
        name: entry.path
        for name, benchmark in BENCHMARKS.items()
        if (entry := run.finished(f"benchmark.{name}.answers")) and benchmark.is_judged(parameters.benchmarks)
    }
    if not answered:
        answering = {
            "env": run.env,
            "pipeline_names": ["evaluation"],
            "to_outputs": ["benchmark.mmhal.answers"],
            "runtime_params": {"evaluation": {"benchmarks": ["mmhal"]}},
        }
        raise UserError(
            f"Run {run_id} has no complete answers to a benchmark that an LLM judges. To have them without "
            f"judging: {resume_command(answering, run_id=None)}"
        )
    judge = named_judge(parameters.models)
    store = load_context(project, run.env, {}).catalog.load("judge_store")
    price, currency = price_and_currency(judge, parameters.judge.prices)
    return [
        _cost(
            name,
            project / str(run.read[f"{name}_items"].path),
            project / path,
            parameters,
            store,
            price,
            currency,
        )
        for name, path in answered.items()
    ]


def _cost(
    benchmark: str,
    items: Path,
    answers: Path,
    parameters: Parameters,
    store: Path,
    price: Price | None,
    currency: str,
) -> Cost:
    judge = DryJudge(open_store(parameters.models, store), parameters.judge)
    rows = TableDataset(str(items), "benchmark_items").load()
    for _, own in ChunkedTableDataset(str(answers), "answers").load().groupby("policy", sort=False):
        BENCHMARKS[benchmark].judging.ask(answered_items(rows, own), judge, parameters.benchmarks)
    return Cost(
        benchmark,
        judge.store.asked_model,
        judge.stored,
        judge.calls,
        judge.prompt_tokens,
        judge.reply_tokens,
        judge.cost(price),
        judge.most_cost(price),
        currency,
    )
