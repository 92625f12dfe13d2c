"""Trials in which what a run needs is lacking for a while: room on the disk, the judge's server."""

import random
import shutil
import subprocess

from forked import Started, start
from ground import RUN, WHOLE, Ground, copy, stage_run
from settling import Outcome, Trial, message_of, settle
from stormy_judge import Storm, serve

from fatal_operations import FAILURES, Operations


def disk_fails(ground: Ground, trial: Trial, chance: random.Random) -> Outcome:
    """From some file operation on the disk takes nothing (full, over quota, broken); then it does again."""
    at, act = chance.randint(1, trial.begin(ground, chance)), chance.choice(sorted(FAILURES))
    trial.note(f"disk {act} from file operation {at}")
    started = start(trial.project, WHOLE, trial.log(), Operations(trial.project / "data", at, act).install)
    trial.blows += 1
    return _after_a_full_disk(ground, trial, started)


def disk_is_full(ground: Ground, trial: Trial, chance: random.Random) -> Outcome:
    """The project lies on a small tmpfs that runs full; then it gets more room."""
    needed = sum(p.stat().st_size for p in ground.finished.rglob("*") if p.is_file())
    there = sum(p.stat().st_size for p in ground.begun[0][0].rglob("*") if p.is_file())
    size = int(there * 1.1 + chance.random() * (needed - there)) + 2**20
    trial.project.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(trial.project)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        shutil.copytree(ground.begun[0][0], trial.project, symlinks=True, dirs_exist_ok=True)
        trial.note(f"a disk of {size / 2**20:.1f} MiB")
        started = start(trial.project, WHOLE, trial.log())
        trial.blows += 1
        started.wait()
        more = ["mount", "-o", "remount,size=1g", str(trial.project)]
        subprocess.run(more, check=True, capture_output=True)
        return _after_a_full_disk(ground, trial, started)
    finally:
        subprocess.run(["umount", "-l", str(trial.project)], check=False, capture_output=True)


def _after_a_full_disk(ground: Ground, trial: Trial, started: Started) -> Outcome:
    """The run that met the full disk has said so, and goes on once there is room."""
    if started.wait() is None:
        started.kill()
        return trial.ends("still running after the limit")
    output = started.output()
    if started.status != 0:
        if "Traceback" in output or output.count("Error: ") != 1:
            return trial.ends(f"exit status {started.status} on a full disk: {output[-1500:]}")
        trial.note(message_of(output)[:300])
    outcome = settle(trial, WHOLE, ground.expected[RUN], RUN)
    return trial.ends(outcome.why, named=started.status != 0)


def judge_storms(ground: Ground, trial: Trial, chance: random.Random) -> Outcome:
    """The judge's server answers with errors, garbage, halves and silence; then it answers."""
    copy(ground.finished, trial.project)
    shutil.rmtree(trial.project / "data/07_model_output/judge_store")
    run_id, argv = stage_run("evaluation")
    forever = chance.random() < 0.5
    storm = Storm(chance.random(), chance.uniform(0.3, 0.9), forever)
    trial.note(f"storm: {storm}")
    trial.blows += 1
    with serve(storm) as url:
        status, output = trial.run(_with(argv, "models.judge.url", url))
    if status != 0 and ("Traceback" in output or output.count("Error: ") != 1 or status is None):
        return trial.ends(f"exit status {status} in a storm: {output[-1500:]}")
    if status != 0 and "judge" not in message_of(output):
        return trial.ends(f"the judge is not named: {message_of(output)}")
    outcome = settle(trial, argv, ground.expected[run_id], run_id)
    return trial.ends(outcome.why, named=status != 0)


def _with(argv: list[str], name: str, value: str) -> list[str]:
    """The command with another parameter."""
    *others, params = argv
    return [*others, f"{params},{name}={value}"]
