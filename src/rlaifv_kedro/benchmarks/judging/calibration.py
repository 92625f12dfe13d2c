"""How far a judge agrees with known verdicts.

That is worth knowing, as the scores that two judges give differ by more than 10 %.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rlaifv_kedro.benchmarks.record_files import read_records
from rlaifv_kedro.benchmarks.records import Record
from rlaifv_kedro.benchmarks.statistics import NOTHING, mean, share
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown
from rlaifv_kedro.formats import plain, shortened

ONE_CLASS = "All verdicts of both are {verdict}, so chance alone would agree as well: kappa is not defined."
ONE_SIDED = (
    "All verdicts of the {who} are {verdict}, so chance alone would agree as often: kappa is 0 "
    "however often they agree."
)


@dataclass(frozen=True)
class Calibration:
    """The agreement of a judge with a reference. What can't be said is NaN, and ``notes`` say why.

    Attributes:
        n: Items with both verdicts; all that follows is of these.
        missing: Items of the reference without a verdict by the judge; they are left out, not counted as
            wrong.
        unknown: Items of the judge that the reference doesn't have.
        agreement, agreement_error: Share of equal verdicts, and its binomial standard error.
        kappa, kappa_error: Cohen's kappa (1960), (p - c) / (1 - c) with the agreement p and that by chance c,
            sum over classes of the product of both shares; and its standard error by the same paper, sqrt(p
            (1 - p) / n) / (1 - c).
        weighted_kappa: For numbers: with squared differences as weights (Cohen 1968), 1 - observed / expected
            disagreement.
        mean_difference, mean_difference_error: For numbers: judge minus reference, and its standard error s /
            sqrt(n).
        confusion: Counts (verdicts of the reference, verdicts of the judge), the same classes both ways.
        notes: Sentences.
    """

    n: int
    missing: int
    unknown: int
    agreement: float
    agreement_error: float
    kappa: float
    kappa_error: float
    weighted_kappa: float
    mean_difference: float
    mean_difference_error: float
    confusion: pd.DataFrame
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        """For JSON: NaN is null, the confusion table a dict of rows by the reference's verdict."""
        confusion = self.confusion.to_dict(orient="index")
        values = {name: plain(value) for name, value in vars(self).items() if name != "confusion"}
        return {**values, "confusion": confusion}

    def __str__(self) -> str:
        lines = [
            f"{self.n} items with both verdicts; {self.missing} of the reference without one by the judge, "
            f"{self.unknown} that the reference lacks",
            f"agreement      {self.agreement:.3f} ± {self.agreement_error:.3f}",
            f"Cohen's kappa  {self.kappa:.3f} ± {self.kappa_error:.3f}",
        ]
        if not math.isnan(self.mean_difference):
            lines.append(f"weighted kappa {self.weighted_kappa:.3f} (squared differences)")
            lines.append(
                f"judge - reference, mean {self.mean_difference:+.3f} ± {self.mean_difference_error:.3f}"
            )
        counts = self.confusion.rename_axis(index=None, columns=None).to_string()
        return "\n".join([*lines, *self.notes, "", "reference (rows) by judge (columns)", counts])


def calibrate(judged: pd.Series, reference: pd.Series) -> Calibration:
    """Compares verdicts by item; see :func:`read_verdicts`. Yes, yes and YES are the same.

    Raises:
        UserError: No item has both verdicts, an item of the reference has none, or the two are written in
            different ways.
    """
    if reference.isna().any():
        raise UserError(
            f"The reference has no verdict for the item {reference.index[reference.isna()][0]}. Fill it in, "
            "or leave the item out."
        )
    known = judged.dropna()
    both = reference.index.intersection(known.index)
    if not len(both):
        raise UserError(
            f"Of {len(reference)} items of the reference and {len(known)} with a verdict by the judge, none "
            "is the same. Both need the same item_id."
        )
    spelled: dict[str, str] = {}  # the reference's way of writing it
    theirs, ours = (
        verdicts[both].map(lambda verdict: spelled.setdefault(verdict.casefold(), verdict))
        for verdicts in (reference, known)
    )
    _refuse_other_classes(theirs, ours)
    table = _confusion(theirs, ours)
    agreement, n, agreement_error = share((theirs == ours).to_numpy())
    kappa, kappa_error = _kappa(table.to_numpy())
    one_sided = [
        ONE_SIDED.format(who=who, verdict=v.iloc[0])
        for who, v in (("reference", theirs), ("judge", ours))
        if v.nunique() == 1
    ]
    notes = [ONE_CLASS.format(verdict=ours.iloc[0])] if len(table) == 1 else one_sided
    weighted, difference = math.nan, NOTHING
    values = [_number(name) for name in table.index]
    if None not in values:
        weighted = _weighted_kappa(table.to_numpy(), np.array(values))
        difference = mean((ours.astype(float) - theirs.astype(float)).to_numpy())
    missing, unknown = len(reference) - len(both), len(judged.index.difference(reference.index))
    return Calibration(
        n,
        missing,
        unknown,
        agreement,
        agreement_error,
        kappa,
        kappa_error,
        weighted,
        difference.value,
        difference.standard_error,
        table,
        notes,
    )


def read_verdicts(path: str | Path, **chosen: str | None) -> pd.Series:
    """Verdicts as text, by item id; None where there is none.

    Whole numbers are written without a decimal point, so that 3, 3.0 and "3" are the same.

    Args:
        path: Records with ``item_id`` and ``verdict``, in any form that
            :func:`rlaifv_kedro.benchmarks.record_files.read_records` takes: a ``judgements`` table, or
            verdicts written by people.
        chosen: Only rows with these values: ``benchmark``, ``step``, ``policy``. None: all.

    Raises:
        UserError: The file can't be read, a row lacks something, or an item comes twice.
    """
    records = read_records(path)
    for name, wanted in chosen.items():
        if wanted is not None:
            records = [record for record in records if str(_field(record, name)) == wanted]
            if not records:
                raise UserError(
                    f"{shown(path)}: there is no row with {name} {wanted}. Correct --{name}, or leave it out."
                )
    found: dict[str, Record] = {}
    for record in records:
        _field(record, "verdict")
        item_id = record.identifier("item_id")
        if item_id in found:
            raise UserError(_twice(item_id, found[item_id], record, list(chosen)))
        found[item_id] = record
    verdicts = [_text(record.get("verdict")) for record in found.values()]
    return pd.Series(verdicts, index=list(found), dtype=object)


def _field(record: Record, name: str) -> Any:
    if name not in record.fields:
        raise UserError(
            f"{record.where}: there is no column `{name}`, only {', '.join(record.fields) or 'none'}. Rename "
            "the right one."
        )
    return record.fields[name]


def _twice(item_id: str, first: Record, second: Record, columns: list[str]) -> str:
    differ = [name for name in columns if first.get(name) != second.get(name)]
    said = "; ".join(f"{name} {first.get(name)} and {second.get(name)}" for name in differ)
    remedy = f"Choose rows with {' and '.join(f'--{name}' for name in differ)}" if differ else "Leave one out"
    where = f"{second.where}: the item {item_id} comes twice, first {first.where.rpartition(', ')[2]}"
    return f"{where}{f' ({said})' * bool(said)}. {remedy}."


def _text(value: Any) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    text = json.dumps(value) if isinstance(value, list | dict) else str(value).strip()
    number = _number(text)
    return (text or None) if number is None else f"{number:.15g}"


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _refuse_other_classes(reference: pd.Series, judge: pd.Series) -> None:
    """Ratings may all differ; but true and false for yes and no would be no agreement, and no error."""
    classes = [sorted(set(verdicts)) for verdicts in (reference, judge)]
    numbers = all(_number(name) is not None for own in classes for name in own)
    if not numbers and not set(classes[0]) & set(classes[1]):
        ours, theirs = (shortened(", ".join(own), 60) for own in reversed(classes))
        raise UserError(
            f"The judge's verdicts ({ours}) are none of the reference's ({theirs}). Write both in the same "
            "way."
        )


def _confusion(reference: pd.Series, judge: pd.Series) -> pd.DataFrame:
    def place(name: str) -> tuple[bool, float, str]:
        number = _number(name)
        return number is None, number or 0.0, name

    classes = sorted({*reference, *judge}, key=place)
    counts = pd.crosstab(reference.to_numpy(), judge.to_numpy()).reindex(
        index=classes, columns=classes, fill_value=0
    )
    return counts.rename_axis(index="reference", columns="judge")


def _kappa(counts: np.ndarray) -> tuple[float, float]:
    """Kappa and its standard error of counts (classes, classes).

    Worked by hand: [[20, 5], [10, 15]] has 35 of 50 equal, p = 0.7. The reference has 25 and 25, the judge 30
    and 20: c = (25 x 30 + 25 x 20) / 50^2 = 0.5, kappa = 0.2 / 0.5 = 0.4, error = sqrt(0.7 x 0.3 / 50) / 0.5
    = 0.1296.
    """
    n = counts.sum()
    p, c = np.trace(counts) / n, float(counts.sum(1) @ counts.sum(0)) / n**2
    if len(counts) == 1:
        return math.nan, math.nan
    return float((p - c) / (1 - c)), float(math.sqrt(p * (1 - p) / n) / (1 - c))


def _weighted_kappa(counts: np.ndarray, values: np.ndarray) -> float:
    """Kappa with weights (i - j)^2 of counts (classes, classes), whose classes stand for ``values``
    (classes,).
    """
    weights = np.square(values[:, None] - values[None, :])
    expected = np.outer(counts.sum(1), counts.sum(0)) / counts.sum()
    return (
        float(1 - (weights * counts).sum() / (weights * expected).sum())
        if (weights * expected).any()
        else math.nan
    )
