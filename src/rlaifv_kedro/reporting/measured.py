"""What a run has measured, as its tables hold it."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rlaifv_kedro.benchmarks.registry import title_of
from rlaifv_kedro.datasets import ChunkedTableDataset
from rlaifv_kedro.datasets.tables import as_frame, read_table
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown
from rlaifv_kedro.runs.manifest import Manifest
from rlaifv_kedro.runs.resume_command import whole_command

_MEASURED = re.compile(r"(?P<owner>base|iteration_(?P<iteration>\d+)|benchmark\.\w+)\.item_scores")
LOOP = "loop"
"""Stands for what the loop measures its policies on, beside the names of benchmarks."""


@dataclass(frozen=True)
class Measured:
    """What a run has measured: the loop's last policy, or all policies on a benchmark.

    Attributes:
        what: :data:`LOOP`, or the entry's part before the last dot, such as ``benchmark.pope``.
        items_hash: sha256 of the questions; None where the run's manifest doesn't say.
        scores, metrics, answers: Tables ``item_scores``, ``metrics`` and ``answers``.
    """

    what: str
    items_hash: str | None
    scores: pd.DataFrame
    metrics: pd.DataFrame
    answers: pd.DataFrame


def places(run: Manifest) -> dict[str, str]:
    """What the run has measured, with the catalog's name of its items' scores; of the loop the last policy's.

    ``base`` counts as iteration 0.
    """
    found: dict[str, str] = {}
    last = -1
    for name, entry in run.written.items():
        match = _MEASURED.fullmatch(name)
        if not match or entry.sha256 is None:
            continue
        iteration = int(match["iteration"] or 0)
        if match["owner"].startswith("benchmark."):
            found[match["owner"]] = name
        elif iteration > last:
            found[LOOP], last = name, iteration
    return found


def called(what: str) -> str:
    """How people call :attr:`Measured.what`."""
    if what == LOOP:
        return "policies on the test split"
    return title_of(what.removeprefix("benchmark."))


def measured(project: Path, run: Manifest, what: str, scores: str) -> Measured:
    """Reads what a run has measured.

    Args:
        what: See :class:`Measured`.
        scores: The entry of its items' scores, as :func:`places` gives it.

    Raises:
        UserError: A table is gone or damaged.
    """
    asked = "test_prompts" if what == LOOP else f"{what.removeprefix('benchmark.')}_items"
    owner = scores.rpartition(".")[0]
    names = ("item_scores", "metrics", "answers")
    tables = [written_table(project, run, f"{owner}.{name}", name) for name in names]
    return Measured(what, run.written[scores].made_of.get(asked), *tables)


def written_table(project: Path, run: Manifest, name: str, table: str) -> pd.DataFrame:
    """A table that the run has written.

    Raises:
        UserError: It is gone or damaged.
    """
    entry, command = run.written.get(name), whole_command(run.command, run.pipelines)
    if entry is None or entry.path is None or entry.sha256 is None:
        raise UserError(f"Run `{run.run_id}` has no whole `{name}`. Make it with: {command}")
    path = project / entry.path
    remedy = f"Remove and make it with: {shlex.join(['rm', '-r', shown(path)])} && {command}"
    if path.is_dir():
        return ChunkedTableDataset(str(path), table).load()
    return as_frame(read_table(path, table, remedy, entry.sha256))
