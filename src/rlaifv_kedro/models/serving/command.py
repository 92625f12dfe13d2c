"""The command and the environment of a server of vLLM."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from rlaifv_kedro.params.serving import OptionValue, ServingParams

MODULE = "vllm.entrypoints.openai.api_server"
MOST_LOGPROBS = 1000  # of the words that say yes and no there are some dozens
_KEPT_OUT = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")  # of this project's interpreter, not of the server's


@dataclass(frozen=True)
class Served:
    """What all servers of a model have in common.

    Attributes:
        checkpoint: A folder.
        name: The role, by which the servers know the model.
        has_images: Whether the model takes pictures.
        key: The API key that they want.
        on_cpu: Whether they are vLLM's for CPUs.
    """

    checkpoint: Path
    name: str
    dtype: str
    trust_remote_code: bool
    has_images: bool
    key: str
    on_cpu: bool

    def command(self, serving: ServingParams, port: int) -> list[str]:
        """The command that starts one of them."""
        own: dict[str, OptionValue] = {
            "model": str(self.checkpoint),
            "served-model-name": self.name,
            "host": "127.0.0.1",
            "port": port,
            "dtype": self.dtype,
            "trust-remote-code": self.trust_remote_code,
            "tensor-parallel-size": serving.gpus_per_server,
            "enable-scale-out": True,
            "max-logprobs": MOST_LOGPROBS,
            "generation-config": "vllm",  # else what a request leaves out comes from the checkpoint
            "limit-mm-per-prompt": {"image": 1} if self.has_images else None,
            "disable-uvicorn-access-log": True,  # a line a request
            # After a part of a prompt vLLM 0.32 turns a seed's random numbers back; on a CPU it dies of that:
            # "CPU Generator does not use offset" (v1/worker/gpu_model_runner.py, _bookkeeping_sync)
            "enable-chunked-prefill": False if self.on_cpu else None,
        }
        return [serving.python, "-m", MODULE, *arguments({**own, **serving.engine_options})]

    def environment(self, serving: ServingParams, gpus: list[str], mark: str) -> dict[str, str]:
        """The variables of one of them: this process's, with its GPUs, and without telemetry.

        Args:
            gpus: None of them leaves the variable as it is.
            mark: The variable by which its processes are known, ``NAME=VALUE`` (``rlaifv_kedro.leftovers``).
        """
        mine = {key: text for key, text in os.environ.items() if key not in _KEPT_OUT}
        folder, (name, _, value) = str(Path(serving.python).parent), mark.partition("=")
        return {
            **mine,
            "PATH": os.pathsep.join([folder, mine.get("PATH", os.defpath)]),  # ninja lies beside python
            "PYTHONUNBUFFERED": "1",
            **({"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}),
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "SPT_NOENV": "1",  # setproctitle would write a process's name over what MARK is read from
            **serving.environment,
            "VLLM_API_KEY": self.key,
            name: value,
        }


def arguments(options: dict[str, OptionValue]) -> list[str]:
    """Options as vLLM's command line has them: true and false as switches, collections as JSON."""
    found = []
    for name, value in options.items():
        if value is None:
            continue
        if isinstance(value, bool):
            found.append(f"--{name}" if value else f"--no-{name}")
        else:
            text = json.dumps(value) if isinstance(value, dict | list) else str(value)
            found.append(f"--{name}={text}")
    return found
