"""reward: candidates, reward_policy, reward_reference -> candidate_rewards."""

from kedro.pipeline import Pipeline, node

from rlaifv_kedro.pipelines.reward import nodes
from rlaifv_kedro.tags import Role, Task


def create_pipeline() -> Pipeline:
    """The rewards of an iteration's candidates."""
    return Pipeline(
        [
            node(
                nodes.compute_rewards,
                inputs=[
                    "prompts",
                    "candidates",
                    "reward_policy",
                    "reward_reference",
                    "params:data_generation",
                    "params:reward",
                    "params:training",
                    "params:models",
                    "params:compute",
                ],
                outputs="candidate_rewards",
                name="compute_rewards",
                tags=[Role.POLICY, Task.REWARDING],
            )
        ]
    )
