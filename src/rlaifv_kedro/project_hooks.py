"""What this project does when Kedro has read the configuration: check the parameters, set the threads."""

import logging
import os
import warnings
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.pipeline.node import Node

from rlaifv_kedro import pipeline_registry
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import validate_parameters

logger = logging.getLogger(__name__)

RUNTIME_ONLY = ("iteration", "run_id", "replay")  # parameters of a run, not of an experiment


class ProjectHooks:
    """Runs before any catalog entry is made and before torch is imported."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Check all parameters at once, tell the registry which iterations there are, and keep the libraries quiet.

        Raises:
            UserError: A parameter is unknown or impossible, or stands where only half of the configuration would see it.
        """
        in_files, runtime = context.config_loader["parameters"], getattr(context, "_runtime_params", None) or {}
        parameters = validate_parameters({**in_files, **{name: value for name, value in runtime.items() if name in RUNTIME_ONLY}})
        _refuse_halves(in_files, runtime, context.config_loader["globals"])
        pipeline_registry.LOOP_ITERATIONS = parameters.loop.iterations
        pipeline_registry.STAGE_ITERATION = parameters.iteration
        if parameters.compute.threads:
            os.environ["OMP_NUM_THREADS"] = str(parameters.compute.threads)
        _quiet()

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        """One line a node: where the run is."""
        logger.info("%s", " · ".join([*(node.namespace or "").split("."), node.short_name]).strip(" ·").replace("_", " "))


def _refuse_halves(in_files: dict[str, Any], runtime: dict[str, Any], shared: dict[str, Any]) -> None:
    """The catalog's paths hold the seed and the iteration too, and see neither in parameters.yml."""
    for name in RUNTIME_ONLY:
        if name in in_files and name not in runtime:
            raise UserError(f"{name} stands in parameters.yml, where the catalog doesn't see it. Give it with --params {name}=...")
    seed = runtime.get("seed", shared.get("seed"))
    if in_files.get("seed", seed) != seed:
        raise UserError(f"seed is {in_files['seed']} in parameters.yml and {seed} for the catalog. Set it in globals.yml, or with --params seed=...")


def _quiet() -> None:
    """Libraries whose progress bars and warnings would bury the run's own log."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
