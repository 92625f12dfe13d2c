"""``python tests/chaos``: kills, damage, full disks and storms, each compared with an uninterrupted run.

Property: a run that is started again ends with the same bytes, or with one message that names the file and
what to do, and whoever does that comes to the same bytes.
"""

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from chaos_report import Report
from forked import preload, start
from ground import RUN, STAGES, WHOLE, Ground, artifacts, command, copy, files, make, stage_run
from kinds import KINDS
from settling import differences, listed
from stormy_judge import serve
from trying import trying

from fatal_operations import Operations

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # libraries that start threads when they are imported can't be forked
os.environ |= {"OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false", "COLUMNS": "200"}

SHARED_MEMORY = "/dev/shm"
"""A kill loses nothing that was written, synced or not, so the trials needn't wait for a disk."""


def prepare(folder: Path, judge_url: str) -> Ground:
    """Makes the uninterrupted run by a real process, and makes sure that a forked one is like it.

    Raises:
        click.ClickException: One fails, or the forked run differs.
    """
    empty = make(folder / "empty", judge_url)
    _real(empty, command("drawn", "--pipelines", "miniature_benchmarks"), folder / "drawn.json")
    finished = copy(empty, folder / "finished")
    _real(finished, WHOLE, folder / "run.json")
    os.chdir(finished)  # Kedro reads its logging from here when it is imported
    preload(folder / "run.json")
    expected = {RUN: artifacts(files(finished), RUN)}
    counted, again = folder / "operations", copy(empty, folder / "again")
    operations = Operations(again / "data", on_count=lambda number: counted.write_text(str(number)))
    seconds = _forked(again, WHOLE, folder / "again.log", operations.install)
    differing = differences(expected[RUN], artifacts(files(again), RUN))
    if differing:
        raise click.ClickException(f"a forked run is not as a real one: {listed(differing)}")
    shutil.rmtree(again)
    staged = copy(finished, folder / "staged")
    for stage in reversed(STAGES):  # none reads what another of them made
        run_id, argv = stage_run(stage)
        _forked(staged, argv, folder / f"{stage}.log")
        expected[run_id] = artifacts(files(staged), run_id)
    begun = [(empty, int(counted.read_text())), *_killed(empty, int(counted.read_text()), folder)]
    return Ground(begun, finished, staged, expected, seconds)


def _killed(empty: Path, operations: int, folder: Path) -> list[tuple[Path, int]]:
    """The project as three kills in a row leave it, a quarter of the run between them."""
    found, place = [], empty
    for quarter in (1, 2, 3):
        place = copy(place, folder / f"quarter_{quarter}")
        dying = Operations(place / "data", operations // 4)
        start(place, WHOLE, folder / f"quarter_{quarter}.log", dying.install).wait()
        found.append((place, operations - quarter * operations // 4))
    return found


def _real(project: Path, argv: list[str], modules: Path) -> None:
    """Runs a command in a fresh Python, which tells at its end what it has imported."""
    told = f"import sys, forked; sys.argv = {argv!r}; forked.tell_modules({str(modules)!r}); sys.exit(forked.main())"
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", told],
        cwd=project,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise click.ClickException(f"{' '.join(argv)} failed:\n{done.stdout[-2000:]}{done.stderr[-3000:]}")


def _forked(project: Path, argv: list[str], log: Path, prepare: Callable = lambda: None) -> float:
    """Runs a command to its end, forked; its seconds."""
    began = time.monotonic()
    started = start(project, argv, log, prepare)
    if started.wait() != 0:
        raise click.ClickException(f"{' '.join(argv)} failed, forked:\n{started.output()[-3000:]}")
    return time.monotonic() - began


def can_mount(folder: Path) -> bool:
    """Whether this machine lets us make a small disk."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0
    except OSError:
        return False
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)
    return mounted


@click.command()
@click.option("--minutes", default=15.0, show_default=True, help="No trial is begun after so many.")
@click.option("--trials", default=10**6, help="At most so many trials.")
@click.option("--seed", default=0, show_default=True, help="Of all chance in the trials.")
@click.option("--kinds", default=",".join(KINDS), help="Kinds of trials, in turn; comma-separated.")
@click.option("--only", default=None, help="One trial alone, such as damage-resume/17.")
@click.option("--jobs", default=os.cpu_count(), show_default="cores", help="Trials at the same time.")
@click.option("--report", default="chaos-report.md", show_default=True, help="Where the report goes.")
@click.option("--folder", default=None, help="Where to work; trials that fail are left there.")
def main(
    minutes: float,
    trials: int,
    seed: int,
    kinds: str,
    only: str | None,
    jobs: int,
    report: str,
    folder: str | None,
) -> None:
    """Kills and damages runs, and compares what they end with."""
    until = time.monotonic() + 60 * minutes
    target, made = Path(report).absolute(), Report(seed)
    memory = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
    work = Path(folder or tempfile.mkdtemp(prefix="chaos-", dir=memory)).absolute()
    chosen = kinds.split(",")
    work.mkdir(parents=True, exist_ok=True)
    if "disk-full" in chosen and not can_mount(work / "disk"):
        chosen.remove("disk-full")
        click.echo("disk-full: skipped, this machine lets nobody mount a tmpfs; disk-failing injects it.")
    shutil.rmtree(work / "ground", ignore_errors=True)  # of an earlier session in the same folder
    with serve() as judge_url:
        ground = prepare(work / "ground", judge_url)
        click.echo(
            f"An uninterrupted run takes {ground.seconds:.1f} s forked and makes {ground.begun[0][1]} file "
            f"operations. Work folder: {work}"
        )
        names = [only] if only else (f"{kind}/{n}" for n in itertools.count() for kind in chosen)
        for name, outcome in trying(itertools.islice(names, trials), jobs, seed, ground, work, until):
            made.add(name, outcome)
            said = outcome.why or "; ".join(outcome.notes[:2])
            click.echo(f"{name}: {outcome.end}, {outcome.seconds:.0f} s. {said[:300]}")
            target.write_text(made.text())
    click.echo(made.text())
    click.echo(f"Report: {target}")
    if made.failed():
        sys.exit(1)
    if not folder:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
