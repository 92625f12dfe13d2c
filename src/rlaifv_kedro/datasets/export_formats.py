"""Pairs as other tools read them.

Each writer takes records of the published dataset's columns, one after the other, with pictures that any
program reads alike (:func:`rlaifv_kedro.images.portable_image`), and fills a folder.

Where the forms come from:

- ``published``: openbmb/RLAIF-V-Dataset's columns and the datasets library's Image feature, as ``datasets``
  writes it to a file's metadata.
- ``trl``: huggingface.co/docs/trl/dataset_formats (preference, conversational, with images); the columns of
  trl-lib/rlaif-v.
- ``llama_factory``: data/README.md of github.com/hiyouga/LLaMA-Factory (preference dataset, sharegpt format):
  the last message of ``conversations`` is the human's, ``chosen`` and ``rejected`` are messages, as many
  ``<image>`` as ``images``, whose paths count from the dataset's folder.
- ``ms_swift``: docs/source_en/Customization/Custom-dataset.md of github.com/modelscope/ms-swift: ``messages``
  end with the chosen answer, ``rejected_response`` is a text, ``<image>`` says where each of ``images``
  belongs.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.pixels import file_ending
from rlaifv_kedro.placeholders import Cleaner
from rlaifv_kedro.schemas import table

Records = Iterable[Mapping[str, Any]]

ROWS_A_GROUP = 256  # held in memory at once
GROUPS_A_FILE = 24  # 6,144 rows: 83,132 of them are 14 files, as published
PLACEHOLDER = "<image>"
DATASET = "rlaifv_pairs"
"""The name of the dataset for LLaMA-Factory."""


def write_published(folder: Path, records: Records) -> None:
    """Writes ``train-00000.parquet`` and so on: our columns, which begin with the published ones.

    ``load_dataset`` shows ``image`` as a picture.
    """
    from datasets import Features, Image

    records = iter(records)
    first = next(records, None)
    fields = [field for field in table("preference_pairs").schema if first is None or field.name in first]
    features = Features({**Features.from_arrow_schema(pa.schema(fields)), "image": Image()})
    _write_parquet(folder, features.arrow_schema, records if first is None else chain([first], records))


def write_trl(folder: Path, records: Records) -> None:
    """Writes ``train-00000.parquet`` and so on, with the columns that TRL's ``DPOTrainer`` reads."""
    from datasets import Features, Image, List, Value

    text = Value("string")
    messages = List({"role": text, "content": List({"type": text, "text": text})})
    features = Features(
        {"images": List(Image()), "prompt": messages, "chosen": messages, "rejected": messages}
    )
    _write_parquet(folder, features.arrow_schema, (_conversation(_cleaned(record)) for record in records))


def _conversation(record: Mapping[str, Any]) -> dict[str, Any]:
    """A pair as TRL's three conversations of one message each."""
    question = [{"type": "image", "text": None}, {"type": "text", "text": record["question"]}]
    answers = {
        side: [{"role": "assistant", "content": [{"type": "text", "text": record[side]}]}]
        for side in ("chosen", "rejected")
    }
    return {"images": [record["image"]], "prompt": [{"role": "user", "content": question}], **answers}


def write_llama_factory(folder: Path, records: Records) -> None:
    """Writes ``pairs.json``, the pictures, and ``dataset_info.json``, which makes it a ``dataset_dir``."""
    pictures = _Pictures(folder)
    with open(folder / "pairs.json", "w", encoding="utf-8") as file:
        file.write("[")
        for number, record in enumerate(map(_cleaned, records)):
            row = {
                "conversations": [{"from": "human", "value": PLACEHOLDER + record["question"]}],
                "chosen": {"from": "gpt", "value": record["chosen"]},
                "rejected": {"from": "gpt", "value": record["rejected"]},
                "images": [pictures.write(record)],
            }
            file.write((",\n" if number else "\n") + json.dumps(row, ensure_ascii=False))
        file.write("\n]\n")
    info = {
        "file_name": "pairs.json",
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {
            "messages": "conversations",
            "chosen": "chosen",
            "rejected": "rejected",
            "images": "images",
        },
        "tags": {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"},
    }
    (folder / "dataset_info.json").write_text(json.dumps({DATASET: info}, indent=2) + "\n")


def write_ms_swift(folder: Path, records: Records) -> None:
    """Writes ``pairs.jsonl``, and the pictures beside it, by paths that count from the folder."""
    pictures = _Pictures(folder)
    with open(folder / "pairs.jsonl", "w", encoding="utf-8") as file:
        for record in map(_cleaned, records):
            messages = [
                {"role": "user", "content": PLACEHOLDER + record["question"]},
                {"role": "assistant", "content": record["chosen"]},
            ]
            row = {
                "messages": messages,
                "rejected_response": record["rejected"],
                "images": [pictures.write(record)],
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


FORMATS: dict[str, Callable[[Path, Records], None]] = {
    "published": write_published,
    "trl": write_trl,
    "llama_factory": write_llama_factory,
    "ms_swift": write_ms_swift,
}


_clean = Cleaner()


def _cleaned(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record, its texts without words such as ``<image>``, which would stand for another picture.

    Raises:
        UserError: Nothing is left of a text, or nothing in which the answers differ.
    """
    texts = {name: _clean(record[name]) for name in ("question", "chosen", "rejected")}
    blank = [f"`{name}` is empty" for name, text in texts.items() if not text.strip()]
    if texts["chosen"] == texts["rejected"]:
        blank.append("`chosen` and `rejected` are the same")
    if blank:
        raise UserError(
            f"pair idx {record['idx']}: without words that stand for an image {blank[0]}. Take the row out."
        )
    return {**record, **texts}


class _Pictures:
    """Writes each distinct picture once, under a name made of its content."""

    def __init__(self, folder: Path):
        self._folder = folder
        (folder / "images").mkdir()
        self._names: dict[bytes, str] = {}

    def write(self, record: Mapping[str, Any]) -> str:
        """The picture's path in the folder."""
        content = record["image"]["bytes"]
        digest = hashlib.sha256(content)
        if digest.digest() not in self._names:
            name = f"images/{digest.hexdigest()[:32]}.{file_ending(content)}"
            (self._folder / name).write_bytes(content)
            self._names[digest.digest()] = name
        return self._names[digest.digest()]


def _write_parquet(folder: Path, schema: pa.Schema, records: Records) -> None:
    """Files of a limited number of rows.

    ``IterableDataset.to_parquet`` of datasets 5.2 would collect all rows first (1,560 MiB for 5,000 pairs
    with pictures of 150 kB, here 350), write one file, and drop from its metadata that ``image`` is a
    picture.
    """
    records = iter(records)
    groups = iter(lambda: list(islice(records, ROWS_A_GROUP)), [])
    with ExitStack() as opened:
        for number, rows in enumerate(groups):
            file, group = divmod(number, GROUPS_A_FILE)
            if group == 0:
                opened.close()
                writer = opened.enter_context(
                    pq.ParquetWriter(folder / f"train-{file:05d}.parquet", schema, compression="zstd")
                )
            writer.write_table(pa.Table.from_pylist(rows, schema))
