"""All servers of one model: started together, watched by a thread, started again when one of them dies."""

import logging
import secrets
import threading
import time
from pathlib import Path

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown
from rlaifv_kedro.leftovers import FOLDER, end_leftovers
from rlaifv_kedro.models.folder import CheckpointFolder
from rlaifv_kedro.models.hub import folder_of
from rlaifv_kedro.models.serving import gpus
from rlaifv_kedro.models.serving.command import Served
from rlaifv_kedro.models.serving.server import Server, ended_together
from rlaifv_kedro.params.serving import ServingParams
from rlaifv_kedro.run_folder import run_folder

logger = logging.getLogger(__name__)

POLL = 0.5
"""Seconds between two looks at the servers."""
TELL = 60.0
"""Seconds after which it is said again what a start waits for."""
MOST_DEATHS = 3
"""A server that has died so often is not started again."""
LONG_LIFE = 1800.0
"""Seconds; the deaths of a server that has answered for so long since are forgotten."""
SILENCE = 60.0
"""Seconds for which a server that is there may leave requests about itself unanswered."""


class Watched:
    """A server with what the watching thread knows of it.

    Attributes:
        deaths: How often it died since it has answered for long.
        ready: Whether it answers.
        was_ready: Whether it ever did.
        patience: Seconds until it must answer, from its start or from when it was said to be lost.
    """

    def __init__(self, server: Server, patience: float):
        self.server, self.deaths, self.ready, self.was_ready = server, 0, False, False
        self.become(ready=False, patience=patience)

    def become(self, ready: bool, patience: float) -> None:
        """Takes the time of a change."""
        self.ready, self.patience, self._since = ready, patience, time.monotonic()
        self.was_ready = self.was_ready or ready

    def seconds(self) -> float:
        """How long nothing has changed."""
        return time.monotonic() - self._since


class VLLMServers:
    """Servers of vLLM for one checkpoint, which answer when the constructor returns.

    The servers of a run end with it, also when it is killed; see :mod:`rlaifv_kedro.models.serving.guard`.

    Args:
        checkpoint: Folder or hub name of the weights.
        dtype: Of the weights while computing.
        name: The model's role: the servers' name for it, and that of their logs.
        device: ``cpu`` takes no GPU; see ``compute.device``.

    Attributes:
        key: The API key that they want.
        model: Their name for the model.

    Raises:
        UserError: A server ended, or didn't answer in time; the message says what its log tells. Or there are
            not enough GPUs, or no free port.
    """

    def __init__(
        self,
        checkpoint: Path | str,
        serving: ServingParams,
        *,
        dtype: str,
        trust_remote_code: bool = False,
        name: str,
        device: str = "auto",
    ):
        folder = run_folder()
        end_leftovers(folder.parent)
        self.model, self.key = name, secrets.token_urlsafe(24)
        weights = folder_of(checkpoint).resolve()
        visible = [] if device == "cpu" else gpus.visible_gpus()
        on_cpu = not visible and device != "cuda"
        served = Served(weights, name, dtype, trust_remote_code, has_images(weights), self.key, on_cpu)
        self._serving, self._checkpoint = serving, weights
        shares = gpus.shares(serving, gpus.free_gpus(visible), len(visible), name)
        self._watched = [
            Watched(Server(served, serving, share, folder / FOLDER, f"{name}-{index}"), serving.start_timeout)
            for index, share in enumerate(shares)
        ]
        gpus.take([gpu for share in shares for gpu in share])
        self._changed = threading.Condition()
        self._failure: Exception | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._watch, name=f"servers of {name}", daemon=True)
        try:
            self._start(folder / FOLDER)
        except BaseException:
            self.close()
            raise

    @property
    def urls(self) -> list[str]:
        """The addresses of the servers that answer now, in their order; none while all are started again.

        Raises:
            UserError: A server has died again and again.
        """
        with self._changed:
            self._raise_failure()
            return self._answering()

    def lost(self, url: str) -> None:
        """Has a server that doesn't answer requests looked after; until it answers it is not in ``urls``.

        Raises:
            UserError: A server has died again and again.
        """
        with self._changed:
            self._raise_failure()
            for watched in self._watched:
                if watched.ready and watched.server.url == url:
                    watched.become(ready=False, patience=SILENCE)
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the servers with all their processes."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        servers = [watched.server for watched in self._watched]
        ended_together(servers)
        gpus.release([gpu for server in servers for gpu in server.gpus])

    def _start(self, folder: Path) -> None:
        """Starts all, and waits until all answer."""
        count = len(self._watched)
        what = f"{count} server{'s' * (count > 1)} of vLLM for {self.model} ({shown(self._checkpoint)})"
        logger.info("Starting %s; logs: %s", what, shown(folder))
        for watched in self._watched:
            watched.server.start()
            watched.become(ready=False, patience=self._serving.start_timeout)
        self._thread.start()
        began = told = time.monotonic()
        with self._changed:
            while len(self._answering()) < count:
                self._raise_failure()
                self._changed.wait(POLL)
                if time.monotonic() - told >= TELL:
                    told = time.monotonic()
                    waits = next(watched.server for watched in self._watched if not watched.ready)
                    logger.info("Waiting for %s for %.0f s: %s", what, told - began, waits.last_line())
        logger.info("%s answer%s after %.0f s", what, "s" * (count == 1), time.monotonic() - began)

    def _answering(self) -> list[str]:
        return [w.server.url for w in self._watched if w.ready and w.server.url is not None]

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _watch(self) -> None:
        """Looks at every server again and again, until they are closed or one can't be kept."""
        try:
            while not self._closing:
                for watched in self._watched:
                    self._look(watched)
                with self._changed:
                    self._changed.wait(POLL)
        except Exception as error:  # which would be lost with this thread
            self._failure = error
            with self._changed:
                self._changed.notify_all()

    def _look(self, watched: Watched) -> None:
        """One look at one server.

        Raises:
            UserError: It can't be kept.
        """
        server = watched.server
        if server.has_ended():
            self._start_again(watched)
        elif watched.ready:
            if watched.seconds() > LONG_LIFE:
                watched.deaths = 0
        elif server.answers():
            with self._changed:
                watched.become(ready=True, patience=SILENCE)
                self._changed.notify_all()
        elif watched.seconds() > watched.patience:
            if not watched.was_ready:
                raise UserError(
                    f"The server of vLLM for {self.model} didn't answer within {watched.patience:g} s. Raise "
                    f"serving.start_timeout, or look at its log: {shown(server.log)}, which ends with: "
                    f"{server.last_line()}"
                )
            logger.warning("%s is there, but doesn't answer: ended.", server.name)
            server.end()

    def _start_again(self, watched: Watched) -> None:
        server = watched.server
        watched.deaths += 1
        with self._changed:
            watched.become(ready=False, patience=self._serving.start_timeout)
        if not watched.was_ready and not server.port_was_taken():
            raise UserError(f"The server of vLLM for {self.model} doesn't start: {server.why()}")
        if watched.deaths >= MOST_DEATHS:
            raise UserError(
                f"A server of vLLM for {self.model} has died {watched.deaths} times. The last time: "
                f"{server.why()}"
            )
        logger.warning("The server %s has died; it is started again. %s", server.name, server.why())
        server.start()


def has_images(checkpoint: Path) -> bool:
    """Whether a model takes pictures, by its ``config.json``."""
    return "vision_config" in CheckpointFolder(checkpoint).config
