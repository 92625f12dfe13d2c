"""From scores to preference pairs: the gap, the draw, and length balancing.

Source: arXiv 2405.17220, section 3; the rules are in the release's scripts.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.preference.candidates import KEY, CandidateRows
from rlaifv_kedro.seeds import generator_for

# The thresholds that length balancing tries: 0, 0.02 .. 0.98.
_THRESHOLDS = np.arange(50) / 50
_PROMPTS_AT_ONCE = 1000
_VERDICTS_AT_ONCE = 10_000


def score_candidates(verdicts: pd.DataFrame, candidates: pd.DataFrame) -> pd.DataFrame:
    """Score of a candidate = minus the number of its rejected claims; not divided by the number of claims.

    Args:
        verdicts: prompt_id, candidate, claim, accepted; a candidate of which one claim has no verdict (NA)
            has no score.
        candidates: prompt_id, candidate; one without claims scores 0.

    Returns:
        prompt_id, candidate, claim_count, rejected_count, score; in the candidates' order.
    """
    rows_of = CandidateRows(candidates)
    claims, rejected, missing = np.zeros((3, len(candidates)), np.int32)
    for start in range(0, len(verdicts), _VERDICTS_AT_ONCE):
        part = verdicts.iloc[start : start + _VERDICTS_AT_ONCE]
        rows, read = rows_of.of(part["prompt_id"], part["candidate"]), part["accepted"].astype("boolean")
        there = rows >= 0
        no, none = (~read).fillna(False).to_numpy(bool), read.isna().to_numpy()
        for counts, counted in ((claims, there), (rejected, there & no), (missing, there & none)):
            np.add.at(counts, rows[counted], 1)
    scores = candidates[KEY].assign(claim_count=claims, rejected_count=rejected, score=-rejected)
    return scores[missing == 0].reset_index(drop=True)


def refuse_unknown_prompts(prompts: pd.DataFrame, candidates: pd.DataFrame) -> None:
    """Raise UserError if candidates answer prompts that aren't there."""
    unknown = set(candidates["prompt_id"]) - set(prompts["prompt_id"])
    if unknown:
        raise UserError(
            f"candidates has answers to {len(unknown)} prompts that prompts doesn't hold, e.g. "
            f"{min(unknown)}: they come from different runs. "
            "Choose one run's with --load-versions, or make both again: kedro run --pipelines "
            "data_generation."
        )


def all_pairs(scores: pd.DataFrame, min_score_gap: int = 1) -> pd.DataFrame:
    """Every unordered pair of a prompt's candidates whose scores differ by at least the gap.

    The candidate with the higher score is the chosen one.

    Args:
        scores: prompt_id, candidate, score.

    Returns:
        prompt_id, chosen_candidate, rejected_candidate, chosen_score, rejected_score; prompts in order of
        appearance, then by chosen and rejected.
    """
    rows: list[tuple[str, int, int, int, int]] = []
    for prompt_id, group in scores.groupby("prompt_id", sort=False):
        ranked = sorted(zip(group["candidate"].tolist(), group["score"].tolist()))
        rows += [
            (prompt_id, c, r, sc, sr) for c, sc in ranked for r, sr in ranked if sc - sr >= min_score_gap
        ]
    return pd.DataFrame(
        rows,
        columns=["prompt_id", "chosen_candidate", "rejected_candidate", "chosen_score", "rejected_score"],
    )


def draw_pairs(pairs: pd.DataFrame, pairs_per_prompt: int, seed: int) -> pd.DataFrame:
    """At most ``pairs_per_prompt`` pairs of each prompt, drawn at random.

    The draw goes by (seed, prompt_id), so that other prompts don't change a prompt's.
    """
    kept = []
    for prompt_id, group in pairs.groupby("prompt_id", sort=False):
        order = generator_for(seed, "pairs", str(prompt_id)).permutation(len(group))
        kept.append(group.iloc[np.sort(order[:pairs_per_prompt])])
    return pd.concat(kept, ignore_index=True) if kept else pairs


def drawn_of_possible(
    scores: pd.DataFrame, min_score_gap: float, pairs_per_prompt: int, seed: int
) -> tuple[pd.DataFrame, int]:
    """What :func:`draw_pairs` draws of :func:`all_pairs`, and how many the latter are.

    Some prompts at a time: ten candidates have 45 pairs, of which two are drawn.
    """
    codes = pd.factorize(scores["prompt_id"])[0]
    drawn, possible = [all_pairs(scores[:0])], 0
    for start in range(0, codes.max(initial=-1) + 1, _PROMPTS_AT_ONCE):
        some = (codes >= start) & (codes < start + _PROMPTS_AT_ONCE)
        pairs = all_pairs(scores[some], min_score_gap)
        possible += len(pairs)
        drawn.append(draw_pairs(pairs, pairs_per_prompt, seed))
    filled = [part for part in drawn if len(part)]
    return pd.concat(filled or drawn, ignore_index=True), possible


@dataclass(frozen=True)
class LengthBalance:
    """Which pairs length balancing keeps (bool, one a pair) and the threshold it chose."""

    keep: np.ndarray
    threshold: float


def compare_texts(chosen: Iterable[str], rejected: Iterable[str]) -> pd.DataFrame:
    """The number of words of each pair's answers, and whether these differ, of which no text is kept.

    Returns:
        chosen_words and rejected_words, int64, and different, bool; (pairs,).
    """
    rows = ((len(c.split()), len(r.split()), c != r) for c, r in zip(chosen, rejected, strict=True))
    names = ["chosen_words", "rejected_words", "different"]
    found = np.fromiter(rows, [(name, np.bool_ if name == "different" else np.int64) for name in names])
    return pd.DataFrame({name: found[name] for name in names})


def balance_lengths(pairs: pd.DataFrame) -> LengthBalance:
    """Drop pairs until chosen and rejected answers are about equally long.

    Shorter answers hallucinate less, so otherwise DPO would learn brevity.

    For each threshold t = 0, 0.02 .. 0.98 drop the pairs with (len(rejected) - len(chosen)) / len(rejected) >
    t (lengths in words) or with equal texts; keep the t for which |mean len(chosen) - mean len(rejected)| /
    mean len(rejected) is smallest, the first on a tie. If every threshold drops all pairs, nothing is kept.

    Args:
        pairs: With the columns of :func:`compare_texts`.
    """
    lengths_c, lengths_r = (pairs[name].to_numpy(float) for name in ("chosen_words", "rejected_words"))
    different = pairs["different"].to_numpy(bool)
    share = (lengths_r - lengths_c) / np.maximum(lengths_r, 1)
    best, best_gap = LengthBalance(np.zeros(len(pairs), dtype=bool), float("nan")), np.inf
    for threshold in _THRESHOLDS:
        keep = different & (share <= threshold)
        if not keep.any():
            continue
        mean_c, mean_r = lengths_c[keep].mean(), lengths_r[keep].mean()
        gap = abs(mean_c - mean_r) / max(mean_r, 1e-9)
        if gap < best_gap:
            best, best_gap = LengthBalance(keep, float(threshold)), gap
    return best
