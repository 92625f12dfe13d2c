"""Runs of a small project from the command line: kills, resumed and replayed runs, and what users are
told.
"""

import json
import re
import shlex
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from toy_project import ToyProject

CHUNKS = ["chunk p0", "chunk p2", "chunk p4", "chunk p6"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A project with one finished run, `whole`."""
    project = ToyProject(tmp_path_factory.mktemp("toy"))
    done = project.run("run_id=whole")
    assert done.returncode == 0, done.stderr
    assert project.calls() == ["make_prompts", *CHUNKS, "score"]
    return project


def refused(done, *parts):
    """The run ended with one message that holds these parts, and without a traceback."""
    assert done.returncode == 1
    assert (done.stdout + done.stderr).count("Error: ") == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert "go on with:" not in done.stdout + done.stderr
    for part in ("Error: ", *parts):
        assert part in done.stderr


def test_killed_in_a_chunk_then_resumed_gives_the_same_bytes(reference):
    (reference.path / "die_at_p4").touch()
    assert reference.run("run_id=killed").returncode == -9
    (reference.path / "die_at_p4").unlink()
    assert reference.calls() == ["make_prompts", *CHUNKS[:3]]
    assert reference.manifest("killed")["status"] == "running"
    listed = json.loads(reference.python("-m", "rlaifv_kedro", "runs", "--json").stdout)
    assert {run["run_id"]: run["status"] for run in listed} == {"whole": "finished", "killed": "killed"}

    assert reference.run("run_id=killed").returncode == 0
    assert reference.calls() == [*CHUNKS[2:], "score"]
    assert reference.files("killed") == reference.files("whole")
    manifest = reference.manifest("killed")
    assert (manifest["status"], manifest["resumed"]) == ("finished", 1)
    whole = reference.manifest("whole")["written"]
    assert {name: entry["sha256"] for name, entry in manifest["written"].items()} == {
        name: e["sha256"] for name, e in whole.items()
    }


def test_killed_between_the_saves_of_two_tables_or_two_markers(reference):
    """What such kills leave: a chunk, or a marker, in the first table only."""
    (reference.path / "die_in_score").touch()
    assert reference.run("run_id=between").returncode == -9
    (reference.path / "die_in_score").unlink()
    (reference.path / "data/rejects/between/rejects/00003.parquet").unlink()
    (reference.path / "data/rejects/between/rejects/_complete.json").unlink()
    reference.calls()
    assert reference.run("run_id=between").returncode == 0
    assert reference.calls() == ["chunk p6", "score"]
    assert reference.files("between") == reference.files("whole")


@pytest.mark.parametrize("write", [8, pytest.param(range(1, 31), marks=pytest.mark.slow)])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_any_write_loses_one_chunk_at_most(reference, write, when):
    """Write 8 is the first chunk of `rejects`: its chunk of `candidates` is there already. A whole run
    makes 30 writes, the last of which lets the run go.
    """
    for number in write if isinstance(write, range) else [write]:
        run_id = f"{when}_{number}_of_{write}" if write == number else f"{when}_{number}"
        (reference.path / "die_at_write").write_text(f"{number} {when}")
        assert reference.run(f"run_id={run_id}").returncode == -9
        (reference.path / "die_at_write").unlink()
        first = reference.calls()
        assert reference.run(f"run_id={run_id}").returncode == 0
        again = set(first) & set(reference.calls())
        assert len(again) <= 1
        assert reference.files(run_id) == reference.files("whole")
        written = reference.manifest(run_id)["written"]
        assert {name: entry["sha256"] for name, entry in written.items()} == {
            name: entry["sha256"] for name, entry in reference.manifest("whole")["written"].items()
        }


def test_a_finished_run_started_again_computes_nothing(reference):
    before = reference.files("whole")
    assert reference.run("run_id=whole").returncode == 0
    assert reference.calls() == []
    assert reference.files("whole") == before


def test_other_parameters_are_refused_with_their_values(reference):
    refused(
        reference.run("run_id=whole,nested.beta=0.2,count=8"),
        "nested.beta: 0.1 in the run, 0.2 now",
        "count: 7 in the run, 8 now",
    )
    assert reference.calls() == []


def test_parameters_that_only_later_nodes_read_may_change(reference):
    (reference.path / "die_at_p4").touch()
    assert reference.run("run_id=other").returncode == -9
    (reference.path / "die_at_p4").unlink()
    refused(
        reference.run("run_id=other,size=3"),
        "size: 2 in the run, 3 now (result; read by sample (begun))",
        "or delete what is to be made again with the new ones (rm -r data/candidates/other data/rejects/other)",
    )
    reference.calls()
    assert reference.run("run_id=other,nested.beta=0.2").returncode == 0
    assert reference.calls() == [*CHUNKS[2:], "score"]
    manifest = reference.manifest("other")
    [change] = manifest["changes"]
    assert (change["parameter"], change["from"], change["to"]) == ("nested.beta", 0.1, 0.2)
    assert {name: record["reads"] for name, record in manifest["nodes"].items()} == {
        "make_prompts": ["count"],
        "sample": ["size"],
        "score": ["nested"],
    }


def test_a_damaged_chunk_is_named_and_only_it_is_computed_again(reference):
    assert reference.run("run_id=damaged", "--pipelines", "data,generation").returncode == 0
    chunk = reference.path / "data/candidates/damaged/candidates/00001.parquet"
    chunk.write_bytes(chunk.read_bytes()[:-100])
    reference.calls()
    mendable = reference.run("run_id=damaged", "--pipelines", "feedback")
    assert mendable.returncode == 1 and "Traceback" not in mendable.stdout + mendable.stderr
    (command,) = re.findall(r"make it with: rm -r (\S+) && kedro run (.*)", mendable.stderr)
    assert command[0] == str(chunk.relative_to(reference.path))
    assert command[1] == "--pipelines data,generation --params run_id=damaged"
    chunk.unlink()
    assert reference.run("run_id=damaged").returncode == 0
    assert reference.calls() == ["chunk p2", "score"]
    assert reference.files("damaged") == reference.files("whole")


def test_a_damaged_newest_version_is_named_not_passed_over_for_an_older_one(tmp_path):
    project = ToyProject(tmp_path)
    for run in ("older", "newest"):
        assert project.run(f"run_id={run},count=3", "--pipelines", "data,generation").returncode == 0
    (project.path / "data/candidates/newest/candidates/_complete.json").write_bytes(b"")
    refused(
        project.run("run_id=f", "--pipelines", "feedback"),
        "`candidates` is not whole any more: data/candidates/newest/candidates. Make it with: "
        "kedro run --pipelines data,generation --params run_id=newest,count=3",
    )
    shutil.rmtree(project.path / "data/candidates/newest")  # deleted altogether, on purpose
    assert project.run("run_id=f", "--pipelines", "feedback").returncode == 0
    assert project.manifest("f")["read"]["candidates"]["version"] == "older"


def test_inputs_are_the_newest_complete_run_and_replay_gives_back_the_older(tmp_path):
    project = ToyProject(tmp_path)
    refused(
        project.run("run_id=f0,count=3", "--pipelines", "feedback"),
        "`candidates` is not there: data/candidates holds no complete version",
        "Make it with: kedro run --pipelines generation --params count=3",
    )
    assert not (project.path / "data/runs/f0").exists()

    assert project.run("run_id=z_first,count=3", "--pipelines", "data,generation").returncode == 0
    assert project.run("run_id=f1", "--pipelines", "feedback").returncode == 0
    assert project.run("run_id=a_second,count=5", "--pipelines", "data,generation").returncode == 0
    (project.path / "die_at_p2").touch()
    assert project.run("run_id=unfinished", "--pipelines", "data,generation").returncode == -9

    assert project.run("run_id=f2", "--pipelines", "feedback").returncode == 0
    assert project.run("run_id=f3,replay=f1", "--pipelines", "feedback").returncode == 0
    assert [project.manifest(run)["read"]["candidates"]["version"] for run in ("f1", "f2", "f3")] == [
        "z_first",
        "a_second",
        "z_first",
    ]
    assert project.files("f3") == project.files("f1") != project.files("f2")
    refused(
        project.run("run_id=f4,replay=f1", "--pipelines", "generation"),
        "Run `f1` neither read nor wrote `prompts`",
    )
    refused(
        project.run("run_id=f4,replay=nothing", "--pipelines", "feedback"),
        "There is no run `nothing` to replay",
        "f3",
    )

    # A resumed run reads what it read, also when there is something newer by now.
    (project.path / "die_in_score").touch()
    assert project.run("run_id=f5,replay=f1", "--pipelines", "feedback").returncode == -9
    (project.path / "die_in_score").unlink()
    assert project.run("run_id=f5", "--pipelines", "feedback").returncode == 0
    assert project.files("f5") == project.files("f1")


def test_a_stage_run_replays_a_loop_and_the_loop_a_stage_run(reference):
    """The loop's `iteration_1.candidates` are the files of a stage's `candidates`."""
    assert reference.run("run_id=0123,count=3", "--pipelines", "loop").returncode == 0
    assert reference.run("run_id=later,count=2", "--pipelines", "data,generation").returncode == 0
    assert reference.run("run_id=stage,replay=0123,count=3", "--pipelines", "feedback").returncode == 0
    assert reference.manifest("stage")["read"]["candidates"]["version"] == "0123"
    assert (
        reference.run(
            "run_id=scored,replay=stage,count=3", "--pipelines", "loop", "--nodes", "iteration_1.score"
        ).returncode
        == 0
    )
    assert reference.manifest("scored")["read"]["iteration_1.candidates"]["version"] == "0123"
    assert reference.files("scored") == reference.files("stage")
    assert reference.manifest("0123")["command"] == "kedro run --pipelines loop --params run_id=0123,count=3"

    chunk = reference.path / "data/candidates/0123/candidates/00000.parquet"
    chunk.write_bytes(chunk.read_bytes() + b" ")
    refused(
        reference.run("run_id=stage2,replay=0123", "--pipelines", "feedback"),
        "`candidates`",
        "is not what run `0123` wrote: data/candidates/0123/candidates/00000.parquet has changed",
    )


def test_the_parameters_recorded_do_not_depend_on_the_pipelines(reference):
    """Kedro fills in the defaults of `nested` for `feedback`, which has a node typed with its model, and
    not for `data`.
    """
    assert reference.run("run_id=one", "--pipelines", "data").returncode == 0
    begun = reference.manifest("one")["parameters"]
    assert begun["nested"] == {"beta": 0.1, "template": "{question}"}
    assert reference.run("run_id=one", "--pipelines", "generation,feedback").returncode == 0
    assert reference.manifest("one")["parameters"] == begun
    refused(
        reference.run("run_id=one,nested.template=x", "--pipelines", "data"),
        "nested.template: '{question}' in the run, 'x' now",
    )


def test_inputs_of_different_runs_are_named_and_checkpoints_checked_first(tmp_path):
    project = ToyProject(tmp_path)
    policy = project.path / "data/policy/shipped/policy"
    policy.mkdir(parents=True)
    (policy / "config.json").write_text("{}")
    assert project.run("run_id=a,count=3", "--pipelines", "data,generation").returncode == 0
    project.calls()
    refused(
        project.run("run_id=x", "--pipelines", "audit"),
        "data/policy/shipped/policy: the folder holds no weights",
    )
    assert project.calls() == []

    save_file({"weight": np.zeros(3)}, policy / "model.safetensors")
    one = project.run("run_id=x", "--pipelines", "audit")
    assert (one.returncode, "different runs" in one.stdout + one.stderr) == (0, False)
    assert project.run("run_id=b,count=4", "--pipelines", "data").returncode == 0
    mixed = project.run("run_id=y", "--pipelines", "audit")
    assert mixed.returncode == 0
    assert (
        "different runs: candidates of run a; prompts of run b. To choose: --load-versions"
        in mixed.stdout + mixed.stderr
    )
    for run_id, choice in {
        "z1": ("run_id=z1,replay=y",),
        "z2": ("run_id=z2", "--load-versions", "candidates:a,prompts:b"),
    }.items():
        chosen = project.run(*choice, "--pipelines", "audit")
        assert (chosen.returncode, "different runs" in chosen.stdout + chosen.stderr) == (0, False)
        assert project.files(run_id) == project.files("y")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run_id=a/b",), "cannot be a run's id"),
        (("run_id=",), "--params run_id=: there is no value"),
        (("run_id=my\trun",), "cannot be a run's id"),
        (("count",), "--params count: this is not NAME=VALUE"),
        (("count=!!python/name:os.system",), "the value cannot be read as YAML"),
        (("replay=012",), "There is no run `012` to replay"),
        (("", "--pipelines", "feedbak"), "There is no pipeline feedbak. Choose of __default__, audit, data"),
        (("", "--pipeline", "data", "--pipelines", "data"), "cannot be used together"),
        (("", "--from-nodes", "nowhere"), "nowhere"),
        (("", "--env", "nope"), "--env nope: there is no such environment. Those of conf are: base"),
        (("", "--runner", "Nope"), "no attribute 'Nope'"),
        (("", "--load-versions", "candidates"), "--load-versions candidates: this is not NAME:RUN"),
        (("", "--load-versions", "candidates:whole"), "this run makes it itself"),
        (
            ("", "--pipelines", "feedback", "--load-versions", "prompts:whole"),
            "this run doesn't read it; it reads candidates",
        ),
        (
            ("run_id=whole", "--pipelines", "feedback", "--load-versions", "candidates:other"),
            "--load-versions candidates:other: this run reads `candidates` of run `whole`, as it did before",
        ),
        (("", "--runner", "ParallelRunner"), "ParallelRunner cannot be used"),
    ],
)
def test_mistakes_on_the_command_line_show_no_traceback(reference, arguments, message):
    refused(reference.run(*arguments), message)


def test_a_run_id_is_the_text_that_was_typed_and_params_may_be_given_twice(reference):
    done = reference.run("count=3", "--params", "run_id=0123456,size=3", "--pipelines", "data")
    assert done.returncode == 0, done.stderr
    recorded = reference.manifest("0123456")["parameters"]
    assert (recorded["count"], recorded["size"]) == (3, 3)
    (reference.path / "run.yml").write_text("run: {params: {run_id: 0123}, pipelines: data}\n")
    refused(reference.run("", "--config", "run.yml"), "run_id cannot be a run's id", "83")


def test_a_bug_keeps_its_traceback_and_says_how_to_go_on(reference):
    (reference.path / "bug").touch()
    done = reference.run("run_id=bug", "--pipelines", "feedback")
    (reference.path / "bug").unlink()
    assert done.returncode == 1
    assert "a real bug" in done.stderr
    assert "Traceback" in done.stderr
    assert "To go on: kedro run --pipelines feedback --params run_id=bug" in done.stdout + done.stderr
    assert "You can resume the pipeline run" not in done.stdout + done.stderr
    assert reference.manifest("bug")["status"] == "failed"


def test_after_a_users_error_in_a_node_mending_comes_first(reference):
    (reference.path / "collapse").touch()
    done = reference.run("run_id=collapse,nested.template='{question}'", "--pipelines", "feedback")
    (reference.path / "collapse").unlink()
    assert done.returncode == 1
    output = done.stdout + done.stderr
    assert "Traceback" not in output
    (hint,) = [line for line in output.splitlines() if "collapse stopped" in line]
    command = (
        hint.partition("After mending this, go on with: ")[2].partition("hooks.py")[0].strip()
    )  # the place in the code, at the margin
    assert (
        command
        == """kedro run --pipelines feedback --params 'run_id=collapse,nested.template="{question}"'"""
    )
    again = reference.python("-m", *shlex.split(command))
    assert again.returncode == 0, again.stderr


def test_an_unversioned_output_and_a_broken_configuration_are_refused(tmp_path):
    project = ToyProject(tmp_path)
    catalog = project.path / "conf/base/catalog.yml"
    text = catalog.read_text()
    catalog.write_text(text.replace("data/scored.json\n  versioned: true", "data/scored.json"))
    refused(project.run("run_id=u"), "`scored` would be overwritten by every run")
    catalog.write_text(text.replace("filepath: data/scored.json", "filepaht: data/scored.json"))
    refused(
        project.run("run_id=u"),
        "unexpected keyword argument 'filepaht'",
        "Dataset 'scored' must only contain",
    )
    catalog.write_text("prompts: {type: [")
    refused(project.run("run_id=u"), "catalog.yml")


def test_a_run_from_python_may_be_named_either_way(reference):
    """As a notebook does; Kedro's own argument comes first."""
    script = """
from pathlib import Path
from kedro.framework.startup import bootstrap_project
from rlaifv_kedro.runs.session import RunSession
bootstrap_project(Path.cwd())
with RunSession.create(project_path=Path.cwd()) as session:
    session.run("named", ["data"])
    session.run(pipeline_names=["generation"], runtime_params={"run_id": "named"})
    session.run(run_id="a/b")
"""
    refused = reference.python("-c", script)
    assert "a/b cannot be a run's id" in refused.stderr
    named = reference.manifest("named")
    assert (named["pipelines"], named["resumed"], named["status"]) == (["data", "generation"], 1, "finished")
    assert named["command"] == "kedro run --pipelines generation --params run_id=named"


def test_threads_find_the_chunks_that_are_finished(reference):
    """Each node is told of its outputs in the thread that runs it."""
    assert reference.run("run_id=threads", "--runner", "ThreadRunner").returncode == 0
    (reference.path / "data/rejects/threads/rejects/00003.parquet").unlink()
    reference.calls()
    assert reference.run("run_id=threads", "--runner", "ThreadRunner").returncode == 0
    assert reference.calls() == ["chunk p6"]
    assert reference.files("threads") == reference.files("whole")
    assert sorted(reference.manifest("threads")["nodes"]) == ["make_prompts", "sample", "score"]
