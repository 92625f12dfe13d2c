"""The loop's report."""

from typing import Any

import pandas as pd

from rlaifv_kedro.engine.outputs import changed_parameters
from rlaifv_kedro.params import ReportingParams
from rlaifv_kedro.reporting import report


def write_report(metrics: pd.DataFrame, prompts: pd.DataFrame, params: ReportingParams, **tables: Any) -> str:
    """See :func:`rlaifv_kedro.reporting.report.write_report`."""
    return report.write_report(metrics, prompts, params, changed_parameters(), **tables)
