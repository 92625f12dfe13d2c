"""Servers are started, watched, started again and ended, with real processes; what they run is a fake vLLM."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fake_vllm import children, mark_of, until
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.leftovers import Record, end_leftovers, marked
from rlaifv_kedro.models.serving import gpus, servers
from rlaifv_kedro.models.serving.servers import VLLMServers
from rlaifv_kedro.params import ServingParams
from rlaifv_kedro.processes import this_process

Serving = Callable[..., ServingParams]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="vLLM's servers run on Linux")


@contextmanager
def started(
    checkpoint: Path, serving: ServingParams, device: str = "cpu", name: str = "policy"
) -> Iterator[VLLMServers]:
    """Servers that are closed at the end, whatever happens."""
    opened = VLLMServers(checkpoint, serving, dtype="float32", name=name, device=device)
    try:
        yield opened
    finally:
        opened.close()


def environment_of(opened: VLLMServers, url: str) -> dict[str, str]:
    """The variables that a server sees."""
    request = urllib.request.Request(f"{url}/environment", headers={"Authorization": f"Bearer {opened.key}"})
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.load(reply)


def guard_of(opened: VLLMServers, index: int = 0) -> int:
    """The pid of a server's guard."""
    process = opened._watched[index].server._process
    assert process is not None
    return process.pid


def test_a_server_answers_and_ends_with_all_its_processes(
    run: Path, checkpoint: Path, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/of/this/project")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with started(checkpoint, serving(engine_options={"max_model_len": 256, "enforce-eager": True})) as opened:
        [url] = opened.urls
        seen = environment_of(opened, url)
        assert seen["VLLM_NO_USAGE_STATS"] == seen["DO_NOT_TRACK"] == "1"
        assert "PYTHONPATH" not in seen
        assert "CUDA_VISIBLE_DEVICES" not in seen
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{url}/v1/models", timeout=10)
        mark = mark_of(guard_of(opened))
        assert len(marked(mark)) == 3, "guard, server and engine"
        assert [path.name for path in (run / "servers").iterdir() if "running" in path.name]
    assert marked(mark) == set()
    assert [path.name for path in (run / "servers").iterdir()] == ["policy-0.log"]
    [line] = (run / "servers/policy-0.log").read_text().splitlines()
    for option in (
        f"--model={checkpoint}",
        "--host=127.0.0.1",
        "--dtype=float32",
        "--enable-scale-out",
        '--limit-mm-per-prompt={"image": 1}',
        "--max-model-len=256",
        "--enforce-eager",
        "--no-trust-remote-code",
        "--no-enable-chunked-prefill",
    ):
        assert f"'{option}'" in line
    assert opened.key not in line


def test_each_server_has_its_gpus_and_its_port(
    run: Path, checkpoint: Path, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "visible_gpus", lambda: ["4", "5", "6", "7", "GPU-a"])
    with started(checkpoint, serving(gpus_per_server=2), device="auto") as opened:
        assert len(set(opened.urls)) == 2
        seen = [environment_of(opened, url)["CUDA_VISIBLE_DEVICES"] for url in opened.urls]
        assert seen == ["4,5", "6,7"]
        with (
            pytest.raises(
                UserError,
                match="labeler: a server of vLLM takes 2 GPUs, at least one.*there are 5, of which other.*have 4",
            ),
            started(checkpoint, serving(gpus_per_server=2), device="auto", name="labeler"),
        ):
            pass
        with started(checkpoint, serving(), device="auto", name="labeler") as beside:
            assert environment_of(beside, beside.urls[0])["CUDA_VISIBLE_DEVICES"] == "GPU-a"
    with started(checkpoint, serving(servers=1, gpus_per_server=5), device="auto") as opened:
        assert environment_of(opened, opened.urls[0])["CUDA_VISIBLE_DEVICES"] == "4,5,6,7,GPU-a"
    assert "chunked-prefill" not in (run / "servers/policy-0.log").read_text(), "that is for CPUs"


@pytest.mark.parametrize(
    ("says", "told"),
    [
        (
            "/venv/bin/python: Error while finding module specification for "
            "'vllm.entrypoints.openai.api_server' (ModuleNotFoundError: No module named 'vllm')",
            r"No module named 'vllm'\)\. The environment of serving.python has no vLLM: make vllm-env",
        ),
        (
            "api_server.py: error: unrecognized arguments: --nonsense 3",
            "unrecognized arguments: --nonsense 3. Look at serving.engine_options",
        ),
        ("RuntimeError: something new went wrong", "RuntimeError: something new went wrong. Its log"),
        ("it is just over", "its log ends with:\n.*it is just over"),
    ],
)
def test_a_server_that_does_not_start_says_why(
    run: Path, checkpoint: Path, serving: Serving, says: str, told: str
) -> None:
    with pytest.raises(UserError, match=rf"(?s)vLLM for policy doesn't start: .*{told}.*policy-0.log"):
        VLLMServers(checkpoint, serving(f"says {says}"), dtype="float32", name="policy", device="cpu")
    assert [path.name for path in (run / "servers").iterdir()] == ["policy-0.log"]


def test_an_interpreter_that_is_not_there(run: Path, checkpoint: Path) -> None:
    nowhere = ServingParams(python="/nowhere/bin/python")
    with pytest.raises(UserError, match="/nowhere/bin/python can't be run: No such file.*Set serving.python"):
        VLLMServers(checkpoint, nowhere, dtype="float32", name="policy", device="cpu")


@pytest.mark.parametrize("how", ["sleeps", "is another"])
def test_a_server_must_answer_in_time(run: Path, checkpoint: Path, serving: Serving, how: str) -> None:
    """One on its port that serves something else is no answer."""
    with pytest.raises(
        UserError, match="didn't answer within 1.5 s. Raise serving.start_timeout.*starting with"
    ):
        VLLMServers(checkpoint, serving(how, start_timeout=1.5), dtype="float32", name="policy", device="cpu")
    assert [path.name for path in (run / "servers").iterdir()] == ["policy-0.log"]


def test_ports_of_others_are_left_alone(run: Path, checkpoint: Path, serving: Serving) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        first = other.getsockname()[1]
        only = serving(ports=(first, first))
        with pytest.raises(UserError, match=f"No port from {first} to {first} is free.*serving.ports"):
            VLLMServers(checkpoint, only, dtype="float32", name="policy", device="cpu")
        room = serving(ports=(first, first + 50))
        with started(checkpoint, room) as opened, started(checkpoint, room, name="labeler") as beside:
            taken = {first, *(int(url.rpartition(":")[2]) for url in (*opened.urls, *beside.urls))}
        assert len(taken) == 3


def test_a_port_that_another_takes_meanwhile(
    run: Path, checkpoint: Path, serving: Serving, tmp_path: Path
) -> None:
    late = "says OSError: [Errno 98] Address already in use"
    with started(checkpoint, serving(late, once=tmp_path / "once")) as opened:
        assert opened.urls


@pytest.mark.parametrize("victim", ["server", "guard"])
def test_a_killed_server_is_started_again(
    run: Path, checkpoint: Path, serving: Serving, victim: str, caplog: pytest.LogCaptureFixture
) -> None:
    with started(checkpoint, serving(servers=2)) as opened:
        before, guard = opened.urls, guard_of(opened)
        mark = mark_of(guard)
        [server] = children(guard)
        os.kill(server if victim == "server" else guard, signal.SIGKILL)
        opened.lost(before[0])
        assert opened.urls == before[1:]
        until(lambda: len(opened.urls) == 2)
        assert opened.urls[1] == before[1]
        assert guard_of(opened) != guard
        assert marked(mark) == set(), "the engine that outlives its parent"
    assert "policy-0 has died; it is started again" in caplog.text


def test_a_server_that_dies_again_and_again(run: Path, checkpoint: Path, serving: Serving) -> None:
    with started(checkpoint, serving()) as opened:
        for _ in range(servers.MOST_DEATHS - 1):
            [server] = children(guard_of(opened))
            [url] = opened.urls
            os.kill(server, signal.SIGKILL)
            until(lambda: opened.urls == [])
            until(lambda: opened.urls)
            assert opened.urls[0].startswith("http://127.0.0.1:")
        [server] = children(guard_of(opened))
        os.kill(server, signal.SIGKILL)
        with pytest.raises(UserError, match="has died 3 times.*ended by SIGKILL.*memory.*policy-0.log"):
            until(lambda: opened.lost(url))
        with pytest.raises(UserError, match="has died 3 times"):
            _ = opened.urls


def test_a_server_that_is_there_and_silent_is_replaced(
    run: Path, checkpoint: Path, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "SILENCE", 0.5)
    monkeypatch.setattr("rlaifv_kedro.models.serving.server._ASKED", 0.5)
    with started(checkpoint, serving()) as opened:
        guard, [url] = guard_of(opened), opened.urls
        mark = mark_of(guard)
        os.kill(children(guard)[0], signal.SIGSTOP)
        opened.lost(url)
        until(lambda: opened.urls)
        assert guard_of(opened) != guard
        assert marked(mark) == set()


def test_a_server_that_is_said_to_be_lost_and_answers_is_kept(
    run: Path, checkpoint: Path, serving: Serving
) -> None:
    with started(checkpoint, serving()) as opened:
        guard, [url] = guard_of(opened), opened.urls
        opened.lost(url)
        opened.lost("http://127.0.0.1:1")
        until(lambda: opened.urls == [url])
        assert guard_of(opened) == guard


@pytest.mark.usefixtures("ctrl_c")
def test_a_start_that_is_interrupted_ends_what_it_started(
    run: Path, checkpoint: Path, serving: Serving
) -> None:
    """As Ctrl-C and the signals of schedulers interrupt."""

    def interrupt() -> None:
        until(lambda: list(run.glob("servers/*.running.json")))
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        VLLMServers(checkpoint, serving("sleeps"), dtype="float32", name="policy", device="cpu")
    thread.join()
    assert [path.name for path in (run / "servers").iterdir()] == ["policy-0.log"]


@pytest.mark.usefixtures("ctrl_c")
def test_a_start_that_is_interrupted_as_its_process_begins_ends_it(
    run: Path, checkpoint: Path, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    class Interrupted(subprocess.Popen):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            begun.append(self)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        VLLMServers(checkpoint, serving("sleeps"), dtype="float32", name="policy", device="cpu")
    assert [process.poll() is None for process in begun] == [False]


def test_what_a_start_waits_for_is_said(
    run: Path,
    checkpoint: Path,
    serving: Serving,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(servers, "TELL", 0.1)

    def let_go() -> None:
        until(lambda: "starting with" in caplog.text)
        (tmp_path / "go").touch()

    thread = threading.Thread(target=let_go)
    thread.start()
    with caplog.at_level(logging.INFO), started(checkpoint, serving(f"waits for {tmp_path / 'go'}")):
        thread.join()
    assert "Starting 1 server of vLLM for policy" in caplog.text
    assert "Waiting for 1 server of vLLM for policy" in caplog.text
    assert "starting with" in caplog.text, "the last line of its log"


RUN = """
import sys, time
from pathlib import Path
from typing import Any
from rlaifv_kedro.models.serving.servers import VLLMServers
from rlaifv_kedro.params import ServingParams
from rlaifv_kedro.run_folder import set_run_folder
folder, checkpoint, python = map(Path, sys.argv[1:])
set_run_folder(folder)
opened = VLLMServers(checkpoint, ServingParams(python=str(python)), dtype="float32", name="policy", device="cpu")
print(opened._watched[0].server._process.pid, flush=True)
time.sleep(600)
"""


@contextmanager
def another_run(folder: Path, checkpoint: Path, serving: ServingParams) -> Iterator[tuple[int, int]]:
    """A run in another process with a server: the pids of the run and of the guard."""
    command = [sys.executable, "-c", RUN, str(folder), str(checkpoint), serving.python]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process.pid, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_servers_of_a_killed_run_end(run: Path, checkpoint: Path, serving: Serving) -> None:
    with another_run(run, checkpoint, serving()) as (pid, guard):
        mark = mark_of(guard)
        assert len(marked(mark)) == 3
        os.kill(pid, signal.SIGKILL)
        until(lambda: not marked(mark))


def test_leftovers_are_ended_if_they_are_ours(
    run: Path, checkpoint: Path, serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    """Run and guard are killed at one moment; the engine lives on, as vLLM's does."""
    other = run.parent / "before"
    with another_run(other, checkpoint, serving()) as (pid, guard), started(checkpoint, serving()) as living:
        mark = mark_of(guard)
        end_leftovers(run.parent)
        assert len(marked(mark)) == 3, "its run lives"
        for victim in (guard, pid):
            os.kill(victim, signal.SIGKILL)
        [record] = other.glob("servers/*.running.json")
        ended = Record.model_validate_json(record.read_bytes()).run.is_gone
        until(lambda: ended() and len(marked(mark)) == 1)
        damaged = record.with_name("damaged.running.json")
        damaged.write_text("{")
        with started(checkpoint, serving(), name="labeler"):
            assert marked(mark) == set(), "the next start ends them"
        assert living.urls
        assert not record.exists()
        assert damaged.exists()
    assert "policy-0 of process" in caplog.text
    assert "was left over by a run that was killed: ended" in caplog.text


@pytest.mark.parametrize("mark", ["HOME=", "RLAIFV_SERVER=", "PATH=/usr/bin"])
def test_a_record_can_name_no_other_processes(run: Path, mark: str) -> None:
    """Whoever can write a record could else have any process of the user's ended."""
    record = {"run": this_process().model_dump() | {"pid": 2**22 + 1}, "mark": mark, "what": "policy-0"}
    path = run / "servers/policy-0.running.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record))
    with subprocess.Popen(
        ["sleep", "600"], env={"HOME": "", "RLAIFV_SERVER": "", "PATH": "/usr/bin"}
    ) as other:
        assert other.pid in marked(mark)
        end_leftovers(run.parent)
        assert other.poll() is None
        other.kill()
