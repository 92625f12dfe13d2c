"""The notebooks run from top to bottom on a finished run, in seconds, and show pictures and whole texts."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from whole_project import Project

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
QUICK = ("01_first_look", "02_your_own_prompts", "03_a_labeler_examined", "05_a_benchmark_on_a_checkpoint")


def shown_by(name: str, project: Project, monkeypatch: pytest.MonkeyPatch) -> str:
    """Executes a notebook in the project; returns the tables that its cells show, without their pictures' bytes.

    nbclient stops at the first cell that fails.
    """
    monkeypatch.setenv("KEDRO_ENV", "test")
    [path] = [notebook for notebook in NOTEBOOKS if notebook.stem == name]
    notebook = nbformat.read(path, as_version=4)
    folder = project.path / "notebooks"  # where JupyterLab starts a notebook's kernel
    folder.mkdir(exist_ok=True)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    pages = [output.data.get("text/html", "") for output in outputs if "data" in output]
    return re.sub("base64,[A-Za-z0-9+/=]+", "base64,", "\n".join(pages))


@pytest.mark.parametrize("name", QUICK)
def test_a_notebook_runs_on_a_finished_run(name, finished, monkeypatch):
    shown = shown_by(name, finished[0], monkeypatch)
    assert "<img src='data:image/jpeg;base64," in shown
    assert "..." not in shown and "NaN" not in shown


def test_two_runs_are_compared(finished, monkeypatch):
    project, _ = finished
    project.kedro("--pipelines", "evaluation", "--params", "run_id=second,evaluation.max_new_tokens=12")
    shown = shown_by("04_comparing_two_runs", project, monkeypatch)
    assert "evaluation.max_new_tokens" in shown and "found in B" in shown
    assert "<img src='data:image/jpeg;base64," in shown


@pytest.mark.slow
def test_a_change_of_the_method_is_tried(finished, monkeypatch):
    """Two trainings of an iteration."""
    shown = shown_by("06_trying_a_change", finished[0], monkeypatch)
    assert "B - A [95 %]" in shown


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_says_what_it_shows_and_needs_and_holds_no_output(path):
    notebook = nbformat.read(path, as_version=4)
    assert all(f"**{word}**" in notebook.cells[0].source for word in ("Shows", "Needs"))
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell for cell in code if cell.outputs or cell.execution_count] == []
