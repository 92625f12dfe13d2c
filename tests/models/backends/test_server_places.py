"""Which server an item goes to."""

from collections import Counter

import pytest

from rlaifv_kedro.models.backends import server_places
from rlaifv_kedro.models.backends.server_places import Homes, NamedPlaces


def test_an_image_goes_to_one_place_and_places_have_as_much_to_do() -> None:
    routes = [f"image {k // 10}" for k in range(80)]  # 8 images with 10 questions each
    places = Homes().assigned(routes, 4)
    assert len(set(zip(routes, places))) == 8 and Counter(places) == dict.fromkeys(range(4), 20)


def test_unlike_images() -> None:
    """The place with the fewest items so far: 6 | 2+2+2 and not 6+2 | 2+2."""
    routes = [*["a"] * 6, *["b"] * 2, *["c"] * 2, *["d"] * 2]
    assert Homes().assigned(routes, 2) == [0] * 6 + [1] * 6
    assert Homes().assigned([], 2) == [] and Homes().assigned(routes, 1) == [0] * 12


def test_an_image_keeps_its_place_unless_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    homes = Homes()
    assert homes.assigned(["a", "b", "c"], 3) == [0, 1, 2]
    assert homes.assigned(["c", "d", "d", "b"], 3) == [2, 0, 0, 1]
    assert homes.assigned(["c", "b"], 2) == [0, 1]  # there were three
    monkeypatch.setattr(server_places, "MOST_HOMES", 3)
    assert homes.assigned(["d", "b", "c"], 2) == [0, 1, 0]  # all are forgotten


def test_a_lost_place_is_left_aside_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(server_places.time, "monotonic", lambda: now)
    places = NamedPlaces(["a", "b", "c"])
    places.lost("b")
    assert places.urls == ["a", "c"]
    now += server_places.SECONDS_ASIDE
    assert places.urls == ["a", "b", "c"]
    for url in "abc":
        places.lost(url)
    assert places.urls == ["a", "b", "c"]  # there is nobody else to ask
