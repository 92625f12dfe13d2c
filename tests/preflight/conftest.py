"""A recipe's project in which nothing is missing."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from whole_recipe import make_recipe_project


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny: Path, pictures: list[Image.Image]) -> Path:
    """The project, to copy from."""
    return make_recipe_project(tmp_path_factory.mktemp("whole"), tiny, pictures)


@pytest.fixture
def project(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to break something in; the working folder."""
    shutil.copytree(whole, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"
