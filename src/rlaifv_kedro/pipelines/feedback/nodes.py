"""Candidates to claims, verdicts, scores and preference pairs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from rlaifv_kedro.claims import make_splitter, yes_no_probs
from rlaifv_kedro.datasets.chunks import Chunk, Complete
from rlaifv_kedro.engine.chunks import map_chunks
from rlaifv_kedro.engine.progress import batches
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.images import open_image
from rlaifv_kedro.params import ComputeParams, FeedbackParams
from rlaifv_kedro.preference.pairs import accepted, all_pairs, balance_lengths, draw_pairs, score_candidates
from rlaifv_kedro.seeds import seed_for

if TYPE_CHECKING:
    from rlaifv_kedro.models.transformers_backend import TransformersModel

_CANDIDATE = ["prompt_id", "candidate"]


def divide(prompts: pd.DataFrame, candidates: pd.DataFrame, params: FeedbackParams) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split every answer into claims with their questions.

    Returns:
        claims, rejects (answers that can't be split).

    Raises:
        UserError: Candidates belong to other prompts; or more than ``max_reject_share`` of the answers asked for are missing or can't be split.
    """
    _refuse_strangers(prompts, candidates)
    questions = prompts.set_index("prompt_id")["question"]
    splitter = make_splitter(params.splitter, count_repeats=params.count_repeats)
    results = splitter.split(questions[candidates["prompt_id"]].tolist(), candidates["answer"].tolist())
    claims, rejects = [], []
    for prompt_id, candidate, result in zip(candidates["prompt_id"], candidates["candidate"], results):
        if isinstance(result, str):
            rejects.append(("feedback", json.dumps([prompt_id, int(candidate)]), result))
        else:
            claims += [(prompt_id, candidate, k, claim.text, claim.question) for k, claim in enumerate(result)]
    asked = len(prompts) * (int(candidates["candidate"].max()) + 1 if len(candidates) else 1)
    unusable = asked - len(candidates) + len(rejects)
    if unusable > params.max_reject_share * asked:
        first = f"{rejects[0][1]}: {rejects[0][2]}" if rejects else "see data_generation_rejects"
        raise UserError(
            f"{unusable} of {asked} answers can't be used (damaged images, empty answers, answers that can't be divided into claims), more than "
            f"feedback.max_reject_share={params.max_reject_share}. The first: {first}. Mend the images; or the policy has collapsed, or the splitter "
            "is not made for its answers."
        )
    return pd.DataFrame(claims, columns=[*_CANDIDATE, "claim", "text", "question"]), pd.DataFrame(rejects, columns=["stage", "key", "why"])


def verify_claims(
    prompts: pd.DataFrame, claims: pd.DataFrame, labeler: Path, policy: Path, finished: set[str], params: FeedbackParams, compute: ComputeParams
) -> Iterator[Chunk | Complete]:
    """Ask the labeler every claim's question about the image; identical questions about an image once.

    Yields:
        Chunks of ``verdicts``, by prompts.
    """
    model = _labeler(labeler, policy, params, compute)
    by_prompt = dict(iter(claims.groupby("prompt_id", sort=False)))
    asked_about = [row for row in prompts.itertuples(index=False) if row.prompt_id in by_prompt]

    def work(rows: list[Any]) -> pd.DataFrame:
        groups = [by_prompt[row.prompt_id] for row in rows]
        questions = [list(dict.fromkeys(group["question"])) for group in groups]
        images = [open_image(row.image, f"prompt {row.prompt_id}") for row in rows]
        verdicts = []
        for group, qs, probs in zip(groups, questions, yes_no_probs(model, images, questions, params)):
            known = dict(zip(qs, probs))
            both = [known[q] for q in group["question"]]
            verdicts.append(group[[*_CANDIDATE, "claim"]].assign(p_yes=[b[0] for b in both], p_no=[b[1] for b in both]))
        frame = pd.concat(verdicts, ignore_index=True)
        return frame.assign(accepted=accepted(frame["p_yes"], frame["p_no"]))

    yield from map_chunks(asked_about, params.chunk_size, finished, work, "checking claims")


def score(
    prompts: pd.DataFrame,
    candidates: pd.DataFrame,
    verdicts: pd.DataFrame,
    labeler: Path,
    policy: Path,
    params: FeedbackParams,
    compute: ComputeParams,
) -> pd.DataFrame:
    """Scores of the candidates that have verdicts: minus the rejected claims, or, as an ablation, the labeler's mean log-prob of the whole answer."""
    judged = candidates.merge(verdicts[_CANDIDATE].drop_duplicates(), on=_CANDIDATE)
    scores = score_candidates(verdicts, judged)
    if params.scoring == "claims":
        return scores
    from rlaifv_kedro.models import Question

    model = _labeler(labeler, policy, params, compute)
    asked = prompts.set_index("prompt_id")
    values: list[float] = []
    for part in batches(list(judged.groupby("prompt_id", sort=False)), params.batch_size, "scoring whole answers"):
        questions = [Question(open_image(asked.at[p, "image"], f"prompt {p}"), asked.at[p, "question"]) for p, _ in part]
        log_probs = model.branch_log_probs(questions, [group["answer"].tolist() for _, group in part])
        values += [total / tokens for row in log_probs for total, tokens in row]
    return scores.assign(score=values)


def _labeler(labeler: Path, policy: Path, params: FeedbackParams, compute: ComputeParams) -> "TransformersModel":
    """The model that judges: the catalog's labeler, or the policy itself."""
    from rlaifv_kedro.models import load_model

    return load_model(policy if params.labeler == "self" else labeler, **compute.loading(), batch_size=params.batch_size)


def _refuse_strangers(prompts: pd.DataFrame, candidates: pd.DataFrame) -> None:
    strangers = set(candidates["prompt_id"]) - set(prompts["prompt_id"])
    if strangers:
        raise UserError(
            f"candidates has answers to {len(strangers)} prompts that prompts doesn't hold, e.g. {min(strangers)}: they come from different runs. "
            "Choose one run's with --load-versions, or make both again: kedro run --pipelines data_generation."
        )


def build_pairs(
    prompts: pd.DataFrame, candidates: pd.DataFrame, scores: pd.DataFrame, iteration: int, seed: int, params: FeedbackParams
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Draw and balance preference pairs.

    Returns:
        preference_pairs in the published dataset's schema (then scores, iteration and where each answer comes from), and statistics.

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
    if kept.empty:
        raise UserError(
            f"no preference pair is left of {len(possible)} possible ones: the candidates of a prompt are all equally good to the labeler. "
            "Sample more candidates (data_generation.candidates), raise data_generation.temperature, or check the labeler."
        )
    origin = prompts.set_index("prompt_id").loc[kept["prompt_id"]]
    origin_split = [
        json.dumps({"model": f"iteration_{iteration - 1}" if iteration > 1 else "base", "labeler": params.labeler, "type": kind or None})
        for kind in origin["question_type"].fillna("")
    ]
    pairs = pd.DataFrame({
        "ds_name": "rlaifv_kedro", "image": origin["image"].tolist(), "question": origin["question"].tolist(), "chosen": kept["chosen"].tolist(),
        "rejected": kept["rejected"].tolist(), "origin_dataset": origin["origin_dataset"].tolist(), "origin_split": origin_split,
        "idx": range(len(kept)), "image_path": [image["path"] or "" for image in origin["image"]],
        "chosen_score": kept["chosen_score"].to_numpy(), "rejected_score": kept["rejected_score"].to_numpy(), "iteration": iteration,
        "prompt_id": kept["prompt_id"].tolist(), "chosen_candidate": kept["chosen_candidate"].to_numpy(),
        "rejected_candidate": kept["rejected_candidate"].to_numpy(),
    })  # fmt: skip
    return pairs, _statistics(prompts, possible, drawn, kept, balance.threshold if params.balance_lengths else None)


def _statistics(prompts: pd.DataFrame, possible: pd.DataFrame, drawn: pd.DataFrame, kept: pd.DataFrame, threshold: float | None) -> dict[str, Any]:
    return {
        "prompts": len(prompts),
        "prompts_with_pairs": int(kept["prompt_id"].nunique()),
        "possible_pairs": len(possible),
        "drawn_pairs": len(drawn),
        "kept_pairs": len(kept),
        "length_threshold": threshold,
        "mean_words_chosen": float(kept["chosen"].str.split().str.len().mean()),
        "mean_words_rejected": float(kept["rejected"].str.split().str.len().mean()),
    }
