"""The miniature's loop with policy and labeler on real servers of vLLM."""

import json
import signal
import subprocess
import time

import pandas as pd
import pytest

from real_vllm import vllm_serving
from rlaifv_kedro.datasets import Chunk
from rlaifv_kedro.leftovers import FOLDER, Record, marked
from rlaifv_kedro.params import ModelsParams, validate_parameters
from rlaifv_kedro.pipelines.feedback.nodes import build_pairs, score, verify_claims
from whole_project import ROOT, SHIPPED, Project, make_project

pytestmark = pytest.mark.vllm

MINUTES = 60
COMPARED = ["prompt_id", "chosen_candidate", "rejected_candidate", "chosen", "rejected"]
CHUNKS = "data/02_intermediate/iteration_1/candidates/{}/candidates"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("on_vllm") / "project")


def start(project: Project, run_id: str, iterations: int) -> subprocess.Popen:
    """``kedro run --env vllm_cpu`` in a process of its own."""
    python = vllm_serving().python
    params = {
        "run_id": run_id,
        "loop.iterations": iterations,
        "models.policy.serving.python": python,
        "models.labeler.serving.python": python,
    }
    given = ["--env", "vllm_cpu", "--params", ",".join(f"{name}={value}" for name, value in params.items())]
    log = (project.path / f"{run_id}.log").open("ab")
    with log:
        return subprocess.Popen(
            project.command("kedro", "run", *given), cwd=project.path, stdout=log, stderr=log
        )


def finish(project: Project, run_id: str, iterations: int) -> None:
    run = start(project, run_id, iterations)
    assert run.wait(45 * MINUTES) == 0, (project.path / f"{run_id}.log").read_text()[-5000:]


def servers_of(project: Project, run_id: str) -> set[int]:
    records = (project.path / "data/runs" / run_id / FOLDER).glob("*.running.json")
    return {pid for path in records for pid in marked(Record.model_validate_json(path.read_bytes()).mark)}


def saved(project: Project, run_id: str, name: str) -> pd.DataFrame:
    """A table of a run by its catalog's name, such as ``iteration_1.verdicts``."""
    manifest = json.loads((project.path / "data/runs" / run_id / "manifest.json").read_text())
    return pd.read_parquet(project.path / manifest["written"][name]["path"])


def test_the_loop_gives_the_pairs_of_transformers(project: Project) -> None:
    """Two iterations; then the same claims are put to the labeler's weights in this process."""
    finish(project, "served", 2)
    manifest = json.loads((project.path / "data/runs/served/manifest.json").read_text())
    assert any("computed by vLLM" in said for said in manifest["found_out"].values())
    assert not servers_of(project, "served")
    parameters = validate_parameters(manifest["parameters"])
    labeler = ROOT / SHIPPED / "labeler/shipped/labeler"
    for k in (1, 2):
        prompts, candidates, claims, verdicts, rejects = (
            saved(project, "served", f"iteration_{k}.{name}")
            for name in ("prompts", "candidates", "claims", "verdicts", "feedback_rejects")
        )
        asked = (parameters.feedback, ModelsParams(), parameters.compute)
        chunks = list(verify_claims(prompts, candidates, claims, rejects, labeler, labeler, *asked))
        ours = pd.concat([chunk.frame for _, chunk in chunks if isinstance(chunk, Chunk)], ignore_index=True)
        both = ours.merge(verdicts, on=["prompt_id", "candidate", "claim"], validate="one_to_one")
        assert len(both) == len(verdicts) == len(ours) > 100
        for p in ("p_yes", "p_no"):
            assert (both[f"{p}_x"] - both[f"{p}_y"]).abs().max() < 1e-4
        tied = (both["p_yes_x"] - both["p_no_x"]).abs() < 2e-4
        other = both["accepted_x"] != both["accepted_y"]
        assert not (other & ~tied).any()
        if not other.any():
            own = score(prompts, candidates, ours, rejects.head(0), parameters.feedback)
            frames, _ = build_pairs(prompts, candidates, own, k, parameters.seed, parameters.feedback)
            pairs = pd.concat(list(frames), ignore_index=True)[COMPARED]
            there = saved(project, "served", f"iteration_{k}.preference_pairs")[COMPARED]
            pd.testing.assert_frame_equal(pairs, there, check_dtype=False)


def test_a_killed_run_leaves_no_server_and_keeps_its_chunks(project: Project) -> None:
    run = start(project, "killed", 1)
    chunks = project.path / CHUNKS.format("killed")
    until = time.monotonic() + 20 * MINUTES
    while not (finished := sorted(chunks.glob("*.parquet"))) and run.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert run.poll() is None and servers_of(project, "killed")
    run.send_signal(signal.SIGKILL)
    run.wait()
    contents = {path: path.read_bytes() for path in finished}
    until = time.monotonic() + MINUTES
    while servers_of(project, "killed"):
        assert time.monotonic() < until, "a server outlives its run"
        time.sleep(0.2)
    finish(project, "killed", 1)
    assert contents and {path: path.read_bytes() for path in contents} == contents
