"""What a chunk's work is given."""

from collections.abc import Callable, Sequence
from typing import Any, overload


class LazyItems(Sequence[Any]):
    """Items that are made of others when a chunk begins: only its own are in memory.

    Args:
        of: What they are made of, such as the rows of ``prompts``.
        make: The items of some of these, with all that their work needs, such as a prompt's claims. It is
            called once a chunk, in the process that writes the chunks.
    """

    def __init__(self, of: Sequence[Any], make: Callable[[Sequence[Any]], list[Any]]):
        self._of, self._make = of, make

    def __len__(self) -> int:
        return len(self._of)

    @overload
    def __getitem__(self, place: int) -> Any: ...
    @overload
    def __getitem__(self, place: slice) -> list[Any]: ...
    def __getitem__(self, place: int | slice) -> Any:
        """An item, or a list of them."""
        if isinstance(place, slice):
            return self._make(self._of[place])
        [item] = self._make([self._of[place]])
        return item
