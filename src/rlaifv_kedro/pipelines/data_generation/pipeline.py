"""data_generation: prompt_pool, policy -> prompts, candidates; and which prompts are used up."""

from kedro.pipeline import Pipeline, node

from rlaifv_kedro.pipelines.data_generation import nodes
from rlaifv_kedro.tags import Role, Task


def create_pipeline(first: bool) -> Pipeline:
    """The stage.

    Args:
        first: Whether it is the first iteration's, before which no prompt has been drawn.
    """
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
                    *([] if first else ["earlier_prompts"]),
                ],
                outputs=["prompts", "drawn_prompts"],
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
