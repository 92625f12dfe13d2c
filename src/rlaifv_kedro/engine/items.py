"""What a chunk's work is given, and which chunk a worker takes next."""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple


class LazyItems(Sequence[Any]):
    """Items that are made of others when a chunk begins: only its own are in memory.

    Args:
        of: What they are made of, such as the rows of ``prompts``.
        make: The items of some of these, with all that their work needs, such as a prompt's claims. It is
            called once a chunk, in the process that writes the chunks.
        subject: Of one of these what its work loads, such as a checkpoint. A worker stays with one subject
            as long as chunks about it are left. None: all items have the same.
    """

    def __init__(
        self,
        of: Sequence[Any],
        make: Callable[[Sequence[Any]], list[Any]],
        subject: Callable[[Any], Hashable] | None = None,
    ):
        self._of, self._make, self._subject = of, make, subject

    def __len__(self) -> int:
        return len(self._of)

    def __getitem__(self, place: int | slice) -> Any:
        """An item, or a list of them."""
        if isinstance(place, slice):
            return self._make(self._of[place])
        [item] = self._make([self._of[place]])
        return item

    def subject(self, place: int) -> Hashable:
        """What the work on an item loads."""
        return self._subject and self._subject(self._of[place])


class Part(NamedTuple):
    """A chunk that is to be worked."""

    chunk_id: str
    items: Sequence[Any]
    subject: Hashable


class Pending:
    """The chunks that nobody has taken yet, by subject.

    Args:
        starts: Chunk's id -> its first item, in their order.
        size: Items a chunk.
    """

    def __init__(self, items: Sequence[Any], starts: Mapping[str, int], size: int):
        self._items, self._starts, self._size = items, starts, size
        self._left: dict[Hashable, deque[str]] = {}
        for chunk_id, start in starts.items():
            subject = items.subject(start) if isinstance(items, LazyItems) else None
            self._left.setdefault(subject, deque()).append(chunk_id)

    def __bool__(self) -> bool:
        return bool(self._left)

    def take(self, last: Hashable = None, others: Iterable[Hashable] = ()) -> Part:
        """The next chunk, whose items are made now.

        A worker goes on with its last subject. If that is done, it takes the one with the most chunks for
        each worker that would then be at it; of equal ones the first.

        Args:
            last: The worker's last subject.
            others: What other workers are at.
        """
        at = list(others)
        subject = (
            last
            if last in self._left
            else max(self._left, key=lambda s: len(self._left[s]) / (1 + at.count(s)))
        )
        chunk_id = self._left[subject].popleft()
        if not self._left[subject]:
            del self._left[subject]
        return Part(chunk_id, self._made(chunk_id), subject)

    def in_order(self) -> Iterator[tuple[str, Sequence[Any]]]:
        """All chunks' ids and items, which are made when they are asked for: for one worker alone."""
        return ((chunk_id, self._made(chunk_id)) for chunk_id in self._starts)

    def _made(self, chunk_id: str) -> Sequence[Any]:
        start = self._starts[chunk_id]
        return self._items[start : start + self._size]
