"""A disk that is full, memory that runs out, processes that are killed: told in a sentence each."""

import errno
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.resource_sharer import _resource_sharer
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors import SafetensorError

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.training.launch import LOG, _failure
from rlaifv_kedro.training.troubles import end_told, troubles_told
from tiny_training import Runner


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes: the kernel refuses to write more."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [0.5, 1.5], ids=["weights", "optimizer"])
def test_a_disk_that_is_full_while_a_checkpoint_is_written(
    run: Runner, tiny: Path, tmp_path: Path, room: float
) -> None:
    """Room for half of the weights' file; or for that, and not for Adam's state, which is larger."""
    size = (tiny / "model.safetensors").stat().st_size
    with (
        pytest.raises(
            UserError, match=r"(Make room|no larger file).*training\.checkpoint_every.*resumed run"
        ),
        files_of_at_most(int(room * size)),
        troubles_told(),
    ):
        run(tmp_path, epochs=1, checkpoint_every=1, freeze=[])
    assert not list(tmp_path.glob("*/saved.json"))  # a resumed run removes what was cut off
    checkpoints, _ = run(tmp_path / "again", epochs=1, checkpoint_every=1)
    assert len(checkpoints) == 1


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "a.tmp"),
            r"No space left on device: a.tmp. There is room for .* Make room",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "checkpoint-4"),
            "Permission denied: checkpoint-4",
        ),
        (
            SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
            "Make room",
        ),
        (
            RuntimeError(
                "[enforce fail] . PytorchStreamWriter failed writing file data/7: file write failed"
            ),
            "room",
        ),
        (RuntimeError("basic_ios::clear: iostream error"), "Make room"),
        (
            RuntimeError("[enforce fail] data. DefaultCPUAllocator: can't allocate memory: you tried"),
            "Cannot allocate memory .*training.micro_batch_size",
        ),
        (MemoryError(), r"Cannot allocate memory \(MemoryError\).*training.launch.processes"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried"),
            "CUDA out of memory.*lower training.micro_batch.*zero3",
        ),
        (RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. "), "dataloader_num_workers"),
        (RuntimeError("DataLoader worker (pid(s) 1, 2) exited unexpectedly"), "dataloader_num_workers"),
        (
            RuntimeError("The server socket has failed to listen. EADDRINUSE"),
            "Give another one: training.launch",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_libraries_raise_is_told_as_the_projects_own(error: Exception, told: str) -> None:
    with pytest.raises(UserError, match=told), troubles_told():
        raise error


@pytest.mark.parametrize(
    "error",
    [RuntimeError("The size of tensor a (3) must match"), KeyError("x"), UserError("own"), TypeError("t")],
)
def test_other_errors_stay_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, troubles_told():
        raise error
    assert caught.value is error


def test_a_mistake_that_a_process_for_batches_finds_comes_back_without_its_traceback(
    run: Runner, pairs: pd.DataFrame, tmp_path: Path
) -> None:
    """A picture that was read when pairs were gathered, and is damaged now."""
    broken = pairs.assign(image=[{"bytes": b"no picture", "path": "x.png"}, *pairs["image"][1:]])
    with pytest.raises(UserError) as caught, troubles_told():
        run(tmp_path, pairs=broken, dataloader_num_workers=1, epochs=1)
    assert caught.value.message.startswith("preference pair idx 50")
    assert "Traceback" not in caught.value.message


def test_threads_of_libraries_show_no_traceback_of_what_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As multiprocessing's resource sharer shows it in its thread, when another such process was killed, and
    TensorBoard's writer in its own, when the disk is full; a bug is shown.
    """

    def fail(error: Exception) -> None:
        raise error

    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)  # pytest has one of its own
    before = sys.excepthook, threading.excepthook
    for error, shown in ((OSError(28, "full"), False), (KeyError("a bug"), True)):
        with troubles_told():
            sys.excepthook(type(error), error, None)
            assert bool(capsys.readouterr().err) is shown
            thread = threading.Thread(target=fail, args=(error,))
            thread.start()
            thread.join()
            assert bool(capsys.readouterr().err) is shown
    assert (sys.excepthook, threading.excepthook) == before


def test_a_batch_of_a_process_that_was_killed_before_it_was_handed_over_is_told(tmp_path: Path) -> None:
    """A real connection to the address of a process that is gone, as a batch makes it when it comes."""
    address = str(tmp_path / "gone"), 1
    told = "a process that prepares batches ended.*dataloader_num_workers"
    with pytest.raises(UserError, match=told), troubles_told():
        _resource_sharer.get_connection(address)


TORCHRUN = """
W1126 18:00:00.000000 77 torch/distributed/elastic/multiprocessing/api.py:1010] Sending process 81 closing signal
E1126 18:00:00.000000 77 torch/distributed/elastic/multiprocessing/api.py:984] failed (exitcode: {code}) local_rank: 1
Root Cause (first observed failure):
  exitcode  : {code} (pid: 82)
"""


@pytest.mark.parametrize(
    ("status", "log", "told"),
    [
        (1, TORCHRUN.format(code=-9), "killed (signal 9): most likely by the kernel"),
        (-9, "", "killed (signal 9)"),
        (1, TORCHRUN.format(code=-7), "bus error"),
        (
            1,
            "RuntimeError: The server socket has failed to listen [errno: 98 - Address already in use]",
            "port",
        ),
        (1, TORCHRUN.format(code=-11), None),
        (1, TORCHRUN.format(code=1), None),
    ],
)
def test_how_processes_ended(status: int, log: str, told: str | None) -> None:
    found = end_told(status, log)
    assert found is None if told is None else told in found


def test_a_killed_process_is_an_error_of_the_user_and_a_crash_keeps_its_log(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text(TORCHRUN.format(code=-9))
    killed = _failure(tmp_path, 1)
    assert isinstance(killed, UserError) and killed.message.endswith(LOG)
    (tmp_path / LOG).write_text("Traceback: a bug")
    assert type(_failure(tmp_path, 1)) is RuntimeError and "a bug" in str(_failure(tmp_path, 1))
