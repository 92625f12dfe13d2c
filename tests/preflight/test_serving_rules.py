"""What is known before a run of the servers of vLLM that it will start."""

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from fake_vllm import fake_vllm
from rlaifv_kedro.models.serving import environment, gpus
from rlaifv_kedro.preflight.finding import Finding
from rlaifv_kedro.preflight.rules import findings_of
from rlaifv_kedro.preflight.run import configured
from rlaifv_kedro.preflight.serving_rules import RULES
from whole_recipe import LABELER

ENV = "llava15_7b"
SMALL = {"loop": {"iterations": 2}, "data_generation": {"prompts": 4}}


@pytest.fixture(autouse=True)
def _looked_at_anew() -> None:
    environment.look_at.cache_clear()


def findings(
    role: str = "labeler", device: str = "cpu", compute: dict[str, Any] | None = None, **serving: Any
) -> list[Finding]:
    """What the rules say of a run with one role, or two, on servers."""
    served = {"backend": "vllm", "serving": serving}
    others = {"splitter": served, "question_writer": {**served, "path": "llm"}} if role == "both" else {}
    params = {**SMALL, "compute": {"device": device, **(compute or {})}, "models": others or {role: served}}
    return findings_of(RULES, configured(Path.cwd(), ENV, params, ["rlaif_loop"]))


def test_an_environment_that_can_serve(project: Path) -> None:
    [found] = findings(python=fake_vllm(project / "env"))
    assert (found.ok, found.remedy) == (True, "")
    assert found.what.startswith("labeler: vLLM 0.32.0 is in the environment of")
    [found] = findings(python=fake_vllm(project / "later", "0.40.1"))
    assert (found.ok, found.remedy) == (True, "Tried was 0.32 alone.")


@pytest.mark.parametrize(
    ("version", "options", "told"),
    [
        (None, "", "has no vLLM: make vllm-env makes one for CPUs"),
        ("0.10.0", "enable_prefix_caching", "It lacks --enable-scale-out.*take 0.32"),
    ],
)
def test_environments_that_cannot(project: Path, version: str | None, options: str, told: str) -> None:
    [found] = findings(python=fake_vllm(project / "env", version, options))
    assert not found.ok
    assert found.where == "models.labeler.serving.python"
    assert re.search(told, found.line())


def test_interpreters_that_are_none(project: Path) -> None:
    [found] = findings(python="gone/bin/python")
    assert "gone/bin/python is no program here: make vllm-env" in found.line()
    other = project / "other"
    other.write_text("#!/bin/sh\necho no interpreter >&2\n")
    other.chmod(0o755)
    [found] = findings(python=str(other))
    assert "doesn't behave as an interpreter (no interpreter)" in found.line()


def test_a_model_that_vllm_does_not_know(project: Path) -> None:
    config = project / LABELER / "config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps({**content, "architectures": ["OmniLMMForCausalLM"]}))
    _, found = findings(python=fake_vllm(project / "env"))
    assert found.line().startswith("labeler: vLLM 0.32.0 doesn't know OmniLMMForCausalLM")


def test_gpus_and_ports_for_all_that_runs_at_one_time(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = fake_vllm(project / "env")
    monkeypatch.setattr(gpus, "visible_gpus", lambda: ["0", "1", "2"])
    assert all(found.ok for found in findings(device="auto", python=python))
    wrong = [one for one in findings(device="auto", python=python, gpus_per_server=4) if not one.ok]
    assert ["takes 4 GPUs, at least one shall start, and there are 3" in one.line() for one in wrong] == [
        True
    ]
    wrong = [one for one in findings("both", "auto", python=python) if not one.ok and "GPU" in one.line()]
    assert ["question_writer" in one.line() and "servers have 3" in one.line() for one in wrong] == [True]
    found = findings("both", "auto", python=python, servers=1, gpus_per_server=1)
    assert not [one for one in found if not one.ok and "GPU" in one.line()]
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        wrong = [one for one in findings(python=python, ports=[port, port]) if not one.ok]
    assert [f"No port from {port} to {port} is free" in one.line() for one in wrong] == [True]


def test_servers_of_a_worker_have_its_gpus(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine has; workers that compute on the CPU start servers that do."""
    python = fake_vllm(project / "env")
    monkeypatch.setattr(gpus, "visible_gpus", lambda: ["0"])

    def wrong(gpus_per_worker: float, **serving: Any) -> list[str]:
        ray = {"engine": "ray", "ray": {"gpus_per_worker": gpus_per_worker}}
        found = findings(device="auto", compute=ray, python=python, **serving)
        return [one.line() for one in found if not one.ok]

    assert wrong(4, gpus_per_server=4) == wrong(0) == wrong(0.5) == []
    [line] = wrong(2, gpus_per_server=4)
    assert "its servers can't be started in a worker of 2 GPUs (compute.ray.gpus_per_worker)" in line
    assert "a server of vLLM takes 4 GPUs, at least one shall start, and there are 2" in line
