"""Two runs side by side: parameters that differ, rates with paired intervals, items whose verdict flipped."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rlaifv_kedro.benchmarks.registry import BENCHMARKS
from rlaifv_kedro.benchmarks.statistics import by_metric, paired_bootstrap
from rlaifv_kedro.formats import flatten
from rlaifv_kedro.reporting.measured import Measured, called, measured, places
from rlaifv_kedro.runs.lineage import ROOTS
from rlaifv_kedro.runs.manifest import Manifest


@dataclass(frozen=True)
class Rate:
    """One metric of two policies.

    Attributes:
        what: On what they are measured; see :class:`Measured`.
        policy_a, policy_b: How the runs' tables call them.
        a, b: ``value``, ``standard_error``, ``n`` and ``failed`` of each; see table ``metrics``.
        difference: B less A, of the items that both have answered; None where they aren't the same.
        low, high: Ends of the 95 % interval of the difference, by a paired bootstrap over images.
    """

    what: str
    benchmark: str
    metric: str
    policy_a: str
    policy_b: str
    a: Mapping[str, Any]
    b: Mapping[str, Any]
    difference: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Flip:
    """An item whose verdict is another in run B than in run A.

    Attributes:
        what, policy_a, policy_b: See :class:`Rate`: the same item may flip for several policies.
        metric: The verdict, such as ``chair_s``: 1 for an answer with a hallucinated object.
        better: Whether B's is the better one.
        note_a, note_b: What the scorer has found, such as the objects that are not there.
    """

    what: str
    benchmark: str
    metric: str
    policy_a: str
    policy_b: str
    item_id: str
    kind: str | None
    image_id: str | None
    question: str
    value_a: float
    value_b: float
    better: bool
    answer_a: str
    answer_b: str
    note_a: str
    note_b: str


@dataclass(frozen=True)
class Comparison:
    """Run B against run A.

    Attributes:
        parameters: Name, value in A, value in B, of those that differ; None also where one has none.
        notes: What else differs, and what couldn't be compared, a sentence each.
    """

    a: Manifest
    b: Manifest
    parameters: list[tuple[str, Any, Any]]
    rates: list[Rate]
    flips: list[Flip]
    notes: list[str]


def compare_runs(project: Path, a: Manifest, b: Manifest) -> Comparison:
    """Compares what two runs have measured: the loop's last policies, and the policies on each benchmark.

    Raises:
        UserError: A table is damaged.
    """
    rates: list[Rate] = []
    flips: list[Flip] = []
    notes = _other_differences(a, b)
    of_a, of_b = places(a), places(b)
    for what in sorted(of_a.keys() ^ of_b.keys()):
        run = a if what in of_a else b
        notes.append(f"Only run {run.run_id} has measured {called(what)}.")
    for what in (what for what in of_a if what in of_b):
        both = measured(project, a, what, of_a[what]), measured(project, b, what, of_b[what])
        same = _same_items(*both)
        if not same:
            notes.append(
                f"The runs have measured {called(what)} on different items, so their rates stand beside "
                "each other without an interval, and no item's verdict can have flipped."
            )
        notes += _other_protocols(*both)
        for policy_a, policy_b in _pairs(*both):
            rates += _rates(*both, policy_a, policy_b, same)
            flips += _flips(*both, policy_a, policy_b) if same else []
    if not of_a and not of_b:
        notes.append("Neither run has measured a policy.")
    return Comparison(a, b, _parameters(a, b), rates, flips, notes)


def policies(one: Rate | Flip) -> str:
    """The policies that are compared, by one name where both are called alike."""
    return " / ".join(dict.fromkeys((one.policy_a, one.policy_b)))


def is_published(benchmark: str, metric: str) -> bool:
    """Whether it is one of the metrics that a benchmark is known by; of others, such as probes, all are."""
    return benchmark not in BENCHMARKS or metric in BENCHMARKS[benchmark].headline


def _parameters(a: Manifest, b: Manifest) -> list[tuple[str, Any, Any]]:
    values_a, values_b = flatten(a.parameters), flatten(b.parameters)
    pairs = [(name, values_a.get(name), values_b.get(name)) for name in {**values_a, **values_b}]
    return [(name, of_a, of_b) for name, of_a, of_b in pairs if of_a != of_b]


def _other_differences(a: Manifest, b: Manifest) -> list[str]:
    """What differs beside the parameters."""
    notes = []
    grown_a, grown_b = a.grown_from(), b.grown_from()
    if grown_a.recipe != grown_b.recipe:
        notes.append(f"The recipes differ: {grown_a.recipe} and {grown_b.recipe}.")
    for name, root in ROOTS.items():
        hashes = getattr(grown_a, name), getattr(grown_b, name)
        if all(hashes) and len(set(hashes)) > 1:
            notes.append(f"The runs have grown from different content of {root}.")
    packages = [name for name, version in a.packages.items() if b.packages.get(name, version) != version]
    if packages:
        notes.append(f"Versions of packages differ: {', '.join(sorted(packages))}.")
    if a.git_commit != b.git_commit:
        notes.append(f"The code differs: commits {_commit(a)} and {_commit(b)}.")
    return notes


def _commit(run: Manifest) -> str:
    return run.git_commit[:10] if run.git_commit else "unknown"


def _same_items(a: Measured, b: Measured) -> bool:
    if a.items_hash and b.items_hash:
        return a.items_hash == b.items_hash
    asked = [each.answers.drop_duplicates("item_id").set_index("item_id")["question"] for each in (a, b)]
    return asked[0].sort_index().equals(asked[1].sort_index())


def _other_protocols(a: Measured, b: Measured) -> list[str]:
    protocols = [sorted(each.metrics["protocol"].unique()) for each in (a, b)]
    if protocols[0] == protocols[1]:
        return []
    said = [" | ".join(each) for each in protocols]
    return [f"The runs have measured {called(a.what)} otherwise: {said[0]}; and {said[1]}."]


def _pairs(a: Measured, b: Measured) -> Iterator[tuple[str, str]]:
    """The policies to compare: those of the same name, or else the last of each."""
    policies_a, policies_b = (list(dict.fromkeys(each.metrics["policy"])) for each in (a, b))
    common = [policy for policy in policies_a if policy in policies_b]
    yield from ((policy, policy) for policy in common)
    if not common:
        yield policies_a[-1], policies_b[-1]


def _rates(a: Measured, b: Measured, policy_a: str, policy_b: str, same: bool) -> Iterator[Rate]:
    """The metrics that both have, in A's order."""
    metrics = [_of(own.metrics, policy).set_index("metric") for own, policy in ((a, policy_a), (b, policy_b))]
    common = [name for name in metrics[0].index if name in metrics[1].index]
    parts = [
        {name: (metric, rows) for name, metric, rows in by_metric(_of(own.scores, policy), common)}
        for own, policy in ((a, policy_a), (b, policy_b))
    ]
    for name in common:
        values = [
            {field: _known(table.at[name, field]) for field in ("value", "standard_error", "n", "failed")}
            for table in metrics
        ]
        between = {}
        if same and all(name in each for each in parts):
            (metric, rows_a), (_, rows_b) = (each[name] for each in parts)
            found = paired_bootstrap(rows_b, rows_a, metric)
            between = {end: _known(getattr(found, end)) for end in ("difference", "low", "high")}
        yield Rate(a.what, metrics[0].at[name, "benchmark"], name, policy_a, policy_b, *values, **between)


def _of(table: pd.DataFrame, policy: str) -> pd.DataFrame:
    return table[table["policy"] == policy]


def _flips(a: Measured, b: Measured, policy_a: str, policy_b: str) -> Iterator[Flip]:
    """Items whose verdict is another, in the order of the items."""
    name = a.metrics["benchmark"].iloc[0]  # scores may be none: every judgement may have failed
    chosen = ((a, policy_a), (b, policy_b))
    answers = [_of(each.answers, policy).set_index("item_id") for each, policy in chosen]
    scores = [_of(each.scores, policy) for each, policy in chosen]
    both = scores[0].merge(scores[1], on=["item_id", "metric", "kind"], suffixes=("_a", "_b"))
    both = both.dropna(subset=["value_a", "value_b"])
    flipped = both[both["value_a"] != both["value_b"]]
    for metric, high_is_good in (BENCHMARKS[name].verdicts if name in BENCHMARKS else {}).items():
        for row in flipped[flipped["metric"] == metric].itertuples():
            said = [table.loc[row.item_id] for table in answers]
            yield Flip(
                a.what,
                name,
                metric,
                policy_a,
                policy_b,
                row.item_id,
                _known(row.kind),
                _known(getattr(row, "image_id_a", None)),
                said[0]["question"],
                row.value_a,
                row.value_b,
                bool((row.value_b > row.value_a) == high_is_good),
                *(each["answer"] for each in said),
                *(_known(note) or "" for note in (row.note_a, row.note_b)),
            )


def _known(value: Any) -> Any:
    """The value as JSON holds it, where a table's missing one is None."""
    if pd.isna(value):
        return None
    return value.item() if isinstance(value, np.generic) else value
