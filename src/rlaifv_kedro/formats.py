"""Numbers, names and messages as people read them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

UNITS = {"mean_words": "", "score": ", 0 to 6"}
"""Of the metrics that are no shares, as a table shows them behind the metric's name."""


def cell(name: str, row: Mapping[str, Any]) -> str:
    """A metric's value with its standard error: words and ratings as they are, shares in percent.

    Args:
        name: Of the metric.
        row: ``value`` and ``standard_error``; one that is NaN or missing is shown as ``-``.
    """
    if _is_missing(row["value"]):
        return "-"
    scale, digits = _scale(name)
    error = "-" if _is_missing(row["standard_error"]) else f"{row['standard_error'] * scale:.{digits}f}"
    return f"{row['value'] * scale:.{digits}f} ± {error}"


def difference(name: str, value: float | None, low: float | None, high: float | None) -> str:
    """What a metric differs by, with the ends of its interval, in the units of :func:`cell`."""
    if _is_missing(value):
        return "-"
    scale, digits = _scale(name)
    ends = ["-" if _is_missing(end) else f"{end * scale:+.{digits}f}" for end in (low, high)]
    return f"{value * scale:+.{digits}f} [{ends[0]}, {ends[1]}]"


def with_unit(name: str) -> str:
    """The name of a metric for people, with the unit in which :func:`cell` shows it."""
    return in_words(name) + UNITS.get(name, " %")


def _scale(name: str) -> tuple[int, int]:
    """What a metric's value is multiplied by, and its digits after the point."""
    return (1, 2) if name in UNITS else (100, 1)


def number(value: float | None) -> str:
    """A number with four significant digits; ``-`` where there is none."""
    return "-" if _is_missing(value) else f"{value:.4g}"


def billions(count: int) -> str:
    """A number of parameters, in billions or millions."""
    return f"{count / 1e9:.2f} billion" if count >= 1e8 else f"{count / 1e6:.2f} million"


def gigabytes(count: float) -> str:
    """A number of bytes, in TB, GB or MB."""
    for unit, one in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= one or unit == "MB":
            break
    return f"{count / one:,.0f} {unit}" if count >= 9.95 * one else f"{count / one:.1f} {unit}"


def duration(seconds: float | None) -> str:
    """A time in seconds, minutes, or hours; ``-`` where it isn't known."""
    if _is_missing(seconds):
        return "-"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def in_words(name: str) -> str:
    """The name of a metric, column or node with spaces in place of underscores."""
    return name.replace("_", " ")


def as_text(value: Any) -> str:
    """A parameter's value: text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def flatten(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings, such as parameters, as one with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in parameters.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def first_line(error: BaseException) -> str:
    """What an error says, without the pages of advice that follow in transformers' and torch's messages.

    Of a heading, such as torch's ``Error(s) in loading state_dict for Model:``, the next line says it.
    """
    first, *others = (str(error).strip() or type(error).__name__).splitlines()
    return f"{first} {others[0].strip()}" if others and first.endswith(":") else first


def first_of(names: Sequence[str], most: int) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def shortened(text: str, most: int) -> str:
    """The text, cut to so many characters, of which the last three are then dots."""
    return text if len(text) <= most else text[: most - 3] + "..."


def plain(value: Any) -> Any:
    """The value as JSON holds it: None where it is NaN."""
    return None if _is_missing(value) else value


def _is_missing(value: float | None) -> bool:
    """Whether it is None or NaN."""
    return value is None or value != value
