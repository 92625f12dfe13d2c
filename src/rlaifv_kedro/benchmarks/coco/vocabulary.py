"""Which COCO objects a text mentions: the 80 categories, their everyday words, and CHAIR's rules for double
words.

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

from rlaifv_kedro.errors import UserError

if TYPE_CHECKING:
    import inflect

# category id -> name, from the COCO 2014 instance annotations; the ids have gaps
COCO_CATEGORIES: dict[int, str] = {
    1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train", 8: "truck",
    9: "boat", 10: "traffic light", 11: "fire hydrant", 13: "stop sign", 14: "parking meter", 15: "bench",
    16: "bird", 17: "cat", 18: "dog", 19: "horse", 20: "sheep", 21: "cow", 22: "elephant", 23: "bear",
    24: "zebra", 25: "giraffe", 27: "backpack", 28: "umbrella", 31: "handbag", 32: "tie", 33: "suitcase",
    34: "frisbee", 35: "skis", 36: "snowboard", 37: "sports ball", 38: "kite", 39: "baseball bat",
    40: "baseball glove", 41: "skateboard", 42: "surfboard", 43: "tennis racket", 44: "bottle",
    46: "wine glass", 47: "cup", 48: "fork", 49: "knife", 50: "spoon", 51: "bowl", 52: "banana", 53: "apple",
    54: "sandwich", 55: "orange", 56: "broccoli", 57: "carrot", 58: "hot dog", 59: "pizza", 60: "donut",
    61: "cake", 62: "chair", 63: "couch", 64: "potted plant", 65: "bed", 67: "dining table", 70: "toilet",
    72: "tv", 73: "laptop", 74: "mouse", 75: "remote", 76: "keyboard", 77: "cell phone", 78: "microwave",
    79: "oven", 80: "toaster", 81: "sink", 82: "refrigerator", 84: "book", 85: "clock", 86: "vase",
    87: "scissors", 88: "teddy bear", 89: "hair drier", 90: "toothbrush",
}  # fmt: skip

# Our own everyday words. Left out on purpose: words that as often mean something else ("glass", "plant",
# "baseball", "chicken", "cook").
OWN_SYNONYMS: dict[str, str] = {
    "person": "man, woman, boy, girl, child, kid, baby, toddler, infant, guy, lady, gentleman, adult, "
    "teenager, human, pedestrian, rider, "
    "cyclist, driver, passenger, player, catcher, umpire, skier, snowboarder, skateboarder, surfer, "
    "swimmer, farmer, fisherman, chef, "
    "waiter, waitress, worker, student, teacher, doctor, nurse, soldier, policeman, policewoman, police "
    "officer, fireman, firefighter, "
    "bride, groom, mother, father, mom, dad, son, daughter, sister, brother, grandmother, grandfather, "
    "grandchild, husband, wife, friend, "
    "tourist, athlete",
    "bicycle": "bike, mountain bike, tricycle",
    "car": "automobile, sedan, taxi, cab, van, minivan, suv, jeep, hatchback, convertible, limousine, "
    "station wagon",
    "motorcycle": "motorbike, motor bike, scooter, motor scooter, moped, dirt bike",
    "airplane": "plane, aeroplane, aircraft, jet, airliner, jumbo jet, fighter jet, biplane, seaplane",
    "bus": "minibus, school bus, tour bus",
    "train": "locomotive, tram, streetcar, subway train, train car, train engine, rail car, cable car",
    "truck": "lorry, pickup, pickup truck, fire truck, fire engine, dump truck, tow truck",
    "boat": "ship, sailboat, canoe, kayak, yacht, ferry, rowboat, speedboat, motorboat, dinghy, raft, "
    "fishing boat",
    "traffic light": "traffic signal, stoplight, stop light",
    "fire hydrant": "hydrant, fireplug",
    "stop sign": "",
    "parking meter": "",
    "bench": "park bench, pew",
    "bird": "seagull, gull, pigeon, duck, goose, swan, parrot, owl, eagle, hawk, crow, sparrow, pelican, "
    "flamingo, penguin, rooster, hen, "
    "duckling, peacock, ostrich, heron",
    "cat": "kitten, kitty, tabby",
    "dog": "puppy, pup, hound, poodle, terrier, bulldog, labrador, dachshund, sheepdog",
    "horse": "pony, foal, colt, mare, stallion",
    "sheep": "lamb, ram, ewe",
    "cow": "cattle, calf, bull, ox",
    "elephant": "",
    "bear": "polar bear, grizzly, grizzly bear, black bear, brown bear, panda",
    "zebra": "",
    "giraffe": "",
    "backpack": "rucksack, knapsack, back pack",
    "umbrella": "parasol, beach umbrella",
    "handbag": "purse, hand bag, tote bag, shoulder bag",
    "tie": "necktie, bow tie, bowtie",
    "suitcase": "suit case, luggage, baggage",
    "frisbee": "flying disc",
    "skis": "ski",
    "snowboard": "snow board",
    "sports ball": "ball, tennis ball, soccer ball, beach ball",
    "kite": "",
    "baseball bat": "bat",
    "baseball glove": "baseball mitt, mitt",
    "skateboard": "skate board",
    "surfboard": "surf board, bodyboard",
    "tennis racket": "racket, racquet, tennis racquet",
    "bottle": "water bottle, wine bottle, beer bottle",
    "wine glass": "wineglass, champagne glass",
    "cup": "mug, teacup, coffee cup, coffee mug",
    "fork": "",
    "knife": "steak knife, butter knife, pocket knife",
    "spoon": "teaspoon, tablespoon",
    "bowl": "soup bowl, salad bowl",
    "banana": "",
    "apple": "",
    "sandwich": "burger, hamburger, cheeseburger, panini",
    "orange": "tangerine, clementine",
    "broccoli": "",
    "carrot": "",
    "hot dog": "hotdog",
    "pizza": "",
    "donut": "doughnut",
    "cake": "cupcake, birthday cake, wedding cake, cheesecake",
    "chair": "armchair, seat, stool, office chair, rocking chair, folding chair",
    "couch": "sofa, loveseat, love seat, settee",
    "potted plant": "houseplant, house plant, pot plant, flower pot, flowerpot",
    "bed": "bunk bed, crib",
    "dining table": "table, kitchen table, dinner table, picnic table, coffee table",
    "toilet": "urinal, toilet bowl",
    "tv": "television, television set, tv set, monitor",
    "laptop": "laptop computer, notebook computer",
    "mouse": "computer mouse",
    "remote": "remote control, game controller, wii remote",
    "keyboard": "computer keyboard",
    "cell phone": "cellphone, phone, mobile phone, smartphone, telephone, iphone",
    "microwave": "microwave oven",
    "oven": "stove, stovetop, cooker",
    "toaster": "",
    "sink": "washbasin, wash basin, bathroom sink, kitchen sink",
    "refrigerator": "fridge, freezer",
    "book": "textbook, paperback, cookbook",
    "clock": "clock face, alarm clock, wall clock",
    "vase": "flower vase",
    "scissors": "shears",
    "teddy bear": "teddy, stuffed bear",
    "hair drier": "hair dryer, hairdryer, blow dryer",
    "toothbrush": "tooth brush",
}

# Rules of the published evaluation (Object HalBench, after CHAIR's): two words -> the word that they stand
# for.
_YOUNG_OR_GROWN = (
    "bird",
    "cat",
    "dog",
    "horse",
    "sheep",
    "cow",
    "elephant",
    "bear",
    "zebra",
    "giraffe",
    "animal",
    "cub",
)
DOUBLE_WORD_RULES: dict[str, str] = {
    **{f"{age} {animal}": animal for animal in _YOUNG_OR_GROWN for age in ("baby", "adult")},
    "passenger jet": "jet", "passenger train": "train", "bow tie": "tie", "toilet seat": "toilet",
    # The published evaluation's lemmatiser says "glas"; lists of objects made for it may, too
    "wine glas": "wine glass",
    # No objects of COCO: joined so that "plate" and "train" are not counted
    "home plate": "home plate", "train track": "train track",
}  # fmt: skip

# Words with their inner hyphens and apostrophes ("man-made" is no man and "o'clock" no clock, but "man's" has
# a man), or one mark: marks part double words ("a baby, dogs").
_TOKEN = re.compile(r"\w+(?:-\w+|['’](?!s\b)\w+)*|[^\w\s]")
_LISTED = re.compile(r"\w[\w '’.-]*")
# where inflect 7.6.0 errs: it says "gentlemans", "grandchilds", "dobermen"
_CORRECTED = {"gentleman": "gentlemen", "grandchild": "grandchildren", "doberman": "dobermans"}


@cache
def plurals(noun: str) -> frozenset[str]:
    """The plurals in use of a one-word noun: "person" has "people" and "persons", "flamingo" has
    "flamingos" and "flamingoes".
    """
    if noun in _CORRECTED:
        return frozenset({_CORRECTED[noun]})
    with_s = {noun + "s"} if noun.endswith("o") else set()
    return frozenset({*(engine.plural_noun(noun) for engine in _engines()), *with_s})


@cache
def _engines() -> tuple["inflect.engine", "inflect.engine"]:
    """One for modern plurals, one for classical ones. Imported here: it takes longer than all else that
    the list of pipelines needs.
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
        """Read a list in the published format: one category a line, the category first, then its synonyms,
        separated by commas.

        Words are kept as listed. Texts are lower-cased before matching, so a listed "iPhone" never matches,
        as in the published evaluation.

        Raises:
            UserError: If the file can't be read, is no UTF-8, is empty, or a line is damaged (empty word, odd
                characters, a word that an earlier line has for another category); names file and line.
        """
        path = Path(path)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(
                f"Can't read the vocabulary {path}: {error.strerror}. Give the path of a file with one "
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
        """The COCO objects of a text by CHAIR's rules: (listed word, category) in order of the text, repeats
        kept.

        Lower-case, tokenise, nouns to singular, join double words, keep what is listed. If both "toilet" and
        "seat" occur, "seat" is dropped: it is the toilet's. Source: Rohrbach et al. 2018, "Object
        Hallucination in Image Captioning", and its evaluation code.
        """
        singular = self._singular
        return self.listed(
            self.join_double_words([singular.get(token, token) for token in _TOKEN.findall(text.lower())])
        )

    def listed(self, words: list[str]) -> list[tuple[str, str]]:
        """(word, category) of the words that are listed; without "seat" if there is a "toilet", too."""
        if "seat" in words and "toilet" in words:
            words = [word for word in words if word != "seat"]
        category_of = self.category_of
        return [(word, category_of[word]) for word in words if word in category_of]

    def join_double_words(self, words: list[str]) -> list[str]:
        """Replace each pair of neighbours that is a double word by what it stands for, from left to right;
        ``words`` are singular.
        """
        return [double or word for word, double in self._joined(words)]

    def double_words(self, words: list[str]) -> list[str]:
        """What the double words among the words stand for, alone."""
        return [double for _, double in self._joined(words) if double]

    def _joined(self, words: list[str]) -> list[tuple[str, str | None]]:
        """The words without those that end a double word; with each that begins one, what it stands for."""
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
