"""The loop's report: one HTML page with all that it needs in it."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rlaifv_kedro.benchmarks.loop import PROBES
from rlaifv_kedro.formats import cell, in_words
from rlaifv_kedro.images import open_image, png_bytes
from rlaifv_kedro.params import ReportingParams
from rlaifv_kedro.preference.candidates import is_cut_off
from rlaifv_kedro.preference.verdicts import unread_line
from rlaifv_kedro.reporting.figures import draw_figure
from rlaifv_kedro.reporting.metrics import chair_by_iteration


def write_report(
    metrics: pd.DataFrame,
    prompts: pd.DataFrame,
    params: ReportingParams,
    changed: Sequence[str] = (),
    **tables: Any,
) -> str:
    """A self-contained HTML page: the table, the figure, example answers, and what was rejected.

    Args:
        changed: What was changed of the run's parameters between its starts, a line each.
        tables: ``answers_<k>``, ``scores_<k>`` (k = 0 and the last iteration), ``pairs_<k>``,
            ``selection_<k>``, ``curve_<k>`` (a PNG), ``rejects_<stage>_<k>``, ``verdicts_<k>``.
    """
    from jinja2 import Environment

    buffer = io.BytesIO()
    draw_figure(metrics).savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    chair = chair_by_iteration(metrics)
    probes = metrics[metrics["benchmark"] == PROBES].set_index(["iteration", "metric"])
    iterations = sorted({k for k, _ in chair.index})
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(Path(__file__).with_name("report.html").read_text())
    return template.render(
        figure=_encoded(buffer.getvalue()),
        iterations=iterations,
        rows=_rows(chair, iterations),
        probe_rows=_rows(probes, iterations),
        steps=[_step(k, tables) for k in iterations if f"pairs_{k}" in tables],
        examples=_examples(prompts, tables, iterations[-1], params.examples),
        rejects=_rejects(tables),
        unread=_unread(tables),
        cut_off=_cut_off(tables, iterations[-1]),
        changed=changed,
        protocol=metrics["protocol"].iloc[0],
        n=int(chair.at[(0, "mean_words"), "n"]),
    )


def _rows(metrics: pd.DataFrame, iterations: list[int]) -> list[tuple[str, list[str]]]:
    """(metric, one cell an iteration) as people read them."""
    names = list(dict.fromkeys(metric for _, metric in metrics.index))
    return [(in_words(name), [cell(name, metrics.loc[(k, name)]) for k in iterations]) for name in names]


def _step(k: int, tables: dict[str, Any]) -> dict[str, Any]:
    return {
        "iteration": k,
        "pairs": tables[f"pairs_{k}"],
        "selection": tables[f"selection_{k}"],
        "curve": _encoded(tables[f"curve_{k}"]),
    }


def _encoded(png: bytes) -> str:
    return base64.b64encode(png).decode()


def _examples(prompts: pd.DataFrame, tables: dict[str, Any], last: int, count: int) -> list[dict[str, Any]]:
    """The first pictures about which the base policy hallucinates, with both answers."""
    images = prompts.set_index("prompt_id")["image"]
    both = [
        tables[f"answers_{k}"][["item_id", "answer"]].merge(
            tables[f"scores_{k}"].query("metric == 'chair_s'"), on="item_id"
        )
        for k in (0, last)
    ]
    joined = both[0].merge(both[1], on="item_id", suffixes=("_base", "_last"))
    chosen = joined[joined["value_base"] > 0].head(count)
    return [
        {
            "image": _encoded(png_bytes(open_image(images[row.item_id], f"prompt {row.item_id}"))),
            "base": row.answer_base,
            "last": row.answer_last,
            "base_wrong": row.note_base,
            "last_wrong": row.note_last,
        }
        for row in chosen.itertuples()
    ]


def _cut_off(tables: dict[str, Any], last: int) -> str:
    """How many answers of the base and the last policy are cut off; empty if none is."""
    answers = {"base": tables["answers_0"], f"iteration {last}": tables[f"answers_{last}"]}
    counts = {name: int(is_cut_off(table).sum()) for name, table in answers.items()}
    shown = (f"{count} of {len(answers[name])} answers ({name})" for name, count in counts.items() if count)
    return ", ".join(shown)


def _unread(tables: dict[str, Any]) -> list[tuple[str, str]]:
    """(iteration, how many of the labeler's replies are no verdict) of every iteration with such replies."""
    named = sorted((n.removeprefix("verdicts_"), t) for n, t in tables.items() if n.startswith("verdicts_"))
    lines = [(k, unread_line(verdicts)) for k, verdicts in named]
    return [(k, line) for k, line in lines if line]


def _rejects(tables: dict[str, Any]) -> list[tuple[str, str, int, str]]:
    """(iteration, stage, how many, the first reason) of every table of rejects that isn't empty."""
    rows = []
    for name, table in sorted(tables.items()):
        if name.startswith("rejects_") and len(table):
            stage, _, k = name.removeprefix("rejects_").rpartition("_")
            rows.append((k, stage, len(table), table["why"].iloc[0]))
    return rows
