"""Which runs may feed which: recipes and seeds apart, the same base policy and pool; and the order of runs."""

import json
import shutil

import pytest

from begun_runs import rewrite
from rlaifv_kedro.runs import manifest as manifests
from rlaifv_kedro.runs.lineage import Lineage, recipe_of
from rlaifv_kedro.runs.manifest import Entry, Manifest
from toy_project import ToyProject

OWN = Lineage(recipe="base", seed=0, base_policy="b", prompt_pool="p")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"recipe": "test"}, ["its recipe is test"]),
        ({"seed": 1}, ["its seed is 1"]),
        ({"base_policy": "other"}, ["it has another base policy"]),
        ({"prompt_pool": "other", "seed": 2}, ["its seed is 2", "it has another prompt_pool"]),
        ({"base_policy": None, "prompt_pool": None, "seed": None}, []),  # an older run tells nothing
    ],
)
def test_what_differs_is_said(changes, said):
    assert OWN.differences(OWN.model_copy(update=changes)) == said


def test_what_comes_before_the_pool_does_not_depend_on_it():
    other = OWN.model_copy(update={"prompt_pool": "other", "base_policy": "other"})
    assert OWN.differences(other, roots=False) == []


@pytest.mark.parametrize(
    ("env", "recipe"), [(None, "base"), ("local", "base"), ("base", "base"), ("qwen", "qwen")]
)
def test_the_recipe_is_the_environment(env, recipe):
    assert recipe_of(env) == recipe


def run(run_id: str, **fields) -> Manifest:
    usual = {
        "started": "2026-01-01T00:00:00.000+00:00",
        "pid": 1,
        "host": "h",
        "command": "kedro run",
        "pipelines": ["p"],
        "parameters": {"seed": 3},
        "packages": {},
        "python": "3.11",
    }
    return Manifest(run_id=run_id, **{**usual, **fields})


def test_a_run_of_an_earlier_version_tells_what_its_manifest_holds():
    old = run(
        "old",
        env="qwen",
        read={"base_policy": Entry(path="data/b", version=None, sha256="b")},
        written={"prompt_pool": Entry(path="data/p", version="old", sha256="p")},
    )
    assert old.grown_from() == Lineage(recipe="qwen", seed=3, base_policy="b", prompt_pool="p")


def test_runs_are_ordered_by_number_and_not_by_the_clock(tmp_path):
    """Runs of earlier versions, which have no number, come first, by their clock."""
    for made in (
        run("second", number=2, started="2020-01-01T00:00:00.000+00:00"),
        run("first", number=1, started="2030-01-01T00:00:00.000+00:00"),
        run("older", started="2026-01-02T00:00:00.000+00:00"),
        run("oldest", started="2026-01-01T00:00:00.000+00:00"),
    ):
        made.save(tmp_path)
    assert [r.run_id for r in manifests.all_runs(tmp_path, pytest.fail)] == [
        "oldest",
        "older",
        "first",
        "second",
    ]


@pytest.fixture
def toy(tmp_path):
    """A project with a seed, a second environment, and a run of each."""
    project = ToyProject(tmp_path)
    parameters = project.path / "conf/base/parameters.yml"
    parameters.write_text(parameters.read_text() + "seed: 0\n")
    (project.path / "conf/small").mkdir()
    (project.path / "conf/small/parameters.yml").write_text("count: 3\n")
    assert project.run("run_id=large", "--pipelines", "data,generation").returncode == 0
    assert project.run("run_id=small", "--pipelines", "data,generation", "--env", "small").returncode == 0
    return project


def read(project: ToyProject, run_id: str) -> str:
    return project.manifest(run_id)["read"]["candidates"]["version"]


def test_the_newest_run_of_another_recipe_feeds_nothing(toy):
    assert toy.run("run_id=scored", "--pipelines", "feedback").returncode == 0
    assert read(toy, "scored") == "large"
    assert toy.run("run_id=scored-small", "--pipelines", "feedback", "--env", "small").returncode == 0
    assert read(toy, "scored-small") == "small"
    lineage = toy.manifest("scored-small")["lineage"]
    assert (lineage["recipe"], lineage["seed"]) == ("small", 0)


def test_only_runs_of_another_lineage_are_named_with_the_way_to_take_one(toy):
    done = toy.run("run_id=x,seed=1", "--pipelines", "feedback")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    for part in (
        "`candidates` is there only from runs of another lineage",
        "run `large` (its seed is 0)",
        "run `small` (its recipe is small, its seed is 0)",
        "This run is of recipe base, seed 1",
        "--load-versions candidates:small",
        "Make it with: kedro run --pipelines generation --params seed=1",
    ):
        assert part in done.stderr
    assert not (toy.path / "data/runs/x").exists()
    taken = toy.run("run_id=x,seed=1", "--pipelines", "feedback", "--load-versions", "candidates:large")
    assert taken.returncode == 0, taken.stderr
    assert read(toy, "x") == "large"


def test_a_manifest_without_number_and_lineage_stays_readable(toy):
    """As earlier versions wrote it: the environment and the parameters tell the lineage."""
    for run_id in ("large", "small"):
        path = toy.path / f"data/runs/{run_id}/manifest.json"
        old = json.loads(path.read_text())
        del old["number"], old["lineage"], old["checksum"]
        rewrite(toy.path, run_id, json.dumps(old))
    shutil.rmtree(toy.path / "data/runs/.numbers")
    assert toy.run("run_id=scored", "--pipelines", "feedback").returncode == 0
    assert read(toy, "scored") == "large"
    assert toy.manifest("scored")["number"] == 1


@pytest.fixture
def pools(tmp_path):
    """A project whose pool has been replaced: run `first` sampled for `one`, run `second` for `two`."""
    project = ToyProject(tmp_path)
    catalog = project.path / "conf/base/catalog.yml"
    entry = (
        "\nprompt_pool:\n  type: rlaifv_kedro.datasets.documents.TextDataset\n  filepath: data/pool.txt\n"
        "  versioned: true\n"
    )
    catalog.write_text(catalog.read_text() + entry)
    for run_id, pool in (("first", "one"), ("second", "two")):
        write_pool(project, pool)
        done = project.run(f"run_id={run_id}", "--pipelines", "loop", "--to-nodes", "iteration_1.sample")
        assert done.returncode == 0, done.stderr
    return project


def write_pool(project: ToyProject, version: str) -> None:
    path = project.path / f"data/pool.txt/{version}/pool.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"pool {version}")


SCORE = ("--pipelines", "loop", "--nodes", "iteration_1.score")


def read_by(project: ToyProject, run_id: str, *arguments: str) -> str:
    done = project.run(f"run_id={run_id}", *arguments)
    assert done.returncode == 0, done.stderr
    (entry,) = project.manifest(run_id.partition(",")[0])["read"].values()
    return entry["version"]


def test_another_base_policy_or_pool_is_another_lineage(pools):
    """The roots are the entries `base_policy` and `prompt_pool`; of several pools the last name is newest."""
    assert read_by(pools, "newest", *SCORE) == "second"
    write_pool(pools, "zzz")
    refused = pools.run("run_id=other", *SCORE)
    assert refused.returncode == 1
    assert "run `second` (it has another prompt_pool)" in refused.stderr
    shutil.rmtree(pools.path / "data/runs/first")  # what no run has made may be taken
    assert read_by(pools, "other", *SCORE) == "first"


def lineage(project: ToyProject, run_id: str) -> dict:
    return project.manifest(run_id)["lineage"]


def test_a_pool_that_is_asked_for_decides_the_lineage_and_so_does_a_replayed_run(pools):
    """Although the pipeline reads no pool."""
    assert read_by(pools, "asked", *SCORE, "--load-versions", "prompt_pool:one") == "first"
    assert read_by(pools, "replayed,replay=first", *SCORE) == "first"
    assert lineage(pools, "asked") == lineage(pools, "replayed") == lineage(pools, "first")
    assert lineage(pools, "first") != lineage(pools, "second")


def test_another_name_for_the_same_place_is_of_the_same_lineage(pools):
    """The toy's `candidates` are the files of `iteration_1.candidates`, as `reward_policy` is a policy's."""
    write_pool(pools, "zzz")
    refused = pools.run("run_id=other", "--pipelines", "feedback")
    assert refused.returncode == 1
    assert "`candidates` is there only from runs of another lineage" in refused.stderr


def test_a_run_with_a_damaged_manifest_feeds_nothing(pools):
    rewrite(pools.path, "second", "{}")
    refused = pools.run("run_id=other", *SCORE)
    assert refused.returncode == 1
    assert "run `second` (its manifest is damaged)" in refused.stderr


def test_a_damaged_pool_is_named_although_the_pipeline_reads_none(pools):
    """Its content says of which lineage a run is, so others would only seem to be of another one."""
    registry = pools.path / "src/toy/pipeline_registry.py"
    draws = 'Pipeline([node(lambda: "drawn", None, "prompt_pool", name="draw")])'
    registry.write_text(registry.read_text().replace("return {", f'return {{"draws": {draws}, '))
    assert pools.run("run_id=world", "--pipelines", "draws").returncode == 0
    done = pools.run("run_id=third", "--pipelines", "loop", "--to-nodes", "iteration_1.sample")
    assert done.returncode == 0, done.stderr
    pool = pools.path / "data/pool.txt/world/pool.txt"
    pool.write_text("damaged")
    refused = pools.run("run_id=other", *SCORE)
    assert refused.returncode == 1
    assert f"{pool.relative_to(pools.path)} has changed. Remove and make it with: rm -r" in refused.stderr
    assert "another lineage" not in refused.stderr


def test_a_run_does_not_go_on_from_another_pool_than_it_began_with(pools):
    """Its first start read none, so that only its lineage tells."""
    read_by(pools, "begun", *SCORE)
    registry = pools.path / "src/toy/pipeline_registry.py"
    reads_pool = 'Pipeline([node(len, "prompt_pool", "size_of_pool", name="measure")])'
    registry.write_text(registry.read_text().replace("return {", f'return {{"measure": {reads_pool}, '))
    assert pools.run("run_id=begun", "--pipelines", "measure").returncode == 0
    write_pool(pools, "zzz")
    read_by(pools, "again", *SCORE, "--load-versions", "prompt_pool:two")
    refused = pools.run("run_id=again", "--pipelines", "measure")
    assert refused.returncode == 1
    assert "is not the one that run `again` has grown from so far" in refused.stderr
    taken = pools.run("run_id=again", "--pipelines", "measure", "--load-versions", "prompt_pool:two")
    assert taken.returncode == 0, taken.stderr
