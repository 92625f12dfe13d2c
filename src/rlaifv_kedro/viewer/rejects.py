"""What could not be used, and why: every row, by reason."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rlaifv_kedro.viewer.artifacts import Artifacts
from rlaifv_kedro.viewer.data import write_data

CHUNK = 500
"""Rows in a file."""


class Reasons:
    """The rejects of one iteration, in the order of its prompts; of others last.

    Args:
        rows: Table ``rejects``, of all stages.
        ids: The prompts' ids.
    """

    def __init__(self, rows: pd.DataFrame, ids: pd.Index):
        keys = [_prompt_and_candidate(key) for key in rows["key"]]
        self._numbers = ids.get_indexer(pd.Index([prompt for prompt, _ in keys], dtype=object))
        self._candidates = [candidate for _, candidate in keys]
        self._why = rows["why"].tolist()
        self._codes, self._kinds = pd.factorize(pd.Series(kinds_of(rows), dtype=object))

    def between(self, first: int, last: int) -> Iterator[tuple[int, int | None, str]]:
        """(number of the prompt, candidate or None, why) of these prompts' rejects."""
        for row in np.flatnonzero((self._numbers >= first) & (self._numbers < last)):
            yield int(self._numbers[row]), self._candidates[row], self._why[row]

    def as_json(self) -> dict[str, Any]:
        """Each kind of reason with the numbers of its prompts."""
        known = self._numbers >= 0
        return {
            kind: np.unique(self._numbers[known & (self._codes == code)]).tolist()
            for code, kind in enumerate(self._kinds)
        }


def kinds_of(rejects: pd.DataFrame) -> list[str]:
    """What the reasons of a kind have in common, of each row: without where it was, and without details."""
    return [_kind(*row) for row in zip(rejects["stage"], rejects["key"], rejects["why"])]


def _kind(stage: str, key: str, why: str) -> str:
    place, _, rest = why.partition(": ")
    named = stage == "training" or place == f"prompt {_prompt_and_candidate(key)[0]}"
    return re.split(r": | \(", rest if named and rest else why, maxsplit=1)[0]


def write_rejects(artifacts: Artifacts, data: Path) -> list[dict[str, Any]]:
    """Writes every row: ``rejects/N``, and ``rejects/index`` with iteration, stage and kind of each.

    Returns:
        How many there are of each iteration, stage and kind of reason.

    Raises:
        UserError: A table is damaged, or the folder can't be written.
    """
    tables = [rejects_of(artifacts, k).assign(iteration=k) for k in artifacts.iterations()]
    rows = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    if rows.empty:
        return []
    rows["kind"] = kinds_of(rows)
    groups = rows.groupby(["iteration", "stage", "kind"], sort=False)
    summary = [
        {"iteration": k, "stage": stage, "kind": kind, "count": len(own)} for (k, stage, kind), own in groups
    ]
    write_data(data, "rejects/index", {"chunk": CHUNK, "group": groups.ngroup().tolist(), "groups": summary})
    for number, start in enumerate(range(0, len(rows), CHUNK)):
        part = rows.iloc[start : start + CHUNK]
        shown = [[*_prompt_and_candidate(key), why] for key, why in zip(part["key"], part["why"])]
        write_data(data, f"rejects/{number}", shown)
    return summary


def rejects_of(artifacts: Artifacts, iteration: int) -> pd.DataFrame:
    """All tables of rejects of an iteration in one: stage, key, why.

    Raises:
        UserError: A table is damaged.
    """
    names = artifacts.names(rf"iteration_{iteration}\.\w+_rejects")
    tables = [artifacts.table(name[0])[["stage", "key", "why"]] for name in names]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["stage", "key", "why"])


def _prompt_and_candidate(key: str) -> tuple[str, int | None]:
    """What a reject's key names: a prompt, or ``[prompt, candidate]`` as JSON."""
    try:
        prompt, candidate = json.loads(key)
    except (ValueError, TypeError):
        return key, None
    return str(prompt), candidate
