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
    policy_answerer,
    policy_name,
    probe_answerer,
    probes_by_image,
    prompt_answerer,
    score_answers,
    score_probes,
)
from rlaifv_kedro.datasets.chunks import Chunk, Complete
from rlaifv_kedro.engine.chunks import map_chunks
from rlaifv_kedro.engine.items import LazyItems
from rlaifv_kedro.engine.outputs import scratch_folder
from rlaifv_kedro.params import ComputeParams, EvaluationParams, FeedbackParams, ModelsParams, RewardParams
from rlaifv_kedro.preference.by_prompt import ByPrompt
from rlaifv_kedro.preference.selection import BASE, START, checkpoints_to_keep, choose
from rlaifv_kedro.schemas import table
from rlaifv_kedro.training.policy import keep_checkpoints, refuse_lost_answers, whole_policy

logger = logging.getLogger(__name__)


def make_selection_truth(instances: dict[str, Any], captions: dict[str, Any]) -> pd.DataFrame:
    """Which objects are in the images of the selection split: a table ``coco_truth``."""
    return truth_of_split("selection", instances, captions)


def make_test_truth(instances: dict[str, Any], captions: dict[str, Any]) -> pd.DataFrame:
    """Which objects are in the images of the test split: a table ``coco_truth``."""
    return truth_of_split("test", instances, captions)


MAKE_TRUTH = {"selection": make_selection_truth, "test": make_test_truth}
"""The splits that policies are measured on, and the node that makes the truth about each."""


def answer_with_checkpoints(
    checkpoints: list[dict[str, Any]],
    policy: Path,
    base_policy: Path,
    prompts: pd.DataFrame,
    params: EvaluationParams,
    models: ModelsParams,
    compute: ComputeParams,
) -> Iterator[Chunk | Complete]:
    """Greedy answers of the base policy, the starting policy and every checkpoint: ``checkpoint_answers``.

    A chunk is some prompts of one of them. A policy that has several names answers under the first. A
    checkpoint of another run that the storage policy has removed has no rows.

    Raises:
        UserError: This run has measured and removed a checkpoint, and its answers are lost.
    """
    rows, size = list(prompts.itertuples(index=False)), params.chunk_size
    distinct = {one["path"]: one for one in reversed(_compared(checkpoints, policy, base_policy))}
    parts = [(one, start) for one in reversed(distinct.values()) for start in range(0, len(rows), size)]

    def items(some: list[tuple[dict[str, Any], int]]) -> list[tuple[Path, str, list[Any]]]:
        [(one, start)] = some
        return [(one["path"], one["name"], [] if _is_gone(one, start) else rows[start : start + size])]

    yield from map_chunks(
        LazyItems(parts, items, subject=lambda part: part[0]["path"]),
        1,
        prompt_answerer,
        (params, models, compute),
        "answering with checkpoints",
        compute=compute,
    )


def score_checkpoints(
    checkpoints: list[dict[str, Any]],
    answers: pd.DataFrame,
    policy: Path,
    base_policy: Path,
    prompts: pd.DataFrame,
    truth: pd.DataFrame,
) -> Iterator[Chunk | Complete]:
    """What the answers of the base policy, the starting policy and every checkpoint are worth.

    Args:
        answers: The ``checkpoint_answers``.

    Yields:
        Chunks of ``checkpoint_metrics``, one a policy.
    """
    compared = _compared(checkpoints, policy, base_policy)
    answered_as = {one["path"]: one["name"] for one in reversed(compared)}

    def work(some: list[dict[str, Any]]) -> pd.DataFrame:
        [one] = some
        own = answers[answers["policy"] == answered_as[one["path"]]]
        if own.empty:
            return table("checkpoint_metrics").frame([])
        metrics = score_answers(own, prompts, truth)[1].drop(columns="policy")
        return metrics.assign(checkpoint=one["name"], step=one["step"], epoch=one["epoch"])

    yield from map_chunks(compared, 1, nullcontext, (work,), "scoring checkpoints")


def _compared(checkpoints: list[dict[str, Any]], policy: Path, base_policy: Path) -> list[dict[str, Any]]:
    """All that are compared, with their names; base policy and start are one in the first iteration."""
    return [
        {"path": base_policy, "step": 0, "epoch": 0.0, "name": BASE},
        {"path": policy, "step": 0, "epoch": 0.0, "name": START},
        *({**c, "path": Path(c["path"]), "name": Path(c["path"]).name} for c in checkpoints),
    ]


def _is_gone(checkpoint: dict[str, Any], start: int) -> bool:
    """Whether an earlier selection has removed a checkpoint, which is said at the first prompts.

    Raises:
        UserError: This run has removed it.
    """
    if "removed" not in checkpoint:
        return False
    refuse_lost_answers(checkpoint)
    if start == 0:
        logger.warning(
            "%s was removed by an earlier selection (evaluation.keep_best) and can't be measured: it takes "
            "no part",
            checkpoint["name"],
        )
    return True


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
) -> Iterator[Chunk | Complete]:
    """Greedy answers of an iteration's policy, the base policy being that of iteration 0.

    Yields:
        Chunks of ``answers``, by prompts.
    """
    yield from map_chunks(
        list(prompts.itertuples(index=False)),
        params.chunk_size,
        policy_answerer,
        (checkpoint, policy_name(iteration), params, models, compute),
        "answering test prompts",
        compute=compute,
    )


def choose_best_answers(
    prompts: pd.DataFrame,
    candidates: pd.DataFrame,
    rewards: pd.DataFrame,
    iteration: int,
    params: EvaluationParams,
    reward: RewardParams,
) -> Iterator[Chunk | Complete]:
    """Of an iteration's policy's samples those with the highest reward.

    Yields:
        Chunks of ``answers``, by prompts.
    """
    own, rewarded = ByPrompt(candidates), ByPrompt(rewards)

    def items(rows: list[Any]) -> list[tuple[Any, pd.DataFrame, pd.DataFrame]]:
        return [(row, own[row.prompt_id], rewarded[row.prompt_id]) for row in rows]

    def work(some: list[tuple[Any, pd.DataFrame, pd.DataFrame]]) -> pd.DataFrame:
        rows, *tables = zip(*some)
        sampled, known = (pd.concat(each, ignore_index=True) for each in tables)
        return choose_answers(pd.DataFrame(rows), sampled, known, policy_name(iteration), reward)

    prompt_rows = LazyItems(list(prompts.itertuples(index=False)), items)
    yield from map_chunks(prompt_rows, params.chunk_size, nullcontext, (work,), "choosing answers")


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
    prompts: pd.DataFrame,
    probes: pd.DataFrame,
    feedback: FeedbackParams,
    params: EvaluationParams,
    models: ModelsParams,
    compute: ComputeParams,
) -> Iterator[Chunk | Complete]:
    """A policy's replies to yes/no questions with a known answer.

    Yields:
        Chunks of ``probe_replies``, by images.
    """
    yield from map_chunks(
        probes_by_image(prompts, probes),
        params.chunk_size,
        probe_answerer,
        (checkpoint, feedback, params, models, compute),
        "probes",
        compute=compute,
    )


def score_test_probes(
    replies: pd.DataFrame, probes: pd.DataFrame, iteration: int, feedback: FeedbackParams
) -> pd.DataFrame:
    """How well an iteration's policy sees: ``metrics`` of its replies."""
    return score_probes(replies, probes, policy_name(iteration), feedback)
