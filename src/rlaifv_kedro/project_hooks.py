"""Hooks of this project: parameters are checked once Kedro has read the configuration."""

import logging
import os
import warnings
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kedro.framework import project
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.io.core import is_parameter
from kedro.pipeline.node import Node

from rlaifv_kedro.datasets.versioned import order_versions_by
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import RUNTIME_ONLY, Parameters, validate_parameters
from rlaifv_kedro.params.current import Session, set_current
from rlaifv_kedro.redaction import redact_log
from rlaifv_kedro.runs.kedro_private import runtime_parameters
from rlaifv_kedro.runs.manifest import numbers_of_runs
from rlaifv_kedro.runs.sizes import write_sizes

logger = logging.getLogger(__name__)


class ProjectHooks:
    """What this project does when Kedro has read the configuration: before any catalog entry is made."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Checks all parameters at once, tells the registry what they say, and keeps the libraries quiet.

        Raises:
            UserError: A parameter is unknown or impossible, or stands where only half of the configuration
                would see it.
        """
        redact_log()
        in_files, runtime = context.config_loader["parameters"], runtime_parameters(context)
        given = {name: value for name, value in runtime.items() if name in RUNTIME_ONLY}
        parameters = validate_parameters({**in_files, **given})
        _refuse_halves(in_files, runtime, context.config_loader["globals"])
        entries = context.config_loader["catalog"]
        missing = _tables_without_version(entries, context.project_path, parameters)
        own_prompts = not _part(entries, "prompt_pool").get("versioned", False)
        set_current(Session(parameters, missing, own_prompts))
        # Kedro keeps the pipelines that a notebook's run before this one was made of.
        project.pipelines.configure(f"{project.PACKAGE_NAME}.pipeline_registry")
        if parameters.compute.threads:
            os.environ["OMP_NUM_THREADS"] = str(parameters.compute.threads)
        order_versions_by(partial(numbers_of_runs, context.project_path))
        _quiet()
        if Path.cwd() != Path(context.project_path):
            # As conf/logging.yml says, which Kedro looks for in the working folder; a notebook's is another.
            logging.getLogger("kedro").setLevel(logging.WARNING)
            for handler in logging.getLogger().handlers:
                handler.markup = False  # rich's would take the brackets of a command for its own

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        """One line a node: where the run is."""
        parts = [*(node.namespace or "").split("."), node.short_name]
        logger.info("%s", " · ".join(parts).strip(" ·").replace("_", " "))

    @hook_impl(trylast=True)
    def after_pipeline_run(self, run_params: dict[str, Any], catalog: DataCatalog) -> None:
        """Writes sizes over what Kedro-Viz has noted, where it is installed."""
        if not find_spec("kedro_viz"):
            return
        names = {name for pipeline in project.pipelines.values() for name in pipeline.datasets()}
        data = {name for name in names if not is_parameter(name)}
        try:
            write_sizes(Path(run_params["project_path"]), catalog, data)
        except UserError as error:
            logger.warning("Kedro-Viz will not know the sizes of what this run has made: %s", error)


def _part(entries: dict[str, Any], name: str) -> dict[str, Any]:
    """What the catalog says of an entry; nothing where it is none of use, which Kedro says later."""
    found = entries.get(name)
    return found if isinstance(found, dict) else {}


def _tables_without_version(entries: dict[str, Any], project: Path, parameters: Parameters) -> frozenset[str]:
    """Of the tables that ``evaluation.benchmarks`` needs, those that no run has made.

    The catalog isn't there yet when pipelines are made, so its configuration is asked.
    """
    benchmarks = parameters.evaluation.benchmarks
    names = ["coco_truth", *(f"{name}_items" for name in benchmarks)] if benchmarks else []
    said = {name: _part(entries, name).get("filepath") for name in names}
    paths = {name: project / path for name, path in said.items() if isinstance(path, str)}
    return frozenset(
        name for name, path in paths.items() if not path.is_file() and not any(path.glob(f"*/{path.name}"))
    )


def _refuse_halves(in_files: dict[str, Any], runtime: dict[str, Any], shared: dict[str, Any]) -> None:
    """The catalog's paths hold the seed too, and see neither it nor a run's names in parameters.yml."""
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
