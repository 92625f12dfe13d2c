"""Where the servers of one model are, and which of them an item goes to."""

import time
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Protocol

SECONDS_ASIDE = 30.0
"""For so long nothing is sent to a server that gave no connection, while another one is there."""
MOST_HOMES = 100_000
"""Of so many images it is known which server has them."""


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


class Homes:
    """Which of the places everything about an image goes to, also in later calls.

    Its server then computes the image once. An image that is new goes to the place that has the fewest items
    of a call so far, so that all have the same to do.
    """

    def __init__(self) -> None:
        self._place_of: dict[int, int] = {}  # by a route's hash

    def assigned(self, routes: Sequence[Hashable], places: int) -> list[int]:
        """The number of the place that each item goes to.

        Args:
            routes: Of each item, such as its image.
            places: How many there are.
        """
        if len(self._place_of) > MOST_HOMES:
            self._place_of.clear()
        load = [0] * places
        for route, items in Counter(map(hash, routes)).items():
            home = self._place_of.get(route, places)
            place = home if home < places else load.index(min(load))
            self._place_of[route] = place
            load[place] += items
        return [self._place_of[hash(route)] for route in routes]
