"""Which other parameters a run goes on with: by what they change, and by the nodes that have read them."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.io.core import Version
from kedro.pipeline import Pipeline, node

from begun_runs import begin
from rlaifv_kedro.datasets import ChunkedTableDataset, JsonDataset
from rlaifv_kedro.datasets.chunks import Chunk
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import complete_parameters
from rlaifv_kedro.runs.changes import (
    EVERYTHING,
    Made,
    changes_since,
    made_nodes,
    outputs_there,
    refuse,
)
from rlaifv_kedro.runs.manifest import Entry, Manifest, NodeRecord
from rlaifv_kedro.runs.running_nodes import data_inputs

SAMPLE = Made("sample", frozenset({"data_generation.temperature", "seed"}), finished=True)
LABEL = Made("label", frozenset({"feedback.chunk_size", "models.labeler", "seed"}), finished=False)
TRAIN = Made("train", frozenset({"training"}), finished=True)


def changed(tmp_path: Path, **other: Any) -> Any:
    """What the changes are of a run that was started with the defaults."""
    old = begin(tmp_path, parameters=complete_parameters({}))
    return changes_since(old, None, complete_parameters(other), [SAMPLE, LABEL, TRAIN])


@pytest.mark.parametrize(
    ("other", "refused_by"),
    [
        ({"training": {"micro_batch_size": 4}}, []),
        ({"training": {"beta": 0.2}}, ["train"]),
        ({"training": {"lora": {"rank": 8}}}, ["train"]),
        ({"training": {"launch": {"processes": 2}}}, []),  # the training is finished
        ({"feedback": {"chunk_size": 7}}, ["label"]),  # the labeling is not
        ({"feedback": {"min_score_gap": 2}}, []),
        ({"data_generation": {"temperature": 1}}, ["sample"]),
        ({"models": {"labeler": {"device_map": "auto"}}}, []),
        ({"models": {"labeler": {"path": "other"}}}, ["label"]),
        ({"models": {"judge": {"path": "some"}}}, []),
        ({"evaluation": {"benchmarks": ["pope"]}, "reporting": {"examples": 3}}, []),
    ],
)
def test_only_what_was_read_stands_against_another_value(
    tmp_path: Path, other: dict[str, Any], refused_by: list[str]
) -> None:
    changes = changed(tmp_path, **other)
    assert changes
    assert sorted({made.name for change in changes for made in change.read_by}) == refused_by
    assert any(change.refused() for change in changes) == bool(refused_by)


def test_a_refusal_names_parameter_values_effect_and_nodes(tmp_path: Path) -> None:
    changes = changed(tmp_path, training={"beta": 0.2, "micro_batch_size": 4}, feedback={"chunk_size": 7})
    with pytest.raises(UserError) as error:
        refuse("r", changes, [SAMPLE, LABEL, TRAIN], Pipeline([]))
    assert error.value.message == (
        "Run `r` has results that were made with other parameters:\n"
        "  feedback.chunk_size: 100 in the run, 7 now (division; read by label (begun))\n"
        "  training.beta: 0.1 in the run, 0.2 now (result; read by train (finished))\n"
        "Go on with the same parameters, or choose another run_id (or none) for a new run."
    )


@pytest.mark.parametrize("name", ["seed", "iteration"])
def test_what_names_artifacts_never_changes(tmp_path: Path, name: str) -> None:
    old = begin(tmp_path, parameters=complete_parameters({}))
    [change] = changes_since(old, None, complete_parameters({name: 3}), [])
    assert change.refused()
    assert change.line().endswith("3 now (result; read by the whole run)")


class Stages:
    """A run of two nodes: a chunked table and a file that is made from it."""

    def __init__(self, folder: Path) -> None:
        self.pipeline = Pipeline(
            [
                node(lambda a, p: None, ["a", "params:data_generation"], "candidates", name="sample"),
                node(lambda c, p: None, ["candidates", "params:feedback"], "scores", name="score"),
            ]
        )
        own = Version("r", "r")
        self.candidates = ChunkedTableDataset(str(folder / "data/candidates"), "candidates", own)
        self.scores = JsonDataset(str(folder / "data/scores.json"), version=own)
        self.catalog = DataCatalog(
            {"a": MemoryDataset(1), "candidates": self.candidates, "scores": self.scores}
        )

    def made(self, manifest: Manifest) -> dict[str, Made]:
        return {made.name: made for made in made_nodes(self.pipeline, self.catalog, manifest)}

    def sample(self) -> None:
        rows = pd.DataFrame(
            [("p", 0, "A cup.", 3, "stop", 1)],
            columns=["prompt_id", "candidate", "answer", "token_count", "finish_reason", "seed"],
        )
        self.candidates.save(Chunk("00000", rows))


@pytest.fixture
def stages(tmp_path: Path) -> Stages:
    return Stages(tmp_path)


def test_a_node_is_made_where_its_outputs_are_there(tmp_path: Path, stages: Stages) -> None:
    manifest = begin(tmp_path)
    assert stages.made(manifest) == {}
    stages.sample()
    assert stages.made(manifest)["sample"].reads == {EVERYTHING}  # nobody knows: a run of an earlier version
    manifest.nodes["sample"] = NodeRecord(inputs=["a"], reads=["data_generation.top_k"])
    assert stages.made(manifest)["sample"].reads == {"data_generation.top_k"}
    assert not stages.made(manifest)["sample"].finished
    manifest.written["candidates"] = Entry(path="data/candidates", version="r", sha256="1")
    assert stages.made(manifest)["sample"].finished
    assert set(stages.made(manifest)) == {"sample"}


def test_a_node_that_would_read_other_entries_has_read_everything(tmp_path: Path, stages: Stages) -> None:
    """As another ``training.mix`` would have it: the parameter is read where the pipeline is made."""
    manifest = begin(tmp_path)
    stages.sample()
    manifest.nodes["sample"] = NodeRecord(inputs=["another"], reads=[])
    assert stages.made(manifest)["sample"].reads == {EVERYTHING}


def test_a_node_that_the_pipeline_lacks_counts_too(tmp_path: Path, stages: Stages) -> None:
    manifest = begin(tmp_path)
    manifest.nodes["train"] = NodeRecord(reads=["training.beta"])
    assert stages.made(manifest)["train"] == Made("train", frozenset({"training.beta"}), True)


def test_what_to_delete_is_named_with_all_that_was_made_from_it(tmp_path: Path, stages: Stages) -> None:
    old = begin(tmp_path, parameters=complete_parameters({}))
    stages.sample()
    stages.scores.save({"x": 1})
    old.nodes["sample"] = NodeRecord(inputs=["a"], reads=["data_generation.top_k"])
    old.nodes["score"] = NodeRecord(inputs=["candidates"], reads=["feedback.scoring"])
    made = made_nodes(stages.pipeline, stages.catalog, old)
    for other, folders in (
        ({"data_generation": {"top_k": 9}}, ["data/candidates/r", "data/scores.json/r"]),
        ({"feedback": {"scoring": "answer"}}, ["data/scores.json/r"]),
    ):
        changes = changes_since(old, None, complete_parameters(other), made)
        with pytest.raises(UserError) as error:
            refuse("r", changes, made, stages.pipeline)
        listed = "rm -r " + " ".join(str(tmp_path / folder) for folder in folders)
        assert f", or delete what is to be made again with the new ones ({listed}), or" in error.value.message


def test_an_empty_folder_and_hidden_files_are_no_outputs(tmp_path: Path, stages: Stages) -> None:
    sample = stages.pipeline.nodes[0]
    folder = tmp_path / "data/candidates/r/candidates"
    folder.mkdir(parents=True)
    (folder / ".lock").touch()
    assert outputs_there(sample, stages.catalog, "r") == []
    (folder / "00000.parquet").touch()
    assert outputs_there(sample, stages.catalog, "r") == [folder]
    assert data_inputs(sample) == ["a"]


def test_what_was_changed_is_in_the_manifest(tmp_path: Path) -> None:
    begin(tmp_path, parameters={"a": {"b": 1}})
    begin(tmp_path, parameters={"a": {"b": 2}})
    second = begin(tmp_path, parameters={"a": {"b": 2}, "c": [3]})
    assert [{**change, "at": ""} for change in second.changes] == [
        {"at": "", "parameter": "a.b", "from": 1, "to": 2},
        {"at": "", "parameter": "c", "from": None, "to": [3]},
    ]
    assert second.parameters == {"a": {"b": 2}, "c": [3]}
    assert all(change["at"] >= second.started for change in second.changes)


def test_a_password_that_an_earlier_version_admitted_is_not_written_again(tmp_path: Path) -> None:
    begin(tmp_path, parameters={"url": "http://me:hunter22@host/v1"})
    begin(tmp_path, parameters={"url": "http://host/v1"})
    written = (tmp_path / "data/runs/r/manifest.json").read_text()
    assert "hunter22" not in written and "http://***@host/v1" in written
