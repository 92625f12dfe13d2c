"""Candidates to claims, verdicts, scores and preference pairs."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from rlaifv_kedro.datasets.chunks import Chunk, Complete
from rlaifv_kedro.engine.chunks import map_chunks
from rlaifv_kedro.engine.items import LazyItems
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import (
    ComputeParams,
    DataGenerationParams,
    FeedbackParams,
    ModelsParams,
    RewardParams,
)
from rlaifv_kedro.pipelines.feedback.work import answer_scorer, divider, verifier
from rlaifv_kedro.preference.by_prompt import ByPrompt
from rlaifv_kedro.preference.candidates import KEY, cut_off_rejects, refuse_too_few
from rlaifv_kedro.preference.pair_table import AnswerTexts, pair_statistics, pair_table
from rlaifv_kedro.preference.pairs import (
    balance_lengths,
    compare_texts,
    drawn_of_possible,
    refuse_unknown_prompts,
    score_candidates,
)
from rlaifv_kedro.preference.verdicts import accepted, unread_line
from rlaifv_kedro.schemas import table
from rlaifv_kedro.seeds import seed_for

log = logging.getLogger(__name__)


def divide(
    prompts: pd.DataFrame,
    candidates: pd.DataFrame,
    seed: int,
    generation: DataGenerationParams,
    params: FeedbackParams,
    models: ModelsParams,
    compute: ComputeParams,
) -> Iterator[tuple[Chunk | Complete, Chunk | Complete]]:
    """Split every answer into claims with their questions.

    Yields:
        (rejects, claims) of a chunk of prompts. Answers that are cut off or can't be split are in rejects.

    Raises:
        UserError: Candidates belong to other prompts, or more than ``max_reject_share`` are cut off.
    """
    refuse_unknown_prompts(prompts, candidates)
    cut_off = cut_off_rejects(candidates, generation)
    refuse_too_few(prompts, candidates, len(candidates) - len(cut_off), cut_off, params)
    complete = ByPrompt(candidates, ~candidates.index.isin(cut_off.index))
    cut_off_of = ByPrompt(cut_off.assign(prompt_id=candidates.loc[cut_off.index, "prompt_id"].to_numpy()))

    def items(rows: list[Any]) -> list[tuple[str, pd.DataFrame, pd.DataFrame]]:
        return [(row.question, complete[row.prompt_id], cut_off_of[row.prompt_id]) for row in rows]

    yield from map_chunks(
        LazyItems(list(prompts.itertuples(index=False)), items),
        params.chunk_size,
        divider,
        (seed, params, models, compute),
        "dividing answers",
        2,
        compute,
    )


def verify_claims(
    prompts: pd.DataFrame,
    candidates: pd.DataFrame,
    claims: pd.DataFrame,
    divide_rejects: pd.DataFrame,
    labeler: Path,
    policy: Path,
    params: FeedbackParams,
    models: ModelsParams,
    compute: ComputeParams,
) -> Iterator[tuple[Chunk | Complete, Chunk | Complete]]:
    """Ask the labeler every claim's question about the image; identical questions about an image once.

    Yields:
        (rejects, verdicts) of a chunk of prompts. A reply that is neither yes nor no is no verdict
        (``min_verdict_mass``); a candidate of which one claim has none is in rejects.

    Raises:
        UserError: More than ``max_reject_share`` of the answers asked for are missing or couldn't be split,
            or get no verdict, which is said as soon as there are so many.
    """
    usable = len(claims[KEY].drop_duplicates())
    refuse_too_few(prompts, candidates, usable, divide_rejects, params)
    by_prompt = ByPrompt(claims)
    asked_about = [row for row in prompts.itertuples(index=False) if row.prompt_id in by_prompt]
    replies = _Replies()

    def items(rows: list[Any]) -> list[tuple[Any, pd.DataFrame]]:
        if replies.count:  # a labeler that can't be read is known long before the last chunk
            so_far, line = replies.rejects, unread_line(replies.unread, replies.count)
            refuse_too_few(prompts, candidates, usable - len(so_far), so_far, params, line)
        return [(row, by_prompt[row.prompt_id]) for row in rows]

    for output in map_chunks(
        LazyItems(asked_about, items),
        params.chunk_size,
        verifier,
        (labeler, policy, params, models, compute),
        "checking claims",
        2,
        compute,
    ):
        replies.add(*output)
        yield output


class _Replies:
    """How many replies there were so far, which of them are no verdict, and which candidates that rejects."""

    def __init__(self) -> None:
        self.count, self.unread, self.rejects = 0, table("verdicts").frame([]), table("rejects").frame([])

    def add(self, rejects: Chunk | Complete, verdicts: Chunk | Complete) -> None:
        """Counts those of a chunk."""
        if isinstance(rejects, Chunk) and isinstance(verdicts, Chunk):
            self.count += len(verdicts.frame)
            missing = verdicts.frame[verdicts.frame["accepted"].isna()]
            if len(missing):
                self.unread = pd.concat([self.unread, missing])
                self.rejects = pd.concat([self.rejects, rejects.frame])


def score_whole_answers(
    prompts: pd.DataFrame,
    candidates: pd.DataFrame,
    claims: pd.DataFrame,
    labeler: Path,
    policy: Path,
    params: FeedbackParams,
    models: ModelsParams,
    compute: ComputeParams,
) -> Iterator[Chunk | Complete]:
    """The labeler's mean log-prob of a token of each answer that has claims.

    Yields:
        Chunks of ``answer_scores``, by prompts.
    """
    keys = pd.MultiIndex.from_frame(claims[KEY].drop_duplicates())
    by_prompt = ByPrompt(candidates, pd.MultiIndex.from_frame(candidates[KEY]).isin(keys))
    answered = [row for row in prompts.itertuples(index=False) if row.prompt_id in by_prompt]
    yield from map_chunks(
        LazyItems(answered, lambda rows: [(row, by_prompt[row.prompt_id]) for row in rows]),
        params.chunk_size,
        answer_scorer,
        (labeler, policy, params, models, compute),
        "whole answers",
        compute=compute,
    )


def score(
    prompts: pd.DataFrame,
    candidates: pd.DataFrame,
    verdicts: pd.DataFrame,
    verdict_rejects: pd.DataFrame,
    params: FeedbackParams,
    answer_scores: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Scores of the candidates of which every claim has a verdict: minus their rejected claims.

    As an ablation: ``answer_scores``. What is a verdict is decided by ``min_verdict_mass`` anew, so another
    share asks no labeler again.

    Raises:
        UserError: More than ``max_reject_share`` of the answers asked for have no verdicts.
    """
    mass = params.min_verdict_mass
    replies = verdicts.assign(accepted=accepted(verdicts["p_yes"], verdicts["p_no"], mass))
    unread = unread_line(replies)
    if unread:
        log.warning("%s", unread)
    scores = score_candidates(replies, candidates)
    scores = scores[scores["claim_count"] > 0].reset_index(drop=True)
    refuse_too_few(prompts, candidates, len(scores), verdict_rejects, params, unread)
    if answer_scores is None:
        return scores
    return scores.drop(columns="score").merge(answer_scores, on=KEY, validate="one_to_one")


def score_rewards(
    prompts: pd.DataFrame,
    candidates: pd.DataFrame,
    rewards: pd.DataFrame,
    generation: DataGenerationParams,
    params: FeedbackParams,
    reward: RewardParams,
) -> pd.DataFrame:
    """Scores of the candidates by their rewards; see :func:`rlaifv_kedro.preference.reward.reward_scores`.

    Raises:
        UserError: More than ``max_reject_share`` of the answers asked for have no reward.
    """
    from rlaifv_kedro.preference.reward import reward_scores

    cut_off = cut_off_rejects(candidates, generation)
    refuse_too_few(prompts, candidates, len(rewards), cut_off, params)
    return reward_scores(rewards, reward.ranking)


def build_pairs(
    prompts: pd.DataFrame,
    candidates: pd.DataFrame,
    scores: pd.DataFrame,
    iteration: int,
    seed: int,
    params: FeedbackParams,
) -> tuple[Iterator[pd.DataFrame], dict[str, Any]]:
    """Draw and balance preference pairs.

    Returns:
        preference_pairs in the published dataset's schema (then scores, iteration and where each answer comes
        from), some at a time, and statistics.

    Raises:
        UserError: No pair is left, or scores and candidates come from different runs.
    """
    draw = seed_for(seed, "iteration", iteration)
    drawn, possible = drawn_of_possible(scores, params.min_score_gap, params.pairs_per_prompt, draw)
    answers = AnswerTexts(candidates)
    chosen, rejected = (
        answers.of(drawn["prompt_id"], drawn[f"{side}_candidate"]) for side in ("chosen", "rejected")
    )
    drawn = drawn.join(compare_texts(chosen, rejected))
    balance = balance_lengths(drawn)
    kept = drawn[balance.keep if params.balance_lengths else drawn["different"]]
    threshold = balance.threshold if params.balance_lengths else None
    if kept.empty:
        raise UserError(
            f"no preference pair is left of {possible} possible ones: the candidates of a prompt are "
            "all equally good to the labeler or "
            "reward. Sample more candidates (data_generation.candidates), raise "
            "data_generation.temperature, or check the labeler."
        )
    labeler = "reward" if params.scoring == "reward" else params.labeler
    statistics = pair_statistics(prompts, candidates, possible, drawn, kept, threshold)
    return pair_table(prompts, kept, answers, iteration, labeler), statistics
