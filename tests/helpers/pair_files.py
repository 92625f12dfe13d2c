"""Parquet files with pairs in the published and in TRL's form, for the tests that read them."""

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from rlaifv_kedro.datasets.pair_store import PairStore, with_keys
from rlaifv_kedro.schemas import IMAGE, conform, table

TEXTS = ("ds_name", "question", "chosen", "rejected", "origin_dataset", "origin_split", "idx", "image_path")
PUBLISHED = pa.schema(
    {"image": IMAGE, **dict.fromkeys(TEXTS, pa.string())}
)  # the published card: idx is text

_PARTS = pa.list_(pa.struct([("type", pa.string()), ("text", pa.string())]))
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", _PARTS)]))
_PLAIN = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def picture(number: int) -> bytes:
    """A PNG of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (number % 256, number // 256 % 256, 7)).save(file, format="PNG")
    return file.getvalue()


def published(number: int, **changes: Any) -> dict[str, Any]:
    """A row as the published dataset has them; policies a and b take turns."""
    split = json.dumps({"model": "ab"[number % 2], "iteration": number % 3, "type": "detailed_description"})
    return {
        "ds_name": "RLAIF-V",
        "image": {"bytes": picture(number), "path": f"{number}.png"},
        "question": f"What is in picture {number}?",
        "chosen": f"A colour, {number}.",
        "rejected": f"A dog, {number}.",
        "origin_dataset": "drawn",
        "origin_split": split,
        "idx": str(number),
        "image_path": f"pictures/{number}.png",
        **changes,
    }


def message(role: str, *texts: str, image: bool = False) -> list[dict[str, Any]]:
    """One message of parts, in a list."""
    return [
        {
            "role": role,
            "content": [{"type": "image", "text": None}] * image
            + [{"type": "text", "text": text} for text in texts],
        }
    ]


def conversation(number: int, **changes: Any) -> dict[str, Any]:
    """A row as trl-lib/rlaif-v has them (TRL's examples/datasets/rlaif-v.py)."""
    row = published(number)
    return {
        "images": [row["image"]],
        "prompt": message("user", row["question"], image=True),
        "chosen": message("assistant", row["chosen"]),
        "rejected": message("assistant", row["rejected"]),
        **changes,
    }


def write_published(path: Path, rows: list[dict[str, Any]], row_group: int = 1000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, PUBLISHED), path, row_group_size=row_group)
    return path


def write_trl(path: Path, rows: list[dict[str, Any]], plain: bool = False) -> Path:
    """``plain``: messages whose content is a text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    messages = _PLAIN if plain else _MESSAGES
    schema = pa.schema(
        {"images": pa.list_(IMAGE), "prompt": messages, "chosen": messages, "rejected": messages}
    )
    pq.write_table(pa.Table.from_pylist(rows, schema), path)
    return path


def store_of(pairs: pd.DataFrame) -> PairStore:
    """The rows of a frame in memory, with their keys.

    Args:
        pairs: With the columns idx, image, question, chosen and rejected at least.
    """
    names = [name for name in table("training_pairs").schema.names if name in pairs.columns]
    plain = {"origin_dataset": "", "origin_split": None, "source": "", "source_idx": pairs["idx"]}
    filled = pairs[names].assign(**{name: value for name, value in plain.items() if name not in names})
    return PairStore(conform("training_pairs", with_keys(filled), where="pairs"))
