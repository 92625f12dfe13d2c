"""Chunks on a real Ray on this machine: the same rows as without it, whoever dies."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import fleet_work
from rlaifv_kedro.datasets.chunks import Chunk, Complete
from rlaifv_kedro.engine import cluster, ray_workers
from rlaifv_kedro.engine.chunks import map_chunks
from rlaifv_kedro.engine.items import LazyItems
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.found_out import taken
from rlaifv_kedro.params import ComputeParams, RayParams
from rlaifv_kedro.params.base import noting

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture(scope="module", autouse=True)
def left() -> Iterator[None]:
    yield
    cluster.leave()


def on(workers: int = 2, **ray: Any) -> ComputeParams:
    return ComputeParams(
        engine="ray", ray=RayParams(workers=workers, **{"gpus_per_worker": 0, "cpus_per_worker": 0.1, **ray})
    )


def rows(outputs: list[Any]) -> dict[str, list[Any]]:
    *chunks, marker = outputs
    assert all(isinstance(chunk, Chunk) for chunk in chunks)
    found = {chunk.id: chunk.frame for chunk in chunks}
    assert marker == Complete(sorted(found))
    return found


def test_the_rows_are_those_of_one_process(tmp_path: Path) -> None:
    alone = rows(list(map_chunks("abcdefg", 2, fleet_work.plain, (tmp_path, 0.0), "x")))
    fleet = tmp_path / "fleet"
    fleet.mkdir()
    found = rows(list(map_chunks("abcdefg", 2, fleet_work.plain, (fleet, 0.5), "x", compute=on())))
    assert found.keys() == alone.keys()
    for name, frame in alone.items():
        pd.testing.assert_frame_equal(found[name], frame)
        assert found[name].attrs == frame.attrs == {"fingerprint": {"model": "m"}}
    workers = {path.name.partition(".")[0] for path in fleet.glob("*.closed")}
    assert 1 <= len(workers) <= 2 and str(os.getpid()) not in workers
    assert not list(fleet.glob("*.open")), "models were closed"


def test_two_stages_leave_no_worker_behind(tmp_path: Path) -> None:
    for stage in ("one", "two"):
        folder = tmp_path / stage
        folder.mkdir()
        rows(list(map_chunks("abcd", 1, fleet_work.plain, (folder, 0.2), stage, compute=on())))
    pids = {int(path.name.partition(".")[0]) for path in tmp_path.rglob("*.closed")}
    _until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_workers_keep_to_what_they_have_loaded(tmp_path: Path) -> None:
    """Two checkpoints of three chunks: at most one of them is loaded by both workers."""
    items = LazyItems(["a1", "a2", "a3", "b1", "b2", "b3"], list, subject=lambda item: item[0])
    chunks = rows(list(map_chunks(items, 1, fleet_work.plain, (tmp_path, 0.5), "x", compute=on())))
    assert [frame["item"].iloc[0] for _, frame in sorted(chunks.items())] == list(items)
    done = [path.name.split(".") for path in tmp_path.glob("*.*[0-9]")]
    assert len(done) == 6 and len({(process, item[0]) for process, item in done}) <= 3


def test_a_killed_workers_chunk_is_worked_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    outputs = list(map_chunks("abcdef", 1, fleet_work.fatal, (tmp_path, "c", 2), "x", compute=on()))
    assert rows(outputs).keys() == {f"0000{i}" for i in range(6)}
    assert len([line for line in caplog.messages if "a worker died at chunk 00002" in line]) == 2


def test_a_chunk_that_kills_three_workers_stops_the_step(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="3 workers died at chunk 00002") as error:
        list(map_chunks("abcdef", 1, fleet_work.fatal, (tmp_path, "c", 9), "x", compute=on()))
    assert "batch_size" in error.value.message


def test_a_worker_killed_from_outside_costs_its_chunk(tmp_path: Path) -> None:
    def kill() -> None:
        _until(lambda: list(tmp_path.glob("*.b")))
        [sign] = tmp_path.glob("*.b")
        os.kill(int(sign.name.partition(".")[0]), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    outputs = list(map_chunks("abcd", 1, fleet_work.plain, (tmp_path, 2.0), "x", compute=on()))
    killer.join()
    assert rows(outputs).keys() == {f"0000{i}" for i in range(4)}
    assert len(list(tmp_path.glob("*.b"))) == 2, "b was begun twice"


def test_the_works_error_comes_as_itself() -> None:
    with pytest.raises(UserError, match=r"^the picture of p7 is damaged. Replace it.$"):
        list(map_chunks("ab", 1, fleet_work.wrong, ("user",), "x", compute=on()))
    with pytest.raises(KeyError, match="no such thing") as error:
        list(map_chunks("ab", 1, fleet_work.wrong, ("bug",), "x", compute=on()))
    assert "in a worker on" in error.value.__notes__[0] and "fleet_work.py" in error.value.__notes__[0]
    with pytest.raises(RuntimeError, match="OfThisFunctionOnly: 1 2"):
        list(map_chunks("ab", 1, fleet_work.wrong, ("odd",), "x", compute=on()))
    with pytest.raises(UserError, match="^no such model$"):
        list(map_chunks("ab", 1, fleet_work.failing_to_open, ("no such model",), "x", compute=on()))


def test_what_workers_say_read_and_find_out_comes_home_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("TOO_SECRET_KEY", "sk-secret")
    monkeypatch.chdir(tmp_path)
    reads: set[str] = set()
    compute = noting(on(), "compute", reads)
    caplog.set_level(logging.INFO)
    taken()
    args = (compute, "models/policy")
    *chunks, _ = map_chunks("ab", 1, fleet_work.telling, args, "x", compute=compute)
    threads, secret, folder = chunks[0].frame["item"]
    assert (threads, pd.isna(secret), folder) == ("3", True, str(tmp_path))
    assert "compute.dtype" in reads and "compute" not in reads
    assert taken() == {"models/policy": "was found out"}
    said = [line for line in caplog.messages if "Ray" not in line]
    assert sorted(said) == sorted(
        ["opened with bfloat16", "chunk a", "chunk b", "closed", *(m for m in said if "is worried" in m)]
    )
    assert len([line for line in said if "is worried" in line]) == 1


def test_no_room_is_said_with_what_there_is() -> None:
    with pytest.raises(
        UserError, match=r"no host has room .* 2 GPUs and 0.1 CPUs: the cluster has 1 host \("
    ):
        list(map_chunks("ab", 1, fleet_work.wrong, ("user",), "x", compute=on(gpus_per_worker=2)))


def test_taken_room_is_said_within_a_minute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Somebody else has the CPUs."""
    monkeypatch.setattr(ray_workers, "PATIENCE", 6.0)
    ray = cluster.imported()
    cluster.join(on())
    cpus = ray.cluster_resources()["CPU"]
    other = ray.remote(num_cpus=cpus)(ray_workers.Worker).remote(None)
    ray.get(other.ready.remote())
    try:
        _until(lambda: ray.available_resources().get("CPU", 0) < 1)
        started = time.monotonic()
        with pytest.raises(UserError, match="x: no worker has started in 6 s. .* 0 CPUs are free"):
            list(map_chunks("ab", 1, fleet_work.plain, (tmp_path, 0.0), "x", compute=on(cpus_per_worker=1)))
        assert time.monotonic() - started < 60
    finally:
        ray.kill(other)


def test_ray_is_not_started_where_no_chunk_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_workers, "join", None)
    assert list(map_chunks("", 1, fleet_work.plain, (), "x", compute=on())) == [Complete([])]


def _until(done: Any, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until
        time.sleep(0.1)
