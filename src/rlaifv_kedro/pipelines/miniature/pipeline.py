"""miniature: seed -> scenes with COCO-format truth, base policy and labeler."""

from kedro.pipeline import Pipeline, node

from rlaifv_kedro.pipelines.evaluation.nodes import make_test_truth
from rlaifv_kedro.pipelines.miniature import nodes


def create_pipeline() -> Pipeline:
    """The world, then its two models."""
    return world_pipeline() + model_pipeline()


def world_pipeline() -> Pipeline:
    """Prompts, pictures and truth: seconds."""
    return Pipeline(
        [
            node(
                nodes.draw_pool,
                inputs=["params:seed", "params:miniature"],
                outputs="prompt_pool",
                name="draw_pool",
            ),
            node(
                nodes.draw_selection,
                inputs=["params:seed", "params:miniature"],
                outputs=["selection_prompts", "selection_instances", "selection_captions"],
                name="draw_selection",
            ),
            node(
                nodes.draw_test,
                inputs=["params:seed", "params:miniature"],
                outputs=["test_prompts", "test_instances", "test_captions", "test_probes"],
                name="draw_test",
            ),
        ]
    )


def benchmark_pipeline() -> Pipeline:
    """What stands for the published benchmarks in the environment ``miniature_benchmarks``."""
    return Pipeline(
        [
            node(
                nodes.draw_benchmarks,
                inputs=["params:seed", "params:miniature"],
                outputs="miniature_benchmark_files",
                name="draw_benchmarks",
            )
        ]
    )


def model_pipeline() -> Pipeline:
    """Base policy and labeler: about ten minutes on a core. Those of seed 0 are in the repository."""
    return Pipeline(
        [
            node(
                nodes.make_models,
                inputs=["params:seed", "params:miniature"],
                outputs=["base_policy", "labeler"],
                name="make_models",
            ),
            node(
                make_test_truth,
                inputs=["test_instances", "test_captions"],
                outputs="test_truth",
                name="make_test_truth",
            ),
            node(
                nodes.measure_models,
                inputs=[
                    "base_policy",
                    "labeler",
                    "test_prompts",
                    "test_truth",
                    "test_probes",
                    "params:seed",
                    "params:miniature",
                    "params:feedback",
                    "params:evaluation",
                    "params:compute",
                ],
                outputs="miniature_card",
                name="measure_models",
            ),
        ]
    )
