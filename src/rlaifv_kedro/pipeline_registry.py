"""The pipelines: each stage by its name, the iteration, and the loop."""

from kedro.pipeline import Pipeline

from rlaifv_kedro.params import LoopParams
from rlaifv_kedro.pipelines import data_generation, evaluation, feedback, miniature, reporting, training
from rlaifv_kedro.pipelines.evaluation.pipeline import measurement_pipeline
from rlaifv_kedro.pipelines.miniature.pipeline import world_pipeline

# Set from the parameters by project_hooks when a session starts; the defaults are what `kedro registry list` and kedro-viz show.
LOOP_ITERATIONS: int = LoopParams().iterations
STAGE_ITERATION: int = 1

_STAGES = {"data_generation": data_generation, "feedback": feedback, "training": training, "evaluation": evaluation}
_SHARED = {"prompt_pool", "base_policy", "labeler", "selection_prompts", "selection_instances", "selection_captions"}
_TEST = {"test_prompts", "test_instances", "test_captions", "test_probes"}


def register_pipelines() -> dict[str, Pipeline]:
    """All pipelines; ``__default__`` draws the miniature world and takes the shipped policy through the loop."""
    stages = {name: _stage_run(module.create_pipeline()) for name, module in _STAGES.items()}
    report = reporting.create_pipeline(LOOP_ITERATIONS)
    loop = rlaif_loop(LOOP_ITERATIONS)
    return {
        "miniature": _miniature(miniature.create_pipeline()),
        **stages,
        "reporting": report,
        "iteration": _stage_run(iteration_pipeline()),
        "rlaif_loop": loop + report,
        "__default__": _miniature(world_pipeline()) + loop + report,
    }


def _miniature(pipeline: Pipeline) -> Pipeline:
    return Pipeline(pipeline, namespace="miniature", prefix_datasets_with_namespace=False)


def _stage_run(pipeline: Pipeline) -> Pipeline:
    """A stage by its plain names. The first iteration starts from the catalog's ``base_policy``, whatever an environment makes of that."""
    return Pipeline(pipeline, inputs={"policy": "base_policy"}) if STAGE_ITERATION == 1 else pipeline


def iteration_pipeline() -> Pipeline:
    """The four stages of one iteration, each a box."""
    return sum(
        (Pipeline(module.create_pipeline(), namespace=name, prefix_datasets_with_namespace=False) for name, module in _STAGES.items()), Pipeline([])
    )


def rlaif_loop(iterations: int) -> Pipeline:
    """N iterations, each fed by the policy that the one before selected; and the base policy measured like theirs."""
    loop = _boxed(measurement_pipeline(), "base", {"trained_policy": "base_policy"} | {name: name for name in _TEST})
    for k in range(1, iterations + 1):
        policy = "base_policy" if k == 1 else f"iteration_{k - 1}.trained_policy"
        loop += _boxed(iteration_pipeline(), f"iteration_{k}", {"policy": policy} | {name: name for name in _SHARED | _TEST})
    return loop


def _boxed(pipeline: Pipeline, name: str, inputs: dict[str, str]) -> Pipeline:
    """The pipeline as one box with its own artifacts, and the same parameters as all others."""
    parameters = {entry for entry in pipeline.inputs() if entry.startswith("params:")}
    return Pipeline(pipeline, namespace=name, inputs=inputs, parameters=parameters, tags=name)
