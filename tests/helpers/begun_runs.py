"""Runs that have begun, without a pipeline behind them."""

from pathlib import Path
from typing import Any

from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

from rlaifv_kedro.runs import manifest, resuming
from rlaifv_kedro.runs.lineage import Lineage
from rlaifv_kedro.runs.manifest import Manifest


def begin(project: Path, run_id: str = "r", **changes: Any) -> Manifest:
    """Begin a run, or go on with it; ``changes`` are fields of :class:`Manifest`."""
    usual = {
        "command": "kedro run",
        "env": None,
        "pipelines": ["p"],
        "parameters": {"a": {"b": 1}},
        "replay": None,
        "read": {},
        "lineage": Lineage(recipe="base"),
    }
    made = {**resuming.made_here(project), "started": manifest.now()}
    fresh = Manifest(run_id=run_id, **{**made, **usual, **changes})
    return resuming.begin(project, fresh, Pipeline([]), DataCatalog())


def rewrite(project: Path, run_id: str, content: str) -> None:
    """Writes a manifest as an earlier version did: without checksum and copy."""
    path = manifest.path_of(project, run_id)
    path.write_text(content)
    path.with_name(manifest.COPY).unlink()
