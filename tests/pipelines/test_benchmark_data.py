"""The benchmarks' data in whole runs: fetched from a server on this machine before the first node, once,
and tables made of it.
"""

import base64
import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from file_server import FileServer
from pair_files import picture
from whole_project import Project, make_project

RAW = Path("data/01_raw/benchmarks")
TABLES = Path("data/02_intermediate/benchmarks")
IMAGES = [(i, f"COCO_val2014_{i:012d}.jpg") for i in (11, 12, 13)]
WORDS = b"dog, hound\nchair, seat\n"


def archive(**files: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as opened:
        for name, content in files.items():
            opened.writestr(
                name.replace("__", "/").replace("_json", ".json").replace("_jpg", ".jpg"), content
            )
    return made.getvalue()


def published() -> dict[str, bytes]:
    """Small files in the published formats, by their paths on the server."""
    listed = [{"id": i, "file_name": name} for i, name in IMAGES]
    instances = {
        "images": listed,
        "annotations": [{"segmentation": [[1.5, 2.5]], "id": 1, "image_id": 11, "category_id": 18}],
        "categories": [{"id": 18, "name": "dog"}],
    }
    captions = {"images": listed, "annotations": [{"id": 5, "image_id": 12, "caption": "A hound on a seat."}]}
    coco = archive(
        annotations__instances_val2014_json=json.dumps(instances).encode(),
        annotations__captions_val2014_json=json.dumps(captions).encode(),
    )
    question = {"image_id": 11, "question": "Describe it.", "image": base64.b64encode(picture(11)).decode()}
    pope = {"question_id": 0, "image": IMAGES[2][1], "text": "Is there a dog?", "label": "no"}
    return {
        "/coco.zip": coco,
        "/words.txt": WORDS,
        "/halbench.jsonl": json.dumps(question).encode() + b"\n",
        **{
            f"/pope_{split}.json": json.dumps([pope]).encode()
            for split in ("random", "popular", "adversarial")
        },
        **{f"/val2014/{name}": picture(i) for i, name in IMAGES},
    }


def catalog(server: FileServer) -> dict[str, Any]:
    """The project's entries, with the server's addresses."""

    def remote(name: str, file: str, **other: Any) -> dict[str, Any]:
        entry = {
            "type": "rlaifv_kedro.datasets.RemoteFileDataset",
            "filepath": f"{RAW}/{file}",
            "url": server.url(f"/{name}"),
            "form": "json",
        }
        return {**entry, **other}

    coco = {
        "type": "rlaifv_kedro.datasets.CocoAnnotationsDataset",
        "sha256": hashlib.sha256(server.files["/coco.zip"]).hexdigest(),
        "form": "file",
    }
    return {
        "coco_annotations": remote("coco.zip", "coco.zip", **coco),
        "coco_images": {
            "type": "rlaifv_kedro.datasets.ImagesDataset",
            "filepath": f"{RAW}/val2014",
            "base_url": server.url("/val2014"),
        },
        "chair_vocabulary": remote(
            "words.txt", "words.txt", form="file", sha256=hashlib.sha256(WORDS).hexdigest()
        ),
        "object_halbench_questions": remote("halbench.jsonl", "halbench.jsonl", rows=1),
        **{
            f"pope_{split}": remote(f"pope_{split}.json", f"pope_{split}.json", rows=1)
            for split in ("random", "popular", "adversarial")
        },
    }


@dataclass
class Place:
    project: Project
    server: FileServer

    def run(self, tags: str, *params: str, expect: int = 0) -> str:
        return self.project.kedro(
            "--pipelines", "benchmark_data", "--tags", tags, "--params", ",".join(params), expect=expect
        )

    def table(self, name: str, run_id: str) -> pd.DataFrame:
        return pd.read_parquet(self.project.path / TABLES / f"{name}.parquet" / run_id / f"{name}.parquet")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with FileServer(published()) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "127.0.0.1")
        project = make_project(tmp_path_factory.mktemp("benchmarks"))
        (project.path / "conf/test/catalog.yml").write_text(yaml.safe_dump(catalog(server)))
        (project.path / "conf/test/parameters_fetching.yml").write_text(
            "fetching: {private_hosts: [127.0.0.1]}\n"
        )
        yield Place(project, server)


def test_check_says_what_the_run_will_fetch_and_fetches_nothing(place: Place) -> None:
    output = place.project.rlaifv(
        "check", "--env", "test", "--pipelines", "benchmark_data", "--json", expect=1
    )
    found = {finding["what"]: finding for finding in json.loads(output[output.index("{") :])["findings"]}
    assert found["coco_annotations: not there; the run will fetch it first, which needs a network"]["ok"]
    assert (
        found["coco_images: pictures that lack will be fetched when they are asked for"]["where"]
        == f"{RAW}/val2014"
    )
    (pictures,) = (finding for what, finding in found.items() if what.startswith("amber_images"))
    assert not pictures["ok"] and "drive.google.com" in pictures["remedy"]
    assert place.server.requests == []


def test_nothing_is_fetched_for_a_run_that_would_not_get_to_its_end(place: Place) -> None:
    """Whoever starts a run whose policy isn't there need not wait for gigabytes to be told so."""
    params = "evaluation.policy=/nowhere/policy,evaluation.benchmarks=[chair]"
    output = place.project.kedro("--pipelines", "evaluation", "--params", params, expect=1)
    assert "the folder is not there (/nowhere/policy)" in " ".join(output.split())
    assert place.server.requests == []


def test_a_run_fetches_and_makes_tables(place: Place) -> None:
    place.run("chair,object_halbench,pope", "run_id=first", "benchmark_data.chair_images=2")
    truth = place.table("coco_truth", "first")
    assert {row.image_id: list(row.categories) for row in truth.itertuples()} == {
        11: ["dog"],
        12: ["dog", "chair"],
        13: [],
    }
    assert place.table("object_halbench_items", "first")["image"][0]["bytes"] == picture(11)
    pope = place.table("pope_items", "first")
    assert pope["item_id"].tolist() == ["random/0", "popular/0", "adversarial/0"]
    assert (place.project.path / pope["image"][0]["path"]).read_bytes() == picture(13)
    assert len(place.table("chair_items", "first")) == 2
    read = json.loads((place.project.path / "data/runs/first/manifest.json").read_text())["read"]
    assert read["coco_annotations"]["sha256"] == hashlib.sha256(place.server.files["/coco.zip"]).hexdigest()


def test_a_second_run_needs_no_network_and_makes_the_same(place: Place) -> None:
    place.server.requests.clear()
    place.run("object_halbench", "run_id=second")
    assert place.server.requests == []
    assert (
        place.project.files("second")[f"{TABLES}/coco_truth.parquet/coco_truth.parquet"]
        == place.project.files("first")[f"{TABLES}/coco_truth.parquet/coco_truth.parquet"]
    )


def test_the_published_vocabulary(place: Place) -> None:
    place.run("coco_truth", "run_id=third", "benchmark_data.vocabulary=published")
    assert [path for path, _ in place.server.requests] == ["/words.txt"]
    written = pd.read_parquet(place.project.path / TABLES / "coco_truth.parquet/third/coco_truth.parquet")
    assert list(written["categories"][1]) == ["dog", "chair"]


def test_what_can_not_be_had_stops_the_run_before_its_first_node(place: Place) -> None:
    kept = place.server.files.pop("/pope_random.json")
    (place.project.path / RAW / "pope_random.json").unlink()
    (place.project.path / RAW / "coco.zip").write_bytes(b"cut")
    try:
        output = " ".join(place.run("pope,coco_truth", "run_id=fourth", expect=1).split())
    finally:
        place.server.files["/pope_random.json"] = kept
    assert (
        "pope_random.json is not there and can't be fetched" in output
        and "404, there is no such file" in output
    )
    assert "coco.zip is not the published file" in output
    assert not list((place.project.path / TABLES).glob("*/fourth"))
