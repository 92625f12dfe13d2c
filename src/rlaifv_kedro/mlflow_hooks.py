"""A run as one run of MLflow: parameters, metrics by iteration, figures, report and log.

Only where ``training.report_to`` names mlflow. The trainings are its children, which transformers' callback
logs.
"""

import logging
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl

from rlaifv_kedro.formats import as_text, flatten
from rlaifv_kedro.params.current import current
from rlaifv_kedro.run_log import FILE as LOG
from rlaifv_kedro.runs.manifest import FILE, RUNS, Manifest, load
from rlaifv_kedro.tracking import mlflow_client, mlflow_run

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

_METRICS = re.compile(r"(?:base|iteration_(?P<iteration>\d+)|benchmark\.\w+)\.(?:probe_)?metrics")
_SHOWN = {".html", ".json", ".png"}
"""Endings of the files of ``data/08_reporting`` that people look at."""
_LONGEST, _MOST = 500, 100
"""Characters of a value of a parameter, and entries of a request, that every server takes."""


class MlflowHooks:
    """Logs a run to MLflow. What goes wrong there is said once, and costs the run nothing."""

    def __init__(self) -> None:
        self._client: MlflowClient | None = None

    @hook_impl(trylast=True)
    def before_pipeline_run(self, run_params: dict[str, Any]) -> None:
        """Makes the run at MLflow, or goes on with the one of the same id."""
        self._client = None
        if "mlflow" not in current().parameters.training.report_to:
            return
        self._project, self._name = Path(run_params["project_path"]), run_params["run_id"]

        def begin() -> None:
            self._run_id, self._client = mlflow_run(self._name), mlflow_client()
            self._log_parameters(load(self._project, self._name))

        self._try(begin)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Logs a table of metrics; the iteration is MLflow's step."""
        found = _METRICS.fullmatch(dataset_name)
        if found and self._client is not None:
            self._try(lambda: self._log_metrics(data, int(found["iteration"] or 0)))

    @hook_impl(trylast=True)
    def after_pipeline_run(self) -> None:
        """Logs figures, report, manifest and log, and says that the run has finished."""
        self._end("FINISHED")

    @hook_impl(trylast=True)
    def on_pipeline_error(self) -> None:
        """Logs what there is, and says that the run has failed."""
        self._end("FAILED")

    def _try(self, log: Callable[[], object]) -> None:
        try:
            log()
        except Exception as error:  # a store that is away, full or of another version
            logger.warning("MLflow can't be logged to, and isn't any more in this start: %s", error)
            self._client = None

    def _log_parameters(self, run: Manifest) -> None:
        """Those that are new; what a resumed run has otherwise becomes a tag: MLflow changes no parameter."""
        from mlflow.entities import Param, RunTag

        known: Mapping[str, str] = self._client.get_run(self._run_id).data.params
        values = {name: as_text(value)[:_LONGEST] for name, value in flatten(run.parameters).items()}
        changed = {name: value for name, value in values.items() if known.get(name, value) != value}
        facts = {
            "command": run.command,
            "recipe": run.grown_from().recipe,
            "git_commit": run.git_commit or "",
        }
        tags = [RunTag(name, value) for name, value in facts.items()]
        tags += [RunTag(f"now.{name}", value) for name, value in changed.items()]
        self._client.log_batch(self._run_id, tags=tags)
        params = [Param(name, value) for name, value in values.items() if name not in known]
        self._log_in_parts("params", params)

    def _log_metrics(self, table: Any, iteration: int) -> None:
        from mlflow.entities import Metric

        now, rows = int(time.time() * 1000), []
        for row in table.itertuples():
            policy = "" if re.fullmatch(r"base|iteration_\d+", row.policy) else f"{Path(row.policy).name}."
            name = re.sub(r"[^\w\-. /]", "_", f"{row.benchmark}.{policy}{row.metric}")
            for key, value in ((name, row.value), (f"{name}.standard_error", row.standard_error)):
                if value == value:
                    rows.append(Metric(key, float(value), now, iteration))
        self._log_in_parts("metrics", rows)

    def _log_in_parts(self, kind: str, values: list[Any]) -> None:
        for start in range(0, len(values), _MOST):
            self._client.log_batch(self._run_id, **{kind: values[start : start + _MOST]})

    def _end(self, status: str) -> None:
        if self._client is None:
            return

        def end() -> None:
            run = load(self._project, self._name)
            for name, entry in run.written.items():
                path = self._project / (entry.path or "")
                if entry.path and path.suffix in _SHOWN and "08_reporting" in path.parts and path.is_file():
                    self._client.log_artifact(self._run_id, str(path), name)
            for file in (FILE, LOG):
                path = self._project / RUNS / self._name / file
                if path.is_file():
                    self._client.log_artifact(self._run_id, str(path))
            self._client.set_terminated(self._run_id, status)

        self._try(end)
        self._client = None
