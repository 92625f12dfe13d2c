"""Checkpoints to the selected policy, and a policy to answers and metrics."""

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd

from rlaifv_kedro.benchmarks.best_of import choose_answers, decoding_of
from rlaifv_kedro.benchmarks.coco.truth import truth_of_split
from rlaifv_kedro.benchmarks.loop import (
    answer_probes,
    answer_prompts,
    load_policy,
    policy_name,
    score_answers,
)
from rlaifv_kedro.datasets.chunks import Chunk, Complete
from rlaifv_kedro.engine.chunks import map_chunks
from rlaifv_kedro.engine.outputs import scratch_folder
from rlaifv_kedro.params import ComputeParams, EvaluationParams, FeedbackParams, ModelsParams, RewardParams
from rlaifv_kedro.preference.selection import BASE, START, checkpoints_to_keep, choose
from rlaifv_kedro.schemas import table
from rlaifv_kedro.training.policy import keep_checkpoints, refuse_lost_metrics, whole_policy

logger = logging.getLogger(__name__)


def make_selection_truth(instances: dict[str, Any], captions: dict[str, Any]) -> pd.DataFrame:
    """Which objects are in the images of the selection split: a table ``coco_truth``."""
    return truth_of_split("selection", instances, captions)


def make_test_truth(instances: dict[str, Any], captions: dict[str, Any]) -> pd.DataFrame:
    """Which objects are in the images of the test split: a table ``coco_truth``."""
    return truth_of_split("test", instances, captions)


MAKE_TRUTH = {"selection": make_selection_truth, "test": make_test_truth}
"""The splits that policies are measured on, and the node that makes the truth about each."""


def measure_checkpoints(
    checkpoints: list[dict[str, Any]],
    policy: Path,
    base_policy: Path,
    prompts: pd.DataFrame,
    truth: pd.DataFrame,
    params: EvaluationParams,
    models: ModelsParams,
    compute: ComputeParams,
) -> Iterator[Chunk | Complete]:
    """Measure the base policy, the starting policy and every checkpoint: ``checkpoint_metrics``.

    Each is a chunk. A checkpoint of another run that the storage policy has removed has no rows.

    Raises:
        UserError: This run has measured and removed a checkpoint, and what it measured is lost.
    """
    named = [
        {"path": base_policy, "step": 0, "epoch": 0.0, "name": BASE},
        {"path": policy, "step": 0, "epoch": 0.0, "name": START},
        *({**c, "name": Path(c["path"]).name} for c in checkpoints),
    ]
    measured: dict[Path, pd.DataFrame] = {}

    def work(one: list[dict[str, Any]]) -> pd.DataFrame:
        [checkpoint] = one
        path = Path(checkpoint["path"])
        if "removed" in checkpoint:
            refuse_lost_metrics(checkpoint)
            logger.warning(
                "%s was removed by an earlier selection (evaluation.keep_best) and can't be measured: it "
                "takes no part",
                path.name,
            )
            return table("checkpoint_metrics").frame([])
        if path not in measured:  # in the first iteration base and start are one
            model = load_policy(path, params.batch_size, models, compute)
            answers = answer_prompts(model, checkpoint["name"], prompts, params)
            measured[path] = score_answers(answers, prompts, truth)[1].drop(columns="policy")
        return measured[path].assign(
            checkpoint=checkpoint["name"], step=checkpoint["step"], epoch=checkpoint["epoch"]
        )

    yield from map_chunks(named, 1, nullcontext, (work,), "measuring checkpoints")


def select_checkpoint(
    checkpoints: list[dict[str, Any]],
    metrics: pd.DataFrame,
    policy: Path,
    params: EvaluationParams,
) -> tuple[Path, dict[str, Any]]:
    """The best checkpoint as the iteration's policy; see :func:`rlaifv_kedro.preference.selection.choose`.

    Returns:
        The selected policy's folder, and what was decided and why.

    Raises:
        UserError: Every checkpoint has collapsed.
    """
    selection = choose(checkpoints, metrics, params)
    if selection["selected"] == START:
        return policy, selection
    [chosen] = [Path(c["path"]) for c in checkpoints if Path(c["path"]).name == selection["selected"]]
    return whole_policy(chosen, scratch_folder("trained_policy"), metrics, selection), selection


def prune_checkpoints(
    checkpoints: list[dict[str, Any]],
    metrics: pd.DataFrame,
    selection: dict[str, Any],
    params: EvaluationParams,
) -> dict[str, Any]:
    """Keep the best checkpoints and the last, complete their cards, and remove the others.

    Checkpoints that another run has made all stay.

    Returns:
        The ``kept_checkpoints`` entry; see :func:`rlaifv_kedro.preference.selection.checkpoints_to_keep`.
    """
    decided = checkpoints_to_keep(checkpoints, metrics, selection, params.keep_best)
    if all(c["own"] for c in checkpoints):
        keep_checkpoints(checkpoints, metrics, selection, decided)
    elif decided["removed"]:
        logger.info(
            "another run has made the checkpoints, so all of them stay; that run removes some of them if it "
            "goes on with the evaluation"
        )
    return decided


def answer_test_prompts(
    checkpoint: Path,
    iteration: int,
    prompts: pd.DataFrame,
    params: EvaluationParams,
    models: ModelsParams,
    compute: ComputeParams,
) -> pd.DataFrame:
    """Greedy answers of an iteration's policy, the base policy being that of iteration 0: ``answers``."""
    model = load_policy(checkpoint, params.batch_size, models, compute)
    return answer_prompts(model, policy_name(iteration), prompts, params)


def choose_best_answers(
    prompts: pd.DataFrame,
    candidates: pd.DataFrame,
    rewards: pd.DataFrame,
    iteration: int,
    reward: RewardParams,
) -> pd.DataFrame:
    """Of an iteration's policy's samples those with the highest reward: ``answers``."""
    return choose_answers(prompts, candidates, rewards, policy_name(iteration), reward)


def score_best_answers(
    answers: pd.DataFrame,
    prompts: pd.DataFrame,
    truth: pd.DataFrame,
    params: EvaluationParams,
    reward: RewardParams,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What best-of-N answers are worth, with a protocol that says so: ``item_scores``, ``metrics``."""
    return score_answers(answers, prompts, truth, decoding_of(params, reward))


def answer_test_probes(
    checkpoint: Path,
    iteration: int,
    prompts: pd.DataFrame,
    probes: pd.DataFrame,
    feedback: FeedbackParams,
    params: EvaluationParams,
    models: ModelsParams,
    compute: ComputeParams,
) -> pd.DataFrame:
    """How well an iteration's policy sees: ``metrics`` of yes/no questions with a known answer."""
    model = load_policy(checkpoint, params.batch_size, models, compute)
    return answer_probes(model, policy_name(iteration), prompts, probes, feedback, params)
