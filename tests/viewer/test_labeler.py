"""The labeler at a glance: against the miniature's truth, against people's labels, and lengths."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.miniature.language import presence_question, scene_question
from rlaifv_kedro.miniature.scenes import content_of_scene
from rlaifv_kedro.runs.manifest import Manifest
from rlaifv_kedro.viewer.artifacts import Artifacts
from rlaifv_kedro.viewer.labeler import labeler
from rlaifv_kedro.viewer.write import write_viewer
from viewed_runs import PROMPTS, RunMaker, picture, viewed_run

SEED, SHARE = 7, 0.4


def miniature(project: Path, origin: str = "miniature") -> Manifest:
    """A run on two scenes whose labeler says yes to the right kind of scene and to an object that isn't there."""
    parameters = {"seed": SEED, "miniature": {"double_share": SHARE}}
    maker = RunMaker(project, "drawn", parameters=parameters)
    ids = ["pool-000000", "pool-000001"]
    prompts = [(i, "Describe.", picture(n), n, origin, None) for n, i in enumerate(ids)]
    maker.table("prompt_pool", "prompts", prompts)
    maker.table("iteration_1.prompts", "prompts", prompts)
    claims, verdicts = [], []
    for n, prompt in enumerate(ids):
        kind, categories = content_of_scene(SEED, "pool", n, double_share=SHARE)
        absent = next(name for name in ("tv", "boat", "oven") if name not in categories)
        for candidate in range(2):  # the same questions twice: they are asked, and count, once
            for number, question in enumerate(
                (scene_question(kind), presence_question(absent), "is it late?")
            ):
                claims.append((prompt, candidate, number, question, question))
                verdicts.append((prompt, candidate, number, 0.9, 0.05, True, "yes"))
    maker.table("iteration_1.claims", "claims", claims)
    maker.table("iteration_1.verdicts", "verdicts", verdicts)
    return maker.finish()


def test_the_miniature_knows_what_is_true(tmp_path: Path) -> None:
    found = labeler(Artifacts(tmp_path, miniature(tmp_path)), None)
    rows = {row["name"]: row for row in found["by_kind"]}
    assert rows["all"]["counts"] == [[2, 0], [2, 0]]
    assert (rows["all"]["n"], rows["all"]["agreement"]) == (4, 0.5)
    assert rows["kind of scene"]["agreement"] == 1
    assert rows["object"]["agreement"] == 0
    [bin_] = found["reliability"]
    assert (bin_["n"], bin_["share"]) == (4, 0.5)
    assert bin_["mean"] == pytest.approx(0.9 / 0.95)  # without the mass on neither
    assert [row[1] for row in found["mistakes"]] == ["pool-000000", "pool-000001"]
    assert [row[2] for row in found["mistakes"]] == ["object"] * 2
    [[prompt, questions], _] = found["wrong"][1].items()
    assert (prompt, len(questions), questions[0][0]) == ("pool-000000", 1, None)


def test_each_iteration_counts(tmp_path: Path) -> None:
    run = miniature(tmp_path)
    for name in ("prompts", "claims", "verdicts"):
        run.written[f"iteration_2.{name}"] = run.written[f"iteration_1.{name}"]
    found = labeler(Artifacts(tmp_path, run), None)
    assert [(row["name"], row["n"]) for row in found["by_iteration"]] == [
        ("iteration 1", 4),
        ("iteration 2", 4),
    ]
    assert found["by_kind"][0]["n"] == 8
    assert [row[0] for row in found["mistakes"]] == [1, 1, 2, 2]


def test_other_prompts_have_no_truth(tmp_path: Path) -> None:
    assert labeler(Artifacts(tmp_path, miniature(tmp_path, "coco")), None) is None


def test_a_pool_whose_maker_is_unknown_has_no_truth(tmp_path: Path) -> None:
    run = miniature(tmp_path)
    run.written["prompt_pool"].version = "gone"
    assert labeler(Artifacts(tmp_path, run), None) is None


def people(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "people.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_people_say_what_is_true(tmp_path: Path) -> None:
    run = viewed_run(tmp_path)
    labels = {"p0/0/0": "Yes", "p0/1/0": "no", "p0/2/0": "no", "p4/0/0": "yes", "elsewhere/0/0": "yes"}
    path = people(tmp_path, [{"item_id": i, "verdict": v} for i, v in labels.items()])
    found = labeler(Artifacts(tmp_path, run), path)
    [row] = found["by_kind"]
    assert row["counts"] == [[1, 0], [1, 1]]  # p4's replies are no verdicts
    assert found["by_iteration"][0]["name"] == "iteration 1"
    assert found["wrong"] == {1: {"p0": [[1, "Is there a cat in p0?"]]}}


def test_replies_without_yes_and_no_have_no_probability(tmp_path: Path) -> None:
    maker = RunMaker(tmp_path, "silent")
    maker.table("iteration_1.claims", "claims", [("p", 0, 0, "a cat", "A cat?")])
    maker.table("iteration_1.verdicts", "verdicts", [("p", 0, 0, 0.0, 0.0, False, "Hm")])
    path = people(tmp_path, [{"item_id": "p/0/0", "verdict": "yes"}])
    with pytest.raises(UserError, match="PROMPT/CANDIDATE/CLAIM"):
        labeler(Artifacts(tmp_path, maker.finish()), path)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"item_id": "p0/0/0", "verdict": "maybe"}], "'maybe'. Say yes or no"),
        ([{"item_id": "p0", "verdict": "yes"}], "PROMPT/CANDIDATE/CLAIM, such as p0/0/0"),
    ],
)
def test_labels_that_fit_nothing(tmp_path: Path, rows: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(UserError, match=said):
        labeler(Artifacts(tmp_path, viewed_run(tmp_path)), people(tmp_path, rows))


def test_lengths_of_both_sides_and_scores_by_length(tmp_path: Path) -> None:
    own = labeler(Artifacts(tmp_path, viewed_run(tmp_path)), None)["lengths"][1]
    pairs = own["pairs"]
    assert (pairs["longer"], pairs["equal"], pairs["shorter"]) == (1, 0, 2)  # Chinese text has no blanks
    assert sum(row[3] for row in own["by_length"]) == 3 * 68
    assert "reliability" not in own


def test_pairs_of_other_candidates_are_not_counted(tmp_path: Path) -> None:
    """Pairs may have been read from elsewhere: without ids of prompts, or with those of another run."""
    run = viewed_run(tmp_path)
    artifacts = Artifacts(tmp_path, run)
    path = artifacts.path("iteration_1.preference_pairs")
    pairs = pq.read_table(path)
    ids = pairs.column_names.index("prompt_id")
    pq.write_table(pairs.set_column(ids, "prompt_id", [["p0", "p1", "elsewhere"]]), path)
    own = labeler(artifacts, None)["lengths"][1]["pairs"]
    assert own["longer"] + own["equal"] + own["shorter"] == 2
    pq.write_table(pairs.drop_columns(["prompt_id"]), path)
    assert labeler(artifacts, None)["lengths"][1]["pairs"] is None
    assert write_viewer(tmp_path, run, tmp_path / "out").prompts == PROMPTS
