"""What this project does when Kedro has read the configuration: check the parameters, set the threads."""

import logging
import os
import warnings
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.pipeline.node import Node

from rlaifv_kedro import pipeline_registry
from rlaifv_kedro.params import validate_parameters

logger = logging.getLogger(__name__)


class ProjectHooks:
    """Runs before any catalog entry is made and before torch is imported."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Check all parameters at once, tell the registry how many iterations the loop has, and keep the libraries quiet.

        Raises:
            UserError: A parameter is unknown or impossible.
        """
        raw: dict[str, Any] = {**context.config_loader["parameters"], **_unmerged(context)}
        parameters = validate_parameters(raw)
        pipeline_registry.LOOP_ITERATIONS = parameters.loop.iterations
        if parameters.compute.threads:
            os.environ["OMP_NUM_THREADS"] = str(parameters.compute.threads)
        _quiet()

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        """One line a node: where the run is."""
        logger.info("%s", " · ".join([*(node.namespace or "").split("."), node.short_name]).strip(" ·").replace("_", " "))


def _unmerged(context: KedroContext) -> dict[str, Any]:
    """Runtime parameters that stand alone (run_id, replay, iteration), as the user gave them."""
    runtime = getattr(context, "_runtime_params", None) or {}
    return {name: value for name, value in runtime.items() if not isinstance(value, dict)}


def _quiet() -> None:
    """Libraries whose progress bars and warnings would bury the run's own log."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
