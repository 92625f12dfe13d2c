"""What the viewer writes: data that stays data, thumbnails made once, and only what is there."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from begun_runs import begin
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.viewer.data import rounded, script
from rlaifv_kedro.viewer.write import write_viewer
from viewed_runs import CHINESE, HOSTILE, PROMPTS, REFUSED, picture, viewed_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = tmp_path_factory.mktemp("project")
    write_viewer(project, viewed_run(project), project / "out")
    return project / "out"


def read(folder: Path, name: str) -> Any:
    """A data file's value, whose escapes are JSON's own."""
    text = (folder / "data" / f"{name}.js").read_text()
    found = re.fullmatch(rf'rlaifv\.add\("{name}",(.*)\)\n', text)
    return json.loads(found[1])


def pixels_of(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


@pytest.mark.parametrize("text", ["</script>", "<!--", "\u2028\u2029", '"\\', "\ud800", CHINESE])
def test_any_text_is_only_a_text(text: str) -> None:
    content = script("name", {text: [text]}).decode()
    assert not set("<\u2028\u2029") & set(content)
    assert json.loads(content.removeprefix('rlaifv.add("name",').removesuffix(")\n")) == {text: [text]}


def test_numbers_that_json_has_not_are_none() -> None:
    assert rounded([0.12345678, float("nan"), None, float("inf"), 2]) == [0.1235, None, None, None, 2]
    with pytest.raises(ValueError):
        script("name", float("nan"))


def test_a_prompt_with_all_that_belongs_to_it(folder: Path) -> None:
    [first, second, *_] = read(folder, "prompts/1/0")
    assert first["candidates"][2] | {"claims": 0} == {
        "n": 2, "text": HOSTILE, "tokens": len(HOSTILE.split()), "cut": False, "claims": 0, "score": -1.0,
    }  # fmt: skip
    assert first["candidates"][2]["claims"] == [["p0 shows a cat", "Is there a cat in p0?", 0.2, 0.77, False]]
    assert first["pairs"] == [[0, 2, 0.0, -1.0]]
    assert second["candidates"][2]["text"] == CHINESE


def test_the_index_has_what_filters_ask(folder: Path) -> None:
    index = read(folder, "prompts/1/index")
    assert len(index["id"]) == PROMPTS == 70
    assert (index["chunk"], len(read(folder, "prompts/1/1"))) == (64, 6)
    row = index["id"].index(REFUSED)
    assert [index[name][row] for name in ("accepted", "rejected", "unread", "gap")] == [0, 0, 3, None]
    assert [index[name][0] for name in ("accepted", "rejected", "unread", "gap", "pairs")] == [
        2,
        1,
        0,
        1.0,
        1,
    ]
    assert index["least_sure"][0] == pytest.approx(0.13)
    assert index["question_type"] == {"codes": [0, 1] * 35, "values": ["detail", "list"]}
    assert index["reasons"] == {
        "the image can't be read": [3], "the labeler's reply is neither yes nor no": [4]
    }  # fmt: skip


def test_every_reject_is_there_with_its_reason(folder: Path) -> None:
    groups = read(folder, "run")["rejects"]
    assert sorted((group["stage"], group["count"]) for group in groups) == [
        ("data_generation", 1),
        ("verdicts", 3),
    ]
    rows = read(folder, "rejects/0")
    assert sorted(row[0] for row in rows) == ["p3", REFUSED, REFUSED, REFUSED]
    assert [row[1] for row in rows if row[0] == REFUSED] == [0, 1, 2]
    assert any("Sorry, 2" in why for _, _, why in rows)
    why = next(one["why"] for one in read(folder, "prompts/1/0")[4]["candidates"] if one["n"] == 1)
    assert "Sorry, 1" in why


def test_the_first_page_says_what_the_run_was(folder: Path) -> None:
    shown = read(folder, "run")
    assert (shown["run"]["id"], shown["run"]["status"], shown["run"]["seed"]) == ("seen", "finished", 3)
    assert shown["parameters"]["recipe"] is None  # there is no conf here
    assert {"training.beta": [0.1, 0.5], "seed": [0, 3]}.items() <= {
        name: values for name, *values in shown["parameters"]["defaults"]
    }.items()
    assert shown["counts"]["1"]["unread"] == 3
    assert shown["counts"]["1"]["accepted"] + shown["counts"]["1"]["rejected"] == 3 * (PROMPTS - 2)
    assert shown["selection"]["1"]["selected"] == "checkpoint-2"
    assert [point["x"] for point in shown["selection"]["1"]["checkpoints"]] == [0.5, 1.0]
    assert shown["training"]["1"]["step"] == [1, 2, 3, 4]
    [chair] = shown["rates"]
    assert chair["metrics"][0]["values"][1] == {
        "x": 1,
        "y": 0.333333,
        "error": 0.2,
        "n": 3,
        "cell": "33.3 ± 20.0",
    }


def test_answers_stand_side_by_side_with_the_judges_replies(folder: Path) -> None:
    test = read(folder, "answers/test/index")
    assert (test["policies"], test["verdict"]) == (["base", "iteration_1"], "chair_s")
    assert ["object recall %", "66.7 ± 20.0", "33.3 ± 20.0"] in test["metrics"]
    assert read(folder, "run")["answers"][1]["headline"] == [["score, 0 to 6", "0.50 ± 0.50"]]
    assert test["values"] == [[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]]
    assert read(folder, "answers/test/0")[1]["reference"] == {"in the picture": "dog, cat"}
    item = read(folder, "answers/mmhal/0")[2]
    assert item["policies"]["base"]["judgements"] == [
        ["rating", "Rating: 2", None, "the reply holds no verdict"]
    ]
    assert item["reference"] == {"standard": "a cat"}


def test_what_the_judge_took_is_counted(folder: Path, tmp_path: Path) -> None:
    [_, mmhal] = read(folder, "run")["answers"]
    known = {"replies": 3, "prompt_tokens": 3000, "reply_tokens": 150, "cost": None, "currency": ""}
    assert mmhal["judged"] == known
    run = viewed_run(tmp_path)
    judge = {
        "backend": "openai",
        "model": "judge",
        "url": "http://localhost:1/v1",
        "price_input": 10,
        "price_output": 20,
    }
    run.parameters = {"models": {"judge": judge}}
    write_viewer(tmp_path, run, tmp_path / "out")
    cost = read(tmp_path / "out", "run")["answers"][1]["judged"]["cost"]
    assert cost == pytest.approx((3000 * 10 + 150 * 20) / 1e6)


def test_thumbnails_are_made_once_and_small(tmp_path: Path) -> None:
    run = viewed_run(tmp_path)
    assert write_viewer(tmp_path, run, tmp_path / "out").unreadable == 1
    files = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "out/thumbnails").rglob("*") if path.is_file()
    }
    assert {pixels_of(path.read_bytes()).size for path in files} == {(24, 24), (320, 320)}
    assert write_viewer(tmp_path, run, tmp_path / "out").unreadable == 1
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_small_pictures_keep_every_pixel(folder: Path) -> None:
    shown = read(folder, "prompts/1/0")[0]["picture"]
    assert (
        pixels_of((folder / "thumbnails" / shown).read_bytes()).tobytes()
        == pixels_of(picture(0)["bytes"]).tobytes()
    )


def test_a_run_that_has_made_nothing_yet_has_a_first_page(tmp_path: Path) -> None:
    written = write_viewer(tmp_path, begin(tmp_path, parameters={"seed": 0}), tmp_path / "out")
    assert (written.prompts, written.answers) == (0, 0)
    shown = read(tmp_path / "out", "run")
    assert (shown["rates"], shown["counts"], shown["rejects"]) == ([], {}, [])


def test_what_is_not_complete_is_not_shown(tmp_path: Path) -> None:
    run = viewed_run(tmp_path)
    run.written["iteration_1.verdicts"].sha256 = None  # as while the node runs
    write_viewer(tmp_path, run, tmp_path / "out")
    assert "accepted" not in read(tmp_path / "out", "prompts/1/index")
    assert read(tmp_path / "out", "prompts/1/0")[0]["candidates"][0]["claims"][0][2:] == [None, None, None]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    run = viewed_run(tmp_path)
    for name in ("thesis.txt", "index.html"):  # a page of another site
        path = tmp_path / name.partition(".")[0] / name
        path.parent.mkdir()
        path.write_text("years of work")
        with pytest.raises(UserError, match="--out"):
            write_viewer(tmp_path, run, path.parent)
        assert list(path.parent.iterdir()) == [path] and path.read_text() == "years of work"


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    run = viewed_run(tmp_path)
    path = tmp_path / run.written["iteration_1.scores"].path
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(UserError, match=re.escape(path.name)):
        write_viewer(tmp_path, run, tmp_path / "out")
    path.write_bytes(whole)
    assert write_viewer(tmp_path, run, tmp_path / "out").prompts == PROMPTS  # what is left is no obstacle
