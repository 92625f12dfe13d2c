"""Trials in which one process of several is killed: one that prepares batches, or one that trains."""

import json
import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

from forked import LIMIT, Started, start
from ground import Ground, artifacts, command, copy, files
from settling import Outcome, Trial, message_of, settle

_LOADED, _SPREAD = "loaded", "spread"
_PARAMS = {_LOADED: {"training.dataloader_num_workers": 2}, _SPREAD: {"training.launch.processes": 2}}


def loader_killed(ground: Ground, trial: Trial, chance: random.Random) -> Outcome:
    """A process that prepares batches for the training is killed, and nothing else."""
    return _killed(ground, trial, chance, _LOADED, "", chance.uniform(0, 0.3))


def trainer_killed(ground: Ground, trial: Trial, chance: random.Random) -> Outcome:
    """One of two processes that train together is killed, or torchrun, which has started them."""
    return _killed(ground, trial, chance, _SPREAD, "torch.distributed", chance.uniform(0, 25))


def _expected(ground: Ground, trial: Trial, argv: list[str], run_id: str) -> dict[str, str]:
    """The artifacts of the uninterrupted run; it is made by the first trial that asks."""
    told = ground.finished.with_name(f"{run_id}.json")
    if not told.is_file():
        copy(ground.finished, trial.project)
        status, output = trial.run(argv)
        if status != 0:
            raise RuntimeError(f"{argv} ended with {status}, though nothing was killed: {output[-1500:]}")
        unfinished = trial.logs / told.name
        unfinished.write_text(json.dumps(artifacts(files(trial.project), run_id)))
        os.replace(unfinished, told)
    return json.loads(told.read_text())


def _killed(
    ground: Ground, trial: Trial, chance: random.Random, run_id: str, name: str, after: float
) -> Outcome:
    """Kills a process below the run, so many seconds after there is one whose command holds a name."""
    argv = command(run_id, "--pipelines", "training", iteration=2, **_PARAMS[run_id])
    expected = _expected(ground, trial, argv, run_id)
    copy(ground.finished, trial.project)
    started = start(trial.project, argv, trial.log())
    found = _awaited(started, name, after)
    if found:
        victim = chance.choice(found)
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        trial.blows += 1
        trial.note(f"killed a process below the run after {after:.2f} s")
    if started.wait() is None:
        started.kill()
        return trial.ends("still running after a process of it was killed")
    output = started.output()
    if "Traceback" in output or (started.status != 0 and output.count("Error: ") != 1):
        return trial.ends(f"exit status {started.status} when a process of it was killed: {output[-2000:]}")
    if started.status:
        trial.note(message_of(output)[:300])
    outcome = settle(trial, argv, expected, run_id)
    return trial.ends(outcome.why, named=started.status != 0)


def _awaited(started: Started, name: str, after: float) -> list[int]:
    """The processes below a run, so long after the first of them is there; none where the run ends before."""
    until = time.monotonic() + LIMIT
    while not _below(started.pid, name) and time.monotonic() < until:
        if started.ended():
            return []
        time.sleep(0.002)
    started.wait(after)
    return _below(started.pid, "")


def _below(pid: int, name: str) -> list[int]:
    """The processes that a process has started, directly or not; none unless a command holds the name."""
    parents = {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for parent in found:
        found += [child for child, of in parents.items() if of == parent]
    commands = []
    for child in found[1:]:
        with suppress(OSError):
            commands.append(Path(f"/proc/{child}/cmdline").read_text())
    return found[1:] if any(name in command for command in commands) else []
