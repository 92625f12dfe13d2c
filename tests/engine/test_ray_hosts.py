"""Two Ray nodes, as two hosts have them: one goes away while both work, and they lie in folders of their own."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import fleet_work
from rlaifv_kedro.engine import cluster
from rlaifv_kedro.engine.chunks import map_chunks
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import ComputeParams, RayParams

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture
def two_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any]]:
    """The cluster, and its second node; each was started in a folder of its own."""
    from ray.cluster_utils import Cluster

    cluster.leave()
    memory = {"object_store_memory": 100 << 20}
    for name in ("head", "second", "project"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "head")
    both = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **memory})
    monkeypatch.chdir(tmp_path / "second")
    second = both.add_node(num_cpus=1, **memory)
    monkeypatch.chdir(tmp_path / "project")
    yield both, second
    cluster.leave()
    both.shutdown()


def test_a_host_that_goes_away_costs_its_chunk(
    two_nodes: tuple[Any, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    both, second = two_nodes
    caplog.set_level(logging.INFO)
    compute = ComputeParams(engine="ray", ray=RayParams(gpus_per_worker=0, address=both.address))
    begun = tmp_path / "begun"
    begun.mkdir()

    def remove() -> None:
        _until(lambda: len(list(begun.glob("*.open"))) == 2)
        both.remove_node(second, allow_graceful=False)

    remover = threading.Thread(target=remove)
    remover.start()
    *chunks, marker = map_chunks("abcdefgh", 1, fleet_work.plain, (begun, 2.0), "x", compute=compute)
    remover.join()
    assert sorted(chunk.id for chunk in chunks) == marker.chunk_ids == [f"0000{i}" for i in range(8)]
    alone = {c.id: c.frame for c in map_chunks("abcdefgh", 1, fleet_work.plain, (begun,), "x") if c != marker}
    for chunk in chunks:
        pd.testing.assert_frame_equal(chunk.frame, alone[chunk.id])
    assert any("a worker died at chunk" in line for line in caplog.messages)
    # Ray takes some seconds to count a host out.
    _until(lambda: cluster.join(compute).workers(compute.of_a_worker()) == 1)


def test_workers_of_both_hosts_work_in_the_runs_folder(two_nodes: tuple[Any, Any], tmp_path: Path) -> None:
    both, _ = two_nodes
    compute = ComputeParams(engine="ray", ray=RayParams(gpus_per_worker=0, address=both.address))
    *chunks, _ = map_chunks("abcd", 1, fleet_work.telling, (compute, "m"), "x", compute=compute)
    assert {chunk.frame["item"].iloc[2] for chunk in chunks} == {str(tmp_path / "project")}


def test_a_cluster_is_asked_for_its_room(two_nodes: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """By another process, so that this one has joined nothing; nobody is waited for longer than said."""
    both, _ = two_nodes
    room, free = cluster.ask(both.address)
    assert room.workers({"GPU": 0, "CPU": 1}) == 2 and free["CPU"] == 2
    assert not cluster.imported().is_initialized()
    monkeypatch.setattr(cluster, "ANSWERS_WITHIN", 5.0)
    with pytest.raises(UserError, match="can't be joined at 127.0.0.1:1: it hasn't answered for 5 s. See "):
        cluster.ask("127.0.0.1:1")


def _until(done: Callable[[], Any], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until
        time.sleep(0.1)
