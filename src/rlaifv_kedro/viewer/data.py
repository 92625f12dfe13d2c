"""Data as pages read them from ``file://``: JavaScript files, which scripts may load where they can't fetch.

``data/NAME.js`` says ``rlaifv.add("NAME", VALUE)``.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlaifv_kedro.files import writing

_UNSAFE = str.maketrans({"<": "\\u003c", "\u2028": "\\u2028", "\u2029": "\\u2029"})
"""What ends a script, or a line of one, within texts, which are strangers'."""


def script(name: str, value: Any) -> bytes:
    """The content of a data file; any text inside is only ever a text.

    Raises:
        ValueError: A number is NaN or infinite.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).translate(_UNSAFE)
    return f"rlaifv.add({json.dumps(name)},{text})\n".encode(errors="backslashreplace")


def write_data(folder: Path, name: str, value: Any) -> None:
    """Writes a value under a name such as ``pairs/1/index`` into the folder of data files.

    Raises:
        UserError: The disk is full, or the folder can't be written.
    """
    path, content = folder / f"{name}.js", script(name, value)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def rounded(values: Sequence[Any], digits: int = 4) -> list[float | None]:
    """Numbers of a column, as JSON holds them: None where there is none."""
    numbers = np.round(np.asarray(values, dtype=float), digits)
    if np.isfinite(numbers).all():
        return numbers.tolist()
    return [number if math.isfinite(number) else None for number in numbers.tolist()]
