"""Scenes of the miniature world: what is in them, where it is, and what the camera sees.

Categories carry COCO's own ids and names. Each scene has *typical* categories (the first three of its list):
the ones a careless annotator, and so the base policy, names without looking.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from rlaifv_kedro.miniature.backgrounds import draw_background
from rlaifv_kedro.miniature.glyphs import GLYPHS, Pen
from rlaifv_kedro.seeds import generator_for

IMAGE_SIZE = 72  # pixels
TYPICAL = 3  # the first three categories of a scene are its typical ones

# name -> (COCO category id, COCO supercategory)
CATEGORIES: dict[str, tuple[int, str]] = {
    "person": (1, "person"),
    "bicycle": (2, "vehicle"),
    "car": (3, "vehicle"),
    "bus": (6, "vehicle"),
    "traffic light": (10, "outdoor"),
    "bench": (15, "outdoor"),
    "bird": (16, "animal"),
    "cat": (17, "animal"),
    "dog": (18, "animal"),
    "umbrella": (28, "accessory"),
    "kite": (38, "sports"),
    "surfboard": (42, "sports"),
    "bottle": (44, "kitchen"),
    "cup": (47, "kitchen"),
    "bowl": (51, "kitchen"),
    "banana": (52, "food"),
    "apple": (53, "food"),
    "couch": (63, "furniture"),
    "potted plant": (64, "furniture"),
    "tv": (72, "electronic"),
    "oven": (79, "appliance"),
    "book": (84, "indoor"),
    "clock": (85, "indoor"),
    "boat": (9, "vehicle"),
}
NAMES: tuple[str, ...] = tuple(CATEGORIES)

# scene -> category -> how often it is there; typical ones first
PRIOR: dict[str, dict[str, float]] = {
    "kitchen": {
        "oven": 0.6,
        "cup": 0.6,
        "bowl": 0.45,
        "bottle": 0.35,
        "banana": 0.3,
        "apple": 0.3,
        "clock": 0.15,
        "person": 0.15,
        "cat": 0.1,
        "potted plant": 0.1,
    },
    "street": {
        "car": 0.6,
        "traffic light": 0.6,
        "bus": 0.4,
        "bicycle": 0.35,
        "person": 0.45,
        "dog": 0.15,
        "umbrella": 0.1,
        "bird": 0.1,
        "bench": 0.1,
        "clock": 0.1,
    },
    "park": {
        "bench": 0.6,
        "dog": 0.6,
        "bird": 0.4,
        "kite": 0.35,
        "person": 0.4,
        "bicycle": 0.2,
        "banana": 0.05,
        "apple": 0.1,
        "bottle": 0.1,
        "book": 0.1,
    },
    "living room": {
        "couch": 0.6,
        "tv": 0.6,
        "cat": 0.4,
        "book": 0.35,
        "potted plant": 0.35,
        "clock": 0.3,
        "person": 0.2,
        "dog": 0.1,
        "cup": 0.15,
        "bottle": 0.1,
    },
    "beach": {
        "umbrella": 0.6,
        "surfboard": 0.6,
        "boat": 0.4,
        "person": 0.4,
        "bird": 0.3,
        "kite": 0.25,
        "dog": 0.15,
        "bottle": 0.1,
        "bench": 0.1,
        "apple": 0.05,
    },
}
SCENES: tuple[str, ...] = tuple(PRIOR)

SPRITES_PER_CATEGORY = 40
SPRITE_SIDES = (16, 27)  # pixels, smallest and largest
NOISE = 10.0  # standard deviation of the sensor noise, in grey levels


@dataclass(frozen=True)
class Instance:
    """One object in a scene.

    Attributes:
        mask: bool (IMAGE_SIZE, IMAGE_SIZE), True at the pixels it was drawn on.
    """

    category: str
    mask: np.ndarray


@dataclass(frozen=True)
class Scene:
    """A drawn scene and what can be seen in it.

    Attributes:
        kind: One of SCENES.
        pixels: uint8 (IMAGE_SIZE, IMAGE_SIZE, 3).
        labels: int16 (IMAGE_SIZE, IMAGE_SIZE), 0 for the background, c + 1 for NAMES[c].
    """

    kind: str
    instances: tuple[Instance, ...]
    pixels: np.ndarray
    labels: np.ndarray

    @property
    def counts(self) -> dict[str, int]:
        """How many instances each category has, in order of drawing."""
        return dict(Counter(instance.category for instance in self.instances))

    @property
    def categories(self) -> list[str]:
        """The categories of its objects, in order of drawing."""
        return list(self.counts)

    @property
    def absent_typical(self) -> list[str]:
        """The scene's typical categories that are not there: what a policy that does not look would name."""
        return [c for c in typical(self.kind) if c not in self.counts]


def typical(kind: str) -> tuple[str, ...]:
    """The categories that are most often in scenes of this kind."""
    return tuple(PRIOR[kind])[:TYPICAL]


def draw_scene(
    seed: int, split: str, index: int, *, fifth_share: float = 1.0, double_share: float = 0.15
) -> Scene:
    """Draw scene ``index`` of a split; the same arguments always give the same bytes.

    Args:
        fifth_share: The share of scenes with a fifth object. A scene to be described has one more than any
            prompt asks for, so that a policy can leave out what it isn't sure of; with exactly four it would
            have to guess or to repeat itself. A scene to learn from has it in half the cases: where the four
            objects asked for are all there are, the caption teaches to find every one.
        double_share: Of the scenes with a fifth object, the share in which it is a second one of its kind. So
            "there is a second cup" is sometimes true, and a repeated mention has to be checked against the
            pixels like every other claim.
    """
    kind, categories, rng = _chosen(seed, split, index, fifth_share, double_share)
    return _render(kind, categories, rng)


def content_of_scene(
    seed: int, split: str, index: int, *, double_share: float = 0.15
) -> tuple[str, list[str]]:
    """The kind of a scene to be described and the categories of its objects, without drawing it."""
    return _chosen(seed, split, index, 1.0, double_share)[:2]


def _chosen(
    seed: int, split: str, index: int, fifth_share: float, double_share: float
) -> tuple[str, list[str], np.random.Generator]:
    """The kind of a scene, its categories, and the random numbers that go on from there."""
    rng = generator_for(seed, "scene", split, index)
    kind = SCENES[rng.integers(len(SCENES))]
    weights = np.sqrt(list(PRIOR[kind].values()))
    fifth = rng.random() < fifth_share
    double = fifth and rng.random() < double_share
    count = 5 if fifth and not double else 4
    drawn = rng.choice(list(PRIOR[kind]), count, replace=False, p=weights / weights.sum())
    chosen = [str(c) for c in drawn]
    return kind, [*chosen, chosen[rng.integers(4)]] if double else chosen, rng


@cache
def _sprites() -> dict[str, list[np.ndarray]]:
    """RGBA sprites, float32 (side, side, 4). The stock of things is the same in every world; only the
    scenes differ by seed.
    """
    stock: dict[str, list[np.ndarray]] = {}
    for name in NAMES:
        rng = generator_for(0, "sprites", name)
        stock[name] = [_sprite(name, rng) for _ in range(SPRITES_PER_CATEGORY)]
    return stock


def _sprite(name: str, rng: np.random.Generator) -> np.ndarray:
    pen = Pen(96, rng)
    GLYPHS[name](pen)
    image = pen.image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else pen.image
    image = image.rotate(float(rng.uniform(-15, 15)), Image.Resampling.BICUBIC, expand=True)
    side = int(rng.integers(SPRITE_SIDES[0], SPRITE_SIDES[1] + 1))
    return np.asarray(image.resize((side, side), Image.Resampling.LANCZOS), dtype=np.float32)


def _place(side: int, centres: list[tuple[float, float]], rng: np.random.Generator) -> tuple[int, int]:
    """The top left corner of a sprite: the best of 12 tries to keep 20 pixels between centres."""
    best: tuple[float, int, int] | None = None
    for _ in range(12):
        x, y = (int(v) for v in rng.integers(-2, IMAGE_SIZE - side + 3, 2))
        distance = min((max(abs(x + side / 2 - a), abs(y + side / 2 - b)) for a, b in centres), default=99.0)
        if best is None or distance > best[0]:
            best = (distance, x, y)
        if distance > 20:
            break
    return best[1], best[2]


def _render(kind: str, categories: list[str], rng: np.random.Generator) -> Scene:
    pixels = draw_background(kind, IMAGE_SIZE, rng).copy()
    labels = np.zeros((IMAGE_SIZE, IMAGE_SIZE), dtype=np.int16)
    centres: list[tuple[float, float]] = []
    instances = []
    for category in categories:
        sprites = _sprites()[category]
        sprite = sprites[rng.integers(len(sprites))]
        side = sprite.shape[0]
        x, y = _place(side, centres, rng)
        centres.append((x + side / 2, y + side / 2))
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + side, IMAGE_SIZE), min(y + side, IMAGE_SIZE)
        visible = sprite[y0 - y : y1 - y, x0 - x : x1 - x]
        alpha = visible[..., 3:] / 255.0
        window = (slice(y0, y1), slice(x0, x1))
        pixels[window] = pixels[window] * (1 - alpha) + visible[..., :3] * alpha
        mask = np.zeros((IMAGE_SIZE, IMAGE_SIZE), dtype=bool)
        mask[window] = alpha[..., 0] > 0.5
        labels[mask] = NAMES.index(category) + 1
        instances.append(Instance(category, mask))
    pixels = pixels * rng.uniform(0.8, 1.15) + rng.normal(0, NOISE, pixels.shape)
    return Scene(kind, tuple(instances), np.clip(pixels, 0, 255).astype(np.uint8), labels)
