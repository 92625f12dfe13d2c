"""evaluation: checkpoints -> checkpoint_metrics -> trained_policy -> answers -> metrics."""

from kedro.pipeline import Pipeline, node

from rlaifv_kedro.pipelines.evaluation import nodes


def create_pipeline() -> Pipeline:
    return selection_pipeline() + measurement_pipeline()


def selection_pipeline() -> Pipeline:
    """Every checkpoint on the selection split; the best becomes ``trained_policy``."""
    return Pipeline([
        node(
            nodes.measure_checkpoints,
            inputs=["checkpoints", "policy", "base_policy", "selection_prompts", "selection_instances", "selection_captions", "params:evaluation",
                    "params:models", "params:compute"],
            outputs="checkpoint_metrics",
            name="measure_checkpoints",
        ),
        node(
            nodes.select_checkpoint,
            inputs=["checkpoints", "checkpoint_metrics", "policy", "params:evaluation", "merged_folder"],
            outputs=["trained_policy", "selection"],
            name="select_checkpoint",
        ),
    ])  # fmt: skip


def measurement_pipeline() -> Pipeline:
    """``trained_policy`` on the test split."""
    return Pipeline([
        node(
            nodes.answer_prompts,
            inputs=["trained_policy", "test_prompts", "params:evaluation", "params:models", "params:compute"],
            outputs="answers",
            name="answer_test_prompts",
        ),
        node(
            nodes.score_answers,
            inputs=["answers", "test_instances", "test_captions"],
            outputs=["answer_scores", "metrics"],
            name="score_answers",
        ),
        node(
            nodes.answer_probes,
            inputs=["trained_policy", "test_prompts", "test_probes", "params:feedback", "params:evaluation", "params:models", "params:compute"],
            outputs="probe_metrics",
            name="answer_probes",
        ),
    ])  # fmt: skip
