"""training: pairs and the policy -> training_pairs -> reference_log_probs -> checkpoints."""

from kedro.pipeline import Pipeline, node

from rlaifv_kedro.params import Parameters
from rlaifv_kedro.pipelines.training import nodes
from rlaifv_kedro.tags import Role, Task


def create_pipeline(parameters: Parameters) -> Pipeline:
    """The stage; ``training.mix`` says what is read."""
    return Pipeline(
        [
            node(
                nodes.gather_pairs,
                inputs=[
                    "policy",
                    "params:seed",
                    "params:training",
                    "params:models",
                    "params:compute",
                    *parameters.training.sources(),
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
                    "params:training",
                    "params:models",
                    "params:compute",
                ],
                outputs="reference_log_probs",
                name="compute_reference",
                tags=[Role.POLICY, Task.REFERENCE],
            ),
            node(
                nodes.train_policy,
                inputs=[
                    "training_pairs",
                    "reference_log_probs",
                    "policy",
                    "params:seed",
                    "number",
                    "params:training",
                    "params:models",
                    "params:compute",
                ],
                outputs=["checkpoints", "training_log"],
                name="train_policy",
                tags=[Role.POLICY, Task.TRAINING],
            ),
        ]
    )
