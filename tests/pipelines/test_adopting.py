"""A whole run whose manifest is lost, together with its copy: it is adopted, and goes on."""

import json
import re
import shlex

import pytest

from rlaifv_kedro.runs.manifest import COPY, FILE


@pytest.mark.parametrize("lost", ["deleted", "damaged"])
def test_a_run_that_has_lost_its_manifest_is_adopted(finished, lost):
    """By the command that the message names."""
    project, _ = finished
    folder, files = project.path / "data/runs/first", project.files("first")
    before = json.loads((folder / FILE).read_text())
    assert "has its manifest" in project.rlaifv("runs", "adopt", "first", "--env", "test", expect=1)
    for name in (FILE, COPY):
        if lost == "deleted":
            (folder / name).unlink()
        else:
            (folder / name).write_bytes((folder / name).read_bytes()[:-1000])

    said = project.kedro("--params", "run_id=first", expect=1)
    (command,) = re.findall(r"`(rlaifv runs adopt [^`]*)`", said)
    adopted = project.rlaifv(*shlex.split(command)[1:])
    assert f"with {len(before['written'])} finished artifacts" in adopted
    (resume,) = re.findall(r"To go on: kedro run (.*)", adopted)
    bare = json.loads((folder / FILE).read_text())
    assert (bare["status"], bare["adopted"]) == ("stopped", bare["started"])

    # The hashes are those of the files now, and here these are what the run had made.
    for field in ("written", "read", "lineage", "parameters", "pipelines", "number", "env"):
        assert bare[field] == before[field], field
    project.kedro(*shlex.split(resume)[2:])
    after = json.loads((folder / FILE).read_text())
    assert (after["status"], after["resumed"], after["adopted"]) == ("finished", 1, bare["adopted"])
    assert project.files("first") == files


def test_what_can_not_be_adopted(finished):
    project, _ = finished
    said = project.rlaifv("runs", "adopt", "nothing", "--env", "test", expect=1)
    assert "Run `nothing` has finished nothing that could be adopted" in said
    assert not (project.path / "data/runs/nothing").exists()
    assert "There is no run `nothing`" in project.rlaifv("runs", "resume", "nothing", expect=1)
