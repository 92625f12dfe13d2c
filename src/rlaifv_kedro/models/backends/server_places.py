"""Where the servers of one model are, and which of them an item goes to."""

import time
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Protocol

SECONDS_ASIDE = 30.0
"""For so long nothing is sent to a server that gave no connection, while another one is there."""


class Places(Protocol):
    """The addresses of servers with the same model."""

    @property
    def urls(self) -> Sequence[str]:
        """Those that can be asked now, in a fixed order; maybe none, for a while.

        Raises:
            UserError: There will be none any more.
        """
        ...

    def lost(self, url: str) -> None:
        """Say that the server at an address gave no connection, or ended one.

        Raises:
            UserError: There will be none any more.
        """
        ...


class NamedPlaces:
    """Addresses that the parameters name; whoever started the servers there looks after them."""

    def __init__(self, urls: Sequence[str]):
        self._all = list(urls)
        self._aside: dict[str, float] = {}  # until when, by time.monotonic

    @property
    def urls(self) -> Sequence[str]:
        """Those that have not just been lost; all, if that leaves none."""
        now = time.monotonic()
        return [url for url in self._all if self._aside.get(url, 0.0) <= now] or self._all

    def lost(self, url: str) -> None:
        """Ask the others for a while."""
        self._aside[url] = time.monotonic() + SECONDS_ASIDE


def assigned(routes: Sequence[Hashable], places: int) -> list[int]:
    """The number of the place that each item goes to.

    Items of one route, such as an image, go to one place, whose server then computes the image once. A route
    goes to the place that has the fewest items so far, so that all have the same to do.

    Args:
        places: How many there are.
    """
    load, chosen = [0] * places, {}
    for route, items in Counter(routes).items():
        chosen[route] = load.index(min(load))
        load[chosen[route]] += items
    return [chosen[route] for route in routes]
