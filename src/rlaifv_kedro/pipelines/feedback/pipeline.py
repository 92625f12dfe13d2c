"""feedback: candidates, labeler -> claims -> verdicts -> scores -> preference_pairs."""

from kedro.pipeline import Pipeline, node

from rlaifv_kedro.pipelines.feedback import nodes


def create_pipeline() -> Pipeline:
    return Pipeline([
        node(nodes.divide, inputs=["prompts", "candidates", "params:feedback"], outputs=["claims", "feedback_rejects"], name="divide"),
        node(
            nodes.verify_claims,
            inputs=["prompts", "claims", "labeler", "policy", "finished_verdicts", "params:feedback", "params:compute"],
            outputs="verdicts",
            name="verify_claims",
        ),
        node(
            nodes.score,
            inputs=["prompts", "candidates", "verdicts", "labeler", "policy", "params:feedback", "params:compute"],
            outputs="scores",
            name="score_candidates",
        ),
        node(
            nodes.build_pairs,
            inputs=["prompts", "candidates", "scores", "iteration_number", "params:seed", "params:feedback"],
            outputs=["preference_pairs", "pair_statistics"],
            name="build_pairs",
        ),
    ])  # fmt: skip
