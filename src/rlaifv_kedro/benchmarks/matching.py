"""Which item an answer that was made elsewhere is to.

Programs name what they answer in many ways: by an id, by the picture, by the question, or by some of these.
All that a record says has to hold of the item, and has to say which question it is. A record that fits
several questions, or none, is refused: nothing is put to an item by guess or by its position in the file.
"""

from collections.abc import Callable, Iterator, Sequence

import pandas as pd

from rlaifv_kedro.benchmarks.benchmark import Item
from rlaifv_kedro.benchmarks.records import (
    IMAGE_NAMES,
    ITEM_NAMES,
    KIND_NAMES,
    TEXT,
    Record,
    image_name,
    short,
)
from rlaifv_kedro.errors import UserError

Places = frozenset[int]
"""Positions of items."""
NOWHERE: Places = frozenset()


def match_answers(
    items: Sequence[Item],
    records: Sequence[Record],
    image_key: Callable[[str], str] = image_name,
    file_name: str = "",
) -> pd.DataFrame:
    """Find the item or items that each record answers.

    The same question about the same picture may be several items, as in POPE's splits; an answer is put to
    all of them, unless all answers of the file are to one split.

    Args:
        image_key: Of what a picture is called, what all its names have in common.
        file_name: Of the answers. Where records would fit several splits, it may name theirs.

    Returns:
        item_id and answer of the items that are answered, in the order of the items.

    Raises:
        UserError: An answer fits no item, or several questions, or an item has two different answers; names
            the lines.
    """
    index = _Index(items, image_key, file_name)
    fitting = [index.places(record) for record in records]
    common = set.intersection(*({items[place].kind for place in places} for places in fitting))
    found: dict[int, Record] = {}
    for record, places in zip(records, fitting):
        for place in sorted(places):
            if common and items[place].kind not in common:
                continue
            before = found.setdefault(place, record)
            if before.answer() != record.answer():
                raise UserError(
                    f"{record.where}: there is another answer to the same question, {before.where}. Leave "
                    "one of the two out."
                )
    rows = [(items[place].item_id, found[place].answer()) for place in sorted(found)]
    return pd.DataFrame(rows, columns=["item_id", "answer"])


class _Index:
    """The items by what records may say of them."""

    def __init__(self, items: Sequence[Item], image_key: Callable[[str], str], file_name: str):
        self._items, self._image_key = items, image_key
        self._ids = _places([(item.item_id, item.number) for item in items])
        self._images = _places([self._pictures(item) for item in items])
        self._kinds = _places([(item.kind and item.kind.casefold(),) for item in items])
        self._questions = _places([(_asked(item),) for item in items])
        self._lengths = sorted({len(question) for question in self._questions}, reverse=True)
        self._everywhere = frozenset(range(len(items)))
        named = [kind for kind in self._kinds if kind in file_name.casefold()]
        self._of_file = self._kinds[named[0]] if len(named) == 1 else NOWHERE

    def places(self, record: Record) -> Places:
        """The items that are the question which the record answers.

        Raises:
            UserError: There is none, or there are several.
        """
        said, places = [], self._everywhere
        for what, found in self._statements(record):
            said.append(what)
            places &= found
        if (question := record.question()) is not None and self._questions:
            said.append(f"the question {short(question)}")
            places = self._asking(_plain(question), places)
        if not said:
            raise UserError(
                f"{record.where}: it has neither item_id nor image_id nor question. Add what says which "
                "question it answers."
            )
        if not places:
            raise UserError(
                f"{record.where}: there is no item with {' and '.join(said)}. Give the annotations of these "
                "questions, or take out what numbers them in another way."
            )
        self._refuse_questions(record, places)
        if self._differ(places):
            places = places & self._of_file or places
        if self._differ(places):
            first, second = (self._items[place].item_id for place in sorted(places)[:2])
            raise UserError(
                f"{record.where}: {len(places):,} items have {' and '.join(said)}, such as {first!r} and "
                f"{second!r}. Add {self._lacking(record)} to the records."
            )
        return places

    def _statements(self, record: Record) -> Iterator[tuple[str, Places]]:
        """What the record says beside the question -> the items of which it holds."""
        item_id, image = record.identifier_if_any(*ITEM_NAMES), record.identifier_if_any(*IMAGE_NAMES)
        if item_id is not None:
            yield f"{record.name_of(*ITEM_NAMES)} {short(item_id)}", self._ids.get(item_id, NOWHERE)
        if image is not None and self._images:
            yield (
                f"{record.name_of(*IMAGE_NAMES)} {short(image)}",
                self._images.get(self._image_key(image), NOWHERE),
            )
        for name in KIND_NAMES:
            kind = record.fields.get(name)
            if isinstance(kind, str) and kind.casefold() in self._kinds:
                yield f"{name} {short(kind)}", self._kinds[kind.casefold()]

    def _asking(self, question: str, places: Places) -> Places:
        """Those of the places that ask this; a prompt may go on behind an item's question, as LLaVA's do."""
        for length in self._lengths:
            found = self._questions.get(question[:length], NOWHERE) & places
            if found and not question[length : length + 1].isalnum():
                return found
        return NOWHERE

    def _differ(self, places: Places) -> bool:
        """Whether these are several questions, and not one that is in several splits."""
        return len({self._identity(place) for place in places}) > 1

    def _identity(self, place: int) -> tuple[str | None, ...]:
        item = self._items[place]
        pictures = self._pictures(item)
        return (*pictures, _asked(item)) if any(pictures) and _asked(item) else (item.item_id,)

    def _pictures(self, item: Item) -> tuple[str | None, ...]:
        names = (item.image_key, item.picture if isinstance(item.picture, str) else None)
        return tuple(name and self._image_key(name) for name in names)

    def _lacking(self, record: Record) -> str:
        """What a record could say more."""
        missing = {
            "'item_id'": record.get(*ITEM_NAMES) is None,
            "'image_id'": bool(self._images) and record.get(*IMAGE_NAMES) is None,
            "'question'": bool(self._questions) and record.question() is None,
            "'split'": self._items[0].number is not None,
        }
        return " or ".join(name for name, is_missing in missing.items() if is_missing)

    def _refuse_questions(self, record: Record, places: Places) -> None:
        """A file of questions has a text, too, and is no file of answers."""
        asked = {_asked(self._items[place]) for place in places}
        if record.question() is None and record.get(TEXT) is not None and _plain(record.answer()) in asked:
            record.refuse_question()


def _places(keys: Sequence[tuple[str | None, ...]]) -> dict[str, Places]:
    """Key -> the positions that have it; None and the empty text are no keys."""
    found: dict[str, set[int]] = {}
    for place, own in enumerate(keys):
        for key in filter(None, own):
            found.setdefault(key, set()).add(place)
    return {key: frozenset(places) for key, places in found.items()}


def _asked(item: Item) -> str:
    """The item's question; empty where its kind stands for it, as the published questions aren't there."""
    return "" if item.question == item.kind else _plain(item.question)


def _plain(text: str) -> str:
    """A text without the place of the picture, and without regard to blanks and capitals."""
    return " ".join(text.replace("<image>", " ").split()).casefold()
