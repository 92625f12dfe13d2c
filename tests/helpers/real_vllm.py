"""The environment with the real vLLM, for tests that are marked so."""

import os
from pathlib import Path

import pytest

from rlaifv_kedro.params import ServingParams

ROOT = Path(__file__).parents[2]


def vllm_serving(**fields: object) -> ServingParams:
    """How a test starts a real server on the CPU; without vLLM the test is skipped, with the reason."""
    python = Path(os.environ.get("VLLM_PYTHON", ROOT / ".venv-vllm" / "bin" / "python"))
    if not python.is_file():
        pytest.skip(f"there is no {python}: make vllm-env makes it, or VLLM_PYTHON names another")
    return ServingParams(
        python=str(python.absolute()),  # not resolved: a virtual environment's is a link
        environment={"VLLM_CPU_KVCACHE_SPACE": "1"},  # GiB
        engine_options={"enforce-eager": True},  # nothing is compiled, so that it starts sooner
        **fields,
    )
