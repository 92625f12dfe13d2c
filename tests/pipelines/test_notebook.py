"""The notebook runs from top to bottom on a finished run."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "notebooks/01_first_look.ipynb"


def test_first_look_runs_on_a_finished_run(finished):
    """Executed with nbclient, which stops at the first cell that fails."""
    project, _ = finished
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(project.path)}}).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = [
        output
        for cell in code
        for output in cell.outputs
        if output.output_type in ("execute_result", "display_data")
    ]
    assert len(shown) >= 7
    assert any("image/png" in output.data for output in shown)
