"""``rlaifv graph --build`` on a finished run: a folder of static files that a browser can show."""

import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlaifv_kedro.viewer.serving import server_of
from whole_project import Project

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
BOX = "g.pipeline-node--modularPipeline"
STAGES = ["data_generation", "feedback", "training", "evaluation"]


@pytest.fixture(scope="module")
def site(finished: tuple[Project, str]) -> Path:
    """The folder."""
    project, _ = finished
    said = project.rlaifv("graph", "--env", "test", "--build", "graph")
    assert said.splitlines() == ["graph is written. To look at it: python -m http.server --directory graph"]
    return project.path / "graph"


def answer(site: Path, *parts: str) -> dict[str, Any]:
    """What Kedro-Viz's page reads."""
    return json.loads(site.joinpath("api", *parts).read_bytes())


def entry(site: Path, name: str) -> dict[str, Any]:
    """What it shows of one catalog entry."""
    [node] = [node for node in answer(site, "main")["nodes"] if node["name"] == name]
    return {**node, **answer(site, "nodes", node["id"])}


def test_the_page_opens_with_the_boxes_and_asks_no_other_server(site: Path) -> None:
    page = (site / "index.html").read_text()
    assert "?pid=__default__&types=nodes" in page
    assert "http" not in page


def test_every_iteration_is_a_box_of_four_and_nothing_is_drawn_twice(site: Path) -> None:
    for pipeline in ("main", "pipelines/iteration"):
        shown = answer(site, *pipeline.split("/"))
        boxes = shown["modular_pipelines"]
        stages = {f"iteration_1.{stage}" for stage in STAGES}
        assert {child["id"] for child in boxes["iteration_1"]["children"]} >= stages
        ids = [node["id"] for node in shown["nodes"]]
        assert len(ids) == len(set(ids))
        children = [
            child["id"] for box in boxes.values() for child in box["children"] if child["type"] == "task"
        ]
        assert len(children) == len(set(children))


def test_layers_follow_each_other_as_the_stages_do(site: Path) -> None:
    shown = answer(site, "main")
    layers = shown["layers"]
    looped = [f"iteration_{k} {stage}" for k in (1, 2) for stage in STAGES]
    assert [layer for layer in layers if layer in looped] == looped
    assert layers.index("inputs") < layers.index(looped[0]) and layers.index(looped[-1]) < layers.index(
        "report"
    )
    bare = {node["name"] for node in shown["nodes"] if node["type"] == "data" and not node["layer"]}
    assert bare == {"base.number", "iteration_1.number", "iteration_2.number"}


def test_pictures_the_figure_and_metrics_are_shown_with_their_sizes(site: Path) -> None:
    pairs = entry(site, "iteration_1.preference_pairs")
    assert pairs["preview_type"] == "PlotlyPreview"
    assert all(image["source"] for image in pairs["preview"]["layout"]["images"])
    assert entry(site, "loop_figure")["preview_type"] == "ImagePreview"
    metrics = entry(site, "loop_metrics")
    assert "mention_hallucination" in str(metrics["preview"]["data"])
    data = site.parent / "data"
    for name, path in {
        "iteration_1.preference_pairs": "05_model_input/iteration_1/preference_pairs.parquet",
        "iteration_1.checkpoints": "06_models/iteration_1/checkpoints",
    }.items():
        whole = data / path / "first" / Path(path).name
        files = [whole] if whole.is_file() else [f for f in whole.rglob("*") if f.is_file()]
        assert entry(site, name)["stats"]["file_size"] == sum(file.stat().st_size for file in files)
    assert pairs["stats"]["rows"] > 0 and pairs["stats"]["columns"] == 15


def test_what_is_no_graph_is_left_alone(site: Path, finished: tuple[Project, str]) -> None:
    project, _ = finished
    for name in ("conf", "pyproject.toml"):
        said = project.rlaifv("graph", "--build", name, expect=1)
        assert f"{name} is something else" in said
    assert (project.path / "conf/base").is_dir()


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where a web server of this process has the folder."""
    with server_of(site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install it, or name it by $CHROMIUM")
@pytest.mark.parametrize("width", [1400, 390])
def test_a_browser_opens_with_boxes_that_can_be_read(address: str, width: int) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is of the extra dev")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.goto(address)
        playwright.expect(page.locator(BOX)).to_have_count(5, timeout=60_000)
        page.wait_for_timeout(2_000)  # it moves to its place
        assert downwards(page) == ["miniature", "base", "iteration_1", "iteration_2", "reporting"]
        assert page.locator(f"{BOX} text").first.bounding_box()["height"] > 10  # pixels
        assert page.locator(".pipeline-node--data, .feature-hints").count() == 0
        if width > 1000:  # a phone has no list
            page.locator("li[role=treeitem][id$='-iteration_2'] .MuiTreeItem-content").click()
            playwright.expect(page.locator(BOX)).to_have_count(8, timeout=60_000)
            page.wait_for_timeout(2_000)
            stages = [name for name in downwards(page) if name.startswith("iteration_2.")]
            assert [stage.partition(".")[2] for stage in stages] == STAGES
        browser.close()


def downwards(page: Any) -> list[str]:
    """The boxes' names, from the top."""
    boxes = page.locator(BOX).all()
    return [box.text_content() for box in sorted(boxes, key=lambda box: box.bounding_box()["y"])]
