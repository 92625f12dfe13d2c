"""Trainings of several processes: torchrun as a subprocess of the node.

It has a process group, a log file and a result file of its own. One process without DeepSpeed needs none of
it and trains in the node's own process.
"""

import gc
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import pandas as pd

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown, write_atomically
from rlaifv_kedro.progress import report
from rlaifv_kedro.training.resume import resume_point
from rlaifv_kedro.training.troubles import end_told, troubles_told
from rlaifv_kedro.training.worker import (
    ERROR,
    PROGRESS,
    RESULT,
    TrainingSpec,
    end_with_parent,
    locked,
    run,
)

if TYPE_CHECKING:
    from rlaifv_kedro.datasets.pair_store import PairStore
    from rlaifv_kedro.params import LaunchParams
    from rlaifv_kedro.training.training import Ran, TrainingResult

logger = logging.getLogger(__name__)

SPEC, LOG, REFERENCE = "spec.json", "training.log", "reference_log_probs.parquet"
_POLL = 0.2  # seconds
_SHOWN_LINES = 30
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def run_training(spec: TrainingSpec, pairs: "PairStore", reference: pd.DataFrame) -> "TrainingResult":
    """Train here, or in the processes that the parameters ask for.

    Raises:
        UserError: See :func:`rlaifv_kedro.training.training.train`; memory or disk ran out; fewer processes
            or another engine ran than was asked for.
        RuntimeError: The processes ended with another error; its message holds the end of their log.
    """
    from rlaifv_kedro.training.distributed import expected_engine
    from rlaifv_kedro.training.training import Ran, result_of

    params, folder = spec.training, spec.folder
    steps = params.checkpoint_steps(len(pairs))
    ran = Ran(params.launch.total(), expected_engine(params))
    start = 0

    def on_step(step: int) -> None:
        report("step", step, steps[-1], start)

    with troubles_told():
        # The processes of a run that was killed have ended when the lock is free.
        with locked(folder):
            start = resume_point(folder, steps, spec.identity())
            spec = spec.model_copy(update={"resume": start})
            if start < steps[-1] and ran == Ran(1, "none"):
                run(spec, pairs, reference, on_step)
        if start < steps[-1] and ran != Ran(1, "none"):
            _launch(spec, reference, ran, on_step)
        return result_of(folder, params, len(pairs), ran)


def _launch(
    spec: TrainingSpec, reference: pd.DataFrame, expected: "Ran", on_step: Callable[[int], None]
) -> None:
    folder = spec.logs
    for file in (folder / RESULT, folder / PROGRESS, *folder.glob(ERROR.format("*"))):
        file.unlink(missing_ok=True)
    _free_memory()
    reference.to_parquet(spec.reference, index=False)
    write_atomically(folder / SPEC, spec.model_dump_json(indent=2).encode() + b"\n")
    status = _wait(_command(spec, folder / SPEC), folder, on_step)
    if status or not (folder / RESULT).is_file():
        raise _failure(folder, status)
    found = json.loads((folder / RESULT).read_text())
    if found != asdict(expected):
        raise UserError(
            f"the training was to run as {asdict(expected)}, but ran as {found}: {shown(folder / LOG)} says "
            "more. Nothing of it is used."
        )


def _free_memory() -> None:
    """Give back the GPU memory of earlier nodes' models, which torch keeps: the processes need it."""
    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _command(spec: TrainingSpec, path: Path) -> list[str]:
    """torchrun on this host, or on all hosts by a prefix such as srun's."""
    launch = spec.training.launch
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={launch.processes}"]
    if launch.hosts == 1:
        command.append("--standalone")
    else:
        # The endpoint names the job as well: two trainings at once need two ports anyway.
        command += [
            f"--nnodes={launch.hosts}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={launch.address}",
            f"--rdzv-id={launch.address}",
        ]
    command = [*launch.prefix, *command, "-m", "rlaifv_kedro.training.worker", str(path.absolute())]
    if launch.hosts > 1 and not launch.prefix:
        _log_command_of_other_hosts(launch, command)
    return command


def _log_command_of_other_hosts(launch: "LaunchParams", command: list[str]) -> None:
    where = shlex.quote(str(Path.cwd()))
    logger.warning(
        "training waits for %d more host%s. Start on each: cd %s && %s",
        launch.hosts - 1,
        "s" * (launch.hosts > 2),
        where,
        shlex.join(command),
    )


def _wait(command: list[str], folder: Path, on_step: Callable[[int], None]) -> int:
    """Run the command in a process group of its own, its output in a file, and return its exit status.

    Signals that reach this process are passed on to it.
    """
    # DeepSpeed builds extensions with ninja, which lies beside python in a virtual environment that need not
    # be activated.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    logger.info("training in several processes; their log: %s", shown(folder / LOG))
    with (folder / LOG).open("ab") as log:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # torchrun ends its workers when this process is killed, before a resumed run starts others.
                preexec_fn=lambda: end_with_parent(signal.SIGTERM),
                env={**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"},
            )
        except OSError as error:
            raise UserError(
                f"{command[0]}, which starts the training's processes, can't be run ({error.strerror}). Look "
                "at training.launch.prefix."
            ) from error
        try:
            with _signals_passed_on(process):
                while process.poll() is None:
                    time.sleep(_POLL)
                    # Not there yet; or, on a network's file system, just being replaced by another host.
                    with suppress(OSError, ValueError):
                        on_step(json.loads((folder / PROGRESS).read_text())["step"])
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return process.returncode


@contextmanager
def _signals_passed_on(process: subprocess.Popen) -> Iterator[None]:
    """Pass signals on to the processes; once these have ended, this process gets the last signal too."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        yield
        return
    received: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        with suppress(ProcessLookupError):  # they have just ended
            os.killpg(process.pid, number)

    # Under nohup, SIGHUP is to do nothing.
    wanted = [number for number in _PASSED_ON if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, pass_on) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if received:
            process.wait()
            signal.raise_signal(received[-1])


def _failure(folder: Path, status: int) -> Exception:
    """What the processes said of their end: the first rank's reason, the system's, or the end of the log."""
    for file in sorted(folder.glob(ERROR.format("*"))):
        return UserError(json.loads(file.read_text())["message"])
    log = (folder / LOG).read_text(errors="replace")
    told = end_told(status, log)
    if told is not None:
        return UserError(f"{told} The log: {shown(folder / LOG)}")
    end = "\n".join(log.splitlines()[-_SHOWN_LINES:])
    return RuntimeError(
        f"the training processes ended with exit status {status}. The end of {shown(folder / LOG)}:\n{end}"
    )
