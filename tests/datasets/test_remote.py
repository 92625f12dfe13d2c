"""Published files and pictures as catalog entries: fetched on load, checked, and messages that say how to
get them by hand.
"""

import hashlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from kedro.io import DataCatalog

from file_server import FileServer
from rlaifv_kedro.datasets import ImagesDataset, RemoteFileDataset
from rlaifv_kedro.datasets import download as module
from rlaifv_kedro.errors import UserError

ROOT = Path(__file__).parents[2]
ROWS = [{"id": 1, "text": "ein Hügel"}, {"id": 2, "text": "b"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.001)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer(
        {"/lines.json": LINES, "/list.json": json.dumps(ROWS).encode(), "/words.txt": b"a\nb\n"}
    ) as server:
        yield server


def test_nothing_is_fetched_before_load(server: FileServer, tmp_path: Path) -> None:
    config = {
        "type": "rlaifv_kedro.datasets.RemoteFileDataset",
        "filepath": str(tmp_path / "a.txt"),
        "url": server.url("/words.txt"),
        "form": "text",
    }
    catalog = DataCatalog.from_config({"words": config})
    found = catalog.get("words")
    assert (found.exists(), found.waits(), server.requests) == (False, True, [])
    assert catalog.load("words") == "a\nb\n"
    assert (found.exists(), found.waits(), len(server.requests)) == (True, False, 1)
    assert catalog.load("words") == "a\nb\n"
    assert len(server.requests) == 1


@pytest.mark.parametrize("name", ["lines", "list"])
def test_json_and_json_lines(server: FileServer, tmp_path: Path, name: str) -> None:
    assert (
        RemoteFileDataset(str(tmp_path / "a.json"), server.url(f"/{name}.json"), form="json", rows=2).load()
        == ROWS
    )


def test_one_line_is_a_document(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"dog": ["puppy"]}\n')
    assert RemoteFileDataset(str(tmp_path / "a.json"), form="json").load() == {"dog": ["puppy"]}
    (tmp_path / "a.json").rename(tmp_path / "a.jsonl")
    assert RemoteFileDataset(str(tmp_path / "a.jsonl"), form="json").load() == [{"dog": ["puppy"]}]


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    lines = [{"a": "one\u2028two\x85"}, {"a": "three"}]
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8")
    assert RemoteFileDataset(str(tmp_path / "a.jsonl"), form="json").load() == lines


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a": 2\n', "line 2: not JSON"),
        (b'[{"a": 1},\n', "line 2: not JSON"),
        (b"<html>", "line 1: not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"", "empty"),
        (b'{"a": 1}\n{"a": 2}\n', "holds 2 entries, and should hold 3"),
        (b'{"a": 1}', "holds no list, and should hold 3"),
    ],
)
def test_damaged_documents(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        RemoteFileDataset(str(tmp_path / "a.json"), "http://127.0.0.1:9/a.json", form="json", rows=3).load()


def test_offline_the_message_says_what_to_put_where(tmp_path: Path) -> None:
    with FileServer() as server:
        gone = server.url("/words.txt")
    metadata = {"manual": "It is of the folder data of example.org."}
    with pytest.raises(UserError) as error:
        RemoteFileDataset(str(tmp_path / "words.txt"), gone, sha256="ab" * 32, metadata=metadata).load()
    for part in (gone, str(tmp_path / "words.txt"), "ab" * 32, "It is of the folder data of example.org."):
        assert part in error.value.message


def test_a_file_put_there_by_hand_is_compared(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_bytes(b"a\n")
    right = hashlib.sha256(b"a\n").hexdigest()
    assert RemoteFileDataset(str(file), sha256=right).load() == file
    with pytest.raises(
        UserError, match=f"is not the published file: its sha256 is {right}, and should be 00"
    ):
        RemoteFileDataset(str(file), sha256="00" * 32).load()


def test_what_can_be_had_by_hand_alone(tmp_path: Path) -> None:
    dataset = RemoteFileDataset(str(tmp_path / "words.txt"), metadata={"manual": "Ask the authors."})
    assert not dataset.waits()
    with pytest.raises(
        UserError, match="can't be fetched by a program. By hand: Ask the authors. Put it at "
    ):
        dataset.load()


@pytest.mark.parametrize("wrong", [{"form": "xml"}, {"url": "ftp://example.org/a"}])
def test_impossible_entries(tmp_path: Path, wrong: dict) -> None:
    with pytest.raises(UserError, match="`form` is one of"):
        RemoteFileDataset(str(tmp_path / "a"), **wrong)


@pytest.fixture
def pictures() -> Iterator[FileServer]:
    with FileServer({f"/p/{i}.jpg": f"picture {i}".encode() for i in range(20)}) as server:
        yield server


def test_pictures_of_a_folder_are_fetched_when_they_are_asked_for(
    pictures: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images/sub").mkdir(parents=True)
    (tmp_path / "images/sub/0.jpg").write_bytes(b"by hand")
    dataset = ImagesDataset(str(tmp_path / "images"), base_url=pictures.url("/p"))
    found = dataset.load().find([f"{i}.jpg" for i in (0, 1, 2, 1)])
    assert found["0.jpg"] == {"bytes": None, "path": "images/sub/0.jpg"}
    assert {name: Path(image["path"]).read_bytes() for name, image in found.items()} == {
        "0.jpg": b"by hand",
        "1.jpg": b"picture 1",
        "2.jpg": b"picture 2",
    }
    dataset.load().find([f"{i}.jpg" for i in range(20)])
    assert sorted(path for path, _ in pictures.requests) == sorted(
        f"/p/{i}.jpg" for i in range(1, 20)
    )  # each once
    assert {path.name for path in (tmp_path / "images").glob("*")} == {
        "sub",
        ".lock",
        *(f"{i}.jpg" for i in range(1, 20)),
    }


def test_pictures_by_their_addresses(pictures: FileServer, tmp_path: Path) -> None:
    urls = [pictures.url(f"/p/{i}.jpg") for i in range(3)]
    found = ImagesDataset(str(tmp_path / "images"), from_addresses=True).load().find(urls)
    assert [Path(found[url]["path"]).read_bytes() for url in urls] == [
        b"picture 0",
        b"picture 1",
        b"picture 2",
    ]


def test_missing_pictures_are_counted_and_the_others_kept(pictures: FileServer, tmp_path: Path) -> None:
    dataset = ImagesDataset(
        str(tmp_path / "images"),
        base_url=pictures.url("/p"),
        metadata={"manual": "Unpack the archive there."},
    )
    with pytest.raises(
        UserError, match=r"lacks 5 of 10 pictures.* First: http.*20.jpg: 404.*; .*Unpack the archive there\."
    ):
        dataset.load().find([f"{i}.jpg" for i in range(15, 25)])
    assert len(list((tmp_path / "images").glob("*.jpg"))) == 5


def test_a_server_that_gives_nothing_is_not_asked_for_everything(
    pictures: FileServer, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="lacks 500 of 500 pictures"):
        ImagesDataset(str(tmp_path / "images"), base_url=pictures.url("/elsewhere")).load().find(
            [f"{i}.jpg" for i in range(500)]
        )
    assert len(pictures.requests) < 50


def test_pictures_of_an_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
        archive.writestr("images/a.jpg", b"picture a")
    url = "https://example.org/b.jpg"
    with FileServer({"/all.zip": (tmp_path / "made.zip").read_bytes()}) as server:
        dataset = ImagesDataset(str(tmp_path / "all.zip"), url=server.url("/all.zip"))
        assert dataset.waits()
        images = dataset.load()
    assert images.find(["https://example.org/x/a.jpg?size=o"]) == {
        "https://example.org/x/a.jpg?size=o": {"bytes": b"picture a", "path": "a.jpg"}
    }
    with pytest.raises(UserError, match="lacks 1 of 1 pictures"):
        images.find([url])
    (tmp_path / "all.zip").write_bytes(b"no archive")
    with pytest.raises(UserError, match="no zip archive"):
        ImagesDataset(str(tmp_path / "all.zip")).load().find(["a.jpg"])


def test_a_folder_that_only_a_person_can_fill(tmp_path: Path) -> None:
    dataset = ImagesDataset(str(tmp_path / "image"), metadata={"manual": "Fetch it with a browser."})
    with pytest.raises(UserError, match="image is not there.*Fetch it with a browser."):
        dataset.load()


def test_every_published_entry_names_licence_and_the_way_by_hand() -> None:
    config = yaml.safe_load((ROOT / "conf/base/catalog_benchmarks.yml").read_text())
    kinds = ("RemoteFileDataset", "ImagesDataset", "CocoAnnotationsDataset")
    published = {name: entry for name, entry in config.items() if entry.get("type", "").endswith(kinds)}
    assert len(published) == 17
    for name, entry in published.items():
        assert entry["metadata"]["licence"] and entry["metadata"]["manual"], name
        assert len(entry.get("sha256", "0" * 64)) == 64, name
        DataCatalog.from_config({name: entry}).get(name)
