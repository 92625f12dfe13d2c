"""Whole runs of the real project, shared by the tests that look at them."""

from pathlib import Path

import pytest

from whole_project import Project, make_project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A fresh project without any run."""
    return make_project(tmp_path / "project")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, str]:
    """A project with one finished loop, run id ``first``, and what the terminal showed. Tests may add runs
    but not change this one.
    """
    made = make_project(tmp_path_factory.mktemp("finished") / "project")
    return made, made.kedro("--params", "run_id=first")
