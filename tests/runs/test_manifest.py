"""Manifests: who is alive, what may be resumed, and content hashes."""

import os
import socket
import subprocess
import sys

import pytest

from begun_runs import begin
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import content_sha256
from rlaifv_kedro.runs import manifest as manifests
from rlaifv_kedro.runs.manifest import Entry, NodeRecord


def test_resumed_run_keeps_its_start_and_adds_up(tmp_path):
    first = begin(tmp_path, pipelines=["p"])
    first.written["x"] = Entry(path="data/x", version="r", sha256="1")
    first.save(tmp_path)
    second = begin(tmp_path, pipelines=["q"], parameters={"a": {"b": 1}, "run_id": "r"})
    assert (second.started, second.resumed, second.pipelines) == (first.started, 1, ["p", "q"])
    assert manifests.load(tmp_path, "r") == second
    assert second.written["x"].sha256 == "1"
    assert second.packages["kedro"].startswith("1.")


def test_a_run_from_before_a_parameter_was_renamed_goes_on(tmp_path):
    path = manifests.path_of(tmp_path, "r")
    run = begin(tmp_path, parameters={"training": {"warmup_ratio": 0.05}})
    run.nodes["train_policy"] = NodeRecord.model_validate({"seconds": 3.0})  # as earlier versions wrote it
    run.save(tmp_path)
    path.write_text(path.read_text().replace("warmup_ratio", "warmup_share"))
    assert manifests.load(tmp_path, "r").parameters == {"training": {"warmup_ratio": 0.05}}
    assert begin(tmp_path, parameters={"training": {"warmup_ratio": 0.05}}).resumed == 1
    with pytest.raises(UserError, match=r"training.warmup_ratio: 0.05 in the run, 0.1 now"):
        begin(tmp_path, parameters={"training": {"warmup_ratio": 0.1}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameters": {"a": {"b": 2}}}, "a.b: 1 in the run, 2 now"),
        ({"parameters": {"a": {"b": 1}, "c": None}}, "c: not set in the run, None now"),
        ({"env": "large"}, "--env: None in the run, 'large' now"),
        (
            {"read": {"x": Entry(path="data/x", version="v", sha256="2")}},
            "`x` (data/x) has changed since run `r` read it",
        ),
    ],
)
def test_another_run_is_not_resumed_under_this_id(tmp_path, changes, message):
    run = begin(tmp_path, read={"x": Entry(path="data/x", version="v", sha256="1")})
    run.nodes["n"] = NodeRecord(reads=["a.b", "c"])
    run.save(tmp_path)
    with pytest.raises(UserError) as error:
        begin(tmp_path, **changes)
    assert message in error.value.message
    assert manifests.load(tmp_path, "r").resumed == 0


def test_state_goes_by_the_process_that_wrote_it(tmp_path):
    run = begin(tmp_path)
    assert run.state() == "running"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert run.model_copy(update={"pid": gone.pid}).state() == "killed"
    assert (
        run.model_copy(update={"pid_started": "1"}).state() == "killed"
    )  # the pid was given to another process
    assert run.model_copy(update={"host": "elsewhere", "pid": gone.pid}).state() == "running"
    assert run.model_copy(update={"status": "finished", "pid": gone.pid}).state() == "finished"


def test_a_living_run_is_not_started_twice(tmp_path):
    run = begin(tmp_path)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        run.model_copy(update={"pid": other.pid, "pid_started": manifests.process_started(other.pid)}).save(
            tmp_path
        )
        with pytest.raises(UserError, match=f"still running .process {other.pid} on {socket.gethostname()}"):
            begin(tmp_path)
        other.communicate(b"\n")
    assert begin(tmp_path).pid == os.getpid()


def test_a_damaged_manifest_is_named_and_not_listed(tmp_path):
    begin(tmp_path)
    begin(tmp_path, "other")
    manifests.path_of(tmp_path, "r").write_text("{}")
    with pytest.raises(UserError, match="manifest.json is damaged"):
        manifests.load(tmp_path, "r")
    said = []
    assert [run.run_id for run in manifests.all_runs(tmp_path, said.append)] == ["other"]
    (line,) = said
    assert "r/manifest.json is damaged" in line


def test_going_on_with_other_software_is_said_in_one_line(tmp_path, caplog):
    first = begin(tmp_path)
    begin(tmp_path)
    assert caplog.messages == []
    first.model_copy(update={"git_commit": "abc", "packages": {**first.packages, "torch": "1.0"}}).save(
        tmp_path
    )
    second = begin(tmp_path)
    (message,) = caplog.messages
    assert "git commit 'abc' then, None now" in message
    assert f"torch '1.0' then, {second.packages['torch']!r} now" in message
    assert "numpy" not in message


def test_folder_hash_goes_by_names_and_contents_not_by_time_or_leftovers(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub/a").write_text("a")
    (tmp_path / "two/.b.tmp").write_text("left by a kill")
    os.utime(tmp_path / "two/sub/a", (1, 1))
    before = content_sha256(tmp_path / "one")
    assert content_sha256(tmp_path / "two") == before
    (tmp_path / "two/sub/a").rename(tmp_path / "two/a")
    assert content_sha256(tmp_path / "two") != before
    (tmp_path / "one/sub/a").write_text("b!")
    assert content_sha256(tmp_path / "one") != before
