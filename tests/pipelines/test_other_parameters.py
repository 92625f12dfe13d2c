"""A run that was killed goes on with other parameters where nothing that it has made depends on them."""

import json
import subprocess
import time
from pathlib import Path

import pytest

from whole_project import Project

RUN = "run_id=killed,loop.iterations=1"
FINISHED = ("candidates", "verdicts", "preference_pairs", "reference_log_probs")


@pytest.fixture
def killed(project: Project) -> Project:
    """A loop of one iteration that was killed in its training, after the first checkpoint."""
    process = subprocess.Popen(
        project.command("kedro", "run", "--env", "test", "--params", RUN),
        cwd=project.path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    checkpoints = project.path / "data/06_models/iteration_1/checkpoints/killed/checkpoints"
    while not list(checkpoints.glob("checkpoint-*/saved.json")) and process.poll() is None:
        time.sleep(0.005)
    assert process.poll() is None, "the run was over before it could be killed"
    process.kill()
    process.wait()
    return project


def written(project: Project) -> dict[Path, int]:
    """When each file of the finished stages was written."""
    files = (path for path in (project.path / "data").rglob("*.parquet") if "killed" in path.parts)
    return {path: path.stat().st_mtime_ns for path in files if not set(FINISHED).isdisjoint(path.parts)}


def test_a_killed_training_goes_on_with_what_nothing_depends_on(killed: Project) -> None:
    before = written(killed)
    refused = killed.kedro("--params", f"{RUN},training.beta=2,data_generation.top_k=9", expect=1)
    assert "training.beta: 1.0 in the run, 2.0 now (result; read by iteration_1.training.train_pol" in refused
    assert "read by iteration_1.data_generation.sample_candidates (finished))" in refused
    checked = killed.rlaifv("check", "--env", "test", "--params", f"{RUN},training.beta=2", expect=1)
    assert "can't go on like this" in checked
    assert written(killed) == before

    other = f"{RUN},training.micro_batch_size=2,evaluation.criterion=response_hallucination"
    assert "run killed goes on" in killed.rlaifv("check", "--env", "test", "--params", other)
    assert "Going on with run killed" in killed.kedro("--params", other)
    assert written(killed) == before
    manifest = json.loads((killed.path / "data/runs/killed/manifest.json").read_text())
    assert [(c["parameter"], c["from"], c["to"]) for c in manifest["changes"]] == [
        ("training.micro_batch_size", 4, 2),
        ("evaluation.criterion", "mention_hallucination", "response_hallucination"),
    ]
    assert manifest["parameters"]["training"]["micro_batch_size"] == 2
    page = killed.path / "data/08_reporting/loop_report.html/killed/loop_report.html"
    assert "training.micro_batch_size: 4, then 2; evaluation.criterion" in page.read_text()
    assert "another parameter" in killed.rlaifv("summary")
