"""Prompts with their pictures, candidates, claims, verdicts and pairs: an index, and texts in chunks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rlaifv_kedro.formats import shortened
from rlaifv_kedro.preference.candidates import is_cut_off
from rlaifv_kedro.viewer.artifacts import Artifacts
from rlaifv_kedro.viewer.data import rounded, write_data
from rlaifv_kedro.viewer.rejects import Reasons, rejects_of
from rlaifv_kedro.viewer.thumbnails import Thumbnails

CHUNK = 64
"""Prompts, or items of a benchmark, in a file: prompts with ten long answers each take under a megabyte."""
BRIEF = 80
"""Characters of a question in a list."""
_PROMPT = ("prompt_id", "question", "question_type", "origin_dataset", "image")
_PAIR = ("prompt_id", "chosen_candidate", "rejected_candidate", "chosen_score", "rejected_score")
_CANDIDATE = ("candidate", "answer", "token_count", "finish_reason")
_VERDICT = ("candidate", "claim", "p_yes", "p_no", "accepted", "first_token")


class ByNumber:
    """The rows of a table by the numbers of their prompts, in the prompts' order.

    Args:
        rows: None for no table. Rows of other prompts, or without a prompt_id, are left out.
        numbers: The prompts' ids.
    """

    def __init__(self, rows: pd.DataFrame | None, numbers: pd.Index):
        self.rows = pd.DataFrame({"prompt_id": []}) if rows is None or "prompt_id" not in rows else rows
        codes = numbers.get_indexer(pd.Index(self.rows["prompt_id"]))
        order = np.argsort(codes, kind="stable")
        self._positions = order[np.searchsorted(codes[order], 0) :]
        self.codes = codes[self._positions]

    def between(self, first: int, last: int, columns: Sequence[str]) -> tuple[list[int], list[list[Any]]]:
        """The number of the prompt of each row of these prompts, and columns of these rows.

        A column that the table lacks is None in all rows.
        """
        start, end = np.searchsorted(self.codes, [first, last])
        part = self.rows.iloc[_as_slice(self._positions[start:end])]
        values = [part[name].tolist() if name in part.columns else [None] * len(part) for name in columns]
        return self.codes[start:end].tolist(), values

    def ordered(self, column: str) -> pd.Series:
        """A column in the order of the prompts."""
        return self.rows[column].iloc[self._positions].reset_index(drop=True)


def _as_slice(positions: np.ndarray) -> slice | np.ndarray:
    """The positions as a slice where they follow each other: a slice of a long column copies nothing."""
    if len(positions) and (np.diff(positions) == 1).all():
        return slice(int(positions[0]), int(positions[-1]) + 1)
    return positions


def write_prompts(
    artifacts: Artifacts, iteration: int, data: Path, thumbnails: Thumbnails
) -> dict[str, Any] | None:
    """Writes an iteration's prompts: ``prompts/K/index`` and ``prompts/K/N``.

    Returns:
        What is counted of them, for the first page; None where there are no prompts.

    Raises:
        UserError: A table is damaged, or the folder can't be written.
    """
    of = f"iteration_{iteration}."
    found = artifacts.columns(f"{of}prompts", _PROMPT[:-1])
    if found is None:
        return None
    ids = pd.Index(found["prompt_id"])
    tables = {
        name: ByNumber(artifacts.table(f"{of}{name}"), ids)
        for name in ("candidates", "claims", "verdicts", "scores")
    }
    tables["pairs"] = ByNumber(artifacts.columns(f"{of}preference_pairs", _PAIR), ids)
    reasons = Reasons(rejects_of(artifacts, iteration), ids)
    rows = artifacts.rows(f"{of}prompts", _PROMPT, CHUNK)
    pictures: list[str | None] = []
    for number, prompts in enumerate(rows):
        names = thumbnails.of([prompt["image"] for prompt in prompts])
        pictures += names
        write_data(
            data, f"prompts/{iteration}/{number}", _chunk(prompts, names, number * CHUNK, tables, reasons)
        )
    index = _index(found, tables)
    shown = {"picture": pictures, "question": [shortened(text, BRIEF) for text in found["question"]]}
    rest = {"chunk": CHUNK, "reasons": reasons.as_json()}
    write_data(data, f"prompts/{iteration}/index", {**index, **shown, **rest})
    return {"prompts": len(found), **_counts(tables)}


def _chunk(
    prompts: list[dict[str, Any]],
    pictures: list[str | None],
    first: int,
    tables: dict[str, ByNumber],
    reasons: Reasons,
) -> list[dict[str, Any]]:
    """The prompts of a chunk with all that belongs to them."""
    last = first + len(prompts)
    made = [
        {
            "id": prompt["prompt_id"],
            "question": prompt["question"],
            "picture": picture,
            "type": prompt.get("question_type"),
            "origin": prompt.get("origin_dataset"),
            "candidates": [],
            "pairs": [],
        }
        for prompt, picture in zip(prompts, pictures)
    ]
    known: dict[tuple[int, int], dict[str, Any]] = {}
    numbers, columns = tables["candidates"].between(first, last, _CANDIDATE)
    for number, candidate, answer, tokens, finish in zip(numbers, *columns):
        one = {"n": candidate, "text": answer, "tokens": tokens, "cut": finish == "length", "claims": []}
        known[number, candidate] = one
        made[number - first]["candidates"].append(one)
    numbers, columns = tables["scores"].between(first, last, ("candidate", "score"))
    for number, candidate, score in zip(numbers, *columns):
        if (number, candidate) in known:
            known[number, candidate]["score"] = round(score, 4)
    _add_claims(known, tables, first, last)
    numbers, columns = tables["pairs"].between(first, last, _PAIR[1:])
    for number, *pair in zip(numbers, *columns):
        made[number - first]["pairs"].append(pair)
    for number, candidate, why in reasons.between(first, last):
        if (number, candidate) in known:
            known[number, candidate]["why"] = why
        else:
            made[number - first].setdefault("why", []).append([candidate, why])
    return made


def _add_claims(
    known: dict[tuple[int, int], dict[str, Any]], tables: dict[str, ByNumber], first: int, last: int
) -> None:
    """Adds [text, question, p(yes), p(no), accepted] of each claim to its candidate.

    Of a reply that is no verdict, its first word, too.
    """
    numbers, columns = tables["verdicts"].between(first, last, _VERDICT)
    candidates, claims, yes, no, accepted, tokens = columns
    replies = dict(
        zip(zip(numbers, candidates, claims), zip(rounded(yes), rounded(no), accepted, tokens, strict=True))
    )
    numbers, columns = tables["claims"].between(first, last, ("candidate", "claim", "text", "question"))
    for number, candidate, claim, text, question in zip(numbers, *columns):
        p_yes, p_no, read, token = replies.get((number, candidate, claim), (None, None, None, None))
        unread = read is None or read is pd.NA
        shown = [text, question, p_yes, p_no, None if unread else read] + (
            [token] if unread and token else []
        )
        if (number, candidate) in known:  # else of candidates of another run
            known[number, candidate]["claims"].append(shown)


def _index(prompts: pd.DataFrame, tables: dict[str, ByNumber]) -> dict[str, Any]:
    """The columns by which prompts are filtered and sorted, a value a prompt."""
    count = len(prompts)
    verdicts, scores = tables["verdicts"], tables["scores"]
    columns: dict[str, Any] = {"id": prompts["prompt_id"].tolist()}
    for name in ("question_type", "origin_dataset"):
        if name in prompts and prompts[name].nunique() > 1:
            codes, values = pd.factorize(prompts[name])
            columns[name] = {"codes": codes.tolist(), "values": values.tolist()}
    columns["candidates"] = np.bincount(tables["candidates"].codes, minlength=count).tolist()
    columns["pairs"] = np.bincount(tables["pairs"].codes, minlength=count).tolist()
    if len(scores.codes):
        by_prompt = scores.ordered("score").groupby(scores.codes)
        gap = (by_prompt.max() - by_prompt.min()).reindex(range(count))
        columns["gap"] = rounded(gap.tolist(), 3)
    if len(verdicts.codes):
        accepted = verdicts.ordered("accepted").astype("boolean")
        for name, chosen in (
            ("accepted", accepted.fillna(False)),
            ("rejected", ~accepted.fillna(True)),
            ("unread", accepted.isna()),
        ):
            columns[name] = np.bincount(verdicts.codes[chosen.to_numpy(bool)], minlength=count).tolist()
        margin = (verdicts.ordered("p_yes") - verdicts.ordered("p_no")).abs()
        least = margin.groupby(verdicts.codes).min().reindex(range(count))
        columns["least_sure"] = rounded(least.tolist())
    return columns


def _counts(tables: dict[str, ByNumber]) -> dict[str, int]:
    """How many of each there are, for the first page."""
    candidates, verdicts = tables["candidates"].rows, tables["verdicts"].rows
    counts = {name: len(tables[name].rows) for name in ("candidates", "claims", "pairs")}
    if "token_count" in candidates:
        counts["tokens"] = int(candidates["token_count"].sum())
        counts["cut_off"] = int(is_cut_off(candidates).sum())
    if "accepted" in verdicts:
        accepted = verdicts["accepted"].astype("boolean")
        counts["accepted"] = int(accepted.sum())
        counts["unread"] = int(accepted.isna().sum())
        counts["rejected"] = len(verdicts) - counts["accepted"] - counts["unread"]
    return counts
