"""Tables as notebooks show them: pictures as thumbnails, texts whole."""

import html
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.formats import cell, difference, in_words, number, with_unit
from rlaifv_kedro.images import thumbnail_url
from rlaifv_kedro.reporting.comparison import Comparison, is_published

if TYPE_CHECKING:
    from IPython.display import HTML


def shown(frame: pd.DataFrame, height: int = 96) -> "HTML":
    """The frame for the end of a cell; what texts hold is shown, not run.

    Args:
        height: Of pictures, in pixels; they are the cells of an ``image`` column.
    """
    from IPython.display import HTML

    head = "".join(f"<th style='text-align:left'>{html.escape(in_words(str(name)))}</th>" for name in frame)
    rows = ("".join(_cell(value, height) for value in row) for row in frame.itertuples(index=False))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return HTML(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def _cell(value: Any, height: int) -> str:
    if isinstance(value, Mapping):
        try:
            inside = f"<img src='{thumbnail_url(dict(value), 'a row')}' style='height:{height}px'>"
        except UserError as error:
            inside = html.escape(error.message)
    elif isinstance(value, float):
        inside = number(value)
    else:
        inside = "" if value is None or value is pd.NA else html.escape(str(value))
    return f"<td style='text-align:left;vertical-align:top;max-width:32em'>{inside}</td>"


def rates_table(found: Comparison) -> pd.DataFrame:
    """The published rates of two runs, and their differences with 95 % intervals, as people read them."""
    return pd.DataFrame(
        {
            "benchmark": rate.benchmark,
            "metric": with_unit(rate.metric),
            f"A: {rate.policy_a}": cell(rate.metric, rate.a),
            f"B: {rate.policy_b}": cell(rate.metric, rate.b),
            "B - A [95 %]": difference(rate.metric, rate.difference, rate.low, rate.high),
        }
        for rate in found.rates
        if is_published(rate.benchmark, rate.metric)
    )


def flips_table(found: Comparison, prompts: pd.DataFrame) -> pd.DataFrame:
    """The answers to a loop's test prompts whose verdict is another in B, with what the scorer found.

    Args:
        prompts: Table ``prompts`` of the items, for their pictures.
    """
    pictures = prompts.set_index("prompt_id")["image"]
    columns = ("image", "metric", "better", "answer of A", "found in A", "answer of B", "found in B")
    rows = [
        (
            pictures.get(flip.item_id),
            flip.metric,
            flip.better,
            flip.answer_a,
            flip.note_a,
            flip.answer_b,
            flip.note_b,
        )
        for flip in found.flips
    ]
    return pd.DataFrame(rows, columns=columns)
