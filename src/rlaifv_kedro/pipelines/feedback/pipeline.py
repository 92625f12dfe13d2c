"""feedback: candidates -> claims -> verdicts (or rewards) -> scores -> preference_pairs."""

from kedro.pipeline import Pipeline, node
from kedro.pipeline.node import Node

from rlaifv_kedro.params import FeedbackParams, Parameters
from rlaifv_kedro.pipelines import reward
from rlaifv_kedro.pipelines.feedback import nodes
from rlaifv_kedro.tags import Role, Task


def create_pipeline(parameters: Parameters) -> Pipeline:
    """The stage from candidates to preference pairs.

    ``feedback.scoring`` decides what there is to do, ``labeler`` and ``splitter`` which models are asked.
    """
    params = parameters.feedback
    scored = _by_reward() if params.scoring == "reward" else _by_labeler(params)
    return scored + Pipeline(
        [
            node(
                nodes.build_pairs,
                inputs=[
                    "prompts",
                    "candidates",
                    "scores",
                    "number",
                    "params:seed",
                    "params:feedback",
                ],
                outputs=["preference_pairs", "pair_statistics"],
                name="build_pairs",
            )
        ]
    )


def _by_labeler(params: FeedbackParams) -> Pipeline:
    labeler = Role.POLICY if params.labeler == "self" else Role.LABELER
    splitter = [Role.SPLITTER] if params.splitter == "llm" else []
    scored = ["prompts", "candidates", "verdicts", "verdict_rejects", "params:feedback"]
    whole = [_whole_answers(labeler)] if params.scoring == "answer" else []
    return Pipeline(
        [
            node(
                nodes.divide,
                inputs=[
                    "prompts",
                    "candidates",
                    "params:seed",
                    "params:data_generation",
                    "params:feedback",
                    "params:models",
                    "params:compute",
                ],
                outputs=["feedback_rejects", "claims"],
                name="divide",
                tags=[*splitter, Task.DIVIDING],
            ),
            node(
                nodes.verify_claims,
                inputs=[
                    "prompts",
                    "candidates",
                    "claims",
                    "feedback_rejects",
                    "labeler",
                    "policy",
                    "params:feedback",
                    "params:models",
                    "params:compute",
                ],
                outputs=["verdict_rejects", "verdicts"],
                name="verify_claims",
                tags=[labeler, Task.LABELING],
            ),
            *whole,
            node(
                nodes.score,
                inputs=[*scored, *(each.outputs[0] for each in whole)],
                outputs="scores",
                name="score_candidates",
            ),
        ]
    )


def _whole_answers(labeler: Role) -> Node:
    return node(
        nodes.score_whole_answers,
        inputs=[
            "prompts",
            "candidates",
            "claims",
            "labeler",
            "policy",
            "params:feedback",
            "params:models",
            "params:compute",
        ],
        outputs="answer_scores",
        name="score_whole_answers",
        tags=[labeler, Task.SCORING],
    )


def _by_reward() -> Pipeline:
    return reward.create_pipeline() + Pipeline(
        [
            node(
                nodes.score_rewards,
                inputs=[
                    "prompts",
                    "candidates",
                    "candidate_rewards",
                    "params:data_generation",
                    "params:feedback",
                    "params:reward",
                ],
                outputs="scores",
                name="score_rewards",
            )
        ]
    )
