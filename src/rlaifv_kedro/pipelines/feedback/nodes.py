"""Candidates to claims, verdicts, scores and preference pairs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from rlaifv_kedro.claims import yes_no_probs
from rlaifv_kedro.datasets.chunks import Chunk, Complete
from rlaifv_kedro.engine.chunks import map_chunks
from rlaifv_kedro.engine.progress import batches
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.images import open_image
from rlaifv_kedro.params import (
    ComputeParams,
    DataGenerationParams,
    FeedbackParams,
    ModelsParams,
    RewardParams,
)
from rlaifv_kedro.pipelines.feedback.models import open_labeler, open_splitter
from rlaifv_kedro.preference.candidates import cut_off_rejects
from rlaifv_kedro.preference.pair_table import pair_statistics, pair_table
from rlaifv_kedro.preference.pairs import (
    accepted,
    all_pairs,
    balance_lengths,
    draw_pairs,
    refuse_unknown_prompts,
    score_candidates,
)
from rlaifv_kedro.schemas import table
from rlaifv_kedro.seeds import seed_for

_CANDIDATE = ["prompt_id", "candidate"]


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
    from rlaifv_kedro.models import close_model

    refuse_unknown_prompts(prompts, candidates)
    cut_off = cut_off_rejects(candidates, generation)
    _refuse_too_many(prompts, candidates, len(candidates) - len(cut_off), cut_off, params)
    splitter, opened = open_splitter(seed, params, models, compute)
    complete = candidates.drop(index=cut_off.index)
    by_prompt = dict(iter(complete.groupby("prompt_id", sort=False)))
    cut_off_of = dict(iter(cut_off.groupby(candidates["prompt_id"], sort=False)))

    def work(rows: list[Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
        answered = [
            (row.question, c)
            for row in rows
            if row.prompt_id in by_prompt
            for c in by_prompt[row.prompt_id].itertuples(index=False)
        ]
        results = splitter.split([question for question, _ in answered], [c.answer for _, c in answered])
        claims: list[tuple[Any, ...]] = []
        rejects = [
            tuple(reject)
            for row in rows
            if row.prompt_id in cut_off_of
            for reject in cut_off_of[row.prompt_id].itertuples(index=False)
        ]
        for (_, c), result in zip(answered, results):
            if isinstance(result, str):
                rejects.append(("feedback", json.dumps([c.prompt_id, int(c.candidate)]), result))
            else:
                claims += [
                    (c.prompt_id, c.candidate, k, claim.text, claim.question)
                    for k, claim in enumerate(result)
                ]
        return table("rejects").frame(rejects), table("claims").frame(claims)

    yield from map_chunks(
        list(prompts.itertuples(index=False)),
        params.chunk_size,
        work,
        "dividing answers",
        2,
    )
    for model in opened:
        close_model(model)


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
        (rejects, verdicts) of a chunk of prompts. A candidate of which one question got no reply from a
        server is in rejects, and has no verdicts.

    Raises:
        UserError: More than ``max_reject_share`` of the answers asked for are missing or couldn't be split.
    """
    from rlaifv_kedro.models import close_model

    _refuse_too_many(prompts, candidates, len(claims[_CANDIDATE].drop_duplicates()), divide_rejects, params)
    model = open_labeler(labeler, policy, params, models, compute)
    by_prompt = dict(iter(claims.groupby("prompt_id", sort=False)))
    asked_about = [row for row in prompts.itertuples(index=False) if row.prompt_id in by_prompt]

    def work(rows: list[Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
        groups = [by_prompt[row.prompt_id] for row in rows]
        questions = [list(dict.fromkeys(group["question"])) for group in groups]
        images = [open_image(row.image, f"prompt {row.prompt_id}") for row in rows]
        verdicts = []
        for group, qs, probs in zip(groups, questions, yes_no_probs(model, images, questions, params)):
            known = dict(zip(qs, probs))
            both = [known[q] for q in group["question"]]
            verdicts.append(
                group[[*_CANDIDATE, "claim"]].assign(p_yes=[b[0] for b in both], p_no=[b[1] for b in both])
            )
        frame = pd.concat(verdicts, ignore_index=True)
        failed = frame.loc[frame["p_yes"].isna(), _CANDIDATE].drop_duplicates()
        rejects = [
            ("verdicts", json.dumps([p, int(c)]), "the labeler's server gave no reply to a question")
            for p, c in failed.itertuples(index=False)
        ]
        keys = pd.MultiIndex.from_frame(frame[_CANDIDATE])
        frame = frame[~keys.isin(pd.MultiIndex.from_frame(failed))].reset_index(drop=True)
        return table("rejects").frame(rejects), frame.assign(accepted=accepted(frame["p_yes"], frame["p_no"]))

    yield from map_chunks(asked_about, params.chunk_size, work, "checking claims", 2)
    close_model(model)


def score(
    prompts: pd.DataFrame,
    candidates: pd.DataFrame,
    verdicts: pd.DataFrame,
    verdict_rejects: pd.DataFrame,
    labeler: Path,
    policy: Path,
    params: FeedbackParams,
    models: ModelsParams,
    compute: ComputeParams,
) -> pd.DataFrame:
    """Scores of the candidates that have verdicts: minus their rejected claims.

    As an ablation: the labeler's mean log-prob of the whole answer.

    Raises:
        UserError: More than ``max_reject_share`` of the answers asked for have no verdicts.
    """
    _refuse_too_many(
        prompts, candidates, len(verdicts[_CANDIDATE].drop_duplicates()), verdict_rejects, params
    )
    verified = candidates.merge(verdicts[_CANDIDATE].drop_duplicates(), on=_CANDIDATE)
    scores = score_candidates(verdicts, verified)
    if params.scoring == "claims":
        return scores
    from rlaifv_kedro.models import Question

    model = open_labeler(labeler, policy, params, models, compute)
    asked = prompts.set_index("prompt_id")
    values: list[float] = []
    for part in batches(
        list(verified.groupby("prompt_id", sort=False)), params.batch_size, "scoring whole answers"
    ):
        questions = [
            Question(open_image(asked.at[p, "image"], f"prompt {p}"), asked.at[p, "question"])
            for p, _ in part
        ]
        log_probs = model.branch_log_probs(questions, [group["answer"].tolist() for _, group in part])
        values += [total / tokens for row in log_probs for total, tokens in row]
    return scores.assign(score=values)


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
    _refuse_too_many(prompts, candidates, len(rewards), cut_off, params)
    return reward_scores(rewards, reward.ranking)


def _refuse_too_many(
    prompts: pd.DataFrame,
    candidates: pd.DataFrame,
    usable: int,
    rejects: pd.DataFrame,
    params: FeedbackParams,
) -> None:
    """Raise UserError if too large a share of the answers that were asked for can't be used."""
    asked = len(prompts) * (int(candidates["candidate"].max()) + 1 if len(candidates) else 1)
    if asked - usable > params.max_reject_share * asked:
        known = "; ".join(_reasons(rejects)) or "see data_generation_rejects"
        raise UserError(
            f"{asked - usable} of {asked} answers can't be used (damaged images, empty or cut-off answers, "
            "answers that can't be divided, questions without a reply), more than "
            f"feedback.max_reject_share={params.max_reject_share}. {known}. "
            "Mend the images; or the policy has collapsed, or the splitter is not made for its answers, or a "
            "server fails."
        )


def _reasons(rejects: pd.DataFrame) -> list[str]:
    """The three most frequent reasons, each with its first item."""
    if rejects.empty:
        return []
    kinds = rejects.groupby(rejects["why"].str.partition(":")[0], sort=False)
    frequent = sorted(kinds, key=lambda kind: -len(kind[1]))[:3]
    return [f"{len(rows)} times: {rows['why'].iloc[0]} (first {rows['key'].iloc[0]})" for _, rows in frequent]


def build_pairs(
    prompts: pd.DataFrame,
    candidates: pd.DataFrame,
    scores: pd.DataFrame,
    iteration: int,
    seed: int,
    params: FeedbackParams,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Draw and balance preference pairs.

    Returns:
        preference_pairs in the published dataset's schema (then scores, iteration and where each answer comes
        from), and statistics.

    Raises:
        UserError: No pair is left.
    """
    possible = all_pairs(scores, params.min_score_gap)
    drawn = draw_pairs(possible, params.pairs_per_prompt, seed_for(seed, "iteration", iteration))
    answers = candidates.set_index(_CANDIDATE)["answer"]
    chosen = [answers[key] for key in zip(drawn["prompt_id"], drawn["chosen_candidate"])]
    rejected = [answers[key] for key in zip(drawn["prompt_id"], drawn["rejected_candidate"])]
    balance = balance_lengths(chosen, rejected)
    drawn = drawn.assign(chosen=chosen, rejected=rejected)
    kept = drawn[balance.keep] if params.balance_lengths else drawn[drawn["chosen"] != drawn["rejected"]]
    threshold = balance.threshold if params.balance_lengths else None
    if kept.empty:
        raise UserError(
            f"no preference pair is left of {len(possible)} possible ones: the candidates of a prompt are "
            "all equally good to the labeler or "
            "reward. Sample more candidates (data_generation.candidates), raise "
            "data_generation.temperature, or check the labeler."
        )
    labeler = "reward" if params.scoring == "reward" else params.labeler
    statistics = pair_statistics(prompts, candidates, possible, drawn, kept, threshold)
    return pair_table(prompts, kept, iteration, labeler), statistics
