"""The command that goes on with a run."""

import json
import re
import shlex
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from rlaifv_kedro.formats import flatten

_PLAIN = re.compile(r"[\w./-]+")  # an item of a list that needs no quotes
SELECTIONS = ("tags", "node_names", "from_nodes", "to_nodes", "from_inputs", "to_outputs", "namespaces")
"""Options of ``kedro run`` that choose nodes."""


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
    params |= {
        name: value
        for name, value in flatten(run_params.get("runtime_params") or {}).items()
        if name != "run_id"
    }
    if params:
        parts += ["--params", ",".join(f"{name}={_as_given(value)}" for name, value in params.items())]
    return shlex.join(parts)


def _as_given(value: Any) -> str:
    """The value as ``--params`` must hold it, to be read back the same: split at commas (see cli.py), then
    YAML reads the rest.
    """
    if isinstance(value, list):
        items = (_as_given(item) if _PLAIN.fullmatch(str(item)) else _quoted(item) for item in value)
        return f"[{','.join(items)}]"
    plain = str(value)
    return plain if _read_back(plain) == [value] else _quoted(value)


def _quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace(",", "\\u002c")


def _read_back(text: str) -> list[Any]:
    """The value that Kedro and YAML make of it; none where they cannot read it."""
    if "," in text or text != text.strip():
        return []
    try:
        return [OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]]
    except (OmegaConfBaseException, YAMLError):
        return []
