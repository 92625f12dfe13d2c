"""The labeler at a glance: its verdicts against the truth, where that is known; and lengths beside scores."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rlaifv_kedro.benchmarks.judging.calibration import calibrate, read_verdicts
from rlaifv_kedro.benchmarks.judging.reliability import (
    calibration_error,
    reliability_curve,
    roc_area,
    roc_curve,
)
from rlaifv_kedro.benchmarks.statistics import mean
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown
from rlaifv_kedro.formats import cell
from rlaifv_kedro.miniature.claim_truth import PoolTruth
from rlaifv_kedro.preference.candidates import KEY
from rlaifv_kedro.runs.manifest import Manifest, load
from rlaifv_kedro.viewer.artifacts import Artifacts
from rlaifv_kedro.viewer.data import rounded

_CLAIM = [*KEY, "claim"]
_TRUE, _FALSE = {"yes", "true", "1"}, {"no", "false", "0"}
MISTAKES = 200
"""Wrong verdicts that are listed, the surest first."""
_LENGTHS = 10
"""Groups of answers by their length."""


def labeler(artifacts: Artifacts, people: Path | None) -> dict[str, Any] | None:
    """What the page about the labeler shows; None where there is nothing to show.

    ``wrong`` has, by iteration and prompt, [candidate, question] of each wrong verdict, for the pages of
    prompts; the candidate is None where all answers with that question are meant.

    Args:
        people: A table of people's labels: ``item_id``, such as ``pool-000017/3/0`` for the first claim of
            candidate 3, and ``verdict``, yes or no. None: the miniature's own truth, if it is the miniature.

    Raises:
        UserError: The table can't be read, or fits no claim; or an artifact is damaged.
    """
    found = {"lengths": artifacts.by_iteration(_lengths)}
    truth = _of_the_miniature(artifacts)
    if people is not None:
        found |= _against_truth(_by_people(artifacts, people), f"people's labels, {shown(people)}")
    elif truth is not None:
        parts = [_by_scenes(checked, truth) for checked in _checked(artifacts)]
        if parts:
            claims = pd.concat(parts, ignore_index=True)
            found |= _against_truth(claims, "what was drawn in the miniature's scenes")
    return found if len(found) > 1 or found["lengths"] else None


def _checked(artifacts: Artifacts) -> Iterator[pd.DataFrame]:
    """Claims with a verdict, an iteration at a time."""
    for k in artifacts.iterations():
        claims = artifacts.table(f"iteration_{k}.claims")
        verdicts = artifacts.table(f"iteration_{k}.verdicts")
        if claims is not None and verdicts is not None:
            read = verdicts.dropna(subset=["accepted"])
            read = read[read["p_yes"] + read["p_no"] > 0]  # else no p(yes) without the mass on neither
            joined = claims.merge(read[[*_CLAIM, "p_yes", "p_no", "accepted"]], on=_CLAIM)
            yes = joined["p_yes"] / (joined["p_yes"] + joined["p_no"])
            yield joined.assign(yes=yes, iteration=k).drop(columns=["p_yes", "p_no"])


def _of_the_miniature(artifacts: Artifacts) -> PoolTruth | None:
    """The truth of the run's scenes; None if its prompts are none, or nobody knows who has drawn them."""
    prompts = next(iter(artifacts.names(r"iteration_\d+\.prompts")), None)
    if prompts is None:
        return None
    if set(artifacts.columns(prompts[0], ["origin_dataset"])["origin_dataset"]) != {"miniature"}:
        return None
    maker: Manifest | None = artifacts.run
    for name in (prompts[0], "prompt_pool"):
        entry = maker.written.get(name) or maker.read.get(name)
        if entry is not None and entry.version != maker.run_id:
            maker = load(artifacts.project, entry.version or "")
        if entry is None or maker is None:
            return None
    return PoolTruth(maker.parameters["seed"], maker.parameters["miniature"]["double_share"])


def _by_scenes(checked: pd.DataFrame, truth: PoolTruth) -> pd.DataFrame:
    once = checked.drop_duplicates(["prompt_id", "question"])
    known = [truth.of(prompt, question) for prompt, question in zip(once["prompt_id"], once["question"])]
    there = np.array([one is not None for one in known], bool)
    kinds, truths = zip(*(one for one in known if one is not None)) if there.any() else ((), ())
    return once[there].assign(kind=list(kinds), truth=np.array(truths, bool), candidate=None)


def _by_people(artifacts: Artifacts, path: Path) -> pd.DataFrame:
    labels = read_verdicts(path).dropna().str.casefold()
    odd = labels[~labels.isin(_TRUE | _FALSE)]
    if len(odd):
        raise UserError(
            f"{shown(path)}: the verdict of {odd.index[0]} is {odd.iloc[0]!r}. Say yes or no of each claim."
        )
    found, example = [], "PROMPT/0/0"
    for checked in _checked(artifacts):
        keys = checked[_CLAIM].astype(str)
        ids = (keys["prompt_id"] + "/" + keys["candidate"] + "/" + keys["claim"]).to_numpy()
        own, example = np.isin(ids, labels.index), next(iter(ids), example)
        found.append(checked[own].assign(kind="claim", truth=labels[ids[own]].isin(_TRUE).to_numpy()))
    if not sum(map(len, found)):
        raise UserError(
            f"{shown(path)}: none of its {len(labels)} items is a claim of the run with a verdict. Their "
            f"item_id is PROMPT/CANDIDATE/CLAIM, such as {example}."
        )
    return pd.concat(found, ignore_index=True)


def _against_truth(claims: pd.DataFrame, source: str) -> dict[str, Any]:
    """Curves, agreement by kind and by iteration, and the surest mistakes."""
    if claims.empty:
        return {}
    yes, truth = claims["yes"].to_numpy(float), claims["truth"].to_numpy(bool)
    curve = reliability_curve(yes, truth, pd.factorize(claims["prompt_id"])[0])
    kinds = [("all", claims), *claims.groupby("kind", sort=False)] if claims["kind"].nunique() > 1 else []
    return {
        "source": source,
        "reliability": curve,
        "calibration_error": calibration_error(curve),
        "roc": roc_curve(yes, truth),
        "by_kind": [_agreement(name, own) for name, own in kinds or [("all", claims)]],
        "by_iteration": [_agreement(f"iteration {k}", own) for k, own in claims.groupby("iteration")],
        "mistakes": _mistakes(claims),
        "wrong": {
            k: {
                prompt: rows[["candidate", "question"]].astype(object).to_numpy().tolist()
                for prompt, rows in own.groupby("prompt_id")
            }
            for k, own in _wrong(claims).groupby("iteration")
        },
    }


def _agreement(name: str, claims: pd.DataFrame) -> dict[str, Any]:
    """How far verdicts and truth agree."""
    # numbers, which need not have a class in common: all may be wrong
    said, true = (
        claims[name].astype(int).astype(str).reset_index(drop=True) for name in ("accepted", "truth")
    )
    found = calibrate(said, true)
    counts = found.confusion.reindex(index=["1", "0"], columns=["1", "0"], fill_value=0).to_numpy()
    area = roc_area(claims["yes"].to_numpy(float), claims["truth"].to_numpy(bool))
    numbers = [found.agreement, found.agreement_error, found.kappa, found.kappa_error, area]
    names = ("agreement", "agreement_error", "kappa", "kappa_error", "roc_area")
    return {"name": name, "n": found.n, "counts": counts.tolist(), **dict(zip(names, rounded(numbers)))}


def _wrong(claims: pd.DataFrame) -> pd.DataFrame:
    """The claims whose verdict isn't the truth."""
    return claims[claims["accepted"].astype(bool) != claims["truth"].astype(bool)]


def _mistakes(claims: pd.DataFrame) -> list[list[Any]]:
    """[iteration, prompt, kind, claim, p(yes), truth] of the wrong verdicts, the surest first."""
    wrong = _wrong(claims)
    surest = (wrong["yes"].astype(float) - 0.5).abs().sort_values(ascending=False, kind="stable").index
    rows = wrong.loc[surest[:MISTAKES]]
    columns = rows[["iteration", "prompt_id", "kind", "text", "yes", "truth"]].itertuples(index=False)
    return [
        [int(k), prompt, kind, text, round(float(p), 4), bool(true)]
        for k, prompt, kind, text, p, true in columns
    ]


def _lengths(artifacts: Artifacts, iteration: int) -> dict[str, Any] | None:
    """Tokens of chosen and rejected answers, and mean scores by length."""
    of = f"iteration_{iteration}."
    candidates, scores = artifacts.table(f"{of}candidates"), artifacts.table(f"{of}scores")
    if candidates is None or scores is None:
        return None
    scored = scores[[*KEY, "score"]].merge(candidates[[*KEY, "token_count"]], on=KEY)
    groups = pd.qcut(scored["token_count"], _LENGTHS, duplicates="drop")
    by_length = []
    for _, own in scored.groupby(groups, observed=True):
        value, n, error = mean(own["score"].to_numpy(float), pd.factorize(own["prompt_id"])[0])
        by_length.append([*rounded([own["token_count"].mean(), value, error]), n])
    return {"by_length": by_length, "pairs": _pair_lengths(artifacts, of, candidates)}


def _pair_lengths(artifacts: Artifacts, of: str, candidates: pd.DataFrame) -> dict[str, Any] | None:
    """Mean tokens of both sides, and how many pairs have a difference of so many tokens."""
    names = ["chosen_candidate", "rejected_candidate"]
    pairs = artifacts.columns(f"{of}preference_pairs", ["prompt_id", *names])
    if pairs is None or not {"prompt_id", *names} <= set(pairs):
        return None
    tokens = candidates.set_index(KEY)["token_count"]
    own = [pd.MultiIndex.from_frame(pairs[["prompt_id", name]]) for name in names]
    both = np.array([tokens.reindex(one).to_numpy(float, na_value=np.nan) for one in own])  # (2, pairs)
    chosen, rejected = both[:, ~np.isnan(both).any(axis=0)]  # without pairs of other candidates than these
    difference = chosen - rejected
    return {
        "chosen": _estimate(chosen),
        "rejected": _estimate(rejected),
        "longer": int((difference > 0).sum()),
        "equal": int((difference == 0).sum()),
        "shorter": int((difference < 0).sum()),
    }


def _estimate(lengths: np.ndarray) -> str:
    """The mean of lengths, with its standard error."""
    return cell("mean_words", mean(lengths)._asdict())  # a number of words, too, is no share
