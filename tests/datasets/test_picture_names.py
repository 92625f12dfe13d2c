"""Which file a name or address means: never one of two silently, and none outside of the folder."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaifv_kedro.datasets.picture_names import (
    Match,
    Places,
    address_below,
    file_of_address,
)
from rlaifv_kedro.doors import refuse_odd_name

PLACES = Places(["a.jpg", "x/b.jpg", "y/b.jpg", "y/c.jpg", "z/y/c.jpg", "x/d e.jpg"])


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.jpg", [Match("a.jpg", True)]),
        ("x/b.jpg", [Match("x/b.jpg", True)]),
        ("b.jpg", [Match("x/b.jpg", True), Match("y/b.jpg", True)]),
        ("y/c.jpg", [Match("y/c.jpg", True)]),
        ("z/y/c.jpg", [Match("z/y/c.jpg", True)]),
        ("elsewhere/a.jpg", [Match("a.jpg", False)]),
        ("../../a.jpg", [Match("a.jpg", False)]),
        ("https://example.org/p/a.jpg?size=o", [Match("a.jpg", False)]),
        ("https://example.org/p/d%20e.jpg", [Match("x/d e.jpg", False)]),
        ("https://example.org/p/..%2Fx%2Fb.jpg", [Match("x/b.jpg", False), Match("y/b.jpg", False)]),
        ("gone.jpg", []),
        ("a.jpg\0", []),
        ("", []),
        ("https://example.org/", []),
    ],
)
def test_what_a_name_means(name: str, found: list[Match]) -> None:
    assert PLACES.of(name) == found


def test_addresses_that_differ_anywhere_are_different_files() -> None:
    addresses = [
        "https://a.org/p/1.jpg",
        "https://b.org/p/1.jpg",
        "https://a.org/q/1.jpg",
        "https://a.org/p/1.jpg?id=1",
        "https://a.org/p/1.jpg?id=2",
        "http://a.org/p/1.jpg",
    ]
    files = [file_of_address(address) for address in addresses]
    assert len(set(files)) == len(files)
    assert all(file.startswith("1-") and file.endswith(".jpg") for file in files)


ODD = st.text(st.sampled_from(string.ascii_letters + string.digits + "./\\%2f:*?\0\n é#&~ "), max_size=300)


@given(ODD)
def test_fuzz_a_file_of_an_address_lies_in_the_folder(rest: str) -> None:
    file = file_of_address("https://example.org/" + rest)
    refuse_odd_name(file)
    assert "/" not in file


def test_a_name_is_quoted_in_its_address() -> None:
    assert address_below("http://a.org/p", "x/d é#1.jpg") == "http://a.org/p/x/d%20%C3%A9%231.jpg"
