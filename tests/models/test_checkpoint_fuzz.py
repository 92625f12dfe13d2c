"""Damage of every kind to a checkpoint's small files: a model comes of it, or the project's own error."""

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file

from damaged_bytes import damaged
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models import load_model
from rlaifv_kedro.models.adapters import merge_adapter

JSON = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "processor_config.json",
)
FILES = (*JSON, "chat_template.jinja", "model.safetensors")
HEADER = 6000
"""Bytes at a file's beginning that are damaged; of the weights, about the header."""
ODD = [None, True, -1, 0, 3, 2**40, 0.5, float("nan"), "", "x", [], [1, 2], {}, {"a": 1}]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a JSON document something stands; of long lists and tables the beginning."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(inner)[:40]:
        yield (*path, key)
        yield from places(item, (*path, key))


def altered(document: Any, draw: st.DataObject) -> Any:
    """The document with one value taken out, or another of any type in its place."""
    document = copy.deepcopy(document)
    *path, last = draw.draw(st.sampled_from(list(places(document))))
    parent = document
    for key in path:
        parent = parent[key]
    value = draw.draw(st.sampled_from([*ODD, "taken out"]))
    if value == "taken out":
        del parent[last]
    else:
        parent[last] = value
    return document


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "policy"))


def loads_or_is_refused(folder: Path) -> None:
    try:
        model = load_model(folder, device="cpu")
        model.encoder.prompts(["is there a cup?"], model.encoder.image(Image.new("RGB", (9, 5))))
    except UserError as error:
        assert len(error.message) > 20


@given(st.data(), st.sampled_from(FILES))
@settings(max_examples=60)
def test_damaged_bytes(folder: Path, tiny: Path, draw: st.DataObject, name: str) -> None:
    shutil.copytree(tiny, folder, dirs_exist_ok=True)
    (folder / name).write_bytes(draw.draw(damaged(st.just((tiny / name).read_bytes()), first=HEADER)))
    loads_or_is_refused(folder)


@given(st.data(), st.sampled_from(JSON))
@settings(max_examples=100)
def test_odd_values(folder: Path, tiny: Path, draw: st.DataObject, name: str) -> None:
    shutil.copytree(tiny, folder, dirs_exist_ok=True)
    (folder / name).write_text(json.dumps(altered(json.loads((tiny / name).read_text()), draw)))
    loads_or_is_refused(folder)


@given(st.data())
@settings(max_examples=40)
def test_odd_adapters(tiny: Path, tmp_path: Path, draw: st.DataObject) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir(exist_ok=True)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "x",
        "r": 2,
        "lora_alpha": 4,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["q_proj"],
        "use_dora": False,
        "use_rslora": False,
        "rank_pattern": {},
        "modules_to_save": None,
        "fan_in_fan_out": False,
    }
    place = "base_model.model.model.language_model.layers.0.self_attn.q_proj"
    shape = draw.draw(st.sampled_from([(2, 96), (3, 96), (2, 95), (192,)]))
    weights = {f"{place}.lora_A.weight": np.zeros(shape, np.float32)}
    weights[f"{place}.lora_B.weight"] = np.zeros((96, 2), np.float32)
    save_file(weights, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps(altered(config, draw)))
    module = load_model(tiny, device="cpu").module
    try:
        merge_adapter(module, adapter)
    except UserError as error:
        assert len(error.message) > 20
