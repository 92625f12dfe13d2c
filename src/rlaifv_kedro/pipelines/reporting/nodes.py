"""Metrics of all iterations to a summary, a figure and a report."""

from rlaifv_kedro.reporting.figures import draw_figure
from rlaifv_kedro.reporting.metrics import collect_metrics, summarise
from rlaifv_kedro.reporting.report import write_report

__all__ = ["collect_metrics", "draw_figure", "summarise", "write_report"]
