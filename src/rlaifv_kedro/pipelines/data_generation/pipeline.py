"""data_generation: prompt_pool, policy -> prompts, candidates."""

from kedro.pipeline import Pipeline, node

from rlaifv_kedro.pipelines.data_generation import nodes
from rlaifv_kedro.tags import Role, Task


def create_pipeline() -> Pipeline:
    """The stage."""
    return Pipeline(
        [
            node(
                nodes.draw_prompts,
                inputs=[
                    "prompt_pool",
                    "number",
                    "params:seed",
                    "params:data_generation",
                    "params:loop",
                ],
                outputs="prompts",
                name="draw_prompts",
            ),
            node(
                nodes.sample_candidates,
                inputs=[
                    "prompts",
                    "policy",
                    "params:seed",
                    "params:data_generation",
                    "params:models",
                    "params:compute",
                ],
                outputs=["data_generation_rejects", "candidates"],
                name="sample_candidates",
                tags=[Role.POLICY, Task.SAMPLING],
            ),
        ]
    )
