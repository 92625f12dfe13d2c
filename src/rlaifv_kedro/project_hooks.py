"""What this project does when Kedro has read the configuration: check the parameters, set the threads."""

import logging
import os
import warnings
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from rlaifv_kedro import pipeline_registry
from rlaifv_kedro.datasets.tables import TableDataset
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import Parameters, validate_parameters
from rlaifv_kedro.pipelines.benchmarks.nodes import refuse_unready
from rlaifv_kedro.pipelines.data_generation.nodes import draw_prompts, refuse_small_pool
from rlaifv_kedro.runs.versions import dataset

logger = logging.getLogger(__name__)

RUNTIME_ONLY = ("iteration", "run_id", "replay")  # parameters of a run, not of an experiment


class ProjectHooks:
    """Runs before any catalog entry is made and before torch is imported."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Check all parameters at once, tell the registry which iterations and stages there are, and keep the
        libraries quiet.

        Raises:
            UserError: A parameter is unknown or impossible, or stands where only half of the configuration
                would see it.
        """
        in_files, runtime = (
            context.config_loader["parameters"],
            getattr(context, "_runtime_params", None) or {},
        )
        parameters = validate_parameters(
            {**in_files, **{name: value for name, value in runtime.items() if name in RUNTIME_ONLY}}
        )
        self._parameters = parameters
        _refuse_halves(in_files, runtime, context.config_loader["globals"])
        pipeline_registry.LOOP_ITERATIONS = parameters.loop.iterations
        pipeline_registry.STAGE_ITERATION = parameters.iteration
        pipeline_registry.FEEDBACK = parameters.feedback
        pipeline_registry.TRAINING = parameters.training
        pipeline_registry.EVALUATION = parameters.evaluation
        pipeline_registry.EXPORT = parameters.export
        pipeline_registry.BENCHMARK_DATA = parameters.benchmark_data
        pipeline_registry.BENCHMARKS = parameters.benchmarks
        pipeline_registry.NO_TABLES = _tables_without_version(context, parameters)
        if parameters.compute.threads:
            os.environ["OMP_NUM_THREADS"] = str(parameters.compute.threads)
        _quiet()

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Looks whether the prompts suffice for all iterations, since the node that draws them comes after
        the base policy was measured; and whether the benchmarks' judge and spaCy pipelines are there.

        Raises:
            UserError: They don't, or aren't.
        """
        refuse_unready(
            pipeline, self._parameters.evaluation, self._parameters.benchmarks, self._parameters.models
        )
        if any(node.func is draw_prompts for node in pipeline.nodes):
            rows = _pool_rows(pipeline, catalog, self._parameters)
            if rows is not None:
                refuse_small_pool(
                    rows, self._parameters.iteration, self._parameters.data_generation, self._parameters.loop
                )

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        """One line a node: where the run is."""
        logger.info(
            "%s",
            " · ".join([*(node.namespace or "").split("."), node.short_name]).strip(" ·").replace("_", " "),
        )


def _pool_rows(pipeline: Pipeline, catalog: DataCatalog, parameters: Parameters) -> int | None:
    """Prompts in the pool that the run draws, or reads; None if it isn't there, or has versions, which are
    chosen later.
    """
    if "prompt_pool" in pipeline.all_outputs():
        return parameters.miniature.pool_scenes
    pool = dataset(catalog, "prompt_pool") if "prompt_pool" in catalog else None
    footer = pool.footer() if isinstance(pool, TableDataset) and pool._version is None else None
    return None if footer is None else footer.num_rows


def _tables_without_version(context: KedroContext, parameters: Parameters) -> frozenset[str]:
    """Of the tables that ``evaluation.benchmarks`` needs. The catalog isn't there yet when pipelines are
    made, so its configuration is asked.
    """
    entries = context.config_loader["catalog"]
    names = (
        ["coco_truth", *(f"{name}_items" for name in parameters.evaluation.benchmarks)]
        if parameters.evaluation.benchmarks
        else []
    )
    paths = {name: context.project_path / entries[name]["filepath"] for name in names if name in entries}
    return frozenset(
        name for name, path in paths.items() if not path.is_file() and not any(path.glob(f"*/{path.name}"))
    )


def _refuse_halves(in_files: dict[str, Any], runtime: dict[str, Any], shared: dict[str, Any]) -> None:
    """The catalog's paths hold the seed and the iteration too, and see neither in parameters.yml."""
    for name in RUNTIME_ONLY:
        if name in in_files and name not in runtime:
            raise UserError(
                f"{name} stands in parameters.yml, where the catalog doesn't see it. Give it with --params "
                f"{name}=..."
            )
    seed = runtime.get("seed", shared.get("seed"))
    if in_files.get("seed", seed) != seed:
        raise UserError(
            f"seed is {in_files['seed']} in parameters.yml and {seed} for the catalog. Set it in "
            "globals.yml, or with --params seed=..."
        )


def _quiet() -> None:
    """Libraries whose progress bars and warnings would bury the run's own log."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    # transformers imports it wherever it is installed.
    logging.getLogger("DeepSpeed").addFilter(
        lambda record: "Setting accelerator to CPU" not in record.getMessage()
    )
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
