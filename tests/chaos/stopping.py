"""Trials in which a run is ended from outside: kills, signals, two starts, clocks that jump."""

import os
import random
import signal

from forked import Started, start
from ground import RUN, WHOLE, Ground, manifest
from settling import Outcome, Trial, message_of, settle

from fatal_operations import WHENS, Operations

BEGUN = "If it is interrupted, go on with"
"""In the line that a run begins with, once it has a manifest."""


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
    trial.begin(ground, chance)
    for _ in range(chance.randint(4, 10)):
        after = chance.uniform(0.1, ground.seconds * 0.3)
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
    left = trial.begin(ground, chance)
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
    trial.begin(ground, chance)
    for _ in range(chance.randint(2, 4)):
        number = chance.choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
        after = chance.uniform(0.1, ground.seconds * 0.4)
        trial.note(f"{number.name} after {after:.2f} s")
        started = start(trial.project, WHOLE, trial.log())
        if started.wait(after) is not None:
            break
        started.send(number)
        trial.blows += 1
        if started.wait(60) is None:
            started.kill()
            return trial.ends(f"{number.name} did not end the run within 60 s")
        if started.status == 0:
            break
        wrong = _ended_by(trial, started, number)
        if wrong:
            return trial.ends(wrong)
    return settle(trial, WHOLE, ground.expected[RUN], RUN)


def _ended_by(trial: Trial, started: Started, number: signal.Signals) -> str:
    """What is wrong with how a run ended on a signal; one that hadn't begun may end as any process."""
    output = started.output()
    if started.status not in (128 + number, -number):
        return f"exit status {started.status} on {number.name}: {output[-600:]}"
    _, begun, rest = output.partition(BEGUN)
    if not begun:
        return ""
    if "Traceback" in output:
        return f"a traceback on {number.name}: {output[-1200:]}"
    status = manifest(trial.project, RUN)["status"]
    if status != "stopped":
        return f"the manifest says {status} after {number.name}: {output[-300:]}"
    way_on = rest.partition("\n")[2]
    return "" if f"run_id={RUN}" in way_on else f"{number.name}: no command to go on: {way_on[-600:]}"


def moved_in_time(ground: Ground, trial: Trial, chance: random.Random) -> Outcome:
    """A run is killed, and its files get times of other days, as a clock that jumps gives them."""
    trial.begin(ground, chance)
    _kill(trial, start(trial.project, WHOLE, trial.log()), chance.uniform(0.5, ground.seconds * 0.5))
    for path in sorted((trial.project / "data").rglob("*")):
        if path.is_file():
            moved = path.stat().st_mtime + chance.uniform(-3e6, 3e6)
            os.utime(path, (moved, moved))
    trial.note("all times moved")
    return settle(trial, WHOLE, ground.expected[RUN], RUN)


def started_twice(ground: Ground, trial: Trial, chance: random.Random) -> Outcome:
    """Two starts with one id at the same moment, of a new run or of a killed one: one of them goes on."""
    trial.begin(ground, chance)
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
