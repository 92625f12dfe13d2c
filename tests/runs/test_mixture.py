"""Inputs of different runs: those of a chain belong together."""

import pytest

from rlaifv_kedro.runs.manifest import Entry, Manifest
from rlaifv_kedro.runs.mixture import unrelated


def run(run_id: str, *versions: str | None) -> Manifest:
    read = {f"read_{i}": entry(version) for i, version in enumerate(versions)}
    usual = {"started": "2026-01-01T00:00:00.000+00:00", "pid": 1, "host": "h", "command": "", "python": "3"}
    return Manifest(run_id=run_id, pipelines=[], parameters={}, packages={}, read=read, **usual)


def entry(version: str | None) -> Entry:
    return Entry(path="data/x", version=version)


RUNS = [run("world", "shipped", None), run("sampled", "world"), run("judged", "sampled"), run("other")]


@pytest.mark.parametrize(
    ("versions", "mixed"),
    [
        ("world", False),
        ("world sampled judged", False),
        ("world judged", False),  # over a run of which nothing is read
        ("shipped judged", False),
        ("sampled other", True),
        ("world other shipped", True),
    ],
)
def test_runs_of_one_chain_belong_together(versions, mixed):
    read = {version: entry(version) for version in versions.split()}
    expected = {version: [version] for version in versions.split() if version != "shipped"}
    assert unrelated(read, RUNS) == (expected if mixed else {})
