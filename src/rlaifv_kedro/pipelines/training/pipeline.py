"""training: preference_pairs, policy -> reference_log_probs -> checkpoints."""

from kedro.pipeline import Pipeline, node

from rlaifv_kedro.pipelines.training import nodes


def create_pipeline() -> Pipeline:
    return Pipeline([
        node(
            nodes.compute_reference,
            inputs=["preference_pairs", "policy", "finished_reference_log_probs", "params:training", "params:models", "params:compute"],
            outputs="reference_log_probs",
            name="compute_reference",
        ),
        node(
            nodes.train_policy,
            inputs=["preference_pairs", "reference_log_probs", "policy", "checkpoints_folder", "params:seed", "iteration_number", "params:training",
                    "params:models", "params:compute"],
            outputs=["checkpoints", "training_log"],
            name="train_policy",
        ),
    ])  # fmt: skip
