"""training: preference_pairs -> training_pairs; these and the policy -> reference_log_probs -> checkpoints."""

from kedro.pipeline import Pipeline, node

from rlaifv_kedro.pipelines.training import nodes


def create_pipeline() -> Pipeline:
    return Pipeline([
        node(
            nodes.gather_pairs,
            inputs={"preference_pairs": "preference_pairs", "finished_rejects": "finished_training_rejects", "finished": "finished_training_pairs",
                    "params": "params:training"},
            outputs=["training_rejects", "training_pairs"],
            name="gather_pairs",
        ),
        node(
            nodes.compute_reference,
            inputs=["training_pairs", "policy", "finished_reference_log_probs", "params:training", "params:models", "params:compute"],
            outputs="reference_log_probs",
            name="compute_reference",
        ),
        node(
            nodes.train_policy,
            inputs=["training_pairs", "reference_log_probs", "policy", "checkpoints_folder", "params:seed", "iteration_number", "params:training",
                    "params:models", "params:compute"],
            outputs=["checkpoints", "training_log"],
            name="train_policy",
        ),
    ])  # fmt: skip
