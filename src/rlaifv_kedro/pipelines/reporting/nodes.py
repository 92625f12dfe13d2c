"""Metrics of all iterations to a summary, a figure and a report."""

import base64
from pathlib import Path
from typing import Any

import pandas as pd

from rlaifv_kedro.formats import cell
from rlaifv_kedro.images import open_image, png_bytes
from rlaifv_kedro.params import ReportingParams

SUMMARY = ("response_hallucination", "mention_hallucination", "object_recall", "mean_words")
_TITLES = {
    "response_hallucination": "response hallucination",
    "mention_hallucination": "mention hallucination",
    "object_recall": "object recall",
    "repeat_rate": "answers with a repeat",
}


def collect_metrics(**tables: pd.DataFrame) -> pd.DataFrame:
    """All iterations' metrics in one table.

    Args:
        tables: ``metrics_<k>`` and ``probe_metrics_<k>`` of each iteration k, 0 for the base policy.

    Returns:
        The ``loop_metrics`` table: ``metrics`` with ``iteration`` in front.
    """
    numbered = sorted(tables.items(), key=lambda item: (int(item[0].rpartition("_")[2]), item[0]))
    frames = [table.assign(iteration=int(name.rpartition("_")[2])) for name, table in numbered]
    joined = pd.concat(frames, ignore_index=True)
    return joined[["iteration", *(c for c in joined.columns if c != "iteration")]]


def summarise(metrics: pd.DataFrame) -> list[dict[str, Any]]:
    """One record an iteration, 0 for the base policy; rates are shares between 0 and 1."""
    chair = metrics[metrics["benchmark"] == "chair"]
    values = chair.pivot(index="iteration", columns="metric", values="value")
    answers = chair[chair["metric"] == "mean_words"].set_index("iteration")["n"]
    return [
        {"iteration": int(k), **{name: float(row[name]) for name in SUMMARY}, "n": int(answers[k])}
        for k, row in values.iterrows()
    ]


def draw_figure(metrics: pd.DataFrame) -> Any:
    """Rates and recall by iteration, with one standard error: a matplotlib figure."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    chair = metrics[metrics["benchmark"] == "chair"]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    rates, recall = figure.subplots(1, 2)
    for axis, names, colours in (
        (
            rates,
            ("response_hallucination", "mention_hallucination", "repeat_rate"),
            ("#c0392b", "#e67e22", "#7f8c8d"),
        ),
        (recall, ("object_recall",), ("#27788f",)),
    ):
        for name, colour in zip(names, colours):
            rows = chair[chair["metric"] == name].sort_values("iteration")
            axis.errorbar(
                rows["iteration"],
                rows["value"],
                yerr=rows["standard_error"],
                marker="o",
                capsize=3,
                color=colour,
                label=_TITLES[name],
            )
        axis.set_xlabel("iteration (0 = base policy)")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    rates.set_ylim(0)
    rates.set_title("what should fall", loc="left", fontsize=10)
    recall.set_title("what should not", loc="left", fontsize=10)
    return figure


def write_report(metrics: pd.DataFrame, prompts: pd.DataFrame, params: ReportingParams, **tables: Any) -> str:
    """A self-contained HTML page: the table, the figure, example answers, and what was rejected.

    Args:
        tables: ``answers_<k>``, ``scores_<k>`` (k = 0 and the last iteration), ``pairs_<k>``,
            ``selection_<k>``, ``curve_<k>`` (a PNG), ``rejects_<stage>_<k>``.
    """
    import io

    from jinja2 import Environment

    buffer = io.BytesIO()
    draw_figure(metrics).savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    chair = metrics[metrics["benchmark"] == "chair"].set_index(["iteration", "metric"])
    probes = metrics[metrics["benchmark"] == "yes_no"].set_index(["iteration", "metric"])
    iterations = sorted({k for k, _ in chair.index})
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        Path(__file__).with_name("report.html").read_text()
    )
    return template.render(
        figure=base64.b64encode(buffer.getvalue()).decode(),
        iterations=iterations,
        rows=_rows(chair, iterations),
        probe_rows=_rows(probes, iterations),
        steps=[_step(k, tables) for k in iterations if f"pairs_{k}" in tables],
        examples=_examples(prompts, tables, iterations[-1], params.examples),
        rejects=_rejects(tables),
        protocol=metrics["protocol"].iloc[0],
        n=int(chair.at[(0, "mean_words"), "n"]),
    )


def _rows(metrics: pd.DataFrame, iterations: list[int]) -> list[tuple[str, list[str]]]:
    """(metric, one cell an iteration) as people read them."""
    names = list(dict.fromkeys(metric for _, metric in metrics.index))
    return [
        (name.replace("_", " "), [cell(name, metrics.loc[(k, name)]) for k in iterations]) for name in names
    ]


def _step(k: int, tables: dict[str, Any]) -> dict[str, Any]:
    curve = base64.b64encode(tables[f"curve_{k}"]).decode()
    return {
        "iteration": k,
        "pairs": tables[f"pairs_{k}"],
        "selection": tables[f"selection_{k}"],
        "curve": curve,
    }


def _examples(prompts: pd.DataFrame, tables: dict[str, Any], last: int, count: int) -> list[dict[str, Any]]:
    """The first pictures about which the base policy hallucinates, with both answers."""
    images = prompts.set_index("prompt_id")["image"]
    both = [
        tables[f"answers_{k}"][["item_id", "answer"]].merge(tables[f"scores_{k}"], on="item_id")
        for k in (0, last)
    ]
    joined = both[0].merge(both[1], on="item_id", suffixes=("_base", "_last"))
    chosen = joined[joined["hallucinated_count_base"] > 0].head(count)
    return [
        {
            "image": base64.b64encode(
                png_bytes(open_image(images[row.item_id], f"prompt {row.item_id}"))
            ).decode(),
            "base": row.answer_base,
            "last": row.answer_last,
            "base_wrong": ", ".join(row.hallucinated_base),
            "last_wrong": ", ".join(row.hallucinated_last),
        }
        for row in chosen.itertuples()
    ]


def _rejects(tables: dict[str, Any]) -> list[tuple[str, str, int, str]]:
    """(iteration, stage, how many, the first reason) of every table of rejects that isn't empty."""
    rows = []
    for name, table in sorted(tables.items()):
        if name.startswith("rejects_") and len(table):
            stage, _, k = name.removeprefix("rejects_").rpartition("_")
            rows.append((k, stage, len(table), table["why"].iloc[0]))
    return rows
