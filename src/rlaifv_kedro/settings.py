"""Kedro's project settings."""

import os
import warnings

# Two busy-waiting OpenMP threads slow each other down twentyfold on a loaded machine; torch reads this when
# it is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The report names artifacts of all iterations ("iteration_2.metrics"), which is what the dots are for.
warnings.filterwarnings("ignore", message="One or more dataset names contain '.'")
# tqdm in a notebook: without ipywidgets its bars are plain text.
warnings.filterwarnings("ignore", message="IProgress not found")

from rlaifv_kedro.hooks import RunHooks
from rlaifv_kedro.mlflow_hooks import MlflowHooks
from rlaifv_kedro.params import complete_parameters
from rlaifv_kedro.preflight.rules import before_run
from rlaifv_kedro.project_hooks import ProjectHooks
from rlaifv_kedro.reporting.stages import stage_lines
from rlaifv_kedro.reporting.terminal import show_after_run
from rlaifv_kedro.resolvers import last_iteration
from rlaifv_kedro.runs.configuration import LAYERS, Configuration
from rlaifv_kedro.runs.session import RunSession

SESSION_CLASS = RunSession
HOOKS = (
    RunHooks(
        on_finished=show_after_run,
        before_first_node=before_run,
        complete_parameters=complete_parameters,
        on_stage=stage_lines,
    ),
    ProjectHooks(),
    MlflowHooks(),
)
DISABLE_HOOKS_FOR_PLUGINS = ("kedro-telemetry",)
CONFIG_LOADER_CLASS = Configuration
CONFIG_LOADER_ARGS = {"custom_resolvers": {"last_iteration": last_iteration}, **LAYERS}
