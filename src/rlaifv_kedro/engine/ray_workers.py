"""Chunks on Ray: workers that may die, and one process that hands out chunks and writes what comes back.

Ray's own pools don't do: ``ray.util.ActorPool`` loses the chunk of an actor that dies, an actor with
``max_restarts=-1`` waits for ever for a host that is gone, and Ray Data reads all input again to resume.
"""

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaifv_kedro.engine.cluster import enough, imported, join, room_of_hosts
from rlaifv_kedro.engine.items import Part, Pending
from rlaifv_kedro.engine.worker import Answer, Record, Setup, Worker
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.found_out import note
from rlaifv_kedro.params import ComputeParams, OpenAIParams, Params
from rlaifv_kedro.params.base import note_of, without_note

logger = logging.getLogger(__name__)

TRIES = 3
"""So often a chunk is given to a worker before it counts as what kills workers."""
PATIENCE = 60.0
"""Seconds until the first worker must be there: a process starts in a few, and longer means no room."""
_FAREWELL = 60.0  # seconds that workers have to close their models
# Beginnings of the variables that libraries read and that change what is computed, or how much is said of it.
_ENVIRONMENT = ("HF_", "OMP_", "TOKENIZERS_", "TRANSFORMERS_")


def on_ray(
    left: Pending, make_work: Any, args: tuple[Any, ...], compute: ComputeParams, label: str
) -> Iterator[tuple[str, Any]]:
    """Each chunk's id and rows, in the order in which they are done.

    Args:
        left: The chunks; a worker that is free takes one.

    Raises:
        UserError: There is no room, a chunk or the opening of the models has ended three workers; or what
            the work raises, as it is.
    """
    if not left:
        return
    fleet = _Fleet(make_work, args, compute, label)
    try:
        yield from fleet.work_through(left)
        fleet.close()
    finally:
        fleet.kill()


def environment_for(args: tuple[Any, ...], environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What workers get of this process's environment, keys of the servers that the arguments name among it.

    Not all of it: paths and host names of this machine would be wrong on another one.
    """
    groups = [group for arg in args if isinstance(arg, Params) for group in (arg, *vars(arg).values())]
    keys = {group.api_key_variable for group in groups if isinstance(group, OpenAIParams)}
    return {
        name: value for name, value in environment.items() if name in keys or name.startswith(_ENVIRONMENT)
    }


@dataclass
class _Task:
    """A chunk, and how often it was given to a worker that died."""

    part: Part
    deaths: int = 0


class _Fleet:
    """The workers of one step."""

    def __init__(self, make_work: Any, args: tuple[Any, ...], compute: ComputeParams, label: str):
        from ray import cloudpickle

        room, self._needs, self._label = join(compute), compute.of_a_worker(), label
        self._ray = imported()
        notes = [note_of(arg) if isinstance(arg, Params) else None for arg in args]
        self._reads = next((note[1] for note in notes if note), set())  # all of a node note in one set
        plain = tuple(without_note(arg) if isinstance(arg, Params) else arg for arg in args)
        made, names = cloudpickle.dumps((make_work, plain)), tuple(note and note[0] for note in notes)
        environment = environment_for(plain)
        self._setup = self._ray.put(Setup(made, names, Path.cwd(), environment, tuple(sys.path)))
        self._running: dict[Any, tuple[Any, _Task | None]] = {}  # of None a worker that starts
        self._idle: list[tuple[Any, Hashable]] = []  # with what the worker has loaded
        self._waiting: deque[_Task] = deque()
        self._early_deaths = 0
        self._said: set[Record] = set()
        fit = room.workers(self._needs)
        self._count = compute.ray.workers or fit
        self._fitted = enough(self._ray.available_resources(), self._needs)
        self._deadline = time.monotonic() + PATIENCE
        if self._count > fit:
            logger.warning(
                "%s: compute.ray.workers=%d, and %s has room for %d; the others start when there is more",
                label,
                self._count,
                room,
                fit,
            )

    def work_through(self, left: Pending) -> Iterator[tuple[str, Any]]:
        """Each chunk's id and rows."""
        for _ in range(self._count):
            self._start()
        while True:
            self._hand_out(left)
            if self._idle and not any(task for _, task in self._running.values()):
                return  # workers that only start are not waited for
            running = list(self._running)
            done, _ = self._ray.wait(running, num_returns=1, timeout=5)
            if not done:
                self._refuse_no_room()
                continue
            done, _ = self._ray.wait(running, num_returns=len(running), timeout=0)
            yield from self._taken(done, left)

    def _taken(self, done: Sequence[Any], left: Pending) -> Iterator[tuple[str, Any]]:
        """What is done, after every worker that is free has its next chunk: writing takes the driver's time.

        Raises:
            Exception: What the work of one raised, after the rows of those before it.
        """
        found, raised = [], None
        for ref in done:
            try:
                found.append(self._received(ref))
            except Exception as error:
                raised = error
                break
            self._hand_out(left)
        yield from (each for each in found if each is not None)
        if raised is not None:
            raise raised

    def close(self) -> None:
        """Has the models closed, and says what their workers say of it."""
        refs = [worker.close.remote() for worker, _ in self._idle]
        done, _ = self._ray.wait(refs, num_returns=len(refs), timeout=_FAREWELL) if refs else ([], [])
        for ref in done:
            try:
                self._take(self._ray.get(ref))
            except self._ray.exceptions.RayError as error:
                logger.warning("%s: a worker died while it closed its models: %s", self._label, _first(error))

    def kill(self) -> None:
        """Ends all workers."""
        for worker, _ in [*self._running.values(), *self._idle]:
            self._ray.kill(worker, no_restart=True)
        self._running, self._idle = {}, []

    def _start(self) -> None:
        options = {"num_gpus": self._needs["GPU"], "num_cpus": self._needs["CPU"]}
        remote = self._ray.remote(max_restarts=0, max_task_retries=0, **options)(Worker)
        worker = remote.remote(self._setup)
        self._running[worker.ready.remote()] = (worker, None)

    def _hand_out(self, left: Pending) -> None:
        """Gives every idle worker a chunk: one whose worker died first, else the next for it."""
        while self._idle and (self._waiting or left):
            worker, last = self._idle.pop()
            if self._waiting:
                task = self._waiting.popleft()
            else:
                others = [task.part.subject for _, task in self._running.values() if task]
                task = _Task(left.take(last, others))
            self._running[worker.run.remote(task.part.items)] = (worker, task)

    def _received(self, ref: Any) -> tuple[str, Any] | None:
        """What a worker gives back: a chunk's rows, or nothing if it is only ready, or dead."""
        worker, task = self._running.pop(ref)
        try:
            answer = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError:
            raise  # a bug in the worker itself
        except self._ray.exceptions.RayError as error:
            self._bury(worker, task, error)
            return None
        self._idle.append((worker, task and task.part.subject))
        if task is None:
            return None
        return task.part.chunk_id, self._take(answer)

    def _take(self, answer: Answer) -> Any:
        """The rows, after what a worker has read, found out and logged is noted here.

        Raises:
            Exception: What the work raised.
        """
        self._reads.update(answer.reads)
        for subject, what in answer.found_out.items():
            note(subject, what)
        for record in answer.logged:
            if record not in self._said:  # once, not once a worker
                self._said.add(record)
                name, level, message = record
                logging.getLogger(name).log(level, "%s", message)
        if answer.error is not None:
            raise answer.error
        return answer.result

    def _bury(self, worker: Any, task: _Task | None, error: Exception) -> None:
        """Puts a dead worker's chunk back, and starts another worker.

        Raises:
            UserError: That has happened too often.
        """
        self._ray.kill(worker, no_restart=True)  # one that only can't be reached
        if task is None:
            self._early_deaths += 1
            if self._early_deaths >= TRIES:
                raise UserError(f"{self._label}: {TRIES} workers died when they started: {_first(error)}")
        else:
            task.deaths += 1
            chunk_id = task.part.chunk_id
            if task.deaths >= TRIES:
                raise UserError(
                    f"{self._label}: {TRIES} workers died at chunk {chunk_id}, one after the other: "
                    f"{_first(error)} Most often that is a lack of memory: lower the stage's batch_size, or "
                    "start fewer workers a host (compute.ray)."
                )
            logger.warning(
                "%s: a worker died at chunk %s, which another one works again: %s",
                self._label,
                chunk_id,
                _first(error),
            )
            self._waiting.appendleft(task)
        self._start()

    def _refuse_no_room(self) -> None:
        """Raises UserError if no worker is there in time: hosts are gone, or others have taken the room."""
        if self._idle or any(task for _, task in self._running.values()):
            self._deadline = time.monotonic() + PATIENCE
        if time.monotonic() < self._deadline:
            return
        room, free = room_of_hosts(self._ray.nodes()), self._ray.available_resources()
        if self._fitted and room.workers(self._needs):
            return  # they start slowly
        raise UserError(
            f"{self._label}: no worker has started in {PATIENCE:.0f} s. The cluster has {room}, and "
            f"{free.get('GPU', 0):g} GPUs and {free.get('CPU', 0):g} CPUs are free; a worker needs "
            f"{self._needs['GPU']:g} and {self._needs['CPU']:g}. Wait for the others, or "
            "join another cluster (compute.ray.address)."
        )


def _first(error: Exception) -> str:
    """The first line of what Ray says."""
    return str(error).strip().partition("\n")[0]
