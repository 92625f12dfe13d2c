"""Training on pairs from elsewhere, and pairs for other tools, as whole runs."""

import json
import shutil
from pathlib import Path

import datasets
import pandas as pd
import pytest

from pair_files import published, write_published
from rlaifv_kedro.datasets import PairStore
from rlaifv_kedro.params import LoopParams, Parameters, TrainingParams
from rlaifv_kedro.pipeline_registry import rlaif_loop
from whole_project import Project

ONLY_PUBLISHED = "training.mix.preference_pairs.weight=0,training.mix.published_pairs.weight=1"
CATALOG = """
published_pairs:
  type: rlaifv_kedro.datasets.PairSourceDataset
  filepath: data/01_raw/elsewhere
"""


@pytest.fixture
def project(finished: tuple[Project, str], tmp_path: Path) -> Project:
    """A copy of a project with a finished run, and 40 published rows, two of them no good."""
    copy = tmp_path / "copy"
    shutil.copytree(
        finished[0].path, copy, symlinks=True, ignore=shutil.ignore_patterns("cache", "checkpoints")
    )
    rows = [published(i, question="describe the image in detail.") for i in range(40)]
    rows[4]["image"] = {"bytes": b"no picture", "path": "4.png"}
    rows[30]["rejected"] = ""
    for file in range(2):
        write_published(
            copy / f"data/01_raw/elsewhere/RLAIF-V-Dataset_{file:03d}.parquet",
            rows[20 * file : 20 * file + 20],
        )
    (copy / "conf/test/catalog.yml").write_text(CATALOG)
    return Project(copy)


def of_run(project: Project, run: str, name: str) -> Path:
    return project.path / f"data/05_model_input/iteration_1/{name}/{run}/{name}"


def pairs_of(project: Project, run: str) -> PairStore:
    return PairStore.open(sorted(of_run(project, run, "training_pairs").glob("*.arrow")))


def manifest(project: Project, run: str) -> dict:
    return json.loads((project.path / f"data/runs/{run}/manifest.json").read_text())


def test_published_data_alone_train(project: Project) -> None:
    """Own pairs aren't even needed. Bad rows are rejects; the others keep their places."""
    shutil.rmtree(project.path / "data/05_model_input")
    project.kedro("--pipelines", "training", "--params", f"run_id=alone,{ONLY_PUBLISHED}")
    assert pairs_of(project, "alone").idx.tolist() == [i for i in range(40) if i not in (4, 30)]
    rejects = pd.read_parquet(of_run(project, "alone", "training_rejects"))
    assert [why.partition(": ")[0].rpartition("/")[2] for why in rejects["why"]] == [
        "RLAIF-V-Dataset_000.parquet, row 4",
        "RLAIF-V-Dataset_001.parquet, row 10",
    ]
    read = manifest(project, "alone")["read"]
    assert (
        "iteration_1.preference_pairs" not in read
        and read["published_pairs"]["path"] == "data/01_raw/elsewhere"
        and read["published_pairs"]["sha256"]
    )
    assert list(
        (project.path / "data/06_models/iteration_1/checkpoints/alone/checkpoints").glob("checkpoint-*")
    )


def test_own_pairs_and_half_of_a_policy_s(project: Project) -> None:
    mix = "training.mix.published_pairs.weight=0.5,training.mix.published_pairs.where.model=a"
    project.kedro(
        "--pipelines",
        "training",
        "--nodes",
        "iteration_1.training.gather_pairs",
        "--params",
        f"run_id=mixed,{mix}",
    )
    store = pairs_of(project, "mixed")
    origins = [json.loads(store.origin(row)[1]) for row in range(len(store))]
    own = [origin for origin in origins if "labeler" in origin]
    assert own and all((origin["model"], origin["iteration"]) == ("base", 1) for origin in own)
    others = [origin for origin in origins if "labeler" not in origin]
    assert {origin["model"] for origin in others} == {"a"} and 8 <= len(
        others
    ) <= 10  # 20 rows have it, two of them are no good


def test_a_kill_while_gathering_costs_a_chunk(project: Project) -> None:
    """The run goes on with what is there, and ends with the same bytes."""
    command = [
        "--pipelines",
        "training",
        "--nodes",
        "iteration_1.training.gather_pairs",
        "--params",
        f"run_id=cut-off,training.gather_chunk_size=5,{ONLY_PUBLISHED}",
    ]
    project.kedro(*command)
    whole = project.files("cut-off")
    for name in (
        "training_pairs",
        "training_rejects",
    ):  # as if killed before the markers, between the two files of a chunk
        (of_run(project, "cut-off", name) / "_complete.json").unlink()
    kept = of_run(project, "cut-off", "training_pairs") / "00003.arrow"
    before = kept.stat().st_mtime_ns
    (of_run(project, "cut-off", "training_pairs") / "00005.arrow").unlink()
    project.kedro(*command)
    assert project.files("cut-off") == whole
    assert kept.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("mix", "said"),
    [
        ("training.mix.nothing.weight=1", "`nothing` is not in the catalog"),  # before anything is fetched
        ("training.mix.trl_pairs.weight=1", "hf download trl-lib/rlaif-v --repo-type dataset"),
    ],
)
def test_what_is_not_there_is_said_at_once(
    project: Project, monkeypatch: pytest.MonkeyPatch, mix: str, said: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    output = project.kedro("--pipelines", "training", "--params", f"run_id=x,{mix}", expect=1)
    assert said in output


@pytest.mark.filterwarnings("ignore:One or more dataset names contain")
def test_the_loop_s_iterations_share_sources_and_have_their_own_pairs() -> None:
    mix = {"published_pairs": {}, "iteration_1.preference_pairs": {"weight": 0.5}}
    parameters = Parameters(loop=LoopParams(iterations=2), training=TrainingParams(mix=mix))
    nodes = {node.name: node for node in rlaif_loop(parameters).nodes}
    gathering = nodes["iteration_2.training.gather_pairs"].inputs
    assert gathering[-3:] == [
        "iteration_2.preference_pairs",
        "published_pairs",
        "iteration_1.preference_pairs",
    ]


def test_exports(project: Project) -> None:
    """Here of the mix that an iteration was trained on: its own pairs."""
    project.kedro("--pipelines", "export", "--params", "run_id=out,export.source=training_pairs")
    own = pd.read_parquet(
        project.path
        / "data/05_model_input/iteration_1/preference_pairs.parquet/first/preference_pairs.parquet"
    )
    rows = datasets.load_dataset(
        str(of_run(project, "out", "export_trl")), split="train", cache_dir=str(project.path / "cache")
    )
    assert [row["chosen"][0]["content"][0]["text"] for row in rows] == own["chosen"].tolist()
    assert len((of_run(project, "out", "export_ms_swift") / "pairs.jsonl").read_text().splitlines()) == len(
        own
    )
    forms = ("published", "trl", "llama_factory", "ms_swift")
    assert {f"iteration_1.export_{form}" for form in forms} == set(manifest(project, "out")["written"])
    published_form = pd.read_parquet(of_run(project, "out", "export_published"))
    assert published_form["origin_split"].tolist() == own["origin_split"].tolist()
