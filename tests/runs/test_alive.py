"""Whose a run is: one process at a time, on any machine; and how a signal ends a run."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from begun_runs import begin
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.leftovers import FOLDER, Record, new_mark
from rlaifv_kedro.processes import Process, this_process
from rlaifv_kedro.runs import alive, owners
from rlaifv_kedro.runs import manifest as manifests
from rlaifv_kedro.runs.owners import Owner
from toy_project import SOURCE, ToyProject

ELSEWHERE = Process(host="elsewhere", pid=7, started="1", boot="another", namespace="pid:[1]")


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A project with one finished run, `whole`."""
    project = ToyProject(tmp_path_factory.mktemp("toy"))
    assert project.run("run_id=whole").returncode == 0
    project.calls()
    return project


@pytest.fixture
def fast(monkeypatch):
    """A second in the project's time is a fiftieth here."""
    monkeypatch.setattr(alive, "BEAT", 0.1)
    monkeypatch.setattr(alive, "SILENCE", 1.2)


@pytest.fixture
def gone():
    """A process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return this_process().model_copy(update={"pid": process.pid})


def owned(project: Path, process: Process, run_id: str = "r", **changes) -> Path:
    """A run that belongs to a process; its folder."""
    begin(project, run_id)
    folder = project / manifests.RUNS / run_id
    assert owners.make(folder, 1, Owner(process=process, **changes))
    return folder


def claimed(project: Path, run_id: str = "r") -> int:
    """Takes the run up and lets it go; the number of the owner's file."""
    with alive.owning(project, run_id):
        return owners.look(project / manifests.RUNS / run_id).generation


def stop_at_once(toy, run_id, number, times=1):
    process = toy.start(f"run_id={run_id}", "p4")
    for _ in range(times):
        process.send_signal(number)
    output = process.communicate(timeout=60)[0]
    (toy.path / "wait_at_p4").unlink()
    toy.calls()
    return process.returncode, output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_a_run_which_then_goes_on_to_the_same_bytes(toy, number):
    run_id = number.name
    status, output = stop_at_once(toy, run_id, number)
    assert status == 128 + number
    assert f"Run {run_id} was stopped ({number.name}). To go on: kedro run --params run_id={run_id}" in output
    assert "Traceback" not in output
    manifest = toy.manifest(run_id)
    assert (manifest["status"], manifest["error"]) == ("stopped", f"stopped by {number.name}")
    assert manifest["ended"] is not None
    listed = json.loads(toy.python("-m", "rlaifv_kedro", "runs", "--json").stdout)
    assert {run["run_id"]: run["status"] for run in listed}[run_id] == "stopped"
    resumed = toy.python("-m", "rlaifv_kedro", "runs", "resume", run_id)
    assert resumed.returncode == 0, resumed.stderr
    assert toy.calls() == ["chunk p4", "chunk p6", "score"]
    assert toy.files(run_id) == toy.files("whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_more_signals_while_it_ends_change_nothing(toy, number):
    """A second Ctrl-C may come before anything is written, as a kill; other signals wait."""
    run_id = f"impatient_{number.name}"
    status, output = stop_at_once(toy, run_id, number, times=50)
    assert status in (128 + number, -number), output
    assert toy.manifest(run_id)["status"] in ("stopped", *(["running"] if number == signal.SIGINT else []))
    assert toy.run(f"run_id={run_id}").returncode == 0
    toy.calls()
    assert toy.files(run_id) == toy.files("whole")


def test_a_hangup_that_was_ignored_at_the_start_stays_so(toy):
    """``nohup kedro run``."""
    process = toy.start("run_id=nohup", "p4", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    (toy.path / "wait_at_p4").unlink()
    output = process.communicate(timeout=60)[0]
    toy.calls()
    assert process.returncode == 0, output
    assert toy.manifest("nohup")["status"] == "finished"


def test_a_run_that_runs_here_is_not_started_twice_nor_taken_over(toy):
    process = toy.start("run_id=twice", "p4")
    try:
        for again in (
            toy.run("run_id=twice"),
            toy.python("-m", "rlaifv_kedro", "runs", "resume", "twice", "--takeover"),
        ):
            assert again.returncode == 1
            assert f"process {process.pid} on" in again.stderr and "is there" in again.stderr
            assert "Traceback" not in again.stderr
    finally:
        (toy.path / "wait_at_p4").unlink()
        output = process.communicate(timeout=60)[0]
    assert process.returncode == 0, output
    assert toy.calls() == ["make_prompts", "chunk p0", "chunk p2", "chunk p4", "chunk p6", "score"]
    assert toy.files("twice") == toy.files("whole")


def test_an_owner_that_was_taken_for_dead_stops_at_its_next_save(toy):
    """As one of a paused machine that wakes up when the run goes on elsewhere."""
    first = toy.start("run_id=paused", "p4")
    first.send_signal(signal.SIGSTOP)
    folder = toy.path / manifests.RUNS / "paused"
    (file,) = folder.glob(f"{owners.FILE}*")
    file.write_bytes(Owner(process=ELSEWHERE).content())
    (toy.path / "wait_at_p4").unlink()
    second = toy.python("-m", "rlaifv_kedro", "runs", "resume", "paused", "--takeover")
    assert second.returncode == 0, second.stderr
    assert "is taken from process 7 on elsewhere: it can't be seen from here" in second.stderr
    manifest = toy.manifest("paused")
    first.send_signal(signal.SIGCONT)
    output = first.communicate(timeout=60)[0]
    toy.calls()
    assert first.returncode == 1
    assert "Run `paused` was taken over by process" in output and "Traceback" not in output
    assert toy.manifest("paused") == manifest and manifest["status"] == "finished"
    assert toy.files("paused") == toy.files("whole")


RACE = """
import sys, time
from pathlib import Path
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.runs import alive
from rlaifv_kedro.runs.numbers import next_number
project = Path.cwd()
print("ready", flush=True)
for number in range(20):
    while not Path(f"go_{number}").exists():
        pass
    try:
        with alive.owning(project, f"r{number}"):
            print("won", next_number(project, f"r{number}"), flush=True)
            while not Path(f"end_{number}").exists():
                time.sleep(0.01)
    except UserError as error:
        print("refused", next_number(project, "other"), error.message, flush=True)
"""


@pytest.mark.parametrize("before", ["nothing", "a dead owner"])
def test_of_starts_at_one_moment_one_wins(tmp_path, gone, before):
    """Three at once, twenty times; and each takes a number of its own."""
    env = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-c", RACE]
    racers = [
        subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 3
    numbers = []
    for number in range(20):
        if before == "a dead owner":
            folder = tmp_path / manifests.RUNS / f"r{number}"
            assert owners.make(folder, 1, Owner(process=gone))
        (tmp_path / f"go_{number}").touch()
        said = [racer.stdout.readline().split(maxsplit=2) for racer in racers]
        (tmp_path / f"end_{number}").touch()
        assert sorted(line[0] for line in said) == ["refused", "refused", "won"]
        assert all("still running" in line[2] for line in said if line[0] == "refused"), said
        numbers += [int(line[1]) for line in said]
    assert [racer.communicate(timeout=60)[0] for racer in racers] == [""] * 3
    assert [racer.returncode for racer in racers] == [0, 0, 0]
    assert sorted(numbers) == list(range(1, 61))


def test_a_run_of_another_machine_without_a_sign_of_life_is_taken_up(tmp_path, fast, caplog):
    owned(tmp_path, ELSEWHERE)
    assert claimed(tmp_path) == 2
    (said,) = caplog.messages
    assert "Run r was running as process 7 on elsewhere, which can't be seen from here" in said
    assert [path.name for path in (tmp_path / "data/runs/r").glob(".owner-*")] == [".owner-0002"]


@pytest.mark.parametrize("hours", [-5, 0, 5])
def test_one_that_gives_signs_of_life_is_not_whatever_its_clock_says(tmp_path, fast, hours):
    file = owned(tmp_path, ELSEWHERE) / ".owner-0001"
    ended = threading.Event()

    def beat():
        while not ended.wait(0.1):
            when = time.time_ns() + hours * 3600 * 10**9
            os.utime(file, ns=(when, when))

    beat_elsewhere = threading.Thread(target=beat)
    beat_elsewhere.start()
    try:
        with pytest.raises(UserError, match="process 7 on elsewhere has just given a sign of life"):
            claimed(tmp_path)
    finally:
        ended.set()
        beat_elsewhere.join()


def test_one_that_ends_while_it_is_watched_is_taken_up(tmp_path, fast):
    file = owned(tmp_path, ELSEWHERE) / ".owner-0001"
    ends = threading.Timer(0.3, file.write_bytes, [Owner(process=ELSEWHERE, released=True).content()])
    ends.start()
    assert claimed(tmp_path) == 2
    ends.join()


def test_a_damaged_owners_file_is_watched(tmp_path, fast, caplog):
    file = owned(tmp_path, this_process()) / ".owner-0001"
    file.write_bytes(b"\0")
    assert claimed(tmp_path) == 2
    (said,) = caplog.messages
    assert "was running as an unknown process" in said


def test_an_empty_owners_file_is_of_a_process_that_was_killed_while_it_was_made(tmp_path, caplog):
    (owned(tmp_path, ELSEWHERE) / ".owner-0001").write_bytes(b"")
    assert claimed(tmp_path) == 2
    assert caplog.messages == []


def test_states(tmp_path, gone, fast):
    run = begin(tmp_path)
    assert alive.state(tmp_path, run) == "running"  # by its pid, as for runs of earlier versions
    folder = owned(tmp_path, gone)
    assert alive.state(tmp_path, run) == "killed"
    assert alive.state(tmp_path, run.model_copy(update={"status": "finished"})) == "finished"
    assert owners.make(folder, 2, Owner(process=this_process()))
    assert alive.state(tmp_path, run) == "running"
    assert owners.make(folder, 3, Owner(process=this_process(), released=True))
    assert alive.state(tmp_path, run) == "killed"
    assert owners.make(folder, 4, Owner(process=ELSEWHERE))
    assert alive.state(tmp_path, run) == "running"
    os.utime(folder / ".owner-0004", (1, 1))
    assert alive.state(tmp_path, run) == "killed"


def test_a_process_is_known_by_its_start_and_a_zombie_is_none(gone):
    here = this_process()
    assert here.is_gone() is False and gone.is_gone() is True
    assert here.model_copy(update={"started": "1"}).is_gone() is True  # its pid was given to another
    assert here.model_copy(update={"boot": "another"}).is_gone() is None
    assert here.model_copy(update={"namespace": "pid:[1]"}).is_gone() is None
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        zombie = here.model_copy(update={"pid": ended.pid, "started": None})
        stat = Path(f"/proc/{ended.pid}/stat")
        while stat.read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)
        started = stat.read_text().rpartition(")")[2].split()[19]
        assert zombie.model_copy(update={"started": started}).is_gone() is True


def test_a_run_of_an_earlier_version_goes_by_pid_and_host(tmp_path, gone):
    run = begin(tmp_path)
    with pytest.raises(UserError, match=f"process {os.getpid()} on .* is there"):
        claimed(tmp_path)
    run.model_copy(update={"host": "elsewhere"}).save(tmp_path)
    with pytest.raises(UserError, match="rlaifv runs resume r --takeover"):
        claimed(tmp_path)
    assert "is taken from process" in alive.take_over(tmp_path, "r")
    assert claimed(tmp_path) == 2
    run.model_copy(update={"pid": gone.pid}).save(tmp_path)
    assert alive.state(tmp_path, run.model_copy(update={"pid": gone.pid})) == "killed"


def test_the_folder_of_a_run_that_never_began_is_removed(tmp_path):
    with alive.owning(tmp_path, "r"):
        pass
    assert list((tmp_path / manifests.RUNS).iterdir()) == []
    with pytest.raises(UserError, match="no place"), alive.owning(tmp_path, "r"):
        raise UserError("no place")
    with alive.owning(tmp_path, "r"):
        begin(tmp_path)
    assert claimed(tmp_path) == 2  # the same process again


@pytest.mark.skipif(
    subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True).returncode
    != 0,
    reason="this user can't make a container of pids",
)
def test_a_living_run_of_another_container_is_found_by_its_heartbeat(toy):
    """Its pid says nothing here. A kill then frees the run, after a minute at most."""
    script = f"""
import sys
from pathlib import Path
from rlaifv_kedro.runs import alive
alive.BEAT = 0.2
with alive.owning(Path({str(toy.path)!r}), "container"):
    print("owns", flush=True)
    sys.stdin.read()
"""
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-c", script]
    with subprocess.Popen(
        command, env=toy.env(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout.readline() == "owns\n"
        refused = toy.run("run_id=container")
        assert refused.returncode == 1
        assert "process 1 on" in refused.stderr and "has just given a sign of life" in refused.stderr
        owner.kill()
    free = toy.run("run_id=container")
    assert free.returncode == 0, free.stderr


def test_a_run_begins_by_ending_what_a_killed_one_left_over(toy, gone):
    """A server of a killed run holds a GPU; this one stands for it."""
    mark = new_mark()
    name, _, value = mark.partition("=")
    record = toy.path / manifests.RUNS / "killed" / FOLDER / "policy-0.running.json"
    record.parent.mkdir(parents=True)
    with subprocess.Popen(["sleep", "600"], env={**os.environ, name: value}) as server:
        content = Record(run=gone, mark=mark, what="policy-0")
        record.write_text(content.model_dump_json())
        done = toy.run("run_id=next")
        assert done.returncode == 0
        assert server.wait(10) == -signal.SIGKILL
    assert not record.exists()
    assert "was left over by a run that was killed: ended" in done.stderr + done.stdout
