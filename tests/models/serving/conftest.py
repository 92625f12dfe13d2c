"""A run's folder, a checkpoint's folder, and parameters that start the fake vLLM."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fake_vllm import fake_vllm
from rlaifv_kedro import run_folder
from rlaifv_kedro.models.serving import gpus, servers
from rlaifv_kedro.params import ServingParams


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the run that is running."""
    folder = tmp_path / "runs" / "now"
    monkeypatch.setattr(run_folder, "_current", [folder])
    monkeypatch.setattr(gpus, "_taken", set())
    monkeypatch.setattr(servers, "POLL", 0.05)
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder with the config of a model that takes pictures."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llava", "vision_config": {}}))
    return folder


@pytest.fixture
def serving(tmp_path: Path) -> Callable[..., ServingParams]:
    """Makes parameters; a keyword ``how`` tells the fake what to do."""
    python = fake_vllm(tmp_path / "environment")

    def make(how: str = "", once: Path | None = None, **fields: object) -> ServingParams:
        environment = {"FAKE_VLLM": how, **({"FAKE_ONCE": str(once)} if once else {})}
        return ServingParams(python=python, environment=environment, **fields)

    return make
