"""``rlaifv runs``: the list of runs."""

import json

from click.testing import CliRunner

from begun_runs import begin, rewrite
from rlaifv_kedro.commands import cli


def test_runs_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outside = CliRunner().invoke(cli, ["runs"])
    assert (outside.exit_code, "not inside a Kedro project" in outside.output) == (1, True)
    (tmp_path / "pyproject.toml").write_text("[tool.kedro]\n")
    assert "No runs yet" in CliRunner().invoke(cli, ["runs"]).output
    begin(tmp_path)
    (listed,) = json.loads(CliRunner().invoke(cli, ["runs", "--json"]).output)
    assert (listed["run_id"], listed["status"], listed["seconds"]) == ("r", "running", None)
    assert "running" in CliRunner().invoke(cli, ["runs"]).output
    begin(tmp_path, "damaged")
    rewrite(tmp_path, "damaged", "")
    done = CliRunner().invoke(cli, ["runs", "--json"])
    assert [run["run_id"] for run in json.loads(done.stdout)] == ["r"]
    assert "data/runs/damaged/manifest.json is empty" in done.stderr


def test_the_runs_of_a_packaged_project_are_those_of_the_working_folder(tmp_path, monkeypatch):
    """A packaged project has no pyproject.toml."""
    monkeypatch.chdir(tmp_path)
    begin(tmp_path)
    (listed,) = json.loads(CliRunner().invoke(cli, ["runs", "--json"]).output)
    assert listed["run_id"] == "r"
