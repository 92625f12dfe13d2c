"""Ten kinds of damaged input: each ends in a message that names the file and what to do, or in a row of
``rejects``.
"""

import hashlib
import json
import shutil

import pandas as pd
import pytest

from rlaifv_kedro.runs import manifest as manifests
from rlaifv_kedro.runs.manifest import Entry
from whole_project import SHIPPED, Project

TABLES = {
    "prompt_pool": "data/01_raw/miniature/prompt_pool.parquet",
    "claims": "data/03_primary/iteration_1/claims",
    "scores": "data/03_primary/iteration_1/scores.parquet",
    "preference_pairs": "data/05_model_input/iteration_1/preference_pairs.parquet",
    "candidates": "data/02_intermediate/iteration_1/candidates",
}


@pytest.fixture
def damaged(finished, tmp_path) -> Project:
    """A copy of a project with a finished run, to be damaged."""
    project, _ = finished
    copy = tmp_path / "copy"
    shutil.copytree(project.path, copy, symlinks=True, ignore=shutil.ignore_patterns("cache", "checkpoints"))
    return Project(copy)


def _table(project: Project, name: str):
    path = project.path / TABLES[name] / "first" / TABLES[name].rpartition("/")[2]
    return path / "00000.parquet" if path.is_dir() else path


def _rewrite(project: Project, name: str, change) -> str:
    """Change a table of run ``first`` as somebody would with pandas; returns the file's name."""
    path = _table(project, name)
    change(pd.read_parquet(path)).to_parquet(path, index=False)
    _forget_hash(project, name)
    marker = path.with_name("_complete.json")
    if marker.is_file():  # as if the run had written it like this: otherwise the hash gives it away at once
        chunks = json.loads(marker.read_text())
        chunks["chunks"][0]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        marker.write_text(json.dumps(chunks))
    return path.name


def _forget_hash(project: Project, name: str) -> None:
    """Makes it content that no run vouches for: else the manifest's hash gives it away before it is read."""
    run = manifests.load(project.path, "first")
    for known in (name, f"iteration_1.{name}"):
        if known in run.written:
            run.written[known] = Entry(path=run.written[known].path, version="first")
    run.save(project.path)


def test_truncated_image_goes_to_rejects(damaged):
    def cut(pool):
        pool["image"] = [
            {**image, "bytes": image["bytes"][: len(image["bytes"]) // 2]} if i == 3 else image
            for i, image in enumerate(pool["image"])
        ]
        return pool

    _rewrite(damaged, "prompt_pool", cut)
    broken = pd.read_parquet(_table(damaged, "prompt_pool"))["prompt_id"][3]
    for iteration in (1, 2):  # it is drawn in one of the two
        # The run that made iteration 1's policy had a pool of other content, and so is taken on purpose.
        versions = ("--load-versions", "iteration_1.trained_policy:first") if iteration == 2 else ()
        params = f"run_id=cut{iteration},iteration={iteration}"
        damaged.kedro("--pipelines", "data_generation", *versions, "--params", params)
    rejects = pd.concat(
        [
            pd.read_parquet(
                damaged.path
                / f"data/02_intermediate/iteration_{k}/data_generation_rejects/cut{k}/data_generation_rejects"
            )
            for k in (1, 2)
        ]
    )
    assert rejects["key"].tolist() == [broken]
    assert "image" in rejects["why"].iloc[0]


def test_zero_byte_parquet_is_named(damaged):
    path = _table(damaged, "preference_pairs")
    path.write_bytes(b"")
    _forget_hash(damaged, "preference_pairs")
    output = damaged.kedro("--pipelines", "training", "--params", "run_id=x", expect=1)
    assert path.name in output and "empty" in output


def test_missing_column_is_named(damaged):
    name = _rewrite(damaged, "claims", lambda table: table.drop(columns="question"))
    output = damaged.kedro(
        "--pipelines",
        "feedback",
        "--nodes",
        "iteration_1.feedback.verify_claims",
        "--params",
        "run_id=x",
        expect=1,
    )
    assert name in output and "`question`" in output


def test_nan_score_is_named_with_its_row(damaged):
    def spoil(table):
        table["score"] = table["score"].astype(float)
        table.loc[5, "score"] = float("nan")
        return table

    name = _rewrite(damaged, "scores", spoil)
    output = damaged.kedro(
        "--pipelines",
        "feedback",
        "--nodes",
        "iteration_1.feedback.build_pairs",
        "--params",
        "run_id=x",
        expect=1,
    )
    assert name in output and "row 5" in output and "`score`" in output


def test_empty_answer_goes_to_rejects(damaged):
    def blank(table):
        table.loc[0, "answer"] = ""
        return table

    _rewrite(damaged, "candidates", blank)
    damaged.kedro("--pipelines", "feedback", "--params", "run_id=x")
    rejects = pd.read_parquet(
        damaged.path / "data/03_primary/iteration_1/feedback_rejects/x/feedback_rejects"
    )
    first = pd.read_parquet(_table(damaged, "candidates")).iloc[0]
    assert json.loads(rejects["key"].iloc[0]) == [first["prompt_id"], int(first["candidate"])]


def test_a_chunk_that_somebody_changed_is_named(damaged):
    path = _table(damaged, "candidates")
    pd.read_parquet(path).assign(answer="a cup.").to_parquet(path, index=False)
    output = damaged.kedro("--pipelines", "feedback", "--params", "run_id=x", expect=1)
    assert f"{path.name} has changed" in " ".join(output.split()), output


def test_duplicate_key_is_named(damaged):
    _rewrite(damaged, "candidates", lambda table: pd.concat([table, table.iloc[[2]]]))
    output = damaged.kedro("--pipelines", "feedback", "--params", "run_id=x", expect=1)
    assert "candidates" in output and "comes twice" in output and "prompt_id=" in output


def test_wrong_dtype_is_named(damaged):
    name = _rewrite(damaged, "scores", lambda table: table.assign(rejected_count="many"))
    output = damaged.kedro(
        "--pipelines",
        "feedback",
        "--nodes",
        "iteration_1.feedback.build_pairs",
        "--params",
        "run_id=x",
        expect=1,
    )
    assert name in output and "`rejected_count`" in output and "many" in output


def test_checkpoint_without_a_shard_is_named(damaged):
    folder = damaged.path / SHIPPED / "base_policy/shipped/base_policy"
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    output = damaged.kedro("--pipelines", "data_generation", "--params", "run_id=x", expect=1)
    assert "model-00002-of-00002.safetensors" in output and "missing" in output


def test_annotation_of_an_unknown_category_is_named(damaged):
    path = damaged.path / "data/01_raw/miniature/annotations/instances_test.json/first/instances_test.json"
    instances = json.loads(path.read_text())
    instances["annotations"][4]["category_id"] = 999
    path.write_text(json.dumps(instances))
    _forget_hash(damaged, "test_instances")
    output = damaged.kedro(
        "--pipelines", "rlaif_loop", "--namespaces", "base", "--params", "run_id=x", expect=1
    )
    assert "999" in output and f"annotation {instances['annotations'][4]['id']}" in output


def test_unwritable_folder_is_named(damaged):
    folder = damaged.path / "data/02_intermediate/iteration_1/prompts.parquet"
    shutil.rmtree(folder)
    folder.write_text("a file where a folder should be")
    output = damaged.kedro("--pipelines", "data_generation", "--params", "run_id=x", expect=1)
    assert "prompts.parquet" in output and "write" in output.lower()
