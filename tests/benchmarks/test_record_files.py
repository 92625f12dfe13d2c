"""Files of records: every form is the same to a reader, and what is none says what it is."""

import gzip
import json
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from rlaifv_kedro.benchmarks.record_files import read_records
from rlaifv_kedro.errors import UserError

ROWS = [{"item_id": "7", "answer": "a\u2028b\x85, “c”"}, {"item_id": "8", "answer": "line\nline"}]


def test_all_forms_are_the_same_records(tmp_path: Path) -> None:
    """Whatever ends lines, whether there is a byte order mark, and whatever else a text holds."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    frame = pd.DataFrame(ROWS)
    contents = {
        "lines.jsonl": lines.encode(),
        "windows.txt": ("\ufeff\r\n" + lines.replace("}\n", "}\r\n")).encode(),
        "list.json": json.dumps(ROWS, indent=1).encode(),
        "ascii.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS).encode(),
        "table.csv": frame.to_csv(index=False).encode(),
        "semicolons.csv": frame.to_csv(index=False, sep=";").encode(),
        "table.TSV": ("\ufeff" + frame.to_csv(index=False, sep="\t")).encode(),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    frame.to_parquet(tmp_path / "table.parquet")
    for name in (*contents, "table.parquet"):
        assert [record.fields for record in read_records(tmp_path / name)] == ROWS, name
    places = {
        "lines.jsonl": "line 2",
        "list.json": "record 2 (from 1)",
        "table.csv": "line 4",
        "table.parquet": "row 1 (from 0)",
    }
    for name, place in places.items():
        assert read_records(tmp_path / name)[1].where.endswith(f"{name}, {place}")


WHOLE = b'{"item_id": 1, "answer": "x"}\n'


def zipped(path: Path) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
    return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", gzip.compress(WHOLE, mtime=0), r"a.jsonl is compressed \(gzip\). Unpack it"),
        ("a.jsonl", WHOLE.decode().encode("utf-16"), "is UTF-16 text. Write the file as UTF-8"),
        ("a.csv", "item_id,answer\n1,狗\n".encode("gbk"), "a.csv, line 2: not UTF-8 text. Write"),
        ("a.jsonl", b"\n <!DOCTYPE html><html>", "is a page of HTML or XML. Fetch the file itself"),
        (
            "a.json",
            b"version https://git-lfs.github.com/spec/v1\noid",
            "is a Git LFS pointer.*pull",
        ),
        ("a.json", b'{"42": "A dog.", "43": "A cat."}', "from ids to answers, and doesn't say what the ids"),
        ("a.json", b'{\n "42": "A dog."\n}', "from ids to answers"),
        (
            "a.json",
            b'{"sentences": [{"image_id": 1}], "overall": {}}',
            "the list that it has under 'sentences'",
        ),
        ("a.jsonl", WHOLE + b'{"item_id": 2, "ans', "a.jsonl, line 2: not JSON"),
        ("a.json", b"[" + WHOLE, "a.json, line 2: not JSON .*The file may be cut"),
        ("a.jsonl", b'{"answer": "x", "answer": "y"}', "line 1: not JSON .an object has 'answer' twice"),
        ("a.json", b"[1]", r"record 1 \(from 1\): 1 is no JSON object"),
        ("a.jsonl", b"\xef\xbb\xbf\r\n\r\n", "a.jsonl holds no record"),
        ("a.jsonl", b"", r"a.jsonl is empty \(0 bytes\)"),
        ("a.csv", b"item_id,answer,answer\n1,x,y\n", "the column `answer` comes twice"),
        ("a.csv", b"item_id,answer\n1,a cat, a dog\n", "line 2: it has 3 cells, and the first line names 2"),
        ("a.csv", b'item_id,answer\n1,"a cat', "line 2: no row of a table .*Export the table again"),
        ("a.csv", b"item_id,answer\n", "a.csv holds no record"),
        ("a.parquet", b"PAR1" + b"\0" * 40, "a.parquet is damaged or not a parquet file"),
    ],
)
def test_what_is_no_file_of_records(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_records(tmp_path / name)


def test_workbooks_folders_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(zipped(tmp_path / "z"))
    for name, message in (
        ("a.xlsx", r"a zip archive or a workbook \(.xlsx\). Save the table as .csv"),
        (
            ".",
            "it is a folder, not a regular file. Give a file with a JSON object a line, or a table as .csv",
        ),
        ("nowhere.jsonl", "No such file"),
        ("nul\0.jsonl", "embedded null byte"),
    ):
        with pytest.raises(UserError, match=message):
            read_records(tmp_path / name)


def test_a_single_record_is_no_container(tmp_path: Path) -> None:
    """An object on one line is a record, also if it has a list, or a whole number for a name."""
    for row in ({"item_id": 1, "objects": ["cat"]}, {"item_id": 1, "7": "x"}):
        (tmp_path / "a.jsonl").write_text(json.dumps(row))
        assert [record.fields for record in read_records(tmp_path / "a.jsonl")] == [row]
