"""evaluation: checkpoints -> their answers and metrics -> trained_policy -> answers -> metrics."""

from kedro.pipeline import Pipeline, node

from rlaifv_kedro.benchmarks.best_of import sample_answers
from rlaifv_kedro.benchmarks.loop import score_answers
from rlaifv_kedro.params import Parameters
from rlaifv_kedro.pipelines.evaluation import nodes
from rlaifv_kedro.pipelines.reward.nodes import compute_rewards
from rlaifv_kedro.reporting.curve import draw_curve
from rlaifv_kedro.tags import Role, Task

OWN_REWARD = ("trained_policy", "base_policy")
CATALOG_REWARD = ("reward_policy", "reward_reference")


def create_pipeline(parameters: Parameters) -> Pipeline:
    """The stage; ``evaluation.best_of``, ``best_of_reward`` and ``select_on`` decide what there is to do."""
    params = parameters.evaluation
    reward = OWN_REWARD if params.best_of_reward == "own" else CATALOG_REWARD
    return selection_pipeline(params.select_on) + measurement_pipeline(params.best_of, reward)


def truth_pipeline(parameters: Parameters) -> Pipeline:
    """Which objects are in the images of the splits that policies are measured on, for all iterations."""
    splits = {parameters.evaluation.select_on, "test"}
    return Pipeline(
        [
            node(
                make_truth,
                inputs=[f"{split}_instances", f"{split}_captions"],
                outputs=f"{split}_truth",
                name=f"make_{split}_truth",
            )
            for split, make_truth in nodes.MAKE_TRUTH.items()
            if split in splits
        ]
    )


def selection_pipeline(split: str = "selection") -> Pipeline:
    """Every checkpoint on a split; the best becomes ``trained_policy``, and only some of the others stay.

    Args:
        split: ``selection``, or ``test`` as in the original release.
    """
    return Pipeline(
        [
            node(
                nodes.answer_with_checkpoints,
                inputs=[
                    "checkpoints",
                    "policy",
                    "base_policy",
                    f"{split}_prompts",
                    "params:evaluation",
                    "params:models",
                    "params:compute",
                ],
                outputs="checkpoint_answers",
                name="answer_with_checkpoints",
                tags=[Role.POLICY, Task.SELECTING],
            ),
            node(
                nodes.score_checkpoints,
                inputs=[
                    "checkpoints",
                    "checkpoint_answers",
                    "policy",
                    "base_policy",
                    f"{split}_prompts",
                    f"{split}_truth",
                ],
                outputs="checkpoint_metrics",
                name="score_checkpoints",
            ),
            node(
                nodes.select_checkpoint,
                inputs=["checkpoints", "checkpoint_metrics", "policy", "params:evaluation"],
                outputs=["trained_policy", "selection"],
                name="select_checkpoint",
            ),
            node(
                draw_curve,
                inputs=["checkpoint_metrics", "selection"],
                outputs="selection_curve",
                name="draw_selection_curve",
            ),
            node(
                nodes.prune_checkpoints,
                inputs=[
                    "checkpoints",
                    "checkpoint_metrics",
                    "selection",
                    "params:evaluation",
                ],
                outputs="kept_checkpoints",
                name="prune_checkpoints",
                tags=[Task.TIDYING],
            ),
        ]
    )


def measurement_pipeline(best_of: int = 1, reward: tuple[str, str] = OWN_REWARD) -> Pipeline:
    """``trained_policy`` on the test split.

    Args:
        best_of: 1 for greedy answers; else the best of so many samples.
        reward: The entries of the policy and the reference that say which is the best.
    """
    answered = _greedy() if best_of == 1 else _best_of(*reward)
    return answered + Pipeline(
        [
            node(
                nodes.answer_test_probes,
                inputs=[
                    "trained_policy",
                    "test_prompts",
                    "test_probes",
                    "params:feedback",
                    "params:evaluation",
                    "params:models",
                    "params:compute",
                ],
                outputs="probe_replies",
                name="answer_probes",
                tags=[Role.POLICY, Task.PROBING],
            ),
            node(
                nodes.score_test_probes,
                inputs=["probe_replies", "test_probes", "number", "params:feedback"],
                outputs="probe_metrics",
                name="score_probes",
            ),
        ]
    )


def _greedy() -> Pipeline:
    return Pipeline(
        [
            node(
                nodes.answer_test_prompts,
                inputs=[
                    "trained_policy",
                    "number",
                    "test_prompts",
                    "params:evaluation",
                    "params:models",
                    "params:compute",
                ],
                outputs="answers",
                name="answer_test_prompts",
                tags=[Role.POLICY, Task.ANSWERING],
            ),
            node(
                score_answers,
                inputs=["answers", "test_prompts", "test_truth"],
                outputs=["item_scores", "metrics"],
                name="score_answers",
            ),
        ]
    )


def _best_of(policy: str, reference: str) -> Pipeline:
    return Pipeline(
        [
            node(
                sample_answers,
                inputs=[
                    "trained_policy",
                    "test_prompts",
                    "params:seed",
                    "params:evaluation",
                    "params:reward",
                    "params:models",
                    "params:compute",
                ],
                outputs="answer_candidates",
                name="sample_answers",
                tags=[Role.POLICY, Task.ANSWERING],
            ),
            node(
                compute_rewards,
                inputs=[
                    "test_prompts",
                    "answer_candidates",
                    policy,
                    reference,
                    "params:data_generation",
                    "params:reward",
                    "params:training",
                    "params:models",
                    "params:compute",
                ],
                outputs="answer_rewards",
                name="reward_answers",
                tags=[Role.POLICY, Task.ANSWERING],
            ),
            node(
                nodes.choose_best_answers,
                inputs=[
                    "test_prompts",
                    "answer_candidates",
                    "answer_rewards",
                    "number",
                    "params:evaluation",
                    "params:reward",
                ],
                outputs="answers",
                name="choose_answers",
            ),
            node(
                nodes.score_best_answers,
                inputs=["answers", "test_prompts", "test_truth", "params:evaluation", "params:reward"],
                outputs=["item_scores", "metrics"],
                name="score_answers",
            ),
        ]
    )
