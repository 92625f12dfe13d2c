"""What becomes of the checkpoints: measured one by one, one of them chosen, some kept, cards beside them,
and the curve in the report.
"""

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors.torch import load_file

from rlaifv_kedro.benchmarks import loop
from rlaifv_kedro.datasets.chunks import MARKER, Chunk, Complete
from rlaifv_kedro.engine.outputs import Outputs, running
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import ComputeParams, EvaluationParams, ModelsParams
from rlaifv_kedro.pipelines.evaluation import nodes
from rlaifv_kedro.schemas import table
from whole_project import Project


def models(project: Project, kind: str, run_id: str, iteration: int = 1) -> Path:
    return project.path / f"data/06_models/iteration_{iteration}/{kind}/{run_id}/{kind}"


def report(project: Project, name: str, run_id: str, iteration: int = 1) -> Any:
    path = project.path / f"data/08_reporting/iteration_{iteration}/{name}/{run_id}/{name}"
    return json.loads(path.read_text()) if path.suffix == ".json" else path


def metrics(project: Project, run_id: str, iteration: int = 1) -> pd.DataFrame:
    return pd.read_parquet(report(project, "checkpoint_metrics", run_id, iteration))


@pytest.mark.parametrize("iteration", [1, 2])
def test_the_best_and_the_last_checkpoint_stay(finished: tuple[Project, str], iteration: int) -> None:
    """Four checkpoints, of which the test's parameters keep the best one and the last."""
    project, _ = finished
    measured = metrics(project, "first", iteration)
    rates = measured[measured["metric"] == "mention_hallucination"].set_index("checkpoint")["value"]
    trained = rates.drop(["base", "start"])  # in their order
    assert len(trained) == 4
    folder = models(project, "checkpoints", "first", iteration)
    left = {path.name for path in folder.glob("checkpoint-*")}
    assert left == {trained.idxmin(), trained.index[-1]}
    kept = report(project, "kept_checkpoints.json", "first", iteration)
    assert {row["checkpoint"] for row in kept["kept"]} == left
    assert (
        {row["checkpoint"] for row in kept["removed"]}
        == set(trained.index) - left
        == set(json.loads((folder / "_removed.json").read_text()))
    )
    version = models(project, "trained_policy", "first", iteration).parent
    assert [path.name for path in version.iterdir()] == ["trained_policy"]  # nothing is left of its making


def test_cards_are_completed_and_travel_with_the_policy(finished: tuple[Project, str]) -> None:
    project, _ = finished
    selected = report(project, "selection.json", "first")["selected"]
    assert selected != "start"  # else this test would say nothing
    for card in (
        models(project, "checkpoints", "first") / selected / "README.md",
        models(project, "trained_policy", "first") / "README.md",
    ):
        text = card.read_text()
        assert f"# {selected}: step" in text and "Not yet." not in text
        assert "| parent checkpoint | `data/06_models/miniature/seed_0/base_policy`, sha256 `" in text
        assert "Chosen of its training's checkpoints by mention hallucination." in text
        assert "first" not in text and str(project.path) not in text
    rows = metrics(project, "first")
    rate = rows[(rows["checkpoint"] == selected) & (rows["metric"] == "mention_hallucination")].iloc[0]
    assert (
        f"| mention hallucination | {100 * rate['value']:.1f} ± {100 * rate['standard_error']:.1f} |" in text
    )
    assert not {"saved.json", "trainer_state.json"} & {
        path.name for path in models(project, "trained_policy", "first").iterdir()
    }


def test_the_curve_is_in_the_report(finished: tuple[Project, str]) -> None:
    project, _ = finished
    html = (project.path / "data/08_reporting/loop_report.html/first/loop_report.html").read_text()
    for iteration in (1, 2):
        curve = report(project, "selection_curve.png", "first", iteration).read_bytes()
        assert curve.startswith(b"\x89PNG") and base64.b64encode(curve).decode() in html


def test_another_run_measures_what_is_left_and_alters_nothing(finished: tuple[Project, str]) -> None:
    """A replay finds the checkpoints unchanged as far as they are there; the run that made them alone
    removes any.
    """
    project, _ = finished
    before = project.files("first")
    output = project.kedro(
        "--pipelines", "evaluation", "--params", "run_id=later,replay=first,evaluation.keep_best=1"
    )
    gone = {row["checkpoint"] for row in report(project, "kept_checkpoints.json", "first")["removed"]}
    assert all(f"{name} was removed by an earlier selection" in output for name in gone)
    assert set(report(project, "selection.json", "later")["not_measured"]) == gone
    left = metrics(project, "first")
    left = left[~left["checkpoint"].isin(gone)].reset_index(drop=True)
    pd.testing.assert_frame_equal(metrics(project, "later"), left)
    assert project.files("first") == before


def test_choosing_on_the_test_split_is_a_parameter_and_is_said(finished: tuple[Project, str]) -> None:
    project, _ = finished
    output = project.kedro(
        "--pipelines", "evaluation", "--params", "run_id=ontest,replay=first,evaluation.select_on=test"
    )
    assert "evaluation.select_on=test: checkpoints are chosen on the test split" in output
    assert set(metrics(project, "ontest")["n"]) >= {24} and 16 not in set(
        metrics(project, "ontest")["n"]
    )  # scenes to test on, not to select on
    selection = report(project, "selection.json", "ontest")
    assert selection["split"] == "test" and "optimistic" in selection["warning"]
    chosen = models(project, "trained_policy", "ontest") / "README.md"
    if selection["selected"] != "start":
        assert "Chosen on the test split: its figures there are optimistic." in chosen.read_text()


def test_a_kill_before_the_removal_is_recorded(finished: tuple[Project, str], tmp_path: Path) -> None:
    """Checkpoints are gone, or about to go, and kept_checkpoints isn't written: the run goes on and ends
    with the same bytes.
    """
    project, _ = finished
    copy = Project(shutil.copytree(project.path, tmp_path / "copy", symlinks=True))
    before = copy.files("first")
    report(copy, "selection.json", "first")
    shutil.rmtree(copy.path / "data/08_reporting/iteration_1/kept_checkpoints.json/first")
    folder = models(copy, "checkpoints", "first")
    half = folder / next(iter(json.loads((folder / "_removed.json").read_text())))
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"not removed yet")
    output = copy.kedro("--params", "run_id=first")
    assert "prune checkpoints" in output and "answer with checkpoints" not in output
    assert copy.files("first") == before


def test_adapters_are_merged_for_the_policy_and_stay_small_beside_it(finished: tuple[Project, str]) -> None:
    project, _ = finished
    project.kedro(
        "--pipelines",
        "training,evaluation",
        "--params",
        "run_id=adapters,training.lora.rank=4,training.learning_rate=0.003,replay=first",
    )
    folder, policy = models(project, "checkpoints", "adapters"), models(project, "trained_policy", "adapters")
    left = sorted(path.name for path in folder.glob("checkpoint-*"))
    assert 1 <= len(left) <= 2 and all(
        (folder / name / "adapter_model.safetensors").is_file() for name in left
    )
    assert "library_name: peft" in (folder / left[0] / "README.md").read_text()
    version = models(project, "trained_policy", "adapters").parent
    assert [path.name for path in version.iterdir()] == ["trained_policy"]
    selected = report(project, "selection.json", "adapters")["selected"]
    assert selected != "start"
    assert "library_name: transformers" in (policy / "README.md").read_text()
    base = load_file(
        project.path / "data/06_models/miniature/seed_0/base_policy/shipped/base_policy/model.safetensors"
    )
    assert {weight.dtype for weight in load_file(policy / "model.safetensors").values()} == {
        weight.dtype for weight in base.values()
    }


PROMPTS = pd.DataFrame({"prompt_id": ["p0", "p1", "p2"]})


def listed(folder: Path, removed: tuple[int, ...] = (), own: bool = True) -> list[dict[str, Any]]:
    """Three checkpoints, of which some were removed."""
    found = [{"path": folder / f"checkpoint-{i}", "step": i, "epoch": i / 4, "own": own} for i in (1, 2, 3)]
    return [{**c, "removed": {}} if c["step"] in removed else c for c in found]


@pytest.fixture
def answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., tuple[list[str], list[Chunk | Complete]]]:
    """Runs the node with policies that answer at once, two prompts a chunk; gives which were loaded, and what
    was yielded.
    """

    def answers(model: str, policy: str, prompts: list[Any], params: EvaluationParams) -> pd.DataFrame:
        rows = [(policy, "chair", row.prompt_id, "?", model, 1, "stop") for row in prompts]
        return table("answers").frame(rows)

    def run(
        finished: set[str], start: str = "start", **checkpoints: Any
    ) -> tuple[list[str], list[Chunk | Complete]]:
        loaded: list[str] = []
        monkeypatch.setattr(
            loop, "load_policy", lambda path, *_: loaded.append(Path(path).name) or Path(path).name
        )
        monkeypatch.setattr(loop, "answer_prompts", answers)
        yielded = nodes.answer_with_checkpoints(
            listed(tmp_path, **checkpoints),
            tmp_path / start,
            tmp_path / "base",
            PROMPTS,
            EvaluationParams(chunk_size=2),
            ModelsParams(),
            ComputeParams(),
        )
        with running(Outputs(finished=frozenset(finished))):
            return loaded, list(yielded)

    return run


def test_a_chunk_is_some_prompts_of_a_checkpoint_which_is_loaded_once(answer: Callable[..., Any]) -> None:
    loaded, yielded = answer(set())
    assert loaded == ["base", "start", "checkpoint-1", "checkpoint-2", "checkpoint-3"]
    rows = [chunk.frame[["policy", "item_id", "answer"]].values.tolist() for chunk in yielded[:-1]]
    assert rows[:2] == [[["base", "p0", "base"], ["base", "p1", "base"]], [["base", "p2", "base"]]]
    assert [part[0][0] for part in rows] == [name for name in loaded for _ in range(2)]
    assert yielded[-1] == Complete([f"{i:05d}" for i in range(10)])
    assert answer(set(), start="base")[0] == [
        "base",
        "checkpoint-1",
        "checkpoint-2",
        "checkpoint-3",
    ]  # the first iteration


def test_a_kill_loses_one_chunk_of_a_checkpoints_answers(answer: Callable[..., Any]) -> None:
    loaded, yielded = answer({f"0000{i}" for i in range(7)})
    assert loaded == ["checkpoint-2", "checkpoint-3"]
    assert [chunk.id for chunk in yielded[:-1]] == ["00007", "00008", "00009"]
    assert len(yielded[-1].chunk_ids) == 10


def test_a_removed_checkpoint_keeps_what_it_answered(answer: Callable[..., Any]) -> None:
    """It answered before it was removed: answers that are not there any more are lost."""
    there = {f"0000{i}" for i in (4, 5, 6, 7)}
    loaded, yielded = answer(there, removed=(1, 2))
    assert loaded == ["base", "start", "checkpoint-3"]
    assert [chunk.id for chunk in yielded[:-1]] == ["00000", "00001", "00002", "00003", "00008", "00009"]
    with pytest.raises(UserError, match="checkpoint-2 was measured and then removed .* are lost"):
        answer(there - {"00007"}, removed=(1, 2))


def test_a_checkpoint_that_another_run_has_removed_takes_no_part(
    answer: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    loaded, yielded = answer(set(), removed=(2,), own=False)
    assert loaded == ["base", "start", "checkpoint-1", "checkpoint-3"]
    assert [len(chunk.frame) for chunk in yielded[:-1]] == [2, 1] * 3 + [0, 0] + [2, 1]
    assert len([line for line in caplog.messages if "checkpoint-2 was removed by an earlier" in line]) == 1


@pytest.mark.parametrize("start", ["start", "base"])
def test_each_policy_is_scored_by_its_own_answers(
    start: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def scores(own: pd.DataFrame, *_: Any) -> tuple[None, pd.DataFrame]:
        [policy] = own["policy"].unique()
        return None, pd.DataFrame({"policy": [policy], "metric": ["of"], "value": [policy]})

    monkeypatch.setattr(nodes, "score_answers", scores)
    answered = {"base", start, "checkpoint-1", "checkpoint-3"}
    answers = table("answers").frame(
        [(name, "chair", "p0", "?", "!", 1, "stop") for name in sorted(answered)]
    )
    *chunks, marker = nodes.score_checkpoints(
        listed(tmp_path, (2,)), answers, tmp_path / start, tmp_path / "base", PROMPTS, None
    )
    assert [chunk.frame.get("checkpoint", pd.Series()).tolist() for chunk in chunks] == [
        ["base"],
        ["start"],
        ["checkpoint-1"],
        [],
        ["checkpoint-3"],
    ]
    assert [chunk.frame["value"].tolist() for chunk in chunks if len(chunk.frame)] == [
        ["base"],
        [start],
        ["checkpoint-1"],
        ["checkpoint-3"],
    ]
    assert marker == Complete([f"0000{i}" for i in range(5)])


def test_a_lost_log_or_marker_is_made_again_and_nothing_else_is_touched(
    finished: tuple[Project, str], tmp_path: Path
) -> None:
    """All checkpoints have been trained: their state tells the log. Cards that say what was measured, the
    record of what was removed and the weights stay as they are.
    """
    project, _ = finished
    copy = Project(shutil.copytree(project.path, tmp_path / "copy", symlinks=True))
    before, folder = copy.files("first"), models(copy, "checkpoints", "first")
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != MARKER}
    report(copy, "training_log.parquet", "first").unlink()
    (folder / MARKER).unlink()
    output = copy.kedro("--params", "run_id=first")
    assert "train policy" in output and "answer with checkpoints" not in output
    assert copy.files("first") == before
    changed = [path for path, time in times.items() if path.is_file() and path.stat().st_mtime_ns != time]
    assert [path for path in changed if path.name != ".lock"] == []


def test_what_was_removed_on_purpose_is_not_measured_as_nothing(
    finished: tuple[Project, str], tmp_path: Path
) -> None:
    """The metrics of removed checkpoints are made of their answers. Where these are lost too, the run says what is to be made again, and makes it when
    the person has agreed by deleting it.
    """
    project, _ = finished
    copy = Project(shutil.copytree(project.path, tmp_path / "copy", symlinks=True))
    before, folder = copy.files("first"), models(copy, "checkpoints", "first")
    [gone, *_] = sorted(json.loads((folder / "_removed.json").read_text()))
    shutil.rmtree(report(copy, "checkpoint_metrics", "first"))
    copy.kedro("--params", "run_id=first")
    assert copy.files("first") == before  # scored again
    shutil.rmtree(copy.path / "data/07_model_output/iteration_1/checkpoint_answers")
    output = copy.kedro("--params", "run_id=first", expect=1)
    said = " ".join(output.split())
    assert f"{gone} was measured and then removed" in said
    assert (
        "delete data/06_models/iteration_1/checkpoints/first and start the run again with run_id=first"
        in said
    )
    shutil.rmtree(folder.parent)
    copy.kedro("--params", "run_id=first")
    assert copy.files("first") == before
