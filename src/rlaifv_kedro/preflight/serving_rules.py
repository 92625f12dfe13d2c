"""Rules about the servers of vLLM that a run will start itself."""

import math
from collections.abc import Iterator
from pathlib import Path

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.folder import CheckpointFolder
from rlaifv_kedro.models.hub import folder_here
from rlaifv_kedro.models.serving import gpus
from rlaifv_kedro.models.serving.environment import KNOWN, VLLMEnvironment, look_at
from rlaifv_kedro.models.serving.ports import take_port
from rlaifv_kedro.params import VLLMParams
from rlaifv_kedro.preflight.finding import Finding
from rlaifv_kedro.preflight.setup import RunSetup

TOGETHER = (("policy",), ("labeler",), ("splitter", "question_writer"), ("judge",))
"""Roles whose servers run at one time."""


def vllm_is_there(setup: RunSetup) -> Iterator[Finding]:
    """The environment of every served model has a vLLM that takes token ids."""
    for name, params in _served(setup).items():
        where = f"models.{name}.serving.python"
        try:
            found = look_at(params.serving.python)
        except UserError as error:
            yield Finding(False, f"{name}: it can't be served by vLLM", where, error.message)
            continue
        what = f"{name}: vLLM {found.version} is in the environment of {params.serving.python}"
        if not found.has_endpoint:
            remedy = f"It lacks --enable-scale-out, by which prompts are asked as token ids: take {KNOWN}."
            yield Finding(False, what, where, remedy)
        else:
            tried = found.version.startswith(f"{KNOWN}.")
            yield Finding(True, what, where, "" if tried else f"Tried was {KNOWN} alone.")


def vllm_knows_the_models(setup: RunSetup) -> Iterator[Finding]:
    """vLLM has the class of every model that it will serve."""
    for model, look in setup.inspected:
        if not isinstance(model.params, VLLMParams) or not all(finding.ok for finding in look.findings):
            continue
        folder = folder_here(model.source)
        try:
            found = look_at(model.params.serving.python)
        except UserError:  # it is told by the rule above
            continue
        for architecture in _unknown(folder, found) if folder and found.architectures else ():
            yield Finding(
                False,
                f"{model.role}: vLLM {found.version} doesn't know {architecture}",
                model.where,
                f"Take a checkpoint that it knows, or models.{model.role}.backend=transformers.",
            )


def servers_have_gpus_and_ports(setup: RunSetup) -> Iterator[Finding]:
    """Servers that run at one time have GPUs and ports of their own.

    Those of ``compute.engine=ray`` are started by each worker, on its GPUs.
    """
    served, compute = _served(setup), setup.parameters.compute
    visible: list[str] = []
    place = ""
    if compute.engine == "ray":
        each = compute.of_a_worker()["GPU"]
        visible = [str(k) for k in range(math.ceil(each))]
        place = f" in a worker of {each:g} GPUs (compute.ray.gpus_per_worker)"
    elif served and compute.device != "cpu":
        visible = gpus.visible_gpus()
    for roles in TOGETHER:
        free = list(visible)
        for name in (role for role in roles if role in served):
            where = f"models.{name}.serving"
            try:
                port = take_port(*served[name].serving.ports)
                port.release()
                shares = gpus.shares(served[name].serving, free, len(visible), name)
            except UserError as error:
                yield Finding(False, f"{name}: its servers can't be started{place}", where, error.message)
                continue
            free = [gpu for gpu in free if not any(gpu in share for share in shares)]


def _unknown(folder: Path, found: VLLMEnvironment) -> list[str]:
    """The model's classes that neither vLLM nor transformers has; vLLM can serve many of the latter's."""
    import transformers

    named = CheckpointFolder(folder).config.get("architectures")
    listed = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    return [name for name in listed if not (found.knows(name) or hasattr(transformers, name))]


def _served(setup: RunSetup) -> dict[str, VLLMParams]:
    return {name: params for name, params in setup.asked().items() if isinstance(params, VLLMParams)}


RULES = (vllm_is_there, vllm_knows_the_models, servers_have_gpus_and_ports)
