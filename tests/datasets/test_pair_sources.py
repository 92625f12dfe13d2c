"""Sources of pairs: both forms, rows that are no pair, reading by row number, and datasets of the hub."""

import gc
import weakref
from pathlib import Path
from typing import Any

import huggingface_hub
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from hypothesis import given, settings
from hypothesis import strategies as st

from damaged_bytes import damaged
from odd_tables import PARTS, parquet_bytes, tables
from pair_files import conversation, message, picture, published, write_published, write_trl
from rlaifv_kedro.datasets.pair_rows import PairRow
from rlaifv_kedro.datasets.pair_source_dataset import PairSourceDataset
from rlaifv_kedro.datasets.pair_sources import FramePairs, ParquetPairs
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import MixSource
from rlaifv_kedro.preference.mix import gather, make_mix
from rlaifv_kedro.schemas import IMAGE, check


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files of 100 rows, in row groups of 30."""
    for file in range(2):
        write_published(
            tmp_path / f"RLAIF-V-Dataset_{file:03d}.parquet",
            [published(file * 100 + i) for i in range(100)],
            row_group=30,
        )
    return tmp_path


@pytest.mark.parametrize("rows", [[0], [199], range(95, 105), [3, 3, 64, 65, 150], [150, 20, 99], []])
def test_reads_any_rows_by_their_number(folder: Path, rows: list[int]) -> None:
    source = PairSourceDataset(str(folder)).load()
    assert len(source) == 200
    for _ in range(2):  # again: backwards
        pairs = source.read(rows)
        assert [pair.chosen for pair in pairs] == [f"A colour, {row}." for row in rows]
        assert [pair.image["bytes"] for pair in pairs] == [picture(row) for row in rows]


def test_a_scan_decodes_no_row_group_twice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    original = pq.ParquetFile.iter_batches

    def counted(self: pq.ParquetFile, *args, **kwargs):
        for batch in original(self, *args, **kwargs):
            decoded.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    source = PairSourceDataset(str(folder)).load()
    for start in range(0, 200, 7):
        source.read(range(start, min(start + 7, 200)))
    assert sum(decoded) == 200
    decoded.clear()
    source.read([95])  # in the last row group of the first file: those before it are skipped
    assert sum(decoded) <= 30


def test_a_file_that_is_read_to_its_end_is_let_go(folder: Path) -> None:
    """Its last batch would else stay until Python looks for cycles: with pictures, 70 MB a file."""
    source = PairSourceDataset(str(folder)).load()
    source.read([50])
    first = weakref.ref(source._open)
    gc.disable()
    try:
        source.read([150])
        assert first() is None
    finally:
        gc.enable()


def test_where_names_file_and_row(folder: Path) -> None:
    source = PairSourceDataset(str(folder)).load()
    assert source.where(99).endswith("RLAIF-V-Dataset_000.parquet, row 99")
    assert source.where(100).endswith("RLAIF-V-Dataset_001.parquet, row 0")


@pytest.mark.parametrize("plain", [False, True])
def test_trl_s_form_gives_the_same_pairs(tmp_path: Path, plain: bool) -> None:
    rows = [conversation(i) for i in range(3)]
    if plain:
        text = {
            c: [[{"role": r[c][0]["role"], "content": r[c][0]["content"][-1]["text"]}] for r in rows]
            for c in ("prompt", "chosen", "rejected")
        }
        rows = [{"images": row["images"], **{c: text[c][i] for c in text}} for i, row in enumerate(rows)]
    source = ParquetPairs([write_trl(tmp_path / "train-0.parquet", rows, plain)])
    assert source.form == "trl"
    for i, pair in enumerate(source.read(range(3))):
        row = published(i)
        assert (pair.question, pair.chosen, pair.rejected, pair.image) == (
            row["question"],
            row["chosen"],
            row["rejected"],
            row["image"],
        )
        assert (pair.origin_dataset, pair.origin_split) == ("", None)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"images": []}, "no image"),
        ({"images": [{"bytes": None, "path": None}]}, "no image"),
        ({"images": [{"bytes": b"x", "path": None}] * 2}, "2 images"),
        (
            {
                "prompt": message("user", "Hi", image=True)
                + message("assistant", "Hi")
                + message("user", "And?")
            },
            "3 of user, assistant, user",
        ),
        ({"prompt": message("system", "Be good")}, "1 of system"),
        ({"prompt": []}, "0 of nobody"),
        ({"prompt": message("user", "Two", "texts", image=True)}, "image, text, text"),
        ({"prompt": message("user", " ", image=True)}, "question is empty"),
        ({"chosen": message("assistant", "Seen", image=True)}, "image, text, not one text"),
        ({"rejected": message("assistant")}, "`rejected` is empty"),
        ({"rejected": message("assistant", "A colour, 0.")}, "are the same"),
    ],
)
def test_conversations_that_are_no_pair(tmp_path: Path, changes: dict, why: str) -> None:
    (result,) = ParquetPairs([write_trl(tmp_path / "a.parquet", [conversation(0, **changes)])]).read([0])
    assert why in result


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"image": None}, "no image"),
        ({"image": {"bytes": b"", "path": ""}}, "no image"),
        ({"chosen": ""}, "chosen answer is empty"),
        ({"rejected": None}, "rejected answer is empty"),
        ({"rejected": "A colour, 0."}, "are the same"),
    ],
)
def test_published_rows_that_are_no_pair(tmp_path: Path, changes: dict, why: str) -> None:
    (result,) = ParquetPairs([write_published(tmp_path / "a.parquet", [published(0, **changes)])]).read([0])
    assert why in result


def test_a_frame_is_a_source_too() -> None:
    frame = pd.DataFrame([published(0), published(1, chosen=None)])
    source = FramePairs(frame, "preference_pairs")
    good, bad = source.read([0, 1])
    assert isinstance(good, PairRow) and good.origin_dataset == "drawn"
    assert bad == "the chosen answer is empty"
    assert source.origin_split().to_pylist() == frame["origin_split"].tolist()
    with pytest.raises(UserError, match="scores: not a table of pairs.*`question`"):
        FramePairs(frame.drop(columns="question"), "scores")


def test_other_tables_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "answers.parquet"
    pq.write_table(pa.table({"question": ["a"], "answer": ["b"]}), path)
    with pytest.raises(
        UserError,
        match=r"answers.parquet: not a table of pairs.*`chosen`.*`prompt`.*it has `question` string, "
        r"`answer` string",
    ):
        PairSourceDataset(str(path)).load()
    write_published(path, [published(0)])
    with pytest.raises(UserError, match="needs `images`"):
        PairSourceDataset(str(path), form="trl").load()


def test_damaged_files_are_named(folder: Path) -> None:
    path = folder / "RLAIF-V-Dataset_001.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:1000] + bytes(400) + content[1400:])
    source = PairSourceDataset(str(folder)).load()
    with pytest.raises(UserError, match="RLAIF-V-Dataset_001.parquet is damaged"):
        source.read(range(100, 200))
    path.write_bytes(content[:-20])
    with pytest.raises(UserError, match="RLAIF-V-Dataset_001.parquet is damaged"):
        PairSourceDataset(str(folder)).load()


class TestHub:
    """Nothing is fetched here: what would be asked of huggingface_hub is, and what follows from its
    answer.
    """

    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
        calls = []

        def fetch(repo: str, **kwargs) -> None:
            calls.append({"repo": repo, **kwargs})
            write_published(
                Path(kwargs["local_dir"]) / "RLAIF-V-Dataset_000.parquet", [published(i) for i in range(5)]
            )

        monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
        return calls

    def entry(self, folder: Path, **more) -> PairSourceDataset:
        return PairSourceDataset(str(folder), hub="openbmb/RLAIF-V-Dataset", **more)

    def test_fetches_what_is_not_there_once(self, tmp_path: Path, asked: list[dict]) -> None:
        entry = self.entry(tmp_path / "new", revision="main", rows=5)
        assert not entry.exists()
        assert len(entry.load()) == len(entry.load()) == 5
        assert asked == [
            {
                "repo": "openbmb/RLAIF-V-Dataset",
                "repo_type": "dataset",
                "revision": "main",
                "local_dir": str(tmp_path / "new"),
                "allow_patterns": ["*.parquet"],
            }
        ]
        assert entry.exists()

    def test_an_unfinished_download_goes_on(self, tmp_path: Path, asked: list[dict]) -> None:
        write_published(tmp_path / "RLAIF-V-Dataset_000.parquet", [published(0)])
        part = tmp_path / ".cache/huggingface/download/RLAIF-V-Dataset_001.parquet.incomplete"
        part.parent.mkdir(parents=True)
        part.touch()
        with pytest.raises(UserError, match="incomplete. Fetch it"):
            self.entry(tmp_path).load()
        assert len(asked) == 1
        part.unlink()
        self.entry(tmp_path).load()
        assert len(asked) == 1

    def test_missing_rows_are_noticed(self, tmp_path: Path) -> None:
        write_published(tmp_path / "RLAIF-V-Dataset_000.parquet", [published(i) for i in range(5)])
        with pytest.raises(UserError, match=r"holds 5 rows in 1 files, and should hold 83,132.*hf download"):
            self.entry(tmp_path, rows=83132).load()

    def test_without_a_network_the_command_is_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def offline(*_, **__):
            raise LocalEntryNotFoundError("no network")

        monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
        monkeypatch.chdir(tmp_path)
        command = (
            "hf download openbmb/RLAIF-V-Dataset --repo-type dataset --include '*.parquet' --local-dir data"
        )
        with pytest.raises(UserError, match="no network") as caught:
            self.entry(tmp_path / "data").load()
        assert command in caught.value.message
        assert self.entry(tmp_path / "data").metadata["fetch"] == command


def test_only_files_of_the_pattern(tmp_path: Path) -> None:
    for name, first in (
        ("data/train-0.parquet", 0),
        ("data/test-0.parquet", 10),
        (".cache/train-1.parquet", 20),
    ):
        write_trl(tmp_path / name, [conversation(first)])
    source = PairSourceDataset(str(tmp_path), files="data/train-*.parquet").load()
    assert [pair.chosen for pair in source.read(range(len(source)))] == ["A colour, 0."]
    with pytest.raises(UserError, match="holds no file"):
        PairSourceDataset(str(tmp_path), files="*.arrow").load()


QUESTIONS = ["What?"] * 2
IMAGES = pa.array([{"bytes": picture(i), "path": f"{i}.png"} for i in range(2)], IMAGE)


def pair_table(**others: Any) -> pa.Table:
    columns = {
        "image": IMAGES,
        "question": QUESTIONS,
        "chosen": ["A dog.", "A cat."],
        "rejected": ["A.", "B."],
    }
    return pa.table({**columns, **others})


def source_of(folder: Path, rows: pa.Table | bytes, name: str = "a.parquet") -> ParquetPairs:
    (folder / name).write_bytes(rows if isinstance(rows, bytes) else parquet_bytes(rows))
    return PairSourceDataset(str(folder)).load()


@pytest.mark.parametrize(
    "others",
    [
        {"question": pa.array(QUESTIONS).dictionary_encode()},
        {"question": pa.array(QUESTIONS, pa.string_view())},
        {"image": pa.array([picture(i) for i in range(2)])},
        {"image": pa.array([picture(i) for i in range(2)], pa.large_binary())},
        {"image": pa.array([{"path": "x", "bytes": picture(i), "width": 4} for i in range(2)])},
        {"origin_split": pa.array(['{"model": "a"}'] * 2).dictionary_encode()},
        {"origin_split": pa.nulls(2)},
        {"extra": pa.array([1, None])},
    ],
)
def test_columns_in_another_form_that_means_the_same(tmp_path: Path, others: dict[str, pa.Array]) -> None:
    pairs = source_of(tmp_path, pair_table(**others)).read([0, 1])
    assert [(pair.question, pair.image["bytes"]) for pair in pairs] == [
        ("What?", picture(0)),
        ("What?", picture(1)),
    ]


@pytest.mark.parametrize(
    ("others", "why"),
    [
        ({"image": pa.array([["a.png"]] * 2)}, "not a table of pairs"),
        (
            {"image": pa.array([{"bytes": [1, 2], "path": "a"}] * 2)},
            "not a table of pairs",
        ),  # pixels as numbers
        ({"image": pa.array([{"width": 4}] * 2)}, "not a table of pairs"),
        ({"question": pa.array([1, 2])}, "not a table of pairs.*`question` int64"),
        ({"origin_split": pa.array([{"model": "a"}] * 2)}, "`origin_split` must be a text, not struct<model"),
        ({"origin_dataset": pa.array([1, 2])}, "`origin_dataset` must be a text, not int64"),
    ],
)
def test_columns_that_mean_something_else(tmp_path: Path, others: dict[str, pa.Array], why: str) -> None:
    with pytest.raises(UserError, match=rf"a\.parquet: .*{why}"):
        source_of(tmp_path, pair_table(**others))


def test_a_column_that_comes_twice(tmp_path: Path) -> None:
    rows = pair_table()
    doubled = pa.Table.from_arrays([*rows.columns, rows["rejected"]], [*rows.column_names, "rejected"])
    with pytest.raises(
        UserError, match=r"a\.parquet: the column `rejected` comes twice\. Keep one of the two\."
    ):
        source_of(tmp_path, doubled)


def test_files_of_different_forms_are_refused(tmp_path: Path) -> None:
    write_trl(tmp_path / "b.parquet", [conversation(0)])
    with pytest.raises(UserError, match=r"b\.parquet: not a table of pairs\. It needs `image`"):
        source_of(tmp_path, pair_table())


def test_messages_and_parts_that_are_missing_are_no_pair(tmp_path: Path) -> None:
    part = pa.struct([("type", pa.string()), ("text", pa.string())])
    said = pa.list_(pa.struct([("role", pa.string()), ("content", pa.list_(part))]))
    for asked in ([None], [{"role": "user", "content": None}], [{"role": "user", "content": [None]}]):
        row = {**conversation(0), "prompt": asked}
        columns = {name: pa.array([row[name]], said) for name in ("prompt", "chosen", "rejected")}
        rows = pa.table({"images": pa.array([row["images"]], pa.list_(IMAGE)), **columns})
        (why,) = source_of(tmp_path, rows).read([0])
        assert isinstance(why, str) and ("prompt" in why or "question" in why)


def gathered_or_refused(folder: Path, content: bytes) -> None:
    try:
        source = source_of(folder, content)
        source.origin_split()
        mix = make_mix({"source": source}, {"source": MixSource()}, 0)
        rejects, pairs = gather(mix, range(len(mix)), lambda pair, size: None)
    except UserError as error:
        assert len(error.message) < 1000
        return
    assert len(rejects) + len(pairs) == len(source)
    check("training_pairs", pairs, "pairs")
    check("rejects", rejects, "rejects")
    assert all(len(why) < 600 for why in rejects["why"])


@settings(max_examples=100)
@given(
    rows=tables(
        {"image": IMAGE, **dict.fromkeys(("question", "chosen", "rejected", "origin_split"), pa.string())}
    )
    | tables({"images": pa.list_(IMAGE), **dict.fromkeys(("prompt", "chosen", "rejected"), pa.list_(PARTS))})
)
def test_fuzz_tables_of_any_types_are_gathered_or_refused(tmp_path: Path, rows: pa.Table) -> None:
    gathered_or_refused(tmp_path, parquet_bytes(rows))


@settings(max_examples=100)
@given(content=damaged(st.just(parquet_bytes(pair_table())), last=600))
def test_fuzz_damaged_files_are_gathered_or_refused(tmp_path: Path, content: bytes) -> None:
    gathered_or_refused(tmp_path, content)
