"""What is said of a cluster, and what workers get of the driver's environment; without Ray."""

import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlaifv_kedro.engine import cluster
from rlaifv_kedro.engine.cluster import Room, address_of, enough, room_of_hosts
from rlaifv_kedro.engine.ray_workers import environment_for
from rlaifv_kedro.engine.worker import Setup, Worker
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import ComputeParams, ModelsParams, OpenAIParams, RayParams

NODES = [
    {"Alive": True, "Resources": {"CPU": 16.0, "GPU": 8.0, "memory": 1e11}},
    {"Alive": True, "Resources": {"CPU": 16.0}},
    {"Alive": False, "Resources": {"CPU": 16.0, "GPU": 8.0}},
]


@pytest.mark.parametrize(
    ("gpus", "cpus", "fit"),
    [(1, 1, 8), (2, 1, 4), (0.5, 1, 16), (3, 1, 2), (1, 4, 4), (0, 1, 32), (0, 0, 2), (9, 1, 0)],
)
def test_how_many_workers_there_is_room_for(gpus: float, cpus: float, fit: int) -> None:
    """Each lies on one host; of those that take nothing there is one a host."""
    assert room_of_hosts(NODES).workers({"GPU": gpus, "CPU": cpus}) == fit


def test_room_is_written_by_host() -> None:
    assert str(room_of_hosts(NODES)) == "2 hosts (8 GPUs and 16 CPUs, 0 GPUs and 16 CPUs)"
    assert str(Room([{"CPU": 2.0}])) == "1 host (0 GPUs and 2 CPUs)"
    assert enough({"CPU": 2.0}, {"GPU": 0, "CPU": 1}) and not enough({"CPU": 2.0}, {"GPU": 0.5, "CPU": 1})


def test_a_worker_takes_a_gpu_unless_it_computes_on_the_cpu() -> None:
    assert ComputeParams().of_a_worker() == {"GPU": 1, "CPU": 1}
    assert ComputeParams(device="cpu").of_a_worker()["GPU"] == 0
    assert ComputeParams(device="cpu", ray=RayParams(gpus_per_worker=0.5)).of_a_worker()["GPU"] == 0.5


def test_the_address_is_the_parameters_or_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert address_of(RayParams()) == ""
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert address_of(RayParams()) == "head:6379" and address_of(RayParams(address="auto")) == "auto"


def test_workers_get_keys_of_named_servers_and_what_libraries_read() -> None:
    server = OpenAIParams(url="http://127.0.0.1:9/v1", model="m", api_key_variable="MY_KEY")
    there = {"MY_KEY": "k", "OTHER_KEY": "o", "PATH": "/bin", "OMP_NUM_THREADS": "1", "HF_HOME": "/hf"}
    args = (ModelsParams(labeler=server), ComputeParams(), Path("policy"))
    assert environment_for(args, there) == {"MY_KEY": "k", "OMP_NUM_THREADS": "1", "HF_HOME": "/hf"}
    assert environment_for((), there).keys() == {"OMP_NUM_THREADS", "HF_HOME"}


def test_a_host_without_the_projects_folder_is_told_of(tmp_path: Path) -> None:
    setup = Setup(pickle.dumps((os.getcwd, ())), (), tmp_path / "elsewhere", {})
    answer = Worker(setup).run([1])
    assert isinstance(answer.error, UserError) and answer.result is None
    assert f"has no folder {tmp_path}/elsewhere" in answer.error.message


def test_a_slow_start_of_ray_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Ray gives its processes 30 s, which a busy machine takes; any other trouble is said at once."""
    said, tried = "The current node timed out during startup.", []

    def init(**options: object) -> None:
        tried.append(options)
        raise Exception(said)

    ray = SimpleNamespace(init=init, shutdown=lambda: tried.append("shut down"))
    with pytest.raises(UserError, match="Ray can't be started on this machine: The current node timed out"):
        cluster._start(ray, "")
    assert len(tried) == 3 + 2 and tried[1] == "shut down" and tried[0]["address"] == "local"
    said = "no such option"
    with pytest.raises(UserError, match="no such option"):
        cluster._start(ray, "")
    with pytest.raises(UserError, match="Ray can't be joined at head:6379: no such option. See compute.ray."):
        cluster._start(ray, "head:6379")
    assert len(tried) == 3 + 2 + 2
