"""Trials in which files of a finished or killed run are damaged."""

import random

from forked import start
from ground import RUN, STAGES, WHOLE, Files, Ground, command, compared, copy, files, manifest, stage_run
from settling import Outcome, Trial, listed, settle
from spoiling import spoil

from fatal_operations import WHENS, Operations


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
    run_id, argv = stage_run(chance.choice(STAGES))
    damaged = _damage(trial, chance, _read_by(ground, run_id, files(trial.project)))
    kept = _without(files(trial.project), damaged)
    return settle(trial, argv, ground.expected[run_id], run_id, damaged=damaged, kept=kept)


def damaged_then_replayed(ground: Ground, trial: Trial, chance: random.Random) -> Outcome:
    """What a stage run has read or written is damaged, and that run replayed."""
    copy(ground.staged, trial.project)
    stage = chance.choice(STAGES)
    before, _ = stage_run(stage)
    there = files(trial.project)
    damaged = _damage(trial, chance, [*_read_by(ground, before, there), *_of_run(there, before)])
    argv = command("again", "--pipelines", stage, iteration=2, replay=before)
    kept = _without(files(trial.project), damaged)
    return settle(trial, argv, ground.expected[before], "again", damaged=damaged, kept=kept)


def killed_then_damaged(ground: Ground, trial: Trial, chance: random.Random) -> Outcome:
    """A run is killed, a file of it damaged, and the run started again."""
    left = trial.begin(ground, chance)
    at, act = chance.randint(1, max(2, left // 3)), chance.choice(WHENS)
    trial.note(f"killed {act} file operation {at}")
    start(trial.project, WHOLE, trial.log(), Operations(trial.project / "data", at, act).install).wait()
    there = _of_run(files(trial.project), RUN)
    if not there:
        return settle(trial, WHOLE, ground.expected[RUN], RUN)
    damaged = _damage(trial, chance, there)
    return settle(trial, WHOLE, ground.expected[RUN], RUN, damaged=damaged)


def _of_run(found: Files, run_id: str) -> list[str]:
    """A run's files: artifacts, hidden ones, its manifest, and the judge's replies."""
    return [path for path in found if run_id in path.split("/") or "judge_store" in path]


def _read_by(ground: Ground, run_id: str, found: Files) -> list[str]:
    """The files of the finished run that a stage run reads, and that run's manifest."""
    read = [entry["path"] for entry in manifest(ground.staged, run_id)["read"].values() if entry["path"]]
    places = (*read, f"data/runs/{RUN}/")
    return [path for path in _of_run(found, RUN) if path.startswith(places)]


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
