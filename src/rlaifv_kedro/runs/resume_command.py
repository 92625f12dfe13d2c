"""The commands that go on with a run, and that adopt one."""

import shlex
from collections.abc import Sequence
from typing import Any

from rlaifv_kedro.params import RUN_NAMES
from rlaifv_kedro.params.command_line import read, write

SELECTIONS = ("tags", "node_names", "from_nodes", "to_nodes", "from_inputs", "to_outputs", "namespaces")
"""Options of ``kedro run`` that choose nodes."""


def whole_command(command: str, pipelines: Sequence[str]) -> str:
    """A run's last command, with all pipelines that the run was ever started with, and without a selection.

    Args:
        command: As :func:`resume_command` writes it.
    """
    parts = shlex.split(command)
    options = dict(zip(parts[2::2], parts[3::2], strict=False))
    kept = [part for name in ("--env", "--params") if name in options for part in (name, options[name])]
    names = [] if list(pipelines) == ["__default__"] else ["--pipelines", ",".join(pipelines)]
    at = 2 if "--env" in options else 0
    return shlex.join([*parts[:2], *kept[:at], *names, *kept[at:]])


def stage_command(command: str, stage: str, iteration: int) -> str:
    """The command of a new run of a stage with the environment and the parameters of another run.

    Args:
        command: The other run's, as :func:`resume_command` writes it.
    """
    parts = shlex.split(command)
    options = dict(zip(parts[2::2], parts[3::2], strict=False))
    given = read([options["--params"]]) if "--params" in options else {}
    given = {name: value for name, value in given.items() if name not in RUN_NAMES}
    return resume_command(
        {
            "env": options.get("--env"),
            "pipeline_names": [stage],
            "runtime_params": {**given, "iteration": iteration},
        },
        run_id=None,
    )


def resume_command(run_params: dict[str, Any], run_id: str | None) -> str:
    """The command that goes on with a run, or starts one like it.

    Args:
        run_params: What Kedro gives to ``before_pipeline_run``.
        run_id: The run; None for a new one.
    """
    parts = ["kedro", "run"]
    if run_params.get("env"):
        parts += ["--env", run_params["env"]]
    pipelines = sorted({*(run_params.get("pipeline_names") or ())} - {"__default__"})
    if pipelines:
        parts += ["--pipelines", ",".join(pipelines)]
    for option in SELECTIONS:
        if run_params.get(option):
            parts += [
                f"--{'nodes' if option == 'node_names' else option.replace('_', '-')}",
                ",".join(run_params[option]),
            ]
    params = {"run_id": run_id} if run_id else {}
    given = run_params.get("runtime_params") or {}
    params |= {name: value for name, value in given.items() if name != "run_id"}
    if params:
        parts += ["--params", write(params)]
    return shlex.join(parts)


def adopt_command(run_params: dict[str, Any], run_id: str) -> str:
    """The command that rebuilds the manifest of a run which was started with these options."""
    chosen = {name: value for name, value in run_params.items() if name not in SELECTIONS}
    return f"rlaifv runs adopt {run_id}{resume_command(chosen, run_id=None).removeprefix('kedro run')}"
