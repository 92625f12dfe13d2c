"""One process of a training: ``python -m rlaifv_kedro.training.worker spec.json``.

torchrun starts it on every GPU; a training of one process calls :func:`run` itself.

Rank 0 leaves ``result.json`` beside the spec; a process that fails leaves ``error-<rank>.json``.
"""

import ctypes
import fcntl
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from pydantic import BaseModel

from rlaifv_kedro.datasets.pair_store import PairStore
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import write_atomically
from rlaifv_kedro.params import ComputeParams, ModelParams, TrainingParams
from rlaifv_kedro.params.base import Effect
from rlaifv_kedro.params.effects import effect_of
from rlaifv_kedro.training.troubles import troubles_told

if TYPE_CHECKING:
    from rlaifv_kedro.training.training import Ran

RESULT, PROGRESS, ERROR = "result.json", "progress.json", "error-{}.json"
_LOCK_TIMEOUT = 60  # seconds
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class TrainingSpec(BaseModel):
    """A training, as JSON: everything that a process on any of the hosts needs to know.

    ``resume`` is the step that it goes on from, 0 for the start.
    """

    policy: Path
    pairs: list[Path]
    reference: Path
    fingerprint: dict[str, str] | None
    folder: Path
    logs: Path
    seed: int
    training: TrainingParams
    model: ModelParams
    compute: ComputeParams
    resume: int = 0

    def identity(self) -> str:
        """A sha256 of what the checkpoints depend on; one of something else is not gone on from."""
        from rlaifv_kedro.training.distributed import deepspeed_config

        names = set(TrainingParams.model_fields) - {"launch", "deepspeed"}
        result = {name for name in names if effect_of(f"training.{name}") is Effect.RESULT}
        made_of = {
            "fingerprint": self.fingerprint,
            "seed": self.seed,
            "processes": self.training.launch.total(),
            "deepspeed": deepspeed_config(self.training),
            "training": self.training.model_dump(mode="json", include=result),
        }
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def run(
    spec: TrainingSpec, pairs: PairStore, reference: pd.DataFrame, on_step: Callable[[int], None]
) -> "Ran":
    """Load the policy and train it.

    Raises:
        UserError: The reference log-probs belong to something else; see also
            :func:`rlaifv_kedro.training.training.train`.
    """
    from rlaifv_kedro.models import Loading, load_model
    from rlaifv_kedro.models.loading import torch_device
    from rlaifv_kedro.preference.reference import expected_fingerprint, refuse_mismatch
    from rlaifv_kedro.training.distributed import expected_engine
    from rlaifv_kedro.training.training import TrainingJob, train

    loading = Loading.of(spec.model, spec.compute, spec.training.micro_batch_size)
    device = None
    if expected_engine(spec.training) == "zero3":
        device = torch_device(spec.compute.device)
        loading = replace(loading, device="cpu")  # DeepSpeed takes it from there and spreads it
    model = load_model(spec.policy, loading)
    if int(os.environ.get("RANK", "0")) == 0:  # reads all weights once more: enough if one process does
        refuse_mismatch(
            spec.fingerprint, expected_fingerprint(spec.policy, pairs, model, spec.training, loading.dtype)
        )
    job = TrainingJob(
        policy=spec.policy,
        folder=spec.folder,
        seed=spec.seed,
        params=spec.training,
        dtype=loading.dtype,
        device=device,
        logs=spec.logs,
        resume=spec.resume,
        identity=spec.identity(),
    )
    return train(model, pairs, reference, job, on_step)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps the folder for one training.

    The processes of a run that was killed end within seconds; they are waited for.

    Raises:
        UserError: Another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + _LOCK_TIMEOUT
    with (folder / ".lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > until:
                    raise UserError(
                        f"another process trains in {folder}. Wait until it has ended, or end it."
                    ) from error
                time.sleep(0.2)
            except OSError as error:
                raise UserError(
                    f"{folder} lies on a file system that can't lock files ({error.strerror}), so that two "
                    "trainings could mix there. "
                    "Put data/ on another one, or have it mounted with locks."
                ) from error
        yield


def main(path: Path) -> int:
    """Train as the spec says: exit status 0, or 1 with the reason in a file."""
    spec, rank = TrainingSpec.model_validate_json(path.read_text()), int(os.environ["RANK"])
    end_with_parent(signal.SIGKILL)  # a worker that outlived torchrun would go on writing checkpoints
    from rlaifv_kedro.training.callbacks import write_progress
    from rlaifv_kedro.training.distributed import compile_extension

    try:
        _select_gpu(spec.compute)
        if spec.training.deepspeed is not None:
            compile_extension()
        with troubles_told(), locked(spec.folder) if rank == 0 else nullcontext():
            ran = run(
                spec,
                PairStore.open(spec.pairs),
                pd.read_parquet(spec.reference),
                write_progress(path.parent / PROGRESS),
            )
    except UserError as error:
        write_atomically(path.parent / ERROR.format(rank), json.dumps({"message": error.message}).encode())
        return 1
    if rank == 0:
        write_atomically(path.parent / RESULT, json.dumps(asdict(ran), indent=2).encode() + b"\n")
    return 0


def _select_gpu(compute: ComputeParams) -> None:
    """Use the GPU with this process's number on its host, before anything is put on one.

    Raises:
        UserError: There are fewer GPUs than processes.
    """
    import torch

    if compute.threads:
        torch.set_num_threads(compute.threads)
    if compute.device == "cpu" or not torch.cuda.is_available():
        return
    own, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if own >= there:
        raise UserError(
            f"training.launch.processes={os.environ['LOCAL_WORLD_SIZE']}, but this host has {there} GPUs."
        )
    torch.cuda.set_device(own)


def end_with_parent(number: int) -> None:
    """Send this process the signal when its parent has ended, where the kernel can do that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


if __name__ == "__main__":
    from torch.distributed.elastic.multiprocessing.errors import record

    # torchrun then ends its log with the first traceback, instead of only saying that there was one.
    sys.exit(record(main)(Path(sys.argv[1])))
