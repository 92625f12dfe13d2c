"""Whole runs of the real project, shared by the tests that look at them."""

import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from whole_project import Project, make_project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A fresh project without any run."""
    return make_project(tmp_path / "project")


@pytest.fixture(scope="session")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A project with one finished loop, run id ``first``, and what the terminal showed.

    It is made once, whatever the number of processes that the tests run in, and nothing may be added to it.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder, said = shared / "first_run", shared / "first_run.txt"
    with FileLock(shared / "first_run.lock"):
        if not said.is_file():
            shutil.rmtree(folder, ignore_errors=True)
            said.write_text(make_project(folder).kedro("--params", "run_id=first"))
    return folder, said.read_text()


@pytest.fixture(scope="module")
def finished(first_run: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, str]:
    """A file's own copy of the finished loop. Its tests may add runs but not change the first one."""
    folder, said = first_run
    copy = tmp_path_factory.mktemp("finished") / "project"
    shutil.copytree(folder, copy, symlinks=True)
    return Project(copy), said
