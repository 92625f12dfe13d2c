"""``rlaifv runs``: the list of runs."""

import json
import re

from click.testing import CliRunner

from begun_runs import begin, rewrite
from measured_runs import measure
from rlaifv_kedro.commands import cli
from rlaifv_kedro.params import complete_parameters


def test_runs_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outside = CliRunner().invoke(cli, ["runs"])
    assert (outside.exit_code, "not inside a Kedro project" in outside.output) == (1, True)
    (tmp_path / "pyproject.toml").write_text("[tool.kedro]\n")
    assert "No runs yet" in CliRunner().invoke(cli, ["runs"]).output
    begin(tmp_path)
    (listed,) = json.loads(CliRunner().invoke(cli, ["runs", "--json"]).stdout)
    assert (listed["run_id"], listed["status"], listed["seconds"]) == ("r", "running", 0.0)
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
    (listed,) = json.loads(CliRunner().invoke(cli, ["runs", "--json"]).stdout)
    assert listed["run_id"] == "r"


def test_a_run_is_told_from_others_by_what_ran_what_differs_and_what_came_out(tmp_path, monkeypatch):
    """Of three answers the base policy's name two dogs that are not there, the last iteration's none."""
    monkeypatch.chdir(tmp_path)
    for env in ("base", "local"):
        (tmp_path / "conf" / env).mkdir(parents=True)
    (tmp_path / "conf/base/parameters.yml").write_text("training: {beta: 1.0}")
    start = {
        "command": "kedro run --tags labeler --params run_id=one",
        "pipelines": ["__default__"],
        "parameters": complete_parameters({"training": {"beta": 0.3, "freeze": ["a", "b"]}}),
    }
    for entry, answer in (("base", "A dog."), ("iteration_1", "A dog."), ("iteration_2", "A cat.")):
        measure(tmp_path, "one", {"t0": "A cat.", "t1": answer, "t2": answer}, entry, **start)
    begin(tmp_path, "another-with-a-long-name", parameters=complete_parameters({"training": {"beta": 1.0}}))
    done = CliRunner().invoke(cli, ["runs"])
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    one = ["one", "finished", "66.7 ± 27.2 → 0.0 ± 0.0", "0 s", "0.0 MB"]
    assert re.split("  +", lines[1]) == one
    assert lines[2] == "  recipe base · whole loop --tags labeler · training.beta=0.3 ·"
    assert lines[3] == '    training.freeze=["a", "b"]'
    assert lines[5] == "  recipe base · p"
    rates = json.loads(CliRunner().invoke(cli, ["runs", "--json"]).stdout)[0]["rates"]
    assert [round(rates[k]["value"], 3) for k in ("0", "1", "2")] == [0.667, 0.667, 0.0]


def test_a_recipe_that_is_gone_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for env in ("base", "local"):
        (tmp_path / "conf" / env).mkdir(parents=True)
    (tmp_path / "conf/base/parameters.yml").write_text("{}")
    begin(tmp_path, env="gone")
    done = CliRunner().invoke(cli, ["runs"])
    assert "Which parameters differ from recipe gone can't be told: --env gone" in done.stderr
    assert "  recipe base · p" in done.stdout  # the manifest's lineage tells the recipe
