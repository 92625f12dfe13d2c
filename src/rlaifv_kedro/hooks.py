"""Kedro hooks that make a run repeatable: they pin versions before the first node, and keep the run's
manifest.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node
from pydantic_core import to_jsonable_python

from rlaifv_kedro.runs import manifest as manifests
from rlaifv_kedro.runs import versions
from rlaifv_kedro.runs.manifest import Manifest
from rlaifv_kedro.runs.session import resume_command, user_message

logger = logging.getLogger(__name__)


class RunHooks:
    """Pins every version and writes ``data/runs/<run id>/manifest.json``.

    Args:
        on_finished: Called with manifest, pipeline and catalog after a run that finished, e.g. to show a
            summary.
        complete_parameters: Gives the parameters, as JSON holds them, all their defaults. Kedro fills in only
            those of the pipelines that are run, so without it a run that another pipeline goes on with would
            seem to have other parameters.
    """

    def __init__(
        self,
        on_finished: Callable[[Manifest, Pipeline, DataCatalog], None] | None = None,
        complete_parameters: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    ) -> None:
        self._on_finished = on_finished
        self._complete_parameters = complete_parameters
        self._parameters: dict[str, Any] = {}
        self._manifest: Manifest | None = None
        self._lock = threading.Lock()

    @hook_impl
    def after_catalog_created(self, parameters: dict[str, Any]) -> None:
        """Keeps the parameters as resolved."""
        self._parameters = parameters["parameters"]

    @hook_impl(trylast=True)
    def before_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog
    ) -> None:
        """Pins versions, checks that all inputs are there, and starts or takes up the manifest.

        Raises:
            UserError: An input is missing, or the run cannot be resumed like this.
        """
        self._manifest = None
        self._project = Path(run_params["project_path"])
        self._catalog = catalog
        self._begun: dict[str, tuple[float, float]] = {}
        run_id = run_params["run_id"]
        runtime = run_params["runtime_params"] or {}
        read = versions.pin(self._project, pipeline, catalog, run_params)
        self._manifest = manifests.begin(
            self._project,
            run_id=run_id,
            command=resume_command(run_params, run_id),
            env=run_params["env"],
            pipelines=sorted(run_params["pipeline_names"] or ["__default__"]),
            parameters=self._complete_parameters(to_jsonable_python(self._parameters, fallback=str)),
            replay=runtime.get("replay"),
            read=read,
        )
        for name in sorted(pipeline.all_outputs()):
            if versions.dataset(catalog, name).exists():  # written just before a kill, its record was not
                self._record(name)
        verb = "Going on with run" if self._manifest.resumed else "Run"
        logger.info("%s %s. If it is interrupted, go on with: %s", verb, run_id, self._manifest.command)

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        """Starts the node's clock."""
        with self._lock:
            before = self._manifest.nodes.get(node.name, manifests.NodeRecord()).seconds
            self._begun[node.name] = (time.perf_counter(), before)

    @hook_impl
    def after_node_run(self, node: Node) -> None:
        """Takes the time of a node that saves nothing; a generator node has not worked yet, its time grows
        with every save.
        """
        with self._lock:
            self._clock(node)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, node: Node) -> None:
        """Records what was saved, complete or not yet."""
        with self._lock:
            self._clock(node)
            self._record(dataset_name)
            self._manifest.save(self._project)

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Closes the manifest."""
        self._close("finished")
        if self._on_finished is not None:
            self._on_finished(self._manifest, pipeline, catalog)

    @hook_impl
    def on_pipeline_error(self, error: Exception) -> None:
        """Closes the manifest and says how to go on."""
        if self._manifest is not None:
            message = user_message(error)
            self._close("failed", message or f"{type(error).__name__}: {error}")
            hint = "After mending this, go on with" if message else "To go on"
            logger.warning("Run %s stopped. %s: %s", self._manifest.run_id, hint, self._manifest.command)

    def _record(self, name: str) -> None:
        dataset = versions.dataset(self._catalog, name)
        if not getattr(dataset, "_EPHEMERAL", False):
            version = versions.pinned(dataset)
            path = versions.path_of(dataset, version)
            sha256_of = versions.sha256_of(dataset)
            self._manifest.written[name] = manifests.entry_of(
                self._project, path, version, complete=dataset.exists(), sha256_of=sha256_of
            )

    def _clock(self, node: Node) -> None:
        started, before = self._begun[node.name]
        self._manifest.nodes[node.name] = manifests.NodeRecord(
            seconds=round(before + time.perf_counter() - started, 3)
        )

    def _close(self, status: str, error: str | None = None) -> None:
        self._manifest.status, self._manifest.ended, self._manifest.error = status, manifests.now(), error
        self._manifest.save(self._project)
