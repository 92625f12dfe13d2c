"""The pipelines: each stage by its name, the iteration, and the loop."""

from kedro.pipeline import Pipeline

from rlaifv_kedro.params import (
    BenchmarkDataParams,
    BenchmarksParams,
    EvaluationParams,
    ExportParams,
    FeedbackParams,
    LoopParams,
    TrainingParams,
)
from rlaifv_kedro.pipelines import (
    benchmark_data,
    benchmarks,
    data_generation,
    evaluation,
    export,
    feedback,
    miniature,
    reporting,
    reward,
    training,
)
from rlaifv_kedro.pipelines.evaluation.pipeline import CATALOG_REWARD, measurement_pipeline
from rlaifv_kedro.pipelines.miniature.pipeline import benchmark_pipeline, world_pipeline

# Set from the parameters by project_hooks when a session starts; the defaults are what `kedro registry list`
# and kedro-viz show.
LOOP_ITERATIONS: int = LoopParams().iterations
STAGE_ITERATION: int = 1
FEEDBACK = FeedbackParams()
TRAINING = TrainingParams()
EVALUATION = EvaluationParams()
EXPORT = ExportParams()
BENCHMARK_DATA = BenchmarkDataParams()
BENCHMARKS = BenchmarksParams()
NO_TABLES: frozenset[str] = frozenset()
"""Tables of benchmarks of which no run has made one yet."""

_SHARED = {
    "prompt_pool",
    "base_policy",
    "labeler",
    "selection_prompts",
    "selection_instances",
    "selection_captions",
    *CATALOG_REWARD,
}
_TEST = {"test_prompts", "test_instances", "test_captions", "test_probes"}


def register_pipelines() -> dict[str, Pipeline]:
    """All pipelines; ``__default__`` draws the miniature world and takes the shipped policy through the
    loop.
    """
    report = reporting.create_pipeline(LOOP_ITERATIONS, FEEDBACK)
    loop = rlaif_loop(LOOP_ITERATIONS) + _benchmarks(
        {"base_policy": "base_policy", "last_policy": f"iteration_{LOOP_ITERATIONS}.trained_policy"}
    )
    stages = _stages()
    return {
        "miniature": _miniature(miniature.create_pipeline()),
        "miniature_benchmarks": _miniature(benchmark_pipeline()),
        **{name: _stage_run(stage) for name, stage in stages.items() if name != "evaluation"},
        "evaluation": _evaluation(stages["evaluation"]),
        "reward": reward.create_pipeline(),
        "export": export.create_pipeline(EXPORT),
        "benchmark_data": benchmark_data.create_pipeline(BENCHMARK_DATA),
        "reporting": report,
        "iteration": _stage_run(iteration_pipeline()),
        "rlaif_loop": loop + report,
        "__default__": _miniature(world_pipeline()) + loop + report,
    }


def _miniature(pipeline: Pipeline) -> Pipeline:
    return Pipeline(pipeline, namespace="miniature", prefix_datasets_with_namespace=False)


def _benchmarks(policies: dict[str, str]) -> Pipeline:
    """The published benchmarks that ``evaluation.benchmarks`` names, answered by entries of the catalog;
    before them what makes their tables, where there are none.
    """
    measured = benchmarks.create_pipeline(EVALUATION.benchmarks, policies, BENCHMARKS, BENCHMARK_DATA)
    missing = measured.inputs() & NO_TABLES
    return (
        measured + benchmark_data.create_pipeline(BENCHMARK_DATA).to_outputs(*missing)
        if missing
        else measured
    )


def _evaluation(stage: Pipeline) -> Pipeline:
    """The stage, then the benchmarks; where ``evaluation.policy`` names what answers them, nothing else."""
    return (
        _benchmarks({})
        if EVALUATION.policies()
        else _stage_run(stage) + _benchmarks({"trained_policy": "trained_policy"})
    )


def _stages() -> dict[str, Pipeline]:
    """The stages of an iteration."""
    return {
        "data_generation": data_generation.create_pipeline(),
        "feedback": feedback.create_pipeline(FEEDBACK),
        "training": training.create_pipeline(TRAINING),
        "evaluation": evaluation.create_pipeline(EVALUATION),
    }


def _stage_run(pipeline: Pipeline) -> Pipeline:
    """A stage by its plain names. The first iteration starts from the catalog's ``base_policy``, whatever
    an environment makes of that.
    """
    return (
        Pipeline(pipeline, inputs={"policy": "base_policy"})
        if STAGE_ITERATION == 1 and "policy" in pipeline.inputs()
        else pipeline
    )


def iteration_pipeline() -> Pipeline:
    """The four stages of one iteration, each a box."""
    return sum(
        (
            Pipeline(stage, namespace=name, prefix_datasets_with_namespace=False)
            for name, stage in _stages().items()
        ),
        Pipeline([]),
    )


def rlaif_loop(iterations: int) -> Pipeline:
    """N iterations, each fed by the policy that the one before selected; and the base policy measured like
    theirs.

    Where every policy's best answers are chosen by its own reward, the base policy, which has none, gets that
    of the loop's last policy.
    """
    measured = {"trained_policy": "base_policy"}
    if EVALUATION.best_of_reward == "own":
        measured |= dict(zip(CATALOG_REWARD, (f"iteration_{iterations}.trained_policy", "base_policy")))
    loop = _boxed(measurement_pipeline(EVALUATION.best_of, CATALOG_REWARD), "base", measured)
    for k in range(1, iterations + 1):
        loop += _boxed(
            iteration_pipeline(),
            f"iteration_{k}",
            {"policy": "base_policy" if k == 1 else f"iteration_{k - 1}.trained_policy"},
        )
    return loop


def _boxed(pipeline: Pipeline, name: str, inputs: dict[str, str]) -> Pipeline:
    """The pipeline as one box with its own artifacts, and the same parameters and shared inputs as all
    others.

    Args:
        inputs: Which entries stand for other inputs of it.
    """
    parameters = {entry for entry in pipeline.inputs() if entry.startswith("params:")}
    sources = {
        source for source in TRAINING.sources() if source != "preference_pairs"
    }  # each iteration has its own pairs; the others are the same
    inputs = {entry: entry for entry in _SHARED | _TEST | sources} | inputs
    return Pipeline(
        pipeline,
        namespace=name,
        inputs={e: entry for e, entry in inputs.items() if e in pipeline.inputs()},
        parameters=parameters,
        tags=name,
    )
