"""What the machine refuses is told with a remedy, whichever library asked it; everything else stays a bug."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from kedro.io.core import DatasetError
from safetensors import SafetensorError

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.machine import REMEDIES, trouble_of_the_machine
from rlaifv_kedro.runs.messages import refusing, user_message

FULL = Path("/dev/full")
NEEDS_FULL = pytest.mark.skipif(not FULL.exists(), reason="Linux has a device that is always full")


def raised(function: Callable[[], Any]) -> Exception:
    with pytest.raises(Exception) as caught:
        function()
    return caught.value


def write_plainly() -> None:
    with open(FULL, "wb", buffering=0) as file:
        file.write(b"0")


def write_arrow() -> None:
    """Through an open file: pyarrow removes a file of which it was given the path when writing it fails."""
    with open(FULL, "wb", buffering=0) as file:
        pq.write_table(pa.table({"a": np.arange(100_000)}), file)


@NEEDS_FULL
@pytest.mark.parametrize(
    "write",
    [
        write_plainly,
        lambda: torch.save(torch.zeros(10_000), FULL),
        write_arrow,
    ],
    ids=["python", "torch", "arrow"],
)
def test_a_full_disk_is_told_with_the_room_that_there_is(write: Callable[[], Any]) -> None:
    message = user_message(raised(write))
    assert message and "No space left on device" in message
    assert "There is room for" in message and "Make room, then start again" in message


@pytest.mark.parametrize(
    "allocate",
    [
        lambda: bytearray(10**18),
        lambda: torch.empty(10**16, dtype=torch.uint8),
        lambda: np.zeros(10**16),
        lambda: pa.allocate_buffer(10**17),
    ],
    ids=["python", "torch", "numpy", "arrow"],
)
def test_too_little_memory_is_told_with_what_needs_less(allocate: Callable[[], Any]) -> None:
    message = user_message(raised(allocate))
    assert message and "Cannot allocate memory" in message and "micro_batch_size" in message


def test_a_gpu_without_memory_is_told_alike() -> None:
    message = user_message(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert message and "CUDA out of memory" in message and "micro_batch_size" in message


def test_the_words_of_the_operating_system_count_in_errors_of_other_kinds() -> None:
    said = "Error while serializing: I/O error: No space left on device (os error 28)"  # of safetensors
    message = user_message(SafetensorError(said))
    assert message and message.startswith(said)


def test_the_file_and_the_first_cause_are_named() -> None:
    """Kedro wraps what a dataset raises."""
    try:
        try:
            raise PermissionError(errno.EACCES, "Permission denied", str(Path.cwd() / "data/x.parquet"))
        except PermissionError as cause:
            raise DatasetError("Failed while saving data to dataset X") from cause
    except DatasetError as error:
        trouble = trouble_of_the_machine(error)
    assert trouble and trouble.message == f"Permission denied: data/x.parquet. {REMEDIES[errno.EACCES]}"


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", "x"),
        KeyError("Permission denied"),
        RuntimeError("Error code 13"),
        ValueError("the model says: No space left on device"),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
    ],
)
def test_what_only_sounds_like_the_machine_stays_a_bug(error: Exception) -> None:
    assert user_message(error) is None
    with pytest.raises(type(error)), refusing():
        raise error


def test_a_message_of_our_own_is_never_replaced() -> None:
    ours = UserError("Cannot write data/x: no room. Make some.")
    ours.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(UserError, match=r"^Cannot write data/x"), refusing():
        raise ours
    assert trouble_of_the_machine(ours) is None
