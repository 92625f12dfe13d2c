"""The kinds of trials: what is done to a run, and how it has to end."""

import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from forked import Started, start
from ground import RUN, Files, artifacts, command, compared, copy, files, manifest
from settling import Outcome, Trial, listed, message_of, settle
from spoiling import spoil

from fatal_operations import FAILURES, WHENS, Operations

STAGES = ("data_generation", "feedback", "training", "evaluation")


@dataclass(frozen=True)
class Ground:
    """What all trials start from.

    Attributes:
        empty, finished, staged: The project before the run, after it, and after a run of each stage.
        expected: The artifacts of the uninterrupted runs, by run id.
        seconds: How long the uninterrupted run took, forked.
        operations: How many file operations it made.
        storm: Where the judge's server looks how it is to misbehave.
    """

    empty: Path
    finished: Path
    staged: Path
    expected: dict[str, dict[str, str]]
    seconds: float
    operations: int
    storm: Path


Kind = Callable[[Ground, Trial, random.Random], Outcome]
WHOLE = command(RUN)


def _stage(run_id: str, stage: str, **params: object) -> list[str]:
    return command(run_id, "--pipelines", stage, iteration=2, **params)


def stage_run(stage: str) -> tuple[str, list[str]]:
    """The id and command of the run of one stage, of the second iteration."""
    return f"alone_{stage}", _stage(f"alone_{stage}", stage)


def _kill(trial: Trial, started: Started, after: float) -> bool:
    """Kills a run after so many seconds; False where it has ended before."""
    if started.wait(after) is not None:
        return False
    started.kill()
    trial.blows += 1
    return True


def _early_end(trial: Trial, started: Started) -> str:
    """What is wrong with a run that ended by itself between kills."""
    output = started.output()
    if started.status == 0 and "Traceback" not in output:
        return ""
    return f"exit status {started.status} after a kill: {message_of(output)[-1500:]}"


def killed_at_moments(ground: Ground, trial: Trial, chance: random.Random) -> Outcome:
    """``kill -9`` of the whole process group at random moments, several times in a row."""
    copy(ground.empty, trial.project)
    for _ in range(chance.randint(4, 10)):
        after = chance.uniform(0.1, ground.seconds * 0.5)
        started = start(trial.project, WHOLE, trial.log())
        trial.note(f"killed after {after:.2f} s")
        if not _kill(trial, started, after):
            wrong = _early_end(trial, started)
            if wrong:
                return trial.ends(wrong)
            break
    return settle(trial, WHOLE, ground.expected[RUN], RUN)


def killed_at_operations(ground: Ground, trial: Trial, chance: random.Random) -> Outcome:
    """``kill -9`` just before, in or after a sampled file operation, several times in a row."""
    copy(ground.empty, trial.project)
    left = ground.operations
    for _ in range(chance.randint(3, 6)):
        at, act = chance.randint(1, max(2, left // 2)), chance.choice(WHENS)
        left -= at
        trial.note(f"killed {act} file operation {at}")
        started = start(
            trial.project,
            WHOLE,
            trial.log(),
            Operations(trial.project / "data", at, act).install,
        )
        if started.wait() == -signal.SIGKILL:
            trial.blows += 1
            continue
        wrong = _early_end(trial, started)
        if wrong:
            return trial.ends(wrong)
        break
    return settle(trial, WHOLE, ground.expected[RUN], RUN)


def stopped_by_signals(ground: Ground, trial: Trial, chance: random.Random) -> Outcome:
    """SIGTERM, SIGINT and SIGHUP at random moments: the run ends by the signal's convention, says how to go
    on, and is no longer running by its own word.
    """
    copy(ground.empty, trial.project)
    for _ in range(chance.randint(2, 4)):
        number = chance.choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
        after = chance.uniform(0.1, ground.seconds * 0.5)
        trial.note(f"{number.name} after {after:.2f} s")
        started = start(trial.project, WHOLE, trial.log())
        if started.wait(after) is not None:
            break
        begun = (trial.project / f"data/runs/{RUN}/manifest.json").is_file()
        started.send(number)
        trial.blows += 1
        if started.wait(60) is None:
            started.kill()
            return trial.ends(f"{number.name} did not end the run within 60 s")
        if started.status == 0:
            break
        wrong = _ended_by(trial, started, number, begun)
        if wrong:
            return trial.ends(wrong)
    return settle(trial, WHOLE, ground.expected[RUN], RUN)


def _ended_by(trial: Trial, started: Started, number: signal.Signals, begun: bool) -> str:
    """What is wrong with how a run ended on a signal; one that hadn't begun may end as any process."""
    output = started.output()
    if started.status not in (128 + number, -number):
        return f"exit status {started.status} on {number.name}: {output[-600:]}"
    if not begun:
        return ""
    if "Traceback" in output:
        return f"a traceback on {number.name}: {output[-1200:]}"
    status = manifest(trial.project, RUN)["status"]
    if status != "stopped":
        return f"the manifest says {status} after {number.name}: {output[-300:]}"
    return (
        "" if f"run_id={RUN}" in output.rpartition("\n2")[2] or "go on" in output else f"no way on: {output}"
    )


def damaged_then_resumed(ground: Ground, trial: Trial, chance: random.Random) -> Outcome:
    """A file of a finished run is damaged, and the run started again."""
    copy(ground.finished, trial.project)
    damaged = _damage(trial, chance, _of_run(files(trial.project), RUN))
    outcome = settle(
        trial, WHOLE, ground.expected[RUN], RUN, damaged=damaged, kept=_without(files(trial.project), damaged)
    )
    return _with_history(ground, trial, outcome)


def _with_history(ground: Ground, trial: Trial, outcome: Outcome) -> Outcome:
    """The outcome, unless the manifest of the finished run does not say what it said."""
    if outcome.why:
        return outcome
    was, now = manifest(ground.finished, RUN), manifest(trial.project, RUN)
    hashes = [{name: entry["sha256"] for name, entry in m["written"].items()} for m in (was, now)]
    if hashes[0] != hashes[1]:
        names = [name for name in hashes[0] if hashes[1].get(name) != hashes[0][name]]
        return trial.ends(f"the manifest has other hashes of {listed(names)}")
    return trial.ends(f"the manifest says {now['status']}") if now["status"] != "finished" else outcome


def damaged_then_read_by_a_stage(ground: Ground, trial: Trial, chance: random.Random) -> Outcome:
    """A file of a finished run is damaged, and a stage run takes what it needs of that run."""
    copy(ground.finished, trial.project)
    damaged = _damage(trial, chance, _of_run(files(trial.project), RUN))
    run_id, argv = stage_run(chance.choice(STAGES))
    kept = _without(files(trial.project), damaged)
    return settle(trial, argv, ground.expected[run_id], run_id, damaged=damaged, kept=kept)


def damaged_then_replayed(ground: Ground, trial: Trial, chance: random.Random) -> Outcome:
    """What a stage run has read or written is damaged, and that run replayed."""
    copy(ground.staged, trial.project)
    stage = chance.choice(STAGES)
    before, _ = stage_run(stage)
    there = files(trial.project)
    read = [entry["path"] for entry in manifest(trial.project, before)["read"].values() if entry["path"]]
    of_input = [path for path in _of_run(there, RUN) if any(path.startswith(place) for place in read)]
    damaged = _damage(trial, chance, [*of_input, *_of_run(there, before)])
    argv = _stage("again", stage, replay=before)
    kept = _without(files(trial.project), damaged)
    return settle(trial, argv, ground.expected[before], "again", damaged=damaged, kept=kept)


def killed_then_damaged(ground: Ground, trial: Trial, chance: random.Random) -> Outcome:
    """A run is killed, a file of it damaged, and the run started again."""
    copy(ground.empty, trial.project)
    at, act = chance.randint(ground.operations // 8, ground.operations), chance.choice(WHENS)
    trial.note(f"killed {act} file operation {at}")
    operations = Operations(trial.project / "data", at, act)
    start(trial.project, WHOLE, trial.log(), operations.install).wait()
    there = _of_run(files(trial.project), RUN)
    if not there:
        return settle(trial, WHOLE, ground.expected[RUN], RUN)
    damaged = _damage(trial, chance, there)
    return settle(trial, WHOLE, ground.expected[RUN], RUN, damaged=damaged)


def moved_in_time(ground: Ground, trial: Trial, chance: random.Random) -> Outcome:
    """A run is killed, and its files get times of other days, as a clock that jumps gives them."""
    copy(ground.empty, trial.project)
    started = start(trial.project, WHOLE, trial.log())
    _kill(trial, started, chance.uniform(0.5, ground.seconds * 0.9))
    for path in sorted((trial.project / "data").rglob("*")):
        if path.is_file():
            moved = path.stat().st_mtime + chance.uniform(-3e6, 3e6)
            os.utime(path, (moved, moved))
    trial.note("all times moved")
    return settle(trial, WHOLE, ground.expected[RUN], RUN)


def started_twice(ground: Ground, trial: Trial, chance: random.Random) -> Outcome:
    """Two starts with one id at the same moment, of a new run or of a killed one: one of them goes on."""
    copy(ground.empty, trial.project)
    if chance.random() < 0.5:
        _kill(trial, start(trial.project, WHOLE, trial.log()), chance.uniform(0.5, ground.seconds * 0.7))
    both = [start(trial.project, WHOLE, trial.log()) for _ in range(2)]
    trial.blows += 1
    for started in both:
        if started.wait() is None:
            started.kill()
            return trial.ends("still running after the limit")
    outputs = [started.output() for started in both]
    if any("Traceback" in output for output in outputs):
        return trial.ends(f"a traceback: {max(outputs, key=lambda o: 'Traceback' in o)[-1500:]}")
    statuses = [started.status for started in both]
    trial.note(f"two starts -> {statuses}")
    if 0 not in statuses:
        return trial.ends(f"neither of two starts went on: {message_of(outputs[0])}")
    for status, output in zip(statuses, outputs, strict=True):
        if status and RUN not in message_of(output):
            return trial.ends(f"the start that lost says: {output[-600:]}")
    return settle(trial, WHOLE, ground.expected[RUN], RUN)


def disk_fails(ground: Ground, trial: Trial, chance: random.Random) -> Outcome:
    """From some file operation on the disk takes nothing (full, over quota, broken); then it does again."""
    copy(ground.empty, trial.project)
    at, act = chance.randint(1, ground.operations), chance.choice(sorted(FAILURES))
    trial.note(f"disk {act} from file operation {at}")
    started = start(trial.project, WHOLE, trial.log(), Operations(trial.project / "data", at, act).install)
    trial.blows += 1
    return _after_a_full_disk(ground, trial, started)


def disk_is_full(ground: Ground, trial: Trial, chance: random.Random) -> Outcome:
    """The project lies on a small tmpfs that runs full; then it gets more room."""
    needed = sum(p.stat().st_size for p in ground.finished.rglob("*") if p.is_file())
    there = sum(p.stat().st_size for p in ground.empty.rglob("*") if p.is_file())
    size = int(there * 1.1 + chance.random() * (needed - there)) + 2**20
    trial.project.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(trial.project)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        shutil.copytree(ground.empty, trial.project, symlinks=True, dirs_exist_ok=True)
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
    how = {"seed": chance.random(), "share": chance.uniform(0.3, 0.9), "forever": forever}
    trial.note(f"storm: {how}")
    ground.storm.write_text(json.dumps(how))
    trial.blows += 1
    try:
        status, output = trial.run(argv)
    finally:
        ground.storm.unlink()
    if status != 0 and ("Traceback" in output or output.count("Error: ") != 1 or status is None):
        return trial.ends(f"exit status {status} in a storm: {output[-1500:]}")
    if status != 0 and "judge" not in message_of(output):
        return trial.ends(f"the judge is not named: {message_of(output)}")
    outcome = settle(trial, argv, ground.expected[run_id], run_id)
    return trial.ends(outcome.why, named=status != 0)


def _of_run(found: Files, run_id: str) -> list[str]:
    """A run's files: artifacts, hidden ones, its manifest, and the judge's replies."""
    return [path for path in found if run_id in path.split("/") or "judge_store" in path]


def _damage(trial: Trial, chance: random.Random, paths: list[str]) -> tuple[str, ...]:
    """Damages one file; an artifact of many files is hit as often as one of a single file."""
    folders = sorted({_artifact(path) for path in paths})
    chosen = chance.choice(folders)
    path = chance.choice([path for path in paths if _artifact(path) == chosen])
    trial.note(spoil(trial.project, path, paths, chance))
    trial.blows += 1
    return (path,)


def _artifact(path: str) -> str:
    """The place of an artifact's version."""
    parts = path.split("/")
    return "/".join(parts[: parts.index(RUN) + 1]) if RUN in parts else "/".join(parts[:-1])


def _without(found: Files, damaged: tuple[str, ...]) -> Files:
    return {path: kept for path, kept in found.items() if path not in damaged and compared(path)}


KINDS: dict[str, Kind] = {
    "kill-moment": killed_at_moments,
    "kill-operation": killed_at_operations,
    "signal": stopped_by_signals,
    "damage-resume": damaged_then_resumed,
    "damage-stage": damaged_then_read_by_a_stage,
    "damage-replay": damaged_then_replayed,
    "kill-damage": killed_then_damaged,
    "clock": moved_in_time,
    "twice": started_twice,
    "disk-failing": disk_fails,
    "disk-full": disk_is_full,
    "judge-storm": judge_storms,
}
__all__ = ["KINDS", "Ground", "artifacts", "stage_run"]
