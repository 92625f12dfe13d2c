"""How the miniature's empty scenes are drawn."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]


class _Canvas:
    """An empty picture with a horizon, in pixels."""

    def __init__(self, size: int, rng: np.random.Generator):
        self.image = Image.new("RGB", (size, size))
        self.draw = ImageDraw.Draw(self.image)
        self.size, self.rng = size, rng
        self.horizon = int(size * rng.uniform(0.45, 0.6))

    def ink(self, *colour: int) -> Colour:
        """The colour, changed a little at random."""
        return tuple(int(np.clip(v + self.rng.integers(-18, 19), 0, 255)) for v in colour)

    def between(self, least: int, beyond: int) -> int:
        """A random whole number below ``beyond``."""
        return int(self.rng.integers(least, beyond))

    def box(self, *corners: int, colour: Colour) -> None:
        """A filled rectangle: left, top, right, bottom."""
        self.draw.rectangle(corners, fill=colour)

    def line(self, *ends: int, colour: Colour) -> None:
        """A line from one point to another."""
        self.draw.line(ends, fill=colour)

    def upper_lower(self, upper: Colour, lower: Colour) -> None:
        """Fill what is above and what is below the horizon."""
        self.box(0, 0, self.size, self.horizon, colour=self.ink(*upper))
        self.box(0, self.horizon, self.size, self.size, colour=self.ink(*lower))


def _kitchen(c: _Canvas) -> None:
    c.upper_lower((235, 225, 200), (170, 130, 95))
    step = c.between(9, 13)
    for x in range(0, c.size, step):
        c.line(x, 0, x, c.horizon, colour=c.ink(205, 195, 170))
    for y in range(0, c.horizon, step):
        c.line(0, y, c.size, y, colour=c.ink(205, 195, 170))


def _street(c: _Canvas) -> None:
    c.upper_lower((165, 175, 190), (85, 85, 90))
    x = 0
    while x < c.size:
        width, top = c.between(10, 20), c.between(4, c.horizon // 2 + 4)
        c.box(x, top, x + width, c.horizon, colour=c.ink(130, 120, 120))
        x += width
    middle = (c.horizon + c.size) // 2
    for x in range(c.between(0, 8), c.size, 16):
        c.box(x, middle, x + 8, middle + 2, colour=c.ink(230, 230, 190))


def _park(c: _Canvas) -> None:
    c.upper_lower((140, 200, 240), (90, 170, 80))
    for _ in range(c.between(1, 4)):
        x, radius = c.between(0, c.size), c.between(7, 13)
        c.box(x - 2, c.horizon - 10, x + 2, c.horizon + 2, colour=c.ink(100, 70, 40))
        crown = (x - radius, c.horizon - 6 - 2 * radius, x + radius, c.horizon - 6)
        c.draw.ellipse(crown, fill=c.ink(50, 130, 55))


def _living_room(c: _Canvas) -> None:
    c.upper_lower((190, 205, 180), (150, 95, 60))
    for y in range(c.horizon + 4, c.size, 6):
        c.line(0, y, c.size, y, colour=c.ink(130, 80, 50))
    x = c.between(4, c.size - 24)
    c.box(x, 5, x + 18, 18, colour=c.ink(230, 210, 150))
    c.box(x + 2, 7, x + 16, 16, colour=c.ink(120, 140, 170))


def _beach(c: _Canvas) -> None:
    shore = c.horizon // 2 + 4
    c.box(0, 0, c.size, shore, colour=c.ink(130, 205, 250))
    c.box(0, shore, c.size, c.horizon, colour=c.ink(40, 120, 200))
    c.box(0, c.horizon, c.size, c.size, colour=c.ink(240, 215, 150))
    for _ in range(4):
        x, y = c.between(0, c.size), c.between(shore + 2, c.horizon)
        c.line(x, y, x + 8, y, colour=c.ink(220, 240, 250))


BACKGROUNDS: dict[str, Callable[[_Canvas], None]] = {
    "kitchen": _kitchen,
    "street": _street,
    "park": _park,
    "living room": _living_room,
    "beach": _beach,
}


def draw_background(scene: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """The empty scene: float32 (size, size, 3), values 0..255."""
    canvas = _Canvas(size, rng)
    BACKGROUNDS[scene](canvas)
    return np.asarray(canvas.image, dtype=np.float32)
