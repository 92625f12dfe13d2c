"""Checkpoints: whole or refused, saved all at once, and found again in a work folder."""

import json

import numpy as np
import pytest
from kedro.io.core import Version
from safetensors.numpy import save_file

from rlaifv_kedro.datasets.checkpoint import CheckpointDataset, CheckpointSetDataset, WorkFolderDataset, check_checkpoint
from rlaifv_kedro.errors import UserError


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
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {name: name for name in names}}))
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
    assert {p.relative_to(folder) for p in folder.rglob("*")} == {p.relative_to(source) for p in source.rglob("*")}
    assert [path.name for path in folder.parent.iterdir()] == ["policy"]


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
    [(None, False), ("training_args.bin", False), ("pytorch_model.bin", True), ("adapter_model.safetensors", True)],
)
def test_a_checkpoint_has_weights(tmp_path, name, whole):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    if name:
        save_file({"weight": np.zeros(3)}, folder / name)
    if whole:
        check_checkpoint(folder, "")
    else:
        with pytest.raises(UserError, match="holds no weights"):
            check_checkpoint(folder, "")


def test_work_folder_and_its_set_share_a_folder(tmp_path):
    work, found = versioned(WorkFolderDataset, tmp_path), versioned(CheckpointSetDataset, tmp_path)
    folder = work.load()
    (folder / "checkpoint-10").mkdir()
    assert not found.exists()
    found.save([{"path": str(folder / "checkpoint-10"), "step": 10}])
    assert found.exists()
    assert found.load() == [{"path": folder / "checkpoint-10", "step": 10}]
    with pytest.raises(UserError, match="checkpoint-20"):
        found.save(["checkpoint-20"])
    (folder / "checkpoint-10").rmdir()
    assert not found.exists()
    with pytest.raises(UserError, match="checkpoint-10 is missing"):
        found.load()


def test_work_folder_in_a_files_place(tmp_path):
    (tmp_path / "policy").write_text("in the way")
    with pytest.raises(UserError, match="Cannot write"):
        versioned(WorkFolderDataset, tmp_path).load()
