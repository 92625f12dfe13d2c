"""A small Kedro project, written to a temporary folder, to try sessions, hooks and chunked nodes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[2] / "src"

PYPROJECT = """
[tool.kedro]
package_name = "toy"
project_name = "toy"
kedro_init_version = "1.7.0"
source_dir = "src"
"""

SETTINGS = """
from pathlib import Path

from fatal_operations import Operations
from rlaifv_kedro.hooks import RunHooks
from rlaifv_kedro.runs.configuration import Configuration
from rlaifv_kedro.runs.session import RunSession
from toy.params import complete_parameters

SESSION_CLASS = RunSession
HOOKS = (RunHooks(complete_parameters=complete_parameters),)
DISABLE_HOOKS_FOR_PLUGINS = ("kedro-telemetry",)
CONFIG_LOADER_CLASS = Configuration
CONFIG_LOADER_ARGS = {"base_env": "base", "default_run_env": "base"}

if Path("die_at_write").exists():  # kill -9 at the n-th file that is put in place: just before it, or just after
    number, when = Path("die_at_write").read_text().split()
    Operations(Path.cwd(), int(number), when, only=("replace",)).install()
"""

PARAMS = """
from pydantic import BaseModel


class Nested(BaseModel):
    beta: float
    template: str = "{question}"


def complete_parameters(raw):
    return {**raw, "nested": Nested.model_validate(raw["nested"]).model_dump()}
"""

NODES = """
import os
import signal
import time
from contextlib import nullcontext
from pathlib import Path

import pandas as pd

from rlaifv_kedro.engine.chunks import map_chunks
from rlaifv_kedro.errors import UserError
from toy.params import Nested


def log(line):
    with open("calls.log", "a") as file:
        file.write(line + "\\n")


def make_prompts(count):
    log("make_prompts")
    rows = [(f"p{i}", f"Question {i}?", {"bytes": bytes([i]), "path": None}, i, "toy", None) for i in range(count)]
    return pd.DataFrame(rows, columns=["prompt_id", "question", "image", "image_id", "origin_dataset", "question_type"])


def sample(prompts, size):
    def work(ids):
        log("chunk " + ids[0])
        while Path("wait_at_" + ids[0]).exists():
            time.sleep(0.05)
        sentinel = Path("die_at_" + ids[0])
        if sentinel.exists():
            os.kill(os.getpid(), signal.SIGKILL)
        rows = [(i, n, f"answer {i} {n}", 3, "stop", n) for i in ids for n in range(2)]
        rejects = [("sample", i, "toy") for i in ids[:1]]
        return (
            pd.DataFrame(rows, columns=["prompt_id", "candidate", "answer", "token_count", "finish_reason", "seed"]),
            pd.DataFrame(rejects, columns=["stage", "key", "why"]),
        )

    yield from map_chunks(list(prompts["prompt_id"]), size, nullcontext, (work,), "candidates", tables=2)


def score(candidates, nested: Nested):
    log("score")
    if Path("collapse").exists():
        raise UserError("collapsed")
    if Path("bug").exists():
        raise KeyError("a real bug")
    if Path("die_in_score").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return {"answers": len(candidates), "text": "".join(candidates["answer"])}


def audit(prompts, policy):
    return {"prompts": len(prompts), "policy": policy.name}
"""

REGISTRY = """
from kedro.pipeline import Pipeline, node

from toy.nodes import audit, make_prompts, sample, score


def register_pipelines():
    data = Pipeline([node(make_prompts, "params:count", "prompts", name="make_prompts")])
    generation = Pipeline(
        [node(sample, ["prompts", "params:size"], ["candidates", "rejects"], name="sample")]
    )
    feedback = Pipeline([node(score, ["candidates", "params:nested"], "scored", name="score")])
    both = data + generation + feedback
    loop = Pipeline(both, namespace="iteration_1", parameters=["params:count", "params:size", "params:nested"])
    audited = feedback + Pipeline([node(audit, ["prompts", "policy"], "audited", name="audit")])
    return {"data": data, "generation": generation, "feedback": feedback, "loop": loop, "audit": audited, "__default__": both}
"""

CATALOG = """
_prompts: &prompts
  type: rlaifv_kedro.datasets.tables.TableDataset
  filepath: data/prompts.parquet
  table: prompts
  versioned: true
prompts: *prompts
"{loop}.prompts": *prompts

_candidates: &candidates
  type: rlaifv_kedro.datasets.chunks.ChunkedTableDataset
  filepath: data/candidates
  table: candidates
  versioned: true
candidates: *candidates
"{loop}.candidates": *candidates

_rejects: &rejects
  type: rlaifv_kedro.datasets.chunks.ChunkedTableDataset
  filepath: data/rejects
  table: rejects
  versioned: true
rejects: *rejects
"{loop}.rejects": *rejects

_scored: &scored
  type: rlaifv_kedro.datasets.documents.JsonDataset
  filepath: data/scored.json
  versioned: true
scored: *scored
"{loop}.scored": *scored

policy:
  type: rlaifv_kedro.datasets.checkpoint.CheckpointDataset
  filepath: data/policy
  versioned: true

audited:
  type: rlaifv_kedro.datasets.documents.JsonDataset
  filepath: data/audited.json
  versioned: true
"""


def _as_in_a_terminal() -> None:
    """A shell in the background, or nohup, would have the run's signals ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class ToyProject:
    """The project's folder, and what a user does with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name, text in {
            "pyproject.toml": PYPROJECT,
            "conf/base/catalog.yml": CATALOG,
            "conf/base/parameters.yml": "count: 7\nsize: 2\nnested:\n  beta: 0.1\n",
            "src/toy/__init__.py": "",
            "src/toy/cli.py": "from rlaifv_kedro.cli import cli, run\n",
            "src/toy/settings.py": SETTINGS,
            "src/toy/params.py": PARAMS,
            "src/toy/nodes.py": NODES,
            "src/toy/pipeline_registry.py": REGISTRY,
        }.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(text)

    def env(self) -> dict[str, str]:
        """The environment of its processes."""
        path = os.pathsep.join(map(str, (SOURCE, Path(__file__).parent)))
        return {**os.environ, "PYTHONPATH": path, "COLUMNS": "400", "DO_NOT_TRACK": "1"}

    def python(self, *arguments: str) -> subprocess.CompletedProcess:
        """Runs this Python in the project's folder, with a wide terminal."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.path,
            env=self.env(),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def start(self, params: str, chunk: str, **options: Any) -> subprocess.Popen:
        """Starts ``kedro run``, which then waits in a chunk until ``wait_at_<chunk>`` is removed."""
        (self.path / f"wait_at_{chunk}").touch()
        options.setdefault("preexec_fn", _as_in_a_terminal)
        process = subprocess.Popen(
            [sys.executable, "-m", "kedro", "run", "--params", params],
            cwd=self.path,
            env=self.env(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )
        until = time.monotonic() + 120
        log = self.path / "calls.log"
        while not (log.exists() and f"chunk {chunk}" in log.read_text().splitlines()):
            assert process.poll() is None and time.monotonic() < until, process.communicate()[0]
            time.sleep(0.05)
        return process

    def run(self, params: str = "", *arguments: str) -> subprocess.CompletedProcess:
        """``kedro run``."""
        return self.python("-m", "kedro", "run", *(["--params", params] if params else []), *arguments)

    def calls(self) -> list[str]:
        """What the nodes did since the last call of this."""
        log = self.path / "calls.log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    def manifest(self, run_id: str) -> dict:
        """The run's manifest as JSON."""
        return json.loads((self.path / f"data/runs/{run_id}/manifest.json").read_text())

    def files(self, run_id: str) -> dict[str, bytes]:
        """Every file that the run wrote, under its path with the run id taken out."""
        found = sorted(
            path for path in (self.path / "data").rglob("*") if path.is_file() and f"/{run_id}/" in str(path)
        )
        return {
            str(path.relative_to(self.path)).replace(f"/{run_id}/", "/RUN/"): path.read_bytes()
            for path in found
            if "/runs/" not in str(path)
        }
