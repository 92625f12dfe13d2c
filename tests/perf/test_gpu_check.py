"""perf/gpu_check.py without a GPU: its parts run for real on the CPU, with a model that is as small as can be."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PERF = Path(__file__).parents[2] / "perf"
SCRIPT = PERF / "gpu_check.py"
PARTS_WITH_RATIOS = ("feedback", "lora", "sampling", "reference", "gradients")


def checked(out: Path, *options: str) -> dict[str, dict[str, Any]]:
    """The parts of a check on the CPU, by name."""
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--shape", "tiny", "--out", str(out), *options]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return {part["name"]: part for part in json.loads(out.read_text())["parts"]}


def test_a_part_that_fails_or_is_not_reached_is_said_and_costs_nothing(tmp_path: Path) -> None:
    """The first part is given less time than Python takes to import torch."""
    out = tmp_path / "check.json"
    parts = checked(out, "--budget", "1.05", "--only", "ceilings", "equality")
    assert "stopped after 1 s" in parts["ceilings"]["error"]
    assert "not reached" in parts["equality"]["error"]
    assert [file.name for file in tmp_path.iterdir()] == ["check.json"]
    shown = subprocess.run(
        [sys.executable, str(SCRIPT), "--show", str(out)], check=True, capture_output=True, text=True
    ).stdout
    assert "Not done: stopped after 1 s" in shown and "Not done: not reached" in shown


def test_what_a_part_measured_is_shown(tmp_path: Path) -> None:
    out = tmp_path / "check.json"
    part = checked(out, "--budget", "600", "--only", "ceilings")["ceilings"]
    assert part["error"] is None
    assert all(row.get("TFLOP/s", row.get("TB/s")) > 0 for row in part["rows"])
    shown = subprocess.run(
        [sys.executable, str(SCRIPT), "--show", str(out)], check=True, capture_output=True, text=True
    ).stdout
    assert "| what | TFLOP/s | TB/s |" in shown and "product of bfloat16 matrices" in shown


def test_without_a_gpu_it_says_what_can_be_done() -> None:
    """Otherwise each part would fail in its own way."""
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("a GPU is there")
    found = subprocess.run(
        [sys.executable, str(SCRIPT), "--out", "/dev/null"], capture_output=True, text=True
    )
    assert found.returncode != 0 and "--device cpu --shape tiny" in found.stderr


@pytest.mark.slow
def test_every_part_runs_for_real(tmp_path: Path) -> None:
    """Each part computes, and its ways agree: else it would have an error. Ratios are not asserted."""
    parts = checked(tmp_path / "check.json", "--budget", "3000")
    assert {name: part["error"] for name, part in parts.items()} == dict.fromkeys(parts)
    assert all(part["rows"] for part in parts.values())
    for name in PARTS_WITH_RATIOS:
        assert all(row["ratio"] > 0 and row["ours ms"] > 0 for row in parts[name]["rows"])
    assert {"dense mask", "pieces", "variable lengths", "flex"} == {
        row["attention"] for row in parts["attention"]["rows"]
    }
    assert all(row["reward margin at the end"] > 0.05 for row in parts["zero2"]["rows"])  # it moved


def test_wheels_are_those_that_the_other_machine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three packages there one is too old, one is good, and kedro is missing with what it requires."""
    monkeypatch.syspath_prepend(PERF)
    from gpu_wheels import installed, missing, required

    there = installed("transformers==4.40.0\nnumpy==2.4.6\n# a comment\nantlr4-python3-runtime==4.9.3\n")
    asked = required(["transformers", "kedro"], "3.12")
    found = missing(asked, there)
    assert {"transformers", "kedro", "omegaconf"} <= set(found)
    assert not {"numpy", "antlr4-python3-runtime", "torch", "nvidia-nccl-cu12"} & set(found)
