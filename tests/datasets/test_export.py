"""Exports, held against what the tools document, and, where they are installed, against the tools."""

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
from kedro.io.core import Version
from PIL import Image
from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

from pair_files import picture, store_of
from rlaifv_kedro.datasets import PairStore
from rlaifv_kedro.datasets import export_formats as formats
from rlaifv_kedro.datasets.export import ExportFolderDataset
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.images import open_image
from rlaifv_kedro.models import load_model
from rlaifv_kedro.params import ExportParams, Parameters
from rlaifv_kedro.pipelines.export import create_pipeline
from rlaifv_kedro.pipelines.export.nodes import PublishedRows


@pytest.fixture
def pairs(pictures: list[Image.Image]) -> pd.DataFrame:
    """preference_pairs: five pairs of three pictures, the last one in a file."""
    contents = []
    for image in pictures[:3]:
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        contents.append(buffer.getvalue())
    rows = [
        {
            "ds_name": "rlaifv_kedro",
            "image": {"bytes": contents[i % 3], "path": f"{i % 3}.png"},
            "question": "describe the image in detail.",
            "chosen": f"a cup and {i} dogs.",
            "rejected": f"a cup, a bus “ü” and {i} dogs.",
            "origin_dataset": "miniature",
            "origin_split": json.dumps({"model": "base", "iteration": 1}),
            "idx": i,
            "image_path": f"{i % 3}.png",
            "chosen_score": 0.0,
            "rejected_score": -1.0,
            "iteration": 1,
            "prompt_id": f"p{i}",
            "chosen_candidate": 0,
            "rejected_candidate": 1,
        }
        for i in range(5)
    ]
    return pd.DataFrame(rows)


def export(folder: Path, name: str, pairs: pd.DataFrame | PairStore) -> Path:
    entry = ExportFolderDataset(str(folder / name), name, Version("run", "run"))
    entry.save(PublishedRows(pairs))
    return entry.load()


def load(folder: Path, cache: Path) -> datasets.Dataset:
    return datasets.load_dataset(
        "parquet", data_files=str(folder / "*.parquet"), split="train", cache_dir=str(cache)
    )


def test_published_columns_come_back_with_a_picture(pairs: pd.DataFrame, tmp_path: Path) -> None:
    """``datasets`` decodes ``image`` by itself; the first nine columns are the published ones, ours
    follow.
    """
    rows = load(export(tmp_path, "published", pairs), tmp_path)
    assert rows.column_names == pairs.columns.tolist()
    assert isinstance(rows.features["image"], datasets.Image)
    assert rows[4]["image"].tobytes() == Image.open(io.BytesIO(pairs["image"][4]["bytes"])).tobytes()
    plain = rows.remove_columns("image").to_pandas()
    pd.testing.assert_frame_equal(plain, pairs.drop(columns="image"), check_dtype=False)
    again = PublishedRows(
        load(tmp_path / "published/run/published", tmp_path)
        .cast_column("image", datasets.Image(decode=False))
        .to_pandas()
    )
    assert [dict(row)["image"]["bytes"] for row in again] == [image["bytes"] for image in pairs["image"]]


def test_trl_s_own_processing_takes_it(pairs: pd.DataFrame, tiny: Path, tmp_path: Path) -> None:
    """TRL's vision collator makes of it what our encoder makes of the pairs: the same tokens, the same
    pixels.
    """
    rows = load(export(tmp_path, "trl", pairs), tmp_path)
    assert rows.column_names == ["images", "prompt", "chosen", "rejected"]
    assert rows.features["images"] == datasets.List(datasets.Image())
    model = load_model(tiny, device="cpu")
    batch = DataCollatorForVisionPreference(model.processor)([rows[i] for i in range(5)])
    begin = model.processor.tokenizer.bos_token_id
    for i, row in enumerate(pairs.itertuples()):
        image = model.encoder.image(Image.open(io.BytesIO(row.image["bytes"])))
        prompt, answers = model.encoder.answers(row.question, [row.chosen, row.rejected], image)
        for line, answer in zip((i, i + 5), answers):
            tokens = batch["input_ids"][line][batch["attention_mask"][line].bool()].tolist()
            assert [t for t in tokens if t != begin] == [
                t for t in prompt + answer if t != begin
            ]  # this template writes none
            assert batch["pixel_values"][line].equal(image.inputs["pixel_values"][0])


def pictures_in(folder: Path) -> dict[str, bytes]:
    return {f"images/{file.name}": file.read_bytes() for file in (folder / "images").iterdir()}


def test_llama_factory_s_documented_form(pairs: pd.DataFrame, tmp_path: Path) -> None:
    """data/README.md of hiyouga/LLaMA-Factory, sharegpt preference dataset: an odd number of turns that ends
    with the human's, ``chosen`` and ``rejected`` one message each, of the assistant; as many ``<image>`` as
    images; paths that exist below the folder.
    """
    folder = export(tmp_path, "llama_factory", pairs)
    info = json.loads((folder / "dataset_info.json").read_text())[formats.DATASET]
    assert (info["formatting"], info["ranking"]) == ("sharegpt", True)
    columns, tags = info["columns"], info["tags"]
    assert set(columns) == {"messages", "chosen", "rejected", "images"}
    assert set(tags) <= {
        "role_tag",
        "content_tag",
        "user_tag",
        "assistant_tag",
        "observation_tag",
        "function_tag",
        "system_tag",
    }
    rows, files = json.loads((folder / info["file_name"]).read_text(encoding="utf-8")), pictures_in(folder)
    assert len(rows) == 5 and len(files) == 3
    for row, pair in zip(rows, pairs.itertuples()):
        assert set(row) == set(columns.values())
        (turn,) = row[columns["messages"]]
        assert turn[tags["role_tag"]] == tags["user_tag"]
        assert turn[tags["content_tag"]] == "<image>" + pair.question
        for side in ("chosen", "rejected"):
            said = row[columns[side]]
            assert said == {tags["role_tag"]: tags["assistant_tag"], tags["content_tag"]: getattr(pair, side)}
        assert [files[path] for path in row[columns["images"]]] == [pair.image["bytes"]]


def test_ms_swift_s_documented_form(pairs: pd.DataFrame, tmp_path: Path) -> None:
    """docs/source_en/Customization/Custom-dataset.md of modelscope/ms-swift: ``messages`` with the chosen
    answer last, ``rejected_response`` a text, ``images`` paths, ``<image>`` where they belong.
    """
    folder = export(tmp_path, "ms_swift", pairs)
    files = pictures_in(folder)
    assert len(files) == 3
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 5
    for row, pair in zip(rows, pairs.itertuples()):
        assert row == {
            "messages": [
                {"role": "user", "content": "<image>" + pair.question},
                {"role": "assistant", "content": pair.chosen},
            ],
            "rejected_response": pair.rejected,
            "images": row["images"],
        }
        assert [files[path] for path in row["images"]] == [pair.image["bytes"]]


def test_a_mix_is_exported_as_it_was_trained_on(pairs: pd.DataFrame, tmp_path: Path) -> None:
    """training_pairs keep where they come from."""
    store = store_of(pairs.assign(idx=range(10, 15)))
    rows = load(export(tmp_path, "published", store), tmp_path).to_pandas()
    assert rows.columns.tolist() == [
        "ds_name",
        "image",
        "question",
        "chosen",
        "rejected",
        "origin_dataset",
        "origin_split",
        "idx",
        "image_path",
    ]
    assert rows["idx"].tolist() == [10, 11, 12, 13, 14]
    for name in ("question", "chosen", "rejected", "origin_dataset", "origin_split", "image_path"):
        assert rows[name].tolist() == pairs[name].tolist()


def test_many_rows_are_many_files(
    pairs: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "ROWS_A_GROUP", 1)
    monkeypatch.setattr(formats, "GROUPS_A_FILE", 2)
    folder = export(tmp_path, "trl", pairs)
    assert sorted(file.name for file in folder.iterdir()) == [f"train-{i:05d}.parquet" for i in range(3)]
    assert [row["chosen"][0]["content"][0]["text"] for row in load(folder, tmp_path)] == pairs[
        "chosen"
    ].tolist()


def test_rows_are_written_as_they_come(
    pairs: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never more of them alive than the group that is written, the next one, and the first row."""
    monkeypatch.setattr(formats, "ROWS_A_GROUP", 2)
    alive = {"now": 0, "most": 0}

    class Row(dict):
        def __init__(self, *args: Any):
            super().__init__(*args)
            alive["now"] += 1
            alive["most"] = max(alive.values())

        def __del__(self) -> None:
            alive["now"] -= 1

    def rows() -> Iterator[Row]:
        for _ in range(20):
            yield from (Row(row) for row in PublishedRows(pairs))

    for name in formats.FORMATS:
        ExportFolderDataset(str(tmp_path / name), name, Version("run", "run")).save(rows())
    assert alive["most"] <= 5


@pytest.mark.parametrize("name", list(formats.FORMATS))
def test_the_same_pairs_give_the_same_bytes_and_replace_what_is_there(
    name: str, pairs: pd.DataFrame, tmp_path: Path
) -> None:
    def digests(folder: Path) -> dict[str, str]:
        return {
            f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest()
            for f in folder.rglob("*")
            if f.is_file()
        }

    first = digests(export(tmp_path, name, pairs))
    left = tmp_path / f"{name}/run/.{name}.tmp"  # what a kill leaves
    left.mkdir()
    (left / "half").write_bytes(b"")
    assert digests(export(tmp_path, name, pairs)) == first
    assert not left.exists()


@pytest.mark.parametrize("name", list(formats.FORMATS))
def test_a_file_s_picture_is_embedded_or_missed(
    name: str, pairs: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pairs["image"] = [{"bytes": None, "path": "a.png"}] * 5
    with pytest.raises(UserError, match="pair idx 0: .*a.png"):
        export(tmp_path, name, pairs)
    assert not (tmp_path / name / "run" / name).exists()
    (tmp_path / "a.png").write_bytes(picture(1))
    export(tmp_path, name, pairs)


@pytest.mark.parametrize("name", ["trl", "llama_factory", "ms_swift"])
def test_words_that_stand_for_an_image_are_left_out(name: str, pairs: pd.DataFrame, tmp_path: Path) -> None:
    """The tools, or the processors that they call, would look for more pictures than there are."""
    pairs.loc[3, ["question", "rejected"]] = [
        "<image>\nwhat is it?",
        "the <im<image>age> shows <video> a cup.",
    ]
    pairs.loc[4, "chosen"] = "a </s> cup."  # of whose model nothing is known here
    written = export(tmp_path, name, pairs)
    if name == "trl":
        text = json.dumps(load(written, tmp_path).remove_columns("images").to_list())
    else:
        [file] = written.glob("pairs.json*")
        text = file.read_text(encoding="utf-8")
    assert text.count("<image>") == (0 if name == "trl" else 5) and "<video>" not in text
    assert "what is it?" in text and '"the shows a cup."' in text and '"a </s> cup."' in text


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        ({"question": "<image>"}, "`question` is empty"),
        ({"chosen": " <video>"}, "`chosen` is empty"),
        ({"chosen": "a <image> cup", "rejected": "a cup"}, "`chosen` and `rejected` are the same"),
    ],
)
def test_a_pair_of_which_nothing_is_left_is_refused(
    texts: dict[str, str], why: str, pairs: pd.DataFrame, tmp_path: Path
) -> None:
    pairs.loc[3, list(texts)] = list(texts.values())
    with pytest.raises(UserError, match=f"pair idx 3: .*{why}"):
        export(tmp_path, "ms_swift", pairs)


def test_unknown_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="no format called `axolotl`. Use one of: published, trl, llama_factory, ms_swift"
    ):
        ExportFolderDataset(str(tmp_path), "axolotl")


def test_the_pipeline_has_a_node_a_tool() -> None:
    pipeline = create_pipeline(Parameters(export=ExportParams(source="training_pairs")))
    assert pipeline.inputs() == {"training_pairs"}
    assert (
        {node.name for node in pipeline.nodes}
        == pipeline.outputs()
        == {f"export_{name}" for name in formats.FORMATS}
    )


def test_other_tools_get_the_pixels_that_the_policy_gets(
    pairs: pd.DataFrame, pictures: list[Image.Image], tmp_path: Path
) -> None:
    """A photograph on its side, a drawing on nothing and greys of 16 bits, read by ``datasets`` and by plain
    Pillow. The others keep their bytes.
    """
    exif = Image.Exif()
    exif[0x0112] = 6
    odd = pictures[0].convert("RGBA")
    odd.putalpha(pictures[1].convert("L"))
    grey = Image.frombytes("I;16", (64, 64), bytes(range(256)) * 32)
    files = [
        saved(pictures[0], "JPEG", exif=exif),
        saved(odd, "WEBP", lossless=True),
        saved(grey, "PNG"),
        saved(pictures[2], "JPEG"),
        saved(pictures[2], "PNG"),
    ]
    pairs["image"] = [{"bytes": content, "path": "p"} for content in files]
    ours = [np.asarray(open_image(image, "row")) for image in pairs["image"]]
    for name, column in (("trl", "images"), ("published", "image")):
        for row, pixels in zip(load(export(tmp_path, name, pairs), tmp_path), ours):
            picture = row[column][0] if name == "trl" else row[column]
            assert np.array_equal(np.asarray(picture.convert("RGB")), pixels)
    for name, table in (("llama_factory", "pairs.json"), ("ms_swift", "pairs.jsonl")):
        folder = export(tmp_path, name, pairs)
        rows = (folder / table).read_text()
        rows = json.loads(rows) if name == "llama_factory" else list(map(json.loads, rows.splitlines()))
        for row, pixels in zip(rows, ours):
            with Image.open(folder / row["images"][0]) as picture:
                assert np.array_equal(np.asarray(picture.convert("RGB")), pixels)
        assert [Path(row["images"][0]).suffix for row in rows] == [".png", ".png", ".png", ".jpg", ".png"]
        assert (folder / rows[3]["images"][0]).read_bytes() == files[3]


def saved(picture: Image.Image, form: str, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **settings)
    return buffer.getvalue()
