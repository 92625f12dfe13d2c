"""The whole loop, from ``kedro run`` to the table, on the shipped checkpoints."""

import json
import os
import random
import subprocess
import time
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

PUBLISHED = [
    "ds_name",
    "image",
    "question",
    "chosen",
    "rejected",
    "origin_dataset",
    "origin_split",
    "idx",
    "image_path",
]


def test_terminal_shows_every_iteration_and_the_report(finished):
    project, output = finished
    for name in ("base", "iteration 1", "iteration 2"):
        assert name in output
    assert (project.path / "data/08_reporting/loop_report.html/first/loop_report.html").is_file()
    assert "data/08_reporting/loop_report.html/first/loop_report.html" in output


def test_summary_is_a_list_of_iterations(finished):
    project, _ = finished
    records = json.loads(project.rlaifv("summary", "--json"))
    assert [r["iteration"] for r in records] == [0, 1, 2]
    for record in records:
        assert set(record) == {
            "iteration",
            "response_hallucination",
            "mention_hallucination",
            "object_recall",
            "mean_words",
            "n",
        }
        assert 0 <= record["mention_hallucination"] <= record["response_hallucination"] <= 1
        assert record["n"] == 24
    assert records == json.loads(
        (project.path / "data/08_reporting/loop_summary.json/first/loop_summary.json").read_text()
    )


def test_runs_are_listed(finished):
    project, _ = finished
    runs = {run["run_id"]: run for run in json.loads(project.rlaifv("runs", "--json"))}
    assert runs["first"]["status"] == "finished"
    assert runs["first"]["pipelines"] == ["__default__"]


def test_manifest_says_what_was_read_and_written(finished):
    project, _ = finished
    manifest = json.loads((project.path / "data/runs/first/manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["read"]["base_policy"]["version"] == "shipped"
    assert {"iteration_2.trained_policy", "iteration_1.preference_pairs", "loop_summary"} <= set(
        manifest["written"]
    )
    assert all(len(entry["sha256"]) == 64 for entry in manifest["written"].values())
    assert manifest["parameters"]["training"]["batch_size"] == 4
    assert "torch" in manifest["packages"]


def test_iterations_ask_different_prompts(finished):
    project, _ = finished
    prompts = [
        pd.read_parquet(
            project.path / f"data/02_intermediate/iteration_{k}/prompts.parquet/first/prompts.parquet"
        )
        for k in (1, 2)
    ]
    assert len(prompts[0]) == len(prompts[1]) == 24
    assert not set(prompts[0]["prompt_id"]) & set(prompts[1]["prompt_id"])


def test_pairs_have_the_published_columns_and_load_as_a_dataset(finished):
    from datasets import load_dataset

    project, _ = finished
    path = (
        project.path
        / "data/05_model_input/iteration_1/preference_pairs.parquet/first/preference_pairs.parquet"
    )
    assert pq.read_schema(path).names[:9] == PUBLISHED
    rows = load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(project.path / "cache"))
    assert set(rows[0]["image"]) == {"bytes", "path"}
    assert all(row["chosen_score"] - row["rejected_score"] >= 1 for row in rows)


def test_reference_log_probs_start_at_the_policy(finished):
    """The first logged reward margin is 0 up to rounding after one step of warm-up: the reference is the
    policy itself.
    """
    project, _ = finished
    for k in (1, 2):
        log = pd.read_parquet(
            project.path / f"data/08_reporting/iteration_{k}/training_log.parquet/first/training_log.parquet"
        )
        assert abs(log["reward_margin"].iloc[0]) < 1e-4
        assert abs(log["loss"].iloc[0] - 0.6931) < 1e-3


def test_the_same_run_twice_gives_the_same_bytes(finished):
    project, _ = finished
    project.kedro("--params", "run_id=second")
    first, second = project.files("first"), project.files("second")
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_killed_five_times_and_resumed_gives_the_same_bytes(finished):
    """kill -9 at five random points of the run's progress; each start goes on, and computes no finished
    chunk again.
    """
    project, _ = finished
    first = project.files("first")
    points = sorted(
        random.Random(7).sample(range(2, len(first) * 4 // 5), 5)
    )  # files written when the kill comes
    for point in points:
        finished_chunks = {path: path.stat().st_mtime_ns for path in _chunks(project, "killed")}
        process = subprocess.Popen(
            project.command("kedro", "run", "--env", "test", "--params", "run_id=killed"),
            cwd=project.path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while _count(project, "killed") < point and process.poll() is None:
            time.sleep(0.005)
        assert process.poll() is None, "the run was over before it could be killed"
        process.kill()
        process.wait()
        assert [path for path, written in finished_chunks.items() if path.stat().st_mtime_ns != written] == []
    assert "Going on with run killed" in project.kedro("--params", "run_id=killed")
    killed = project.files("killed")
    assert first.keys() == killed.keys()
    assert [name for name in first if first[name] != killed[name]] == []


def _count(project, run_id: str) -> int:
    """Files that a run has written so far."""
    return sum(
        len(files) for folder, _, files in os.walk(project.path / "data") if run_id in Path(folder).parts
    )


def _chunks(project, run_id: str) -> list:
    """Finished chunks of a run. A step saves a chunk's rejects first: killed between the two, the chunk isn't
    finished, and its rejects are written again, the same bytes.
    """
    return sorted(
        p
        for p in (project.path / "data").rglob("[0-9]*.parquet")
        if run_id in p.parts and not p.parent.name.endswith("rejects")
    )
