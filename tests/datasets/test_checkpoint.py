"""Checkpoints: whole or refused, saved all at once, and found again in a work folder."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from kedro.io.core import Version
from safetensors.numpy import save_file

from rlaifv_kedro.datasets import checkpoint
from rlaifv_kedro.datasets.checkpoint import (
    CARD,
    REMOVED,
    CheckpointDataset,
    CheckpointSetDataset,
    link_folder,
    remove_checkpoints,
)
from rlaifv_kedro.engine.outputs import Outputs, running, scratch_folder, work_folder
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.cards import write_card
from rlaifv_kedro.models.folder import SAVED, CheckpointFolder


@pytest.fixture
def source(tmp_path):
    """A checkpoint with two shards."""
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "sub/tokens.txt").write_text("a")
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for name in names:
        save_file({name: np.zeros(3)}, folder / name)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {name: name for name in names}})
    )
    return folder


def versioned(kind, tmp_path, run="r"):
    return kind(filepath=str(tmp_path / "policy"), version=Version(run, run))


def test_save_twice_and_load(tmp_path, source):
    dataset = versioned(CheckpointDataset, tmp_path)
    assert not dataset.exists()
    dataset.save(source)
    dataset.save(source)
    folder = dataset.load()
    assert folder == tmp_path / "policy/r/policy"
    assert {p.relative_to(folder) for p in folder.rglob("*")} == {
        p.relative_to(source) for p in source.rglob("*")
    }
    assert [path.name for path in folder.parent.iterdir()] == ["policy"]


def test_all_is_on_the_disk_before_it_has_its_name(tmp_path, source, monkeypatch):
    """Linked from elsewhere, and moved from the scratch folder: the order in which a power cut is survived."""
    calls = []
    fsync, replace = os.fsync, os.replace

    def and_note(handle):
        calls.append(os.path.realpath(f"/proc/self/fd/{handle}"))
        fsync(handle)

    def and_note_name(before, after):
        calls.append(("name", str(after)))
        replace(before, after)

    monkeypatch.setattr(os, "fsync", and_note)
    monkeypatch.setattr(os, "replace", and_note_name)
    dataset = versioned(CheckpointDataset, tmp_path)
    with running(Outputs(paths={"policy": dataset.save_path()})):
        made = scratch_folder("policy") / "made"
    shutil.copytree(source, made)
    unfinished = tmp_path / "policy/r/.policy.tmp"
    wanted = {str(unfinished / path.relative_to(source)) for path in [source, *source.rglob("*")]}
    for given in (made, source):
        calls.clear()
        dataset.save(given)
        named = calls.index(("name", str(dataset.save_path())))
        assert wanted <= set(calls[:named])
        assert str(dataset.save_path().parent) in calls[named:]


@pytest.mark.parametrize("name", ["config.json", "model-00002-of-00002.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty"])
def test_damage_names_the_file(tmp_path, source, name, damage):
    dataset = versioned(CheckpointDataset, tmp_path)
    dataset.save(source)
    path = dataset.load() / name
    path.unlink()
    if damage == "empty":
        path.touch()
    with pytest.raises(UserError, match=name):
        dataset.load()
    assert (source / name).stat().st_size > 0


def test_a_folder_that_is_no_checkpoint_is_not_saved(tmp_path, source):
    (source / "config.json").unlink()
    with pytest.raises(UserError, match="config.json"):
        versioned(CheckpointDataset, tmp_path).save(source)
    assert not (tmp_path / "policy").exists()


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        (None, False),
        ("training_args.bin", False),
        ("pytorch_model.bin", True),
        ("adapter_model.safetensors", True),
    ],
)
def test_a_checkpoint_has_weights(tmp_path, name, whole):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    if name and name.endswith(".bin"):
        torch.save({"weight": torch.zeros(3)}, folder / name)
    elif name:
        save_file({"weight": np.zeros(3)}, folder / name)
    if name == "adapter_model.safetensors":
        (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "base"}')
    if whole:
        CheckpointFolder(folder).refuse_damaged("")
    else:
        with pytest.raises(UserError, match="holds no weights"):
            CheckpointFolder(folder).refuse_damaged("")


def test_a_training_works_in_the_folder_of_its_set(tmp_path):
    found = versioned(CheckpointSetDataset, tmp_path)
    with running(Outputs(paths={"checkpoints": found.save_path()})):
        folder = work_folder("checkpoints")
    (folder / "checkpoint-10").mkdir()
    assert not found.exists()
    found.save([{"path": str(folder / "checkpoint-10"), "step": 10}])
    assert found.exists()
    assert found.load() == [{"path": folder / "checkpoint-10", "step": 10, "own": True}]
    with pytest.raises(UserError, match="checkpoint-20"):
        found.save([{"path": "checkpoint-20"}])
    (folder / "checkpoint-10").rmdir()
    assert not found.exists()
    with pytest.raises(UserError, match="checkpoint-10 is missing"):
        found.load()


@pytest.fixture
def four(tmp_path):
    """A set of four checkpoints, with cards, and its dataset."""
    found = versioned(CheckpointSetDataset, tmp_path)
    folder = found.save_path()
    for step in (1, 2, 3, 4):
        (folder / f"checkpoint-{step}/sub").mkdir(parents=True)
        for name in ("model.safetensors", "sub/tokens.txt", CARD):
            (folder / f"checkpoint-{step}" / name).write_text(f"{step} {name}")
    found.save([{"path": f"checkpoint-{step}", "step": step} for step in (1, 2, 3, 4)])
    return found, folder


def test_removed_checkpoints_stay_listed_and_the_set_keeps_its_hash(four):
    found, folder = four
    before = found.content_hashes(folder)
    remove_checkpoints(folder, {"checkpoint-1": {"faulty_rate": 0.5}, "checkpoint-3": {"faulty_rate": None}})
    remove_checkpoints(folder, {"checkpoint-2": {"faulty_rate": 0.4}})
    assert found.exists()
    assert [(entry["path"].name, entry.get("removed")) for entry in found.load()] == [
        ("checkpoint-1", {"faulty_rate": 0.5}),
        ("checkpoint-2", {"faulty_rate": 0.4}),
        ("checkpoint-3", {"faulty_rate": None}),
        ("checkpoint-4", None),
    ]
    assert [path.name for path in sorted(folder.glob("checkpoint-*"))] == ["checkpoint-4"]
    (folder / "checkpoint-4" / CARD).write_text("completed")
    assert found.content_hashes(folder) == before
    (folder / "checkpoint-4" / "model.safetensors").write_text("another")
    assert found.content_hashes(folder) != before


@pytest.mark.parametrize("name", ["..", "../other", "/etc", "checkpoint-1/../..", "", "..%2fother", "far"])
@pytest.mark.parametrize("file", ["_complete.json", REMOVED])
def test_a_marker_whose_names_lead_out_is_damaged(four, tmp_path, name, file):
    """Checkpoints that a marker names are removed later on, so none may lie elsewhere."""
    found, folder = four
    (folder / "far").symlink_to(tmp_path)
    entry = {"path": name, "step": 1}
    content = {"checkpoints": [entry]} if file == "_complete.json" else {name: {"why": {}, "files": {}}}
    (folder / file).write_text(json.dumps(content))
    assert not found.exists()
    with pytest.raises(UserError, match="is damaged"):
        found.load()


@pytest.mark.parametrize("damage", ["flip", "cut", "delete", "seal", "other"])
def test_a_damaged_card_is_not_what_the_run_wrote(four, damage):
    """A card may be completed, and the set keeps its hash; else the hash is another."""
    found, folder = four
    card, other = (folder / f"checkpoint-{step}" / CARD for step in (2, 3))
    for step in (1, 2, 3, 4):
        (folder / f"checkpoint-{step}" / SAVED).write_text(f'{{"step": {step}, "training": "these pairs"}}')
        write_card(folder / f"checkpoint-{step}", f"# {step}\n\nNot yet measured.\n")
    before = found.content_hashes(folder)
    write_card(card.parent, card.read_text().replace("Not yet measured", "Measured"))
    assert card.read_text().count("sha256") == 1
    assert found.content_hashes(folder) == before
    content = card.read_bytes()
    if damage == "delete":
        card.unlink()
    elif damage == "other":
        card.write_bytes(other.read_bytes())
    else:
        changed = {
            "flip": b"#!" + content[2:],
            "cut": content[:9],
            "seal": content[:-9] + b"!" + content[-8:],
        }
        card.write_bytes(changed[damage])
    assert found.content_hashes(folder) != before


@pytest.mark.parametrize("position", [0, 0.3, 0.5, 0.9])
def test_a_damaged_record_of_what_was_removed_is_named(four, position):
    """One bit, in a name, a reason, a hash or the JSON itself: never another reason, or another checkpoint."""
    found, folder = four
    remove_checkpoints(folder, {"checkpoint-1": {"reason": "rank 3"}, "checkpoint-3": {"reason": "rank 4"}})
    content = bytearray((folder / REMOVED).read_bytes())
    letters = [at for at, byte in enumerate(content) if chr(byte).isalnum()]
    content[letters[int(position * len(letters))]] ^= 1
    (folder / REMOVED).write_bytes(content)
    assert not found.exists()
    with pytest.raises(
        UserError, match=f"{REMOVED} is .*delete .*policy/r and start the run again with run_id=r"
    ):
        found.load()


def test_a_set_made_by_another_run_is_not_own(four, tmp_path):
    later = CheckpointSetDataset(filepath=str(tmp_path / "policy"), version=Version("r", "later"))
    assert {entry["own"] for entry in later.load()} == {False}


@pytest.mark.parametrize("killed_at", [0, 1, 2])
def test_a_kill_while_removing_is_made_good(four, monkeypatch, killed_at):
    """Before the record, or before one of the folders: the set can be loaded, and the second call ends
    what the first began.
    """
    found, folder = four
    hash_before, calls, rmtree, write = (
        found.content_hashes(folder),
        [],
        checkpoint.shutil.rmtree,
        checkpoint.write_atomically,
    )

    def counted(function):
        def call(*arguments):
            if len(calls) == killed_at:
                raise KeyboardInterrupt
            calls.append(arguments)
            return function(*arguments)

        return call

    why = {"checkpoint-1": {}, "checkpoint-2": {}}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "write_atomically", counted(write))
        patch.setattr(checkpoint.shutil, "rmtree", counted(rmtree))
        remove_checkpoints(folder, why)
    assert found.exists() and found.content_hashes(folder) == hash_before
    remove_checkpoints(folder, why)
    assert found.content_hashes(folder) == hash_before
    assert [path.name for path in sorted(folder.glob("checkpoint-*"))] == ["checkpoint-3", "checkpoint-4"]
    assert json.loads((folder / REMOVED).read_text())["checkpoint-1"]["files"].keys() == {
        "model.safetensors",
        "sub/tokens.txt",
    }


def test_linked_folders_share_files_but_not_their_replacements(tmp_path, source):
    target = tmp_path / "linked"
    link_folder(source, target, without=("tokens.txt",))
    assert not (target / "sub/tokens.txt").exists()
    assert (target / "config.json").samefile(source / "config.json")
    checkpoint.write_atomically(target / "config.json", b"other")
    assert (source / "config.json").read_text() == "{}"


def test_work_folder_in_a_files_place(tmp_path):
    (tmp_path / "policy").write_text("in the way")
    outputs = Outputs(paths={"checkpoints": tmp_path / "policy/run/checkpoints"})
    with running(outputs), pytest.raises(UserError, match="Cannot write"):
        work_folder("checkpoints")
