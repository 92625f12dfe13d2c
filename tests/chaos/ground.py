"""The project in which the trials are made: one uninterrupted run, what it wrote, and copies of it to be
spoilt.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from whole_project import ROOT, SHIPPED

ENV = "chaos"
RUN = "run"
RECIPE: dict[str, Any] = {
    "loop": {"iterations": 2},
    "miniature": {"pool_scenes": 32, "selection_scenes": 8, "test_scenes": 8, "benchmark_scenes": 4},
    "data_generation": {"prompts": 16, "candidates": 6, "chunk_size": 6, "batch_size": 6},
    "feedback": {"chunk_size": 6},
    "training": {
        "batch_size": 4,
        "micro_batch_size": 4,
        "checkpoint_every": 0.5,
        "learning_rate": 4.0e-4,
        "collapse_log_ratio": -1000.0,
    },
    # The policy after few large steps is a bad one; here it only has to be another one.
    "evaluation": {
        "keep_best": 1,
        "benchmarks": ["mmhal"],
        "collapse": {"length_change": 10.0, "repeat_increase": 1.0, "recall_drop": 1.0},
    },
    "benchmark_data": {"chair_images": 4, "chair_split": "benchmarks"},
    "benchmarks": {
        "max_new_tokens": 24,
        "yes_no_tokens": 1,
        "chunk_size": 4,
        "batch_size": 4,
        "extraction": "rules",
        "amber_pipeline": "exact",
    },
    "reporting": {"examples": 2},
}
"""As environment ``test``, smaller, with a benchmark that a server judges."""

STAGES = ("data_generation", "feedback", "training", "evaluation")

UNCOMPARED = ("data/runs", "data/07_model_output/judge_store")
"""Manifests hold times and how often the run was started; the judge's replies hold when they came."""


@dataclass(frozen=True)
class Kept:
    """A file as it was: content, and when it was written."""

    sha256: str
    mtime_ns: int


Files = Mapping[str, Kept]


def make(path: Path, judge_url: str) -> Path:
    """A project as a clone has it, with the trials' own environment and no source: that is imported."""
    path.mkdir(parents=True)
    shutil.copytree(ROOT / "conf", path / "conf")
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(ROOT / name, path)
    (path / "src").mkdir()
    for shipped in (ROOT / SHIPPED).glob("*/shipped"):
        shutil.copytree(shipped, path / shipped.relative_to(ROOT))
    conf = path / "conf" / ENV
    conf.mkdir()
    shutil.copy(path / "conf/miniature_benchmarks/catalog.yml", conf)
    judge = {"backend": "openai", "url": judge_url, "model": "judge", "timeout": 3, "retries": 3}
    (conf / "parameters.yml").write_text(yaml.safe_dump({**RECIPE, "models": {"judge": judge}}))
    return path


def copy(source: Path, target: Path) -> Path:
    """A copy with the same times, so that what a trial rewrites can be told from what it leaves."""
    shutil.rmtree(target, ignore_errors=True)
    return shutil.copytree(source, target, symlinks=True)


def command(run_id: str, *arguments: str, **params: Any) -> list[str]:
    """``kedro run`` in the trials' environment."""
    given = ",".join(f"{name}={value}" for name, value in {"run_id": run_id, **params}.items())
    return ["kedro", "run", "--env", ENV, *arguments, "--params", given]


def files(project: Path) -> dict[str, Kept]:
    """All files below ``data``, by their paths."""
    found = {}
    for path in sorted((project / "data").rglob("*")):
        if path.is_file() and not path.is_symlink():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            found[path.relative_to(project).as_posix()] = Kept(digest, path.stat().st_mtime_ns)
    return found


def artifacts(found: Files, run_id: str) -> dict[str, str]:
    """Content hashes of what a run wrote, by paths without its id.

    Left out are :data:`UNCOMPARED`, TensorBoard's files (times), and hidden files (journals, locks, what a
    kill left behind and nobody reads).
    """
    return {
        "/".join(part for part in path.split("/") if part != run_id): kept.sha256
        for path, kept in found.items()
        if run_id in path.split("/") and compared(path)
    }


def compared(path: str) -> bool:
    """Whether a file has to be the same after any trial; see :func:`artifacts`."""
    parts = path.split("/")
    hidden = any(part.startswith(".") for part in parts)
    return not hidden and "training_logs" not in parts and not path.startswith(UNCOMPARED)


def manifest(project: Path, run_id: str) -> dict[str, Any]:
    """A run's manifest."""
    return json.loads((project / f"data/runs/{run_id}/manifest.json").read_text())


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What two tables of files differ in, in words."""
    words = [f"{path} is gone" for path in was if path not in now]
    words += [f"{path} is new" for path in now if path not in was]
    return words + [f"{path} is another" for path in was if path in now and was[path] != now[path]]


WHOLE = command(RUN)


def stage_run(stage: str) -> tuple[str, list[str]]:
    """The id and command of the run of one stage, of the second iteration."""
    run_id = f"alone_{stage}"
    return run_id, command(run_id, "--pipelines", stage, iteration=2)


@dataclass(frozen=True)
class Ground:
    """What all trials start from.

    Attributes:
        begun: The project before the run, and as kills at a few points of it leave it, each with the number of
            file operations that the run still makes, about.
        finished, staged: The project after the run, and after a run of each stage.
        expected: The artifacts of the uninterrupted runs, by run id.
        seconds: How long the uninterrupted run took, forked.
    """

    begun: list[tuple[Path, int]]
    finished: Path
    staged: Path
    expected: dict[str, dict[str, str]]
    seconds: float
