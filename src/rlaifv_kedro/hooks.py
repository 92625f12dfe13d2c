"""Hooks of a run: they pin versions before the first node, and keep the run's manifest."""

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node
from pydantic_core import to_jsonable_python

from rlaifv_kedro.datasets.chunks import ChunkedTableDataset
from rlaifv_kedro.engine.cluster import leave
from rlaifv_kedro.engine.outputs import Outputs, announce
from rlaifv_kedro.found_out import taken
from rlaifv_kedro.leftovers import end_leftovers
from rlaifv_kedro.run_folder import set_run_folder
from rlaifv_kedro.run_log import open_log, record_error
from rlaifv_kedro.runs import alive, hashes, versions
from rlaifv_kedro.runs import manifest as manifests
from rlaifv_kedro.runs.changes import outputs_there
from rlaifv_kedro.runs.kedro_private import dataset, nodes_to_run, path_of, saved_version
from rlaifv_kedro.runs.manifest import Manifest
from rlaifv_kedro.runs.messages import user_message
from rlaifv_kedro.runs.recording import Recorder
from rlaifv_kedro.runs.resume_command import resume_command
from rlaifv_kedro.runs.resuming import begin, made_here
from rlaifv_kedro.runs.running_nodes import RunningNode
from rlaifv_kedro.runs.status import Progress, show, take_away
from rlaifv_kedro.runs.tidying import forget_tidying

logger = logging.getLogger(__name__)


class RunHooks:
    """Pins every version and writes ``data/runs/<run id>/manifest.json``.

    Args:
        on_stage: Called with namespace, manifest and catalog when all nodes of a namespace have run; gives
            lines for the log.
        on_finished: Called with manifest, pipeline and catalog after a run that finished, e.g. to show a
            summary.
        before_first_node: Called with pipeline and catalog when all versions are chosen and nothing is
            written yet, and once more before something is fetched; raises UserError if something would stop
            the run later.
        complete_parameters: Gives the parameters, as JSON holds them, all their defaults. Kedro fills in only
            those of the pipelines that are run, so without it a run that another pipeline goes on with would
            seem to have other parameters.
    """

    def __init__(
        self,
        on_finished: Callable[[Manifest, Pipeline, DataCatalog], object] = lambda *_: None,
        before_first_node: Callable[[Pipeline, DataCatalog], object] = lambda *_: None,
        complete_parameters: Callable[[dict[str, Any]], dict[str, Any]] = dict,
        on_stage: Callable[[str, Manifest, DataCatalog], Sequence[str]] = lambda *_: (),
    ) -> None:
        self._on_stage = on_stage
        self._on_finished = on_finished
        self._before_first_node = before_first_node
        self._complete_parameters = complete_parameters
        self._progress: Progress | None = None
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
        self._running: dict[str, RunningNode] = {}
        taken()  # what a notebook found out before
        run_id = run_params["run_id"]
        hashes.recall(self._project)
        set_run_folder(self._project / manifests.RUNS / run_id)
        end_leftovers(self._project / manifests.RUNS)  # they hold GPUs
        look = partial(self._before_first_node, pipeline, catalog)
        pinned = versions.pin(self._project, pipeline, catalog, run_params, before_fetching=look)
        look()
        fresh = Manifest(
            **made_here(self._project),
            run_id=run_id,
            started=manifests.now(),
            command=resume_command(run_params, run_id),
            env=run_params["env"],
            pipelines=sorted(run_params["pipeline_names"] or ["__default__"]),
            parameters=self._complete_parameters(to_jsonable_python(self._parameters, fallback=str)),
            replay=(run_params["runtime_params"] or {}).get("replay"),
            read=pinned.read,
            lineage=pinned.lineage,
        )
        self._manifest = begin(self._project, fresh, pipeline, catalog)
        hashes.keep(self._project)
        self._recorder = Recorder(self._project, catalog, self._manifest)
        self._recorder.remove_outdated(pipeline)
        forget_tidying(pipeline, catalog)
        self._recorder.adopt(pipeline.all_outputs())
        open_log(self._project / manifests.RUNS / run_id)
        verb = "Going on with run" if self._manifest.resumed else "Run"
        logger.info("%s %s. If it is interrupted, go on with: %s", verb, run_id, self._manifest.command)
        waiting = nodes_to_run(pipeline, catalog) if self._manifest.resumed else set(pipeline.nodes)
        self._progress = show(waiting, self._manifest.nodes)

    @hook_impl
    def before_node_run(self, node: Node, catalog: DataCatalog, inputs: dict[str, Any]) -> dict[str, Any]:
        """Starts the node's clock, and says which of its chunks are finished and where its outputs lie.

        Returns:
            Its parameters, which note what the node reads of them.
        """
        with self._lock:
            self._recorder.begin(node)
        announce(_outputs_of(node, catalog, self._manifest.changed()))
        with self._lock:
            before = self._manifest.nodes.get(node.name, manifests.NodeRecord())
            goes_on = outputs_there(node, catalog, self._manifest.run_id)
            running = RunningNode(node, before, set(before.reads) if goes_on else set())
            parameters = running.noted(inputs)
            self._running[node.name] = running
            self._manifest.nodes[node.name] = running.at_start()
            self._progress.begin(node)
            self._save()
        return parameters

    @hook_impl
    def before_dataset_saved(self, node: Node) -> None:
        """Records what the node has read before anything that depends on it can be found after a kill.

        Raises:
            UserError: Another process has taken the run over, or its folder is gone.
        """
        alive.check(self._project, self._manifest.run_id)
        with self._lock:
            before = self._manifest.nodes[node.name].reads
            if self._clock(node).reads != before:
                self._save()

    @hook_impl
    def after_node_run(self, node: Node) -> None:
        """Takes the time of a node that saves nothing; a generator's time grows with every save instead."""
        with self._lock:
            self._clock(node)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, node: Node) -> None:
        """Records what was saved, complete or not yet, and says what a stage has made once all is there."""
        with self._lock:
            seconds = self._clock(node).seconds
            self._recorder.record(dataset_name)
            self._save()
            ended = all(map(self._is_there, node.outputs))
            stage = node.namespace if ended and self._progress.end(node, seconds) else None
        for line in self._on_stage(stage, self._manifest, self._catalog) if stage else ():
            logger.info("%s", line)

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Closes the manifest.

        Raises:
            MadeOtherwise: The run must begin once more.
        """
        leave()
        take_away()
        self._recorder.check_outdated(pipeline)
        self._close("finished")
        self._on_finished(self._manifest, pipeline, catalog)

    @hook_impl
    def on_pipeline_error(self, error: Exception) -> None:
        """Closes the manifest and says how to go on."""
        leave()
        take_away()
        record_error(error)
        if self._manifest is not None:
            message = user_message(error)
            self._close("failed", message or f"{type(error).__name__}: {error}")
            hint = "After mending this, go on with" if message else "To go on"
            logger.warning("Run %s stopped. %s: %s", self._manifest.run_id, hint, self._manifest.command)

    def _is_there(self, name: str) -> bool:
        """Whether an output is saved whole; a manifest that is gone on with also names what is lost."""
        entry = self._manifest.written.get(name)
        if entry is None:
            return False
        return entry.path is None or (entry.sha256 is not None and self._catalog.exists(name))

    def _clock(self, node: Node) -> manifests.NodeRecord:
        """Records the node's time so far, the parameters that it has read, and what it has found out."""
        self._manifest.nodes[node.name] = record = self._running[node.name].so_far()
        for subject, what in taken().items():
            self._manifest.found_out[manifests.relative(self._project, Path(subject))] = what
        return record

    def _save(self) -> None:
        alive.check(self._project, self._manifest.run_id)
        self._manifest.save(self._project)

    def _close(self, status: str, error: str | None = None) -> None:
        self._manifest.status, self._manifest.ended, self._manifest.error = status, manifests.now(), error
        self._save()
        hashes.keep(self._project)


def _outputs_of(node: Node, catalog: DataCatalog, changed: Sequence[str]) -> Outputs:
    """The node's finished chunks, and where its outputs lie, by their names without namespace."""
    found = {name.rpartition(".")[2]: dataset(catalog, name) for name in node.outputs}
    chunked = [made.finished_chunks() for made in found.values() if isinstance(made, ChunkedTableDataset)]
    paths = {name: path_of(made, saved_version(made)) for name, made in found.items()}
    finished = frozenset(set.intersection(*chunked)) if chunked else frozenset()
    return Outputs(finished, {name: path for name, path in paths.items() if path is not None}, changed)
