"""perf/gpu_check.py without a GPU: its parts run for real on the CPU, with a model that is as small as can be."""

import argparse
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


def shown(out: Path) -> str:
    """What the check prints of a file."""
    command = [sys.executable, str(SCRIPT), "--show", str(out)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_parts_that_are_not_reached_are_said(tmp_path: Path) -> None:
    out = tmp_path / "check.json"
    parts = checked(out, "--budget", "0", "--only", "ceilings", "equality")
    assert all(part["error"] == "not reached: the budget was spent" for part in parts.values())
    assert [file.name for file in tmp_path.iterdir()] == ["check.json"]
    assert shown(out).count("Not done: not reached") == 2


def test_a_part_that_takes_too_long_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a second Python has not even read torch and transformers."""
    monkeypatch.syspath_prepend(PERF)
    import gpu_check

    options = {"device": "cpu", "shape": "tiny", "peak_tflops": 989.0, "out": tmp_path / "check.json"}
    part = next(p for p in gpu_check.PARTS if p.name == "equality")
    done = gpu_check._run(part, argparse.Namespace(**options), limit=1.0)
    assert done["error"].startswith("stopped after 1 s") and done["rows"] == []
    assert done["seconds"] >= 1


def test_a_part_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that doesn't exist ends as one that raises: with what its process said last."""
    monkeypatch.syspath_prepend(PERF)
    import gpu_check

    options = {"device": "cpu", "shape": "tiny", "peak_tflops": 989.0, "out": tmp_path / "check.json"}
    unknown = gpu_check.Part("unknown", "", ("", ""), 60)
    done = gpu_check._run(unknown, argparse.Namespace(**options), limit=60.0)
    assert "invalid choice: 'unknown'" in done["error"] and done["rows"] == []


def test_what_a_part_measured_is_shown(tmp_path: Path) -> None:
    out = tmp_path / "check.json"
    part = checked(out, "--budget", "600", "--only", "ceilings")["ceilings"]
    assert part["error"] is None
    assert all(row.get("TFLOP/s", row.get("TB/s")) > 0 for row in part["rows"])
    assert "| what | TFLOP/s | TB/s |" in shown(out) and "product of bfloat16 matrices" in shown(out)


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
