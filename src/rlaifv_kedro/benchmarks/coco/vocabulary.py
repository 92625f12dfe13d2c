"""Which COCO objects a text mentions, by a list of words and CHAIR's rules for double words.

Plurals: ``inflect`` (maintained, rules in the package, nothing to download) gives the *plural* of each word
of the vocabulary once, and a text is then read by dict look-ups alone. The other direction, reducing every
word of a text, goes wrong on words that are no nouns: ``simplemma`` makes "seated" a seat and "skiing" skis,
``inflect.singular_noun`` makes "bus" a "bu". A closed vocabulary has no need of it.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rlaifv_kedro.benchmarks.coco.words import DOUBLE_WORD_RULES, OWN_SYNONYMS
from rlaifv_kedro.doors import MOST_OF_SETTINGS, reason_of, regular_bytes
from rlaifv_kedro.errors import UserError

if TYPE_CHECKING:
    import inflect

# Words with their inner hyphens and apostrophes ("man-made" is no man and "o'clock" no clock, but "man's" has
# a man), or one mark: marks part double words ("a baby, dogs"). Underscores are marks, as in "a _dog_".
_WORD = r"[^\W_]+"
_TOKEN = re.compile(rf"{_WORD}(?:-{_WORD}|['’](?!s\b){_WORD})*|[^\w\s]|_")
_LISTED = re.compile(r"\w[\w '’.-]*")
# where inflect 7.6.0 errs: it says "gentlemans", "grandchilds", "dobermen"
_CORRECTED = {"gentleman": "gentlemen", "grandchild": "grandchildren", "doberman": "dobermans"}


def tokens(text: str) -> list[str]:
    """The words and marks of a text, in small letters."""
    return _TOKEN.findall(text.lower())


@cache
def plurals(noun: str) -> frozenset[str]:
    """The plurals in use of a one-word noun.

    "person" has "people" and "persons", "flamingo" has "flamingos" and "flamingoes".
    """
    if noun in _CORRECTED:
        return frozenset({_CORRECTED[noun]})
    with_s = {noun + "s"} if noun.endswith("o") else set()
    return frozenset({*(engine.plural_noun(noun) for engine in _engines()), *with_s})


@cache
def _engines() -> tuple["inflect.engine", "inflect.engine"]:
    """One for modern plurals, one for classical ones.

    Imported here: it takes longer than all else that the list of pipelines needs.
    """
    import inflect

    modern, classical = inflect.engine(), inflect.engine()
    classical.classical(all=True)
    return modern, classical


@dataclass(frozen=True)
class Vocabulary:
    """Words for COCO categories.

    Attributes:
        label: Which list it is, for reports: ``own-80-v1`` or ``file:<first 12 hex digits of its sha256>``.
        category_of: Listed word -> category. Each category is a word of its own. Words of two parts are
            matched as one object; those of more are never matched as one, as in the published evaluation:
            "stove top oven" mentions a stove and an oven.
    """

    label: str
    category_of: Mapping[str, str]

    @classmethod
    def own(cls) -> Self:
        """The project's own list: 80 categories, with everyday words."""
        category_of: dict[str, str] = {}
        for category, synonyms in OWN_SYNONYMS.items():
            category_of |= dict.fromkeys([category, *filter(None, synonyms.split(", "))], category)
        return cls("own-80-v1", category_of)

    @classmethod
    def of(cls, path: str | Path | None) -> Self:
        """The vocabulary of a file; without one the project's own."""
        return cls.own() if path is None else cls.from_file(path)

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a list in the published format.

        It has one category a line, the category first, then its synonyms, separated by commas. Words are kept
        as listed. Texts are lower-cased before matching, so a listed "iPhone" never matches, as in the
        published evaluation.

        Raises:
            UserError: If the file can't be read, is no UTF-8, is empty, or a line is damaged (empty word, odd
                characters, a word that an earlier line has for another category); names file and line.
        """
        path = Path(path)
        try:
            content = regular_bytes(path, MOST_OF_SETTINGS)
        except OSError as error:
            raise UserError(
                f"Can't read the vocabulary {path}: {reason_of(error)}. Give the path of a file with one "
                "category a line."
            ) from error
        category_of: dict[str, str] = {}
        for number, line in enumerate(content.rstrip().split(b"\n"), start=1):
            for word, category in _read_line(line, f"{path}, line {number}"):
                if category_of.setdefault(word, category) != category:
                    where = f"{path}, line {number}"
                    raise UserError(
                        f"{where}: {word!r} stands for {category!r}, but before for {category_of[word]!r}. "
                        "Keep one of the two."
                    )
        return cls(f"file:{hashlib.sha256(content).hexdigest()[:12]}", category_of)

    @property
    def categories(self) -> list[str]:
        """The categories, in the order of the list."""
        return list(dict.fromkeys(self.category_of.values()))

    def mentions(self, text: str) -> list[tuple[str, str]]:
        """The COCO objects of a text by CHAIR's rules: (listed word, category), in order, repeats kept.

        Lower-case, tokenise, nouns to singular, join double words, keep what is listed. If both "toilet" and
        "seat" occur, "seat" is dropped: it is the toilet's. Source: Rohrbach et al. 2018, "Object
        Hallucination in Image Captioning", and its evaluation code.
        """
        singular = self._singular
        joined = self._joined([singular.get(token, token) for token in tokens(text)])
        return self.listed([double or word for word, double in joined])

    def listed(self, words: list[str]) -> list[tuple[str, str]]:
        """(word, category) of the words that are listed; without "seat" if there is a "toilet", too."""
        if "seat" in words and "toilet" in words:
            words = [word for word in words if word != "seat"]
        category_of = self.category_of
        return [(word, category_of[word]) for word in words if word in category_of]

    def double_words(self, words: list[str]) -> list[str]:
        """What the double words among the words stand for, alone."""
        return [double for _, double in self._joined(words) if double]

    def _joined(self, words: list[str]) -> list[tuple[str, str | None]]:
        """The words without those that end a double word; with each that begins one, what it stands for.

        Neighbours are joined from left to right.

        Args:
            words: In the singular.
        """
        pairs = self._pairs
        joined: list[tuple[str, str | None]] = []
        skip = False
        for word, following in zip_longest(words, words[1:], fillvalue=""):
            if skip:
                skip = False
            elif word in pairs and following in pairs[word]:
                joined.append((word, pairs[word][following]))
                skip = True
            else:
                joined.append((word, None))
        return joined

    @cached_property
    def _singular(self) -> dict[str, str]:
        """Plural -> singular of the listed words and of what double words end in.

        A listed word stays as it is, unless it is the plural of another word of its category: "children" is a
        child, if both are listed.
        """
        listed = self.category_of
        endings = {double.split()[1] for double in (*listed, *DOUBLE_WORD_RULES) if double.count(" ") == 1}
        # listed words come first, they have the first claim to a plural
        nouns = dict.fromkeys([*(word for word in listed if " " not in word), *sorted(endings)])
        singular: dict[str, str] = {}
        for noun in nouns:
            for plural in plurals(noun) - {noun}:
                same_category = plural in listed and listed[plural] == listed.get(noun)
                if same_category or plural not in nouns:
                    singular.setdefault(plural, noun)
        return singular

    @cached_property
    def _pairs(self) -> dict[str, dict[str, str]]:
        """First part -> second part -> word, parts in the singular; the rules go before the list ("bow
        tie" is a tie).
        """
        pairs: dict[str, dict[str, str]] = {}
        listed = {word: word for word in self.category_of if word.count(" ") == 1}
        for double, word in (listed | DOUBLE_WORD_RULES).items():
            first, second = (self._singular.get(part, part) for part in double.split())
            pairs.setdefault(first, {})[second] = word
        return pairs


def _read_line(line: bytes, where: str) -> list[tuple[str, str]]:
    """(word, category) of each word of a line of the published format, the category itself first."""
    try:
        words = [" ".join(word.split()) for word in line.decode("utf-8").split(",")]
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: not UTF-8 text ({error.reason}). The file is damaged: fetch it again."
        ) from error
    for word in words:
        if not _LISTED.fullmatch(word):
            raise UserError(
                f"{where}: {word!r} is no word. A line is a category and its synonyms, separated by commas. "
                "Mend it or fetch the file anew."
            )
    return [(word, words[0]) for word in words]
