"""Everything that may stand in parameters.yml or behind ``--params``."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params.base import Count, Effect, Params, Share
from rlaifv_kedro.params.benchmarks import BenchmarkDataParams, BenchmarksParams, JudgeParams
from rlaifv_kedro.params.compute import ComputeParams
from rlaifv_kedro.params.messages import explain
from rlaifv_kedro.params.method import DataGenerationParams, EvaluationParams, FeedbackParams, RewardParams
from rlaifv_kedro.params.models import ModelsParams
from rlaifv_kedro.params.training import TrainingParams

RUN_NAMES = ("run_id", "replay")
"""Parameters that name runs and change no result."""
RUNTIME_ONLY = ("iteration", *RUN_NAMES)
"""Parameters of a run, not of an experiment: they are given with ``--params``, not in a file."""


class MiniatureParams(Params):
    """The drawn world and how its two models are made."""

    pool_scenes: Count = Field(4000, description="prompts in the pool, for all iterations together")
    selection_scenes: Count = Field(300, description="scenes on which checkpoints are compared")
    test_scenes: Count = Field(400, description="scenes on which the result is measured")
    benchmark_scenes: Count = Field(
        16, description="scenes of the miniature's six benchmarks (docs/benchmarks.md)"
    )
    training_scenes: Count = Field(8000, description="scenes the foundation and the labeler learn from, each")
    policy_scenes: Count = Field(
        4000, description="scenes with careless captions the base policy learns from"
    )
    training_fifth_share: Share = Field(
        0.5,
        description="share of the scenes to learn from that hold a fifth object; scenes to describe all do",
    )
    double_share: Share = Field(
        0.15, description="share of the scenes with a fifth object in which it is a second one of its kind"
    )
    training_double_share: Share = Field(
        0.3, description="the same for the foundation's and the policy's scenes"
    )
    labeler_double_share: Share = Field(
        0.6, description="the same for the labeler's scenes, so that it sees enough of them"
    )
    error_rate: Share = Field(
        0.5,
        description="careless captions: each absent typical object replaces a true one with this probability",
    )
    effort: float = Field(1.0, gt=0, le=4, description="scales all training steps; below 1 only for tests")


class ExportParams(Params):
    """Pairs for other tools."""

    source: Literal["preference_pairs", "training_pairs"] = Field(
        "preference_pairs",
        description="what is exported: an iteration's own pairs, or the mix that it was trained on",
    )


class FetchingParams(Params):
    """Published files and pictures, which are fetched from the addresses that catalog and tables name."""

    private_hosts: Annotated[list[str], Effect.EXECUTION] = Field(
        [],
        description="hosts of this machine or of a private network that may be fetched from, as addresses "
        "spell them; all others must have public addresses (docs/security.md)",
    )


class ReportingParams(Params):
    """What the report shows."""

    examples: Annotated[int, Effect.EXECUTION] = Field(
        6,
        strict=True,
        ge=0,
        le=100,
        description="pictures with the answers of the base and of the last policy",
    )


class LoopParams(Params):
    """The loop over iterations."""

    iterations: int = Field(4, strict=True, ge=1, le=100, description="iterations of the loop (paper: 4)")


def missing_prompts(
    rows: int, iteration: int, generation: DataGenerationParams, loop: LoopParams
) -> str | None:
    """What to say of a prompt pool that is too small for every iteration to draw its own; None if it isn't.

    Args:
        iteration: The one that is run; those of the loop count too.
    """
    iterations = max(iteration, loop.iterations)
    needed = iterations * generation.prompts
    if rows >= needed:
        return None
    return (
        f"{iterations} iterations of data_generation.prompts={generation.prompts} need {needed} prompts, but "
        f"prompt_pool has {rows}. Give a larger pool (the miniature's size is miniature.pool_scenes), or "
        "lower data_generation.prompts or loop.iterations."
    )


class Parameters(Params):
    """Everything that may stand in parameters.yml or behind ``--params``."""

    seed: int = Field(
        0,
        strict=True,
        ge=0,
        lt=2**31,
        description="everything sampled depends on it and on the key of the item",
    )
    iteration: int = Field(
        1, strict=True, ge=1, le=100, description="the iteration that a stage run works on"
    )
    run_id: str | None = Field(None, description="name of the run; an unfinished one goes on")
    replay: str | None = Field(None, description="run whose inputs are loaded again")
    compute: ComputeParams = ComputeParams()
    models: ModelsParams = ModelsParams()
    miniature: MiniatureParams = MiniatureParams()
    loop: LoopParams = LoopParams()
    data_generation: DataGenerationParams = DataGenerationParams()
    feedback: FeedbackParams = FeedbackParams()
    reward: RewardParams = RewardParams()
    training: TrainingParams = TrainingParams()
    evaluation: EvaluationParams = EvaluationParams()
    judge: JudgeParams = JudgeParams()
    benchmark_data: BenchmarkDataParams = BenchmarkDataParams()
    benchmarks: BenchmarksParams = BenchmarksParams()
    fetching: FetchingParams = FetchingParams()
    export: ExportParams = ExportParams()
    reporting: ReportingParams = ReportingParams()


def validate_parameters(raw: dict[str, Any]) -> Parameters:
    """Check all parameters at once.

    Raises:
        UserError: Names each unknown key or impossible value, with the value and the allowed range.
    """
    try:
        return Parameters.model_validate(raw)
    except ValidationError as error:
        lines = [explain(problem, Parameters) for problem in error.errors()]
        raise UserError(
            "parameters are not usable:\n" + "\n".join(f"  - {line}" for line in lines)
        ) from error


def complete_parameters(raw: dict[str, Any]) -> dict[str, Any]:
    """All parameters with all their defaults, as JSON holds them, without the names of runs.

    They are the same whichever pipelines are run.
    """
    return validate_parameters(raw).model_dump(mode="json", exclude=set(RUN_NAMES))
