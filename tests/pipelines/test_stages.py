"""Stage runs, selections of the loop, replay: all on the same files as the loop."""

import json
from pathlib import Path

import pandas as pd
import pytest
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from rlaifv_kedro.pipeline_registry import register_pipelines
from rlaifv_kedro.pipelines.evaluation.pipeline import measurement_pipeline

ROOT = Path(__file__).parents[2]


def test_registry_has_every_pipeline():
    names = {
        "miniature",
        "miniature_benchmarks",
        "data_generation",
        "feedback",
        "reward",
        "training",
        "evaluation",
        "export",
        "benchmark_data",
        "reporting",
        "iteration",
        "rlaif_loop",
        "__default__",
    }
    assert set(register_pipelines()) == names


@pytest.mark.parametrize("iteration", [1, 2, 3])
def test_plain_and_namespaced_entries_are_the_same_files(iteration):
    """``candidates`` with iteration=2 and ``iteration_2.candidates`` must not drift apart; nor ``policy``
    and what the loop wires to it.
    """
    bootstrap_project(ROOT)
    with KedroSession.create(ROOT, runtime_params={"iteration": iteration}) as session:
        catalog = session.load_context().catalog
        stages = [
            register_pipelines()[name]
            for name in ("data_generation", "feedback", "reward", "training", "evaluation")
        ]
        stages.append(measurement_pipeline(best_of=2))
        entries = {e for stage in stages for e in stage.datasets() if not e.startswith("params:")}
        shared = {
            e
            for e in entries
            if e.startswith(("selection_", "test_")) and e not in ("selection", "selection_curve")
        }
        shared |= {"prompt_pool", "labeler", "reward_policy", "reward_reference"}
        for entry in sorted(entries - shared - {"policy", "base_policy"}):
            plain, spaced = catalog.get(entry), catalog.get(f"iteration_{iteration}.{entry}")
            assert type(plain) is type(spaced)
            assert plain._describe() == spaced._describe(), entry
        wired = {e for stage in stages for e in stage.inputs()} & {"policy"}
        assert wired == (
            set() if iteration == 1 else {"policy"}
        )  # the first iteration reads base_policy itself
        if wired:
            assert (
                catalog.get("policy")._describe()
                == catalog.get(f"iteration_{iteration - 1}.trained_policy")._describe()
            )


def test_stage_runs_give_the_loops_bytes(finished):
    project, _ = finished
    for pipeline in ("data_generation", "feedback", "training", "evaluation"):
        # Other tests may have made a newer policy of iteration 1; feedback reads none.
        versions = () if pipeline == "feedback" else ("--load-versions", "policy:first")
        project.kedro("--pipelines", pipeline, *versions, "--params", "iteration=2,run_id=staged" + pipeline)
    first = {name: content for name, content in project.files("first").items() if "/iteration_2/" in name}
    staged = {}
    for pipeline in ("data_generation", "feedback", "training", "evaluation"):
        staged |= project.files("staged" + pipeline)
    # The run of an evaluation alone leaves another run's checkpoints as they are; the loop removes some, and
    # completes the others' cards.
    removed = set(
        json.loads(next(content for name, content in first.items() if name.endswith("/_removed.json")))
    )
    own = {
        name
        for name in first
        if name.endswith("/_removed.json") or ("/checkpoint-" in name and name.endswith("/README.md"))
    }
    more = {
        name
        for name in staged
        if "/checkpoint-" in name and (name.endswith("/README.md") or removed & set(name.split("/")))
    }
    assert staged.keys() - more == first.keys() - own
    assert [name for name in first.keys() - own if first[name] != staged[name]] == []


def test_older_option_namespaces_and_tags(finished):
    project, _ = finished
    project.kedro("--pipeline=feedback", "--params", "run_id=older")
    assert any("iteration_1/verdicts" in name for name in project.files("older"))
    project.kedro(
        "--pipelines", "rlaif_loop", "--namespaces", "iteration_2.feedback", "--params", "run_id=space"
    )
    assert {name.split("/")[2] for name in project.files("space")} == {"iteration_2"}
    project.kedro("--tags", "iteration_2", "--params", "run_id=tagged")
    written = set(project.files("tagged"))
    assert any("trained_policy" in name for name in written) and all(
        "/iteration_2/" in name for name in written
    )


def test_replay_reads_what_the_other_run_read(finished):
    """After a newer run, ``replay`` still loads the first run's inputs."""
    project, _ = finished
    project.kedro(
        "--pipelines", "data_generation", "--params", "run_id=newer,data_generation.temperature=1.5"
    )
    project.kedro("--pipelines", "feedback", "--params", "run_id=fresh")
    output = project.kedro("--pipelines", "feedback", "--params", "run_id=again,replay=nobody", expect=1)
    assert "nobody" in output
    project.kedro("--pipelines", "feedback", "--params", "run_id=replayed,replay=first")
    read = {
        run: json.loads((project.path / f"data/runs/{run}/manifest.json").read_text())["read"]
        for run in ("fresh", "replayed")
    }
    assert read["fresh"]["candidates"]["version"] == "newer"
    assert read["replayed"]["candidates"]["version"] == "first"


def test_a_collapse_is_said_and_stops_the_run(finished):
    project, _ = finished
    output = project.kedro(
        "--pipelines",
        "training,evaluation",
        "--params",
        "run_id=wild,training.learning_rate=0.05,training.epochs=6,training.collapse_log_ratio=-100000",
        expect=1,
    )
    assert "collapsed" in output
    assert not (project.path / "data/06_models/iteration_1/trained_policy/wild").exists()
    runs = {run["run_id"]: run for run in json.loads(project.rlaifv("runs", "--json"))}
    assert runs["wild"]["status"] == "failed"


def test_self_feedback_asks_the_policy(finished):
    project, _ = finished
    project.kedro("--pipelines", "feedback", "--params", "run_id=self,feedback.labeler=self,replay=first")
    name = "data/03_primary/iteration_1/verdicts/verdicts/00000.parquet"
    assert project.files("self")[name] != project.files("first")[name]


def test_whole_answers_are_scored_by_their_mean_log_prob(finished):
    project, _ = finished
    project.kedro(
        "--pipelines",
        "feedback",
        "--params",
        "run_id=whole,feedback.scoring=answer,feedback.min_score_gap=0.05,replay=first",
    )
    scores = pd.read_parquet(project.path / "data/03_primary/iteration_1/scores.parquet/whole/scores.parquet")
    assert (scores["score"] < 0).all() and scores["score"].nunique() > 50
