"""Twelve pairs about six images, their reference log-probs, and one training on them."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from rlaifv_kedro.images import png_bytes
from rlaifv_kedro.models import load_model
from rlaifv_kedro.models.backends.transformers import TransformersModel
from tiny_training import NOUNS, Runner, make_pairs, reference_of


@pytest.fixture(scope="session")
def images(pictures: list[Image.Image]) -> list[dict[str, Any]]:
    """The six scenes as an ``image`` column holds them."""
    return [{"bytes": png_bytes(picture), "path": f"{i}.png"} for i, picture in enumerate(pictures)]


@pytest.fixture(scope="session")
def pairs(images: list[dict[str, Any]]) -> pd.DataFrame:
    """12 pairs of 6 prompts: rows i and i + 6 are about one image, ask the same and have the same chosen
    answer. Answers of different lengths.
    """
    rows = []
    for i, noun in enumerate(NOUNS):
        rejected = f"there is a {noun}." if i % 2 else f"i see a {noun} and a {NOUNS[i - 1]}."
        rows.append(
            (
                i + 50,
                i % 6,
                "name three objects in the image.",
                f"it contains a {NOUNS[i % 6]} and an apple.",
                rejected,
            )
        )
    return make_pairs(images, rows)


@pytest.fixture(scope="session")
def model(tiny: Path) -> TransformersModel:
    """The tiny model, for tests that don't change it."""
    return load_model(tiny, device="cpu")


@pytest.fixture(scope="session")
def reference(model: TransformersModel, pairs: pd.DataFrame) -> pd.DataFrame:
    return reference_of(model, pairs)


@pytest.fixture(scope="session")
def run(tiny: Path, pairs: pd.DataFrame, reference: pd.DataFrame) -> Runner:
    return Runner(tiny, pairs, reference)


@pytest.fixture(scope="session")
def trained(run: Runner, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict], pd.DataFrame]:
    """One uninterrupted training: folder, checkpoints, log."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, *run(folder)
