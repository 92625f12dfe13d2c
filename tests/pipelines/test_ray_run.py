"""Whole runs whose long steps Ray's workers do: the bytes of a run in one process, also after a kill."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from whole_project import Project

pytestmark = pytest.mark.ray
ENGINE = "compute.engine=ray,compute.ray.workers=2,compute.ray.cpus_per_worker=0.5"


def test_the_loop_on_two_workers_and_killed_ends_with_the_same_bytes(
    finished: tuple[Project, str], project: Project
) -> None:
    """Killed while workers verify claims; started again, it computes only what is missing."""
    command = project.command("kedro", "run", "--env", "test", "--params", f"run_id=first,{ENGINE}")
    log = project.path / "killed.txt"
    with log.open("w") as file:
        run = subprocess.Popen(command, cwd=project.path, stdout=file, stderr=file, start_new_session=True)
    chunk = project.path / "data/03_primary/iteration_1/verdicts/first/verdicts/00000.parquet"
    _until(lambda: chunk.is_file() or run.poll() is not None)
    assert run.poll() is None, log.read_text()
    workers = [pid for pid in _processes("ray::Worker") if _works_in(pid, project.path)]
    assert workers
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    _until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 60)
    said = project.kedro("--params", f"run_id=first,{ENGINE}")
    assert "Starting Ray on this machine" in said and "ray::" not in said
    alone, _ = finished
    expected, found = alone.files("first"), project.files("first")
    assert found.keys() == expected.keys()
    assert [name for name, content in expected.items() if found[name] != content] == []
    reads = {name: node.get("reads") for name, node in _nodes(project).items()}
    assert {name: _of_method(own) for name, own in reads.items()} == {
        name: _of_method(node.get("reads")) for name, node in _nodes(alone).items()
    }
    _until(lambda: not [pid for pid in _processes("ray::Worker") if _works_in(pid, project.path)], 60)


def test_ctrl_c_ends_the_workers_with_the_run(project: Project) -> None:
    command = project.command("kedro", "run", "--env", "test", "--params", f"run_id=stopped,{ENGINE}")
    run = subprocess.Popen(
        command, cwd=project.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    candidates = project.path / "data/02_intermediate/iteration_1/candidates/stopped/candidates"
    _until(lambda: list(candidates.glob("*.parquet")) or run.poll() is not None)
    workers = [pid for pid in _processes("ray::Worker") if _works_in(pid, project.path)]
    os.kill(run.pid, signal.SIGINT)
    said, _ = run.communicate(timeout=120)
    assert run.returncode == 130 and "Traceback" not in said, said
    assert "run_id=stopped" in said
    _until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 60)


def _nodes(project: Project) -> dict:
    import json

    return json.loads((project.path / "data/runs/first/manifest.json").read_text())["nodes"]


def _of_method(reads: list[str] | None) -> list[str]:
    return [name for name in reads or [] if not name.startswith("compute.")]


def _processes(title: str) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if title.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def _works_in(pid: int, folder: Path) -> bool:
    try:
        return Path(os.readlink(f"/proc/{pid}/cwd")) == folder
    except OSError:
        return False


def _until(done, seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until
        time.sleep(0.1)
