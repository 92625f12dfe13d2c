"""Ports of this machine's loopback, each for one server."""

import socket
import sys
from contextlib import suppress

from rlaifv_kedro.errors import UserError

LOOPBACK = "127.0.0.1"


class Port:
    """A port that no other run takes as long as this is held.

    A server binds its port only seconds after its start, when another run might have found it free as well.
    So the port's number is claimed by a name among the kernel's abstract sockets, which vanishes with the
    process that holds it; they exist on Linux alone.
    """

    def __init__(self, number: int, claim: socket.socket | None):
        self.number, self._claim = number, claim

    def release(self) -> None:
        """Lets others take it."""
        if self._claim is not None:
            self._claim.close()


def take_port(first: int, last: int) -> Port:
    """The first port of a range that nobody has.

    Raises:
        UserError: All of them are taken.
    """
    for number in range(first, last + 1):
        with suppress(OSError):
            claim = _claim(number)
            try:
                with socket.socket() as trial:
                    trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of a connection just closed
                    trial.bind((LOOPBACK, number))
            except OSError:
                if claim is not None:
                    claim.close()
                raise
            return Port(number, claim)
    raise UserError(
        f"No port from {first} to {last} is free for a server. Set serving.ports of the model to other ones."
    )


def _claim(number: int) -> socket.socket | None:
    if sys.platform != "linux":
        return None
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0rlaifv-port-{number}")
    except OSError:
        claim.close()
        raise
    return claim
