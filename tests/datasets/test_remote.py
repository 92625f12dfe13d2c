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

from file_server import FileServer, open_for_downloads
from pair_files import picture
from rlaifv_kedro.datasets import ImagesDataset, RemoteFileDataset
from rlaifv_kedro.datasets import download as module
from rlaifv_kedro.errors import UserError

ROOT = Path(__file__).parents[2]
ROWS = [{"id": 1, "text": "ein Hügel"}, {"id": 2, "text": "b"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.001)
    open_for_downloads(monkeypatch)


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
    with FileServer({f"/p/{i}.jpg": picture(i) for i in range(20)}) as server:
        yield server


def test_pictures_of_a_folder_are_fetched_when_they_are_asked_for(
    pictures: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images/sub").mkdir(parents=True)
    (tmp_path / "images/sub/0.jpg").write_bytes(picture(77))
    dataset = ImagesDataset(str(tmp_path / "images"), base_url=pictures.url("/p"))
    found = dataset.load().find([f"{i}.jpg" for i in (0, 1, 2, 1)])
    assert found["0.jpg"] == {"bytes": None, "path": "images/sub/0.jpg"}
    assert {name: Path(image["path"]).read_bytes() for name, image in found.items()} == {
        "0.jpg": picture(77),
        "1.jpg": picture(1),
        "2.jpg": picture(2),
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
        picture(0),
        picture(1),
        picture(2),
    ]


def test_missing_pictures_are_counted_and_the_others_kept(pictures: FileServer, tmp_path: Path) -> None:
    dataset = ImagesDataset(
        str(tmp_path / "images"),
        base_url=pictures.url("/p"),
        metadata={"manual": "Unpack the archive there."},
    )
    with pytest.raises(
        UserError,
        match=r"5 of 10 pictures can't be had\. First: 20\.jpg: http.*20.jpg: 404.*; .*Unpack the archive there\.",
    ):
        dataset.load().find([f"{i}.jpg" for i in range(15, 25)])
    assert len(list((tmp_path / "images").glob("*.jpg"))) == 5


def test_a_server_that_gives_nothing_is_not_asked_for_everything(
    pictures: FileServer, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="500 of 500 pictures can't be had"):
        ImagesDataset(str(tmp_path / "images"), base_url=pictures.url("/elsewhere")).load().find(
            [f"{i}.jpg" for i in range(500)]
        )
    assert len(pictures.requests) < 50


def test_pictures_of_an_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
        archive.writestr("images/a.jpg", picture(1))
    url = "https://example.org/b.jpg"
    with FileServer({"/all.zip": (tmp_path / "made.zip").read_bytes()}) as server:
        dataset = ImagesDataset(str(tmp_path / "all.zip"), url=server.url("/all.zip"))
        assert dataset.waits()
        images = dataset.load()
    assert images.find(["https://example.org/x/a.jpg?size=o"]) == {
        "https://example.org/x/a.jpg?size=o": {"bytes": picture(1), "path": "images/a.jpg"}
    }
    with pytest.raises(UserError, match="1 of 1 pictures can't be had"):
        images.find([url])
    (tmp_path / "all.zip").write_bytes(b"no archive")
    with pytest.raises(UserError, match="no zip archive"):
        ImagesDataset(str(tmp_path / "all.zip")).load().find(["a.jpg"])


def test_damaged_pictures_of_an_archive(tmp_path: Path) -> None:
    """However its members are packed: each way has errors of its own kind."""
    path = tmp_path / "all.zip"
    for packed in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(path, "w", packed) as archive:
            archive.writestr("a.jpg", picture(1))
        content = bytearray(path.read_bytes())
        content[60:90] = b"?" * 30
        path.write_bytes(content)
        with pytest.raises(UserError, match="is damaged"):
            ImagesDataset(str(path)).load().find(["a.jpg"])


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


def test_two_addresses_that_end_alike_are_two_pictures(tmp_path: Path) -> None:
    """Also in a folder in which an older version left one picture under that last part."""
    files = {"/a/1.jpg": picture(1), "/b/1.jpg": picture(2), "/a/1.jpg?id=2": picture(3)}
    (tmp_path / "images").mkdir()
    (tmp_path / "images/1.jpg").write_bytes(picture(9))
    dataset = ImagesDataset(str(tmp_path / "images"), from_addresses=True)
    with FileServer(files) as server:
        urls = {server.url(path): content for path, content in files.items()}
        for _ in range(2):  # the second time nothing is fetched
            found = dataset.load().find(urls)
            assert {url: Path(found[url]["path"]).read_bytes() for url in urls} == urls
        assert len(server.requests) == 3
    (tmp_path / "images/by hand.jpg").write_bytes(picture(4))
    by_hand = "https://example.org/by%20hand.jpg"
    assert Path(dataset.load().find([by_hand])[by_hand]["path"]).read_bytes() == picture(4)


def test_names_that_mean_several_files_are_refused(tmp_path: Path) -> None:
    for path in ("x/1.jpg", "y/1.jpg", "y/2.jpg"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(picture(len(path)))
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in ("x/1.jpg", "y/1.jpg", "y/2.jpg"):
            archive.write(tmp_path / path, path)
    for place in (tmp_path, tmp_path / "all.zip"):
        images = ImagesDataset(str(place)).load()
        assert len(images.find(["x/1.jpg", "y/1.jpg", "2.jpg"])) == 3
        with pytest.raises(
            UserError, match=r"1 of 1 pictures can't be had. First: 1\.jpg: several files .* x/1\.jpg and y/1"
        ):
            images.find(["1.jpg"])
        with pytest.raises(
            UserError, match=r"a/2\.jpg: y/2\.jpg is the file of its last part, and of.* b/2\.jpg"
        ):
            images.find(["a/2.jpg", "b/2.jpg"])
        with pytest.raises(UserError, match=r"2\.jpg\?id=1: y/2\.jpg is the file of its last part"):
            images.find(["https://example.org/2.jpg?id=1", "https://example.org/2.jpg?id=2"])


@pytest.mark.parametrize(
    "name",
    ["../out.jpg", "/out.jpg", "a\\out.jpg", "a\0.jpg", "CON", "x" * 5000, "..%2fout.jpg", "x/../../o"],
)
def test_names_that_lead_out_of_the_folder_are_not_fetched(tmp_path: Path, name: str) -> None:
    (tmp_path / "images").mkdir()
    with FileServer({}) as server:
        dataset = ImagesDataset(str(tmp_path / "images"), base_url=server.url("/p"))
        with pytest.raises(UserError, match="1 of 1 pictures can't be had") as error:
            dataset.load().find([name])
    assert len(error.value.message) < 700 and "\0" not in error.value.message
    assert {path.name for path in tmp_path.iterdir()} == {"images"}
    assert {path.name for path in (tmp_path / "images").iterdir()} <= {".lock"}


@pytest.mark.parametrize(
    ("there", "asked"), [("Dog.jpg", "dog.jpg"), ("x/H\u00fcgel.jpg", "X/Hu\u0308gel.JPG")]
)
def test_names_that_are_one_file_on_some_systems_are_not_fetched(
    tmp_path: Path, there: str, asked: str
) -> None:
    """There the one picture would be taken for the other without a word."""
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).write_bytes(picture(1))
    with FileServer({}) as server:
        images = ImagesDataset(str(tmp_path), base_url=server.url("/p")).load()
        with pytest.raises(UserError, match=r"one file, where capitals don't count"):
            images.find([asked])
        assert server.requests == []


def test_an_address_can_t_write_outside_of_the_folder(tmp_path: Path) -> None:
    with FileServer({"/..%2F..%2Fout.jpg": picture(1)}) as server:
        url = server.url("/..%2f..%2fout.jpg")
        found = ImagesDataset(str(tmp_path / "a/images"), from_addresses=True).load().find([url])
    assert Path(found[url]["path"]).parent == tmp_path / "a/images"


@pytest.mark.parametrize(
    "address", ["http://", "http://[::1/a.jpg", "http://host:99999/a.jpg", "http://a\0b/c.jpg"]
)
def test_what_is_no_address_is_said_at_once(tmp_path: Path, address: str) -> None:
    with pytest.raises(UserError, match="1 of 1 pictures can't be had"):
        ImagesDataset(str(tmp_path), from_addresses=True).load().find([address])


def test_a_page_that_says_gone_is_no_picture(tmp_path: Path) -> None:
    """Status 200: it gets no picture's name, the message shows what came, and the next run asks again."""
    page = b"<!DOCTYPE html><html>This photo is no longer available</html>"
    with FileServer({"/p/1.jpg": page}) as server:
        images = ImagesDataset(str(tmp_path / "images"), base_url=server.url("/p")).load()
        with pytest.raises(
            UserError,
            match=r"First: 1\.jpg: http://.*/p/1\.jpg: it gives .*: not a picture: it begins with b'<!DOCTYPE html>",
        ):
            images.find(["1.jpg"])
        assert {path.name for path in (tmp_path / "images").iterdir()} == {".lock"}
        server.files["/p/1.jpg"] = picture(1)
        assert Path(images.find(["1.jpg"])["1.jpg"]["path"]).read_bytes() == picture(1)


def test_a_damaged_picture_is_named_when_it_is_asked_for(tmp_path: Path) -> None:
    """Before any model answers questions about it."""
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(picture(i))
    (tmp_path / "1.jpg").write_bytes(b"<html>gone</html>")
    names = [f"{i}.jpg" for i in range(3)]
    with pytest.raises(
        UserError, match=r"1 of 3 pictures can't be read\. First: 1\.jpg: not a picture: .*<html>.*by hand"
    ):
        ImagesDataset(str(tmp_path)).load().find(names)
    with pytest.raises(UserError, match=r"Delete them, and they are fetched anew\."):
        ImagesDataset(str(tmp_path), base_url="http://example.org").load().find(names)


@pytest.mark.parametrize(("file", "form"), [("a.json", "json"), ("a.zip", "file")])
def test_a_page_in_place_of_a_published_file_is_not_kept(tmp_path: Path, file: str, form: str) -> None:
    with FileServer({"/a": b"<html>log in</html>"}) as server:
        dataset = RemoteFileDataset(str(tmp_path / file), url=server.url("/a"), form=form)
        with pytest.raises(UserError, match=r"can't be fetched \(.*it gives .*begins with b'<html>log in"):
            dataset.load()
    assert not (tmp_path / file).exists()


@pytest.mark.parametrize(
    ("name", "content", "document"),
    [
        ("a.json", b'\xef\xbb\xbf[{"id": 1}]', [{"id": 1}]),
        ("a.jsonl", b'\xef\xbb\xbf{"id": 1}\n{"id": 2}', [{"id": 1}, {"id": 2}]),
        ("a.jsonl", '{"id": "a\u2028b"}\r\n\n{"id": 2}\n'.encode(), [{"id": "a\u2028b"}, {"id": 2}]),
    ],
)
def test_json_as_others_write_it(tmp_path: Path, name: str, content: bytes, document: list) -> None:
    (tmp_path / name).write_bytes(content)
    assert RemoteFileDataset(str(tmp_path / name), form="json").load() == document


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        (
            "a.jsonl",
            b'{"id": 1}\n{"id": 2, "a": 1, "a": 2}\n',
            "line 2: .*an object has 'a' twice",
        ),
        ("a.json", b'[{"a": {"b": 1, "b": 1}}]', "an object has 'b' twice"),
        ("a.json", b"[" * 100_000, "it is nested too deeply"),
        ("a.json", b"\xff\xfe[\0]\0", "line 1: not UTF-8 text"),
    ],
)
def test_json_that_would_lose_something(tmp_path: Path, name: str, content: bytes, why: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}, {why}"):
        RemoteFileDataset(str(tmp_path / name), form="json").load()
