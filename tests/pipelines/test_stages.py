"""Stage runs, selections of the loop, replay: all on the same files as the loop."""

import json

import pandas as pd
import pytest

from rlaifv_kedro.params import LoopParams, Parameters
from rlaifv_kedro.params.current import Session, set_current
from rlaifv_kedro.pipeline_registry import register_pipelines


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
def test_a_stage_run_is_a_piece_of_the_loop(iteration):
    """The same nodes under the same names, which read and write the same entries."""
    parameters = Parameters(iteration=iteration, loop=LoopParams(iterations=3))
    set_current(Session(parameters))
    try:
        pipelines = register_pipelines()
    finally:
        set_current(Session())
    loop = {node.name: node for node in pipelines["rlaif_loop"].nodes}
    for stage in ("data_generation", "feedback", "training", "evaluation", "iteration"):
        for node in pipelines[stage].nodes:
            same = loop[node.name]
            assert (node.inputs, node.outputs, node.tags) == (same.inputs, same.outputs, same.tags)
    before = "base_policy" if iteration == 1 else f"iteration_{iteration - 1}.trained_policy"
    assert before in pipelines["data_generation"].inputs()


def test_bookkeeping_is_no_entry():
    """Neither finished chunks nor folders that a node works in are in the catalog, and so in the picture."""
    entries = set().union(*(pipeline.datasets() for pipeline in register_pipelines().values()))
    assert [entry for entry in entries if "finished" in entry or "folder" in entry] == []


def test_stage_runs_give_the_loops_bytes(finished):
    project, _ = finished
    for pipeline in ("data_generation", "feedback", "training", "evaluation"):
        # Other tests may have made a newer policy of iteration 1; feedback reads none.
        versions = () if pipeline == "feedback" else ("--load-versions", "iteration_1.trained_policy:first")
        project.kedro("--pipelines", pipeline, *versions, "--params", "iteration=2,run_id=staged" + pipeline)
    first = {
        name: content
        for name, content in project.files("first").items()
        if "/iteration_2/" in name or name.endswith("_truth.parquet")
    }
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
    assert read["fresh"]["iteration_1.candidates"]["version"] == "newer"
    assert read["replayed"]["iteration_1.candidates"]["version"] == "first"


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
