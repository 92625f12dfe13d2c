"""Numbers, names and messages as people read them."""

import pytest

from rlaifv_kedro.formats import billions, cell, first_line, gigabytes, in_words, number, shortened

NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "value", "error", "text"),
    [
        ("response_hallucination", 0.1234, 0.0123, "12.3 ± 1.2"),
        ("mean_words", 12.345, 0.5, "12.35 ± 0.50"),  # words and ratings aren't shares
        ("score", 2.5, 0.125, "2.50 ± 0.12"),
        ("accuracy", 1.0, NAN, "100.0 ± -"),
        ("accuracy", NAN, 0.1, "-"),
        ("accuracy", None, None, "-"),
    ],
)
def test_a_value_with_its_standard_error(
    name: str, value: float | None, error: float | None, text: str
) -> None:
    assert cell(name, {"value": value, "standard_error": error}) == text


def test_numbers() -> None:
    assert [number(v) for v in (0.000012345, 1234.5, NAN, None)] == ["1.234e-05", "1234", "-", "-"]
    assert [billions(n) for n in (7_060_000_000, 100_000_000, 99_000_000)] == [
        "7.06 billion",
        "0.10 billion",
        "99.00 million",
    ]
    assert [gigabytes(n) for n in (2.5e12, 14.1e9, 9.94e9, 9.95e9, 3e5)] == [
        "2.5 TB",
        "14 GB",
        "9.9 GB",
        "10 GB",
        "0.3 MB",
    ]


def test_the_first_line_of_an_error() -> None:
    assert first_line(ValueError("\n no such shard\nRead the manual: ...")) == "no such shard"
    assert first_line(TimeoutError()) == "TimeoutError"


def test_names_and_long_texts() -> None:
    assert in_words("response_hallucination") == "response hallucination"
    assert shortened("A" * 60, 60) == "A" * 60
    assert shortened("A" * 61, 60) == "A" * 57 + "..."
