"""Removing runs: their own folders alone, nothing that others build on, and to the end after a kill."""

import json
import os
import shutil
from pathlib import Path

import pytest

from begun_runs import begin
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.runs import footprint
from rlaifv_kedro.runs.manifest import Entry, all_runs, load, path_of
from rlaifv_kedro.runs.removing import removals, remove


def make(project: Path, run_id: str, *names: str, **start) -> None:
    """A finished run that has written artifacts, a file of 10 bytes each."""
    run = begin(project, run_id, **start)
    for name in names:
        path = Path("data/02_intermediate") / name / run_id / name
        (project / path).parent.mkdir(parents=True)
        (project / path).write_bytes(b"0123456789")
        run.written[name] = Entry(path=path.as_posix(), version=run_id, sha256="s")
    run.status, run.ended = "finished", run.started
    run.save(project)


def entry(name: str, run_id: str) -> dict[str, Entry]:
    return {name: Entry(path=f"data/02_intermediate/{name}/{run_id}/{name}", version=run_id, sha256="s")}


def files(project: Path) -> set[str]:
    return {path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file()}


def test_all_of_a_run_goes_and_nothing_else(tmp_path):
    make(tmp_path, "other", "table")
    keep = tmp_path / "data/01_raw/photos/run"
    keep.mkdir(parents=True)
    (keep / "cat.jpg").touch()
    before = files(tmp_path)
    make(tmp_path, "run", "table", "log")
    for unfinished in (
        "checkpoints/run/checkpoints/step-1",
        "policy/run/.scratch/half",
    ):  # no record of either
        (tmp_path / "data/06_models" / unfinished).mkdir(parents=True)
    (tmp_path / "data/runs/run/servers").mkdir()
    (tmp_path / "data/runs/run/servers/log").touch()
    [removal] = removals(tmp_path, ["run"])
    assert removal.is_whole() and len(removal.folders) == 4
    remove(tmp_path, removal)
    assert files(tmp_path) - before == {"data/runs/.numbers/2"}
    assert before <= files(tmp_path) and not (tmp_path / "data/06_models/policy").exists()


def test_what_lies_outside_of_the_project_goes_too(tmp_path):
    project, disk = tmp_path / "project", tmp_path / "disk"
    make(project, "run")
    run = load(project, "run")
    path = disk / "policy/run/policy"
    path.parent.mkdir(parents=True)
    path.touch()
    run.written["policy"] = Entry(path=str(path), version="run")
    run.written["store"] = Entry(path=str(disk / "store"), version=None)
    (disk / "store").touch()
    run.save(project)
    remove(project, removals(project, ["run"])[0])
    assert files(disk) == {"store"}


def test_what_other_runs_have_read_stays_with_its_manifest(tmp_path):
    make(tmp_path, "first", "a", "b")
    make(tmp_path, "second", "c", read=entry("a", "first"))
    [removal] = removals(tmp_path, ["first"])
    place = tmp_path / "data/02_intermediate/a/first"
    assert removal.kept == {place: ["second"]} and removal.freed == 10
    remove(tmp_path, removal)
    left = load(tmp_path, "first")
    assert (left.status, list(left.written), (place / "a").exists()) == ("removed", ["a"], True)
    assert not (tmp_path / "data/02_intermediate/b").exists()
    for each in removals(tmp_path, ["first", "second"]):  # the newer goes first, so nobody needs the older
        remove(tmp_path, each)
    assert all_runs(tmp_path, print) == [] and not place.exists()


def test_a_policy_named_in_parameters_stays(tmp_path):
    make(tmp_path, "first", "policy", "b")
    path = str(tmp_path / "data/02_intermediate/policy/first/policy")
    make(tmp_path, "second", parameters={"evaluation": {"policy": ["base_policy", path]}})
    [removal] = removals(tmp_path, ["first"])
    assert [folder.parent.name for folder in removal.kept] == ["policy"]


def test_the_checkpoint_that_adapters_belong_to_stays_with_them(tmp_path):
    make(tmp_path, "first", "base", "adapted", "b")
    adapted = tmp_path / "data/02_intermediate/adapted/first/adapted"
    adapted.unlink()
    adapted.mkdir()
    base = tmp_path / "data/02_intermediate/base/first/base"
    (adapted / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    make(tmp_path, "second", read=entry("adapted", "first"))
    [removal] = removals(tmp_path, ["first"])
    assert {folder.parent.name: readers for folder, readers in removal.kept.items()} == {
        "adapted": ["second"],
        "base": ["second"],
    }


def test_the_manifest_of_a_replayed_run_stays(tmp_path):
    make(tmp_path, "first", "a")
    make(tmp_path, "second", replay="first")
    [removal] = removals(tmp_path, ["first"])
    remove(tmp_path, removal)
    assert removal.replays == ["second"] and load(tmp_path, "first").written == {}
    assert not (tmp_path / "data/02_intermediate/a").exists()


def test_files_with_links_elsewhere_free_nothing(tmp_path):
    make(tmp_path, "first", "a", "b", "c")
    place = tmp_path / "data/02_intermediate"
    os.link(place / "a/first/a", tmp_path / "elsewhere")
    (place / "b/first/b").unlink()
    os.link(place / "c/first/c", place / "b/first/b")  # both go
    assert footprint.disk([place / "a"]) == 10 and footprint.disk([place / "a"], freed=True) == 0
    assert footprint.disk([place / "b", place / "c"], freed=True) == 10


def test_a_running_run_and_a_damaged_one_are_refused(tmp_path):
    begin(tmp_path, "running")
    with pytest.raises(UserError, match="`running` is running"):
        removals(tmp_path, ["running"])
    make(tmp_path, "first", "a")
    for name in ("manifest.json", ".manifest.json"):
        (path_of(tmp_path, "running").parent / name).write_text("")
    with pytest.raises(UserError, match="What these runs build on can't be told") as refused:
        removals(tmp_path, ["first"])
    assert "rlaifv runs adopt running" in refused.value.message


@pytest.mark.parametrize("deleted", range(9))
def test_a_removal_that_was_cut_off_goes_on(tmp_path, monkeypatch, deleted):
    """Killed before any of its deletions: no artifact is seen half, and the next try takes the rest."""
    make(tmp_path, "run", "a", "b")
    folder = tmp_path / "data/02_intermediate/a/run/a"
    folder.unlink()
    for name in ("x", "y"):
        folder.mkdir(exist_ok=True)
        (folder / name).touch()
    count = 0

    def killing(delete):
        def deletes(*arguments, **options):
            nonlocal count
            if count == deleted:
                raise SystemExit
            count += 1
            return delete(*arguments, **options)

        return deletes

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", killing(shutil.rmtree))
        patched.setattr(Path, "unlink", killing(Path.unlink))
        try:
            remove(tmp_path, removals(tmp_path, ["run"])[0])
        except SystemExit:
            left = load(tmp_path, "run")  # the owner's file goes after the manifest
            assert left is None or left.status == "removing"
            assert not folder.exists() or len(list(folder.iterdir())) == 2
    if path_of(tmp_path, "run").exists():
        remove(tmp_path, removals(tmp_path, ["run"])[0])
    assert files(tmp_path) <= {"data/runs/.numbers/1", "data/runs/run/.owner-0001"}
    assert all_runs(tmp_path, print) == []
