"""Manifests: their copies, what may be resumed, and content hashes."""

import json
import os
import shutil

import pytest

from begun_runs import begin, rewrite
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import content_sha256
from rlaifv_kedro.runs import manifest as manifests
from rlaifv_kedro.runs.manifest import Entry, NodeRecord
from rlaifv_kedro.runs.numbers import number_of


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
    old = json.loads(path.read_text().replace("warmup_ratio", "warmup_share"))
    del old["checksum"]
    rewrite(tmp_path, "r", json.dumps(old))
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
    ],
)
def test_another_run_is_not_resumed_under_this_id(tmp_path, changes, message):
    run = begin(tmp_path)
    run.nodes["n"] = NodeRecord(reads=["a.b", "c"])
    run.save(tmp_path)
    with pytest.raises(UserError) as error:
        begin(tmp_path, **changes)
    assert message in error.value.message
    assert manifests.load(tmp_path, "r").resumed == 0


@pytest.mark.parametrize("damage", ["", "{}", "{", "deleted", "flipped", "not UTF-8"])
def test_a_damaged_or_deleted_manifest_is_restored_from_its_copy(tmp_path, caplog, damage):
    run = begin(tmp_path)
    path = manifests.path_of(tmp_path, "r")
    whole = path.read_bytes()
    if damage == "deleted":
        path.unlink()
    elif damage == "flipped":
        path.write_bytes(whole.replace(b'"kedro run"', b'"kedro rum"'))
    else:
        path.write_bytes(b"\xff" if damage == "not UTF-8" else damage.encode())
    assert manifests.load(tmp_path, "r") == run
    (message,) = caplog.messages
    assert "manifest.json" in message and "It is restored from its copy" in message
    assert path.read_bytes() == whole
    assert [run.run_id for run in manifests.all_runs(tmp_path, pytest.fail)] == ["r"]


def test_every_flipped_bit_of_a_manifest_is_found(tmp_path, caplog):
    run = begin(tmp_path)
    path = manifests.path_of(tmp_path, "r")
    whole = path.read_bytes()
    for position in range(0, 8 * len(whole), 7):
        flipped = bytearray(whole)
        flipped[position // 8] ^= 1 << position % 8
        path.write_bytes(flipped)
        assert manifests.load(tmp_path, "r") == run
    # What is only laid out otherwise (a blank for a tab) is the same manifest.
    assert len(caplog.messages) > len(whole)


def test_a_manifest_without_a_whole_copy_is_named_and_not_listed(tmp_path):
    begin(tmp_path)
    begin(tmp_path, "other")
    path = manifests.path_of(tmp_path, "r")
    for file in (path, path.with_name(manifests.COPY)):
        file.write_text("{}")
    with pytest.raises(UserError, match="manifest.json is damaged.*rlaifv runs adopt r"):
        manifests.load(tmp_path, "r")
    said = []
    assert [run.run_id for run in manifests.all_runs(tmp_path, said.append)] == ["other"]
    (line,) = said
    assert "r/manifest.json is damaged" in line


def test_numbers_are_given_once_whatever_was_deleted(tmp_path):
    begin(tmp_path, "first")
    begin(tmp_path, "second")
    shutil.rmtree(tmp_path / "data/runs/second")
    assert begin(tmp_path, "third").number == 3
    assert begin(tmp_path, "first").number == 1
    assert [number_of(tmp_path, run) for run in ("first", "second", "third", "none")] == [1, 2, 3, None]


def test_a_manifest_is_read_for_its_number_once_until_it_changes(tmp_path, monkeypatch):
    for name in ("first", "second"):
        begin(tmp_path, name)
    assert manifests.numbers_of_runs(tmp_path) == {"first": 1, "second": 2}
    read, load = [], manifests.load
    monkeypatch.setattr(
        manifests, "load", lambda project, run_id: read.append(run_id) or load(project, run_id)
    )
    changed = load(tmp_path, "second")
    changed.number = 7
    changed.save(tmp_path)
    for _ in range(2):
        assert manifests.numbers_of_runs(tmp_path) == {"first": 1, "second": 7}
    assert read == ["second"]
    for name in (manifests.FILE, manifests.COPY):
        manifests.path_of(tmp_path, "first").with_name(name).write_bytes(b"{}")
    assert manifests.numbers_of_runs(tmp_path) == {"second": 7}


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
