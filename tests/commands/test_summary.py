"""``rlaifv summary``: the newest run that has one."""

import json
import os

import pytest
from click.testing import CliRunner

from begun_runs import begin
from measured_runs import measure
from rlaifv_kedro.commands import cli
from rlaifv_kedro.datasets.tables import table_content
from rlaifv_kedro.files import file_sha256
from rlaifv_kedro.reporting.measured import written_table
from rlaifv_kedro.reporting.metrics import collect_metrics
from rlaifv_kedro.runs import manifest as manifests
from rlaifv_kedro.runs.manifest import Entry


@pytest.fixture
def with_summary(tmp_path, monkeypatch):
    """A project whose run `old` has a summary, and the summary's path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[tool.kedro]\n")
    path = tmp_path / "loop_summary.json"
    path.write_text('[{"iteration": 0, "rate": 0.5}]')
    old = begin(tmp_path, "old", pipelines=["__default__"], command="kedro run --params run_id=old")
    old.written["loop_summary"] = Entry(path="loop_summary.json", version="old", sha256=file_sha256(path))
    old.status, old.started = "finished", "2026-01-01"
    old.save(tmp_path)
    return path


def summary(*arguments):
    return CliRunner().invoke(cli, ["summary", *arguments])


def test_a_summary_of_what_was_made_again_says_so(with_summary):
    project = with_summary.parent
    old = manifests.load(project, "old")
    old.written["loop_metrics"] = Entry(path="m", version="old", sha256="new")
    old.written["loop_summary"].made_of = {"loop_metrics": "earlier"}
    old.save(project)
    assert "Run old has made `loop_metrics` again since" in summary().stderr


@pytest.mark.parametrize("content", ["", "[{", "[]", "3", '[{"iteration": 0, "rate": 0.4}]'])
def test_a_damaged_summary_is_named(with_summary, content):
    with_summary.write_text(content)
    done = summary()
    assert done.exit_code == 1
    assert "Error: loop_summary.json is" in done.stderr
    assert "make it with: rm loop_summary.json && kedro run --params run_id=old" in done.stderr


@pytest.mark.parametrize(
    ("status", "pid", "said"),
    [
        ("failed", os.getpid(), "failed"),
        ("running", 2**22 + 1, "was killed"),
        ("stopped", os.getpid(), "was stopped"),
    ],
    ids=["failed", "killed", "stopped"],
)
def test_an_older_runs_summary_says_so_beside_the_json(with_summary, status, pid, said):
    assert summary("--json").stderr == ""
    newer = begin(
        with_summary.parent, "newer", pipelines=["rlaif_loop"], command="kedro run --params run_id=newer"
    )
    newer.model_copy(update={"status": status, "pid": pid}).save(with_summary.parent)
    begin(with_summary.parent, "stage", pipelines=["feedback"])
    done = summary("--json")
    assert json.loads(done.stdout) == [{"iteration": 0, "rate": 0.5}]
    (line,) = done.stderr.splitlines()
    assert (
        f"Run newer is newer, but {said}" in line
        and "This is run old" in line
        and "kedro run --params run_id=newer" in line
    )


def test_parameters_that_were_changed_on_the_way_are_said_beside_the_json(with_summary):
    project = with_summary.parent
    begin(project, "old", parameters={"a": {"b": 2}})
    done = summary("--json")
    assert json.loads(done.stdout) == [{"iteration": 0, "rate": 0.5}]
    assert "Run old went on with another parameter (" in done.stderr
    assert "): a.b: 1, then 2" in done.stderr


def test_a_run_can_be_named_and_is_shown_as_at_its_end(with_summary):
    """The base policy names a dog that is not there in 1 of 2 answers, iteration 1 in none."""
    project = with_summary.parent
    answers = {"base": {"t0": "A dog.", "t1": "A cat."}, "iteration_1": {"t0": "A cat.", "t1": "A cat."}}
    tables = {}
    for entry, said in answers.items():
        run = measure(project, "named", said, entry)
        name = "metrics_0" if entry == "base" else "metrics_1"
        tables[name] = written_table(project, run, f"{entry}.metrics", "metrics")
    path = project / "named.parquet"
    path.write_bytes(table_content("loop_metrics", collect_metrics(**tables), "named.parquet"))
    run.written["loop_metrics"] = Entry(path=path.name, version="named", sha256=file_sha256(path))
    run.written["loop_summary"] = manifests.load(project, "old").written["loop_summary"]
    run.save(project)
    shown = [" ".join(line.split()) for line in summary("named").stdout.splitlines()]
    assert shown[0] == "run named"
    assert "base 50.0 ± 35.4 50.0 ± 50.0 50.0 ± 50.0 2.00 ± 0.00 0.0 ± 0.0" in shown
    assert "iteration 1 0.0 ± 0.0 0.0 ± 0.0 100.0 ± 0.0 2.00 ± 0.00 0.0 ± 0.0" in shown
    begin(project, "without")
    assert "Error: run without has no summary. To go on with it: kedro run" in summary("without").stderr
    assert "There is no run `strange`" in summary("strange").stderr
