"""What the hooks tell a node of its outputs, and Kedro of the pipelines."""

from pathlib import Path

import pandas as pd
from kedro.framework.project import pipelines
from kedro.framework.startup import bootstrap_project
from kedro.io import DataCatalog, MemoryDataset
from kedro.io.core import Version
from kedro.pipeline import node
from kedro_datasets.pandas import CSVDataset

from begun_runs import begin
from rlaifv_kedro.datasets import ChunkedTableDataset
from rlaifv_kedro.datasets.chunks import Chunk
from rlaifv_kedro.found_out import note, taken
from rlaifv_kedro.hooks import RunHooks, _outputs_of
from rlaifv_kedro.params.current import Session, set_current
from rlaifv_kedro.runs import manifest as manifests
from rlaifv_kedro.runs.manifest import NodeRecord
from rlaifv_kedro.runs.running_nodes import RunningNode
from rlaifv_kedro.runs.session import RunSession

ROOT = Path(__file__).parents[1]
NO_REJECTS = pd.DataFrame({"stage": [], "key": [], "why": []}, dtype=str)


def test_a_second_session_of_a_notebook_runs_pipelines_of_its_own_parameters():
    """Kedro keeps pipelines until others are asked for; a stage's entries depend on the iteration."""
    bootstrap_project(ROOT)
    pipelines.set_requested(["feedback"])
    try:
        for number in (1, 2):
            with RunSession.create(project_path=ROOT) as session:
                session.load_context({"iteration": number})
            assert f"iteration_{number}.verdicts" in pipelines["feedback"].all_outputs()
    finally:
        set_current(Session())
        bootstrap_project(ROOT)


def test_a_node_knows_its_finished_chunks_and_where_each_output_lies(tmp_path):
    """Outputs may be any datasets that an environment puts in the place of the project's own."""
    version = Version("run", "run")
    both, one = (ChunkedTableDataset(str(tmp_path / name), "rejects", version) for name in ("a", "b"))
    for dataset, chunks in ((both, "01"), (one, "0")):
        for chunk_id in chunks:
            dataset.save(Chunk(chunk_id, NO_REJECTS))
    catalog = DataCatalog(
        {
            "iteration_1.a": both,
            "iteration_1.b": one,
            "iteration_1.log": CSVDataset(filepath=str(tmp_path / "log.csv"), version=version),
            "iteration_1.kept": MemoryDataset(),
        }
    )
    outputs = _outputs_of(node(lambda: None, None, list(catalog.keys()), name="n"), catalog, ())
    assert outputs.finished == {"0"}
    assert outputs.paths == {
        "a": tmp_path / "a/run/a",
        "b": tmp_path / "b/run/b",
        "log": tmp_path / "log.csv/run/log.csv",
    }


def test_what_a_node_finds_out_is_in_the_manifest(tmp_path):
    """By the checkpoint's folder, relative to the project where it lies in it."""
    hooks, ran = RunHooks(), node(lambda: None, None, "x", name="n")
    hooks._project, hooks._manifest = tmp_path, begin(tmp_path)
    hooks._running = {"n": RunningNode(ran, NodeRecord())}
    taken()  # of other tests
    note(str(tmp_path / "data/llava"), "pictures are cut")
    note(str(tmp_path / "data/llava"), "pictures are padded")
    note("/elsewhere/llava", "pictures are resized")
    hooks.after_node_run(ran)
    hooks._close("finished")
    expected = {"data/llava": "pictures are padded", "/elsewhere/llava": "pictures are resized"}
    assert manifests.load(tmp_path, "r").found_out == expected
    note("/elsewhere/other", "pictures are padded")
    hooks.after_node_run(ran)
    assert hooks._manifest.found_out == {**expected, "/elsewhere/other": "pictures are padded"}
