"""training: preference_pairs and other sources -> training_pairs; these and the policy ->
reference_log_probs -> checkpoints.
"""

from kedro.pipeline import Pipeline, node

from rlaifv_kedro.params import TrainingParams
from rlaifv_kedro.pipelines.training import nodes
from rlaifv_kedro.tags import Role, Work


def create_pipeline(params: TrainingParams | None = None) -> Pipeline:
    """Args:
    params: ``mix`` says what is read; without them the default's.
    """
    return Pipeline(
        [
            node(
                nodes.gather_pairs,
                inputs=[
                    "finished_training_rejects",
                    "finished_training_pairs",
                    "params:seed",
                    "params:training",
                    *(params or TrainingParams()).sources(),
                ],
                outputs=["training_rejects", "training_pairs"],
                name="gather_pairs",
            ),
            node(
                nodes.compute_reference,
                inputs=[
                    "training_pairs",
                    "training_rejects",
                    "policy",
                    "finished_reference_log_probs",
                    "params:training",
                    "params:models",
                    "params:compute",
                ],
                outputs="reference_log_probs",
                name="compute_reference",
                tags=[Role.POLICY, Work.REFERENCE],
            ),
            node(
                nodes.train_policy,
                inputs=[
                    "training_pairs",
                    "reference_log_probs",
                    "policy",
                    "checkpoints_folder",
                    "training_logs_folder",
                    "params:seed",
                    "iteration_number",
                    "params:training",
                    "params:models",
                    "params:compute",
                ],
                outputs=["checkpoints", "training_log"],
                name="train_policy",
                tags=[Role.POLICY, Work.TRAINING],
            ),
        ]
    )
