"""One way to show how far a step is."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def batches(items: Sequence[Item], size: int, label: str) -> Iterator[Sequence[Item]]:
    """The items in slices of ``size``, with a progress bar if it takes longer than two seconds."""
    with tqdm(total=len(items), desc=label, delay=2) as progress:
        for start in range(0, len(items), size):
            part = items[start : start + size]
            yield part
            progress.update(len(part))
