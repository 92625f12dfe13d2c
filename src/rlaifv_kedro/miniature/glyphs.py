"""How the miniature's objects are drawn: by Pillow, in a unit square scaled to the sprite's side."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int, int]


class Pen:
    """Draws in unit coordinates on a square canvas.

    Colours are changed a little at random, so that no two sprites are alike.
    """

    def __init__(self, side: int, rng: np.random.Generator):
        self.image = Image.new("RGBA", (side, side), (0, 0, 0, 0))
        self.draw = ImageDraw.Draw(self.image)
        self.side, self.rng = side, rng

    def ink(self, red: int, green: int, blue: int) -> Colour:
        """The colour, changed a little at random."""
        jitter = self.rng.integers(-25, 26, 3)
        r, g, b = (int(np.clip(v + d, 0, 255)) for v, d in zip((red, green, blue), jitter))
        return (r, g, b, 255)

    def either(self, first: tuple[int, int, int], second: tuple[int, int, int]) -> Colour:
        """One of two colours, with equal chances."""
        return self.ink(*(first if self.rng.random() < 0.5 else second))

    def _scaled(self, *values: float) -> list[float]:
        return [v * self.side for v in values]

    def box(self, *corners: float, fill: Colour) -> None:
        """A filled rectangle: left, top, right, bottom."""
        self.draw.rectangle(self._scaled(*corners), fill=fill)

    def disc(self, *corners: float, fill: Colour) -> None:
        """A filled ellipse in a rectangle: left, top, right, bottom."""
        self.draw.ellipse(self._scaled(*corners), fill=fill)

    def ring(self, *corners: float, fill: Colour, width: float) -> None:
        """The outline of an ellipse in a rectangle: left, top, right, bottom."""
        self.draw.ellipse(self._scaled(*corners), outline=fill, width=max(1, int(width * self.side)))

    def pie(self, *corners: float, start: int, end: int, fill: Colour) -> None:
        """A sector of an ellipse, between two angles in degrees, clockwise from the right."""
        self.draw.pieslice(self._scaled(*corners), start, end, fill=fill)

    def shape(self, *points: tuple[float, float], fill: Colour) -> None:
        """A filled polygon."""
        self.draw.polygon([tuple(self._scaled(*p)) for p in points], fill=fill)

    def line(self, *points: tuple[float, float], fill: Colour, width: float) -> None:
        """A line through some points."""
        scaled = [tuple(self._scaled(*p)) for p in points]
        self.draw.line(scaled, fill=fill, width=max(1, int(width * self.side)))


def _person(p: Pen) -> None:
    shirt, trousers = p.either((60, 90, 200), (200, 60, 90)), p.ink(30, 30, 30)
    p.disc(0.36, 0.02, 0.64, 0.3, fill=p.ink(235, 190, 150))
    p.box(0.32, 0.3, 0.68, 0.65, fill=shirt)
    p.box(0.34, 0.65, 0.47, 0.98, fill=trousers)
    p.box(0.53, 0.65, 0.66, 0.98, fill=trousers)
    p.line((0.32, 0.34), (0.14, 0.6), fill=shirt, width=0.09)
    p.line((0.68, 0.34), (0.86, 0.6), fill=shirt, width=0.09)


def _bicycle(p: Pen) -> None:
    tyre, frame = p.ink(30, 30, 30), p.ink(220, 60, 40)
    for x in (0.03, 0.55):
        p.ring(x, 0.48, x + 0.42, 0.9, fill=tyre, width=0.07)
    p.line((0.24, 0.69), (0.42, 0.35), (0.72, 0.35), (0.76, 0.69), fill=frame, width=0.07)
    p.line((0.42, 0.35), (0.55, 0.69), (0.72, 0.35), fill=frame, width=0.06)
    p.line((0.34, 0.28), (0.5, 0.28), fill=tyre, width=0.06)


def _car(p: Pen) -> None:
    paint, tyre = p.either((210, 40, 40), (40, 80, 210)), p.ink(30, 30, 30)
    p.box(0.02, 0.45, 0.98, 0.75, fill=paint)
    p.shape((0.2, 0.45), (0.32, 0.22), (0.68, 0.22), (0.82, 0.45), fill=paint)
    p.shape((0.3, 0.44), (0.37, 0.28), (0.63, 0.28), (0.7, 0.44), fill=p.ink(170, 220, 250))
    p.disc(0.12, 0.62, 0.36, 0.88, fill=tyre)
    p.disc(0.64, 0.62, 0.88, 0.88, fill=tyre)


def _bus(p: Pen) -> None:
    tyre = p.ink(30, 30, 30)
    p.box(0.02, 0.15, 0.98, 0.8, fill=p.ink(240, 170, 20))
    for x in (0.08, 0.3, 0.52, 0.74):
        p.box(x, 0.25, x + 0.17, 0.47, fill=p.ink(160, 215, 245))
    p.disc(0.14, 0.68, 0.34, 0.92, fill=tyre)
    p.disc(0.66, 0.68, 0.86, 0.92, fill=tyre)


def _traffic_light(p: Pen) -> None:
    p.box(0.45, 0.6, 0.55, 1, fill=p.ink(90, 90, 90))
    p.box(0.3, 0.02, 0.7, 0.66, fill=p.ink(30, 30, 30))
    p.disc(0.38, 0.06, 0.62, 0.24, fill=p.ink(240, 40, 40))
    p.disc(0.38, 0.26, 0.62, 0.44, fill=p.ink(245, 210, 40))
    p.disc(0.38, 0.46, 0.62, 0.64, fill=p.ink(50, 210, 70))


def _bench(p: Pen) -> None:
    wood, iron = p.ink(130, 80, 40), p.ink(30, 30, 30)
    for top, bottom in ((0.25, 0.34), (0.39, 0.48), (0.58, 0.68)):
        p.box(0.03, top, 0.97, bottom, fill=wood)
    p.box(0.1, 0.68, 0.18, 0.95, fill=iron)
    p.box(0.82, 0.68, 0.9, 0.95, fill=iron)


def _bird(p: Pen) -> None:
    plumage, beak = p.ink(70, 150, 230), p.ink(245, 160, 30)
    p.disc(0.2, 0.35, 0.75, 0.75, fill=plumage)
    p.disc(0.6, 0.2, 0.88, 0.48, fill=plumage)
    p.shape((0.86, 0.3), (1, 0.36), (0.86, 0.42), fill=beak)
    p.shape((0.02, 0.4), (0.3, 0.5), (0.25, 0.65), fill=plumage)
    p.shape((0.35, 0.5), (0.6, 0.5), (0.4, 0.15), fill=p.ink(40, 100, 180))
    p.line((0.45, 0.75), (0.45, 0.95), fill=beak, width=0.05)


def _cat(p: Pen) -> None:
    fur, eye, whisker = p.either((150, 150, 150), (240, 150, 60)), p.ink(60, 220, 80), p.ink(235, 235, 235)
    p.disc(0.22, 0.25, 0.78, 0.8, fill=fur)
    p.shape((0.24, 0.45), (0.22, 0.05), (0.46, 0.28), fill=fur)
    p.shape((0.76, 0.45), (0.78, 0.05), (0.54, 0.28), fill=fur)
    p.disc(0.34, 0.42, 0.44, 0.54, fill=eye)
    p.disc(0.56, 0.42, 0.66, 0.54, fill=eye)
    p.line((0.05, 0.6), (0.95, 0.66), fill=whisker, width=0.03)
    p.line((0.05, 0.68), (0.95, 0.58), fill=whisker, width=0.03)


def _dog(p: Pen) -> None:
    fur = p.ink(150, 95, 45)
    p.box(0.2, 0.4, 0.75, 0.68, fill=fur)
    p.disc(0.6, 0.15, 0.95, 0.5, fill=fur)
    p.shape((0.62, 0.2), (0.56, 0.5), (0.7, 0.4), fill=p.ink(80, 45, 15))
    p.box(0.22, 0.65, 0.32, 0.95, fill=fur)
    p.box(0.62, 0.65, 0.72, 0.95, fill=fur)
    p.line((0.22, 0.42), (0.04, 0.2), fill=fur, width=0.08)
    p.disc(0.88, 0.3, 0.98, 0.4, fill=p.ink(30, 30, 30))


def _umbrella(p: Pen) -> None:
    p.pie(0.02, 0.05, 0.98, 0.95, start=180, end=360, fill=p.ink(220, 40, 150))
    p.pie(0.34, 0.05, 0.66, 0.95, start=180, end=360, fill=p.ink(250, 230, 240))
    p.line((0.5, 0.4), (0.5, 0.96), fill=p.ink(30, 30, 30), width=0.06)


def _kite(p: Pen) -> None:
    p.shape((0.5, 0.0), (0.85, 0.35), (0.5, 0.75), (0.15, 0.35), fill=p.ink(230, 50, 60))
    p.shape((0.5, 0.0), (0.85, 0.35), (0.5, 0.35), fill=p.ink(250, 220, 40))
    p.shape((0.5, 0.75), (0.15, 0.35), (0.5, 0.35), fill=p.ink(60, 110, 240))
    p.line((0.5, 0.75), (0.6, 0.85), (0.45, 0.95), (0.55, 1), fill=p.ink(30, 30, 30), width=0.04)


def _surfboard(p: Pen) -> None:
    stripe = p.ink(250, 90, 40)
    p.disc(0.32, 0.0, 0.68, 1, fill=p.ink(40, 210, 200))
    p.line((0.5, 0.03), (0.5, 0.97), fill=stripe, width=0.07)
    p.box(0.36, 0.55, 0.64, 0.62, fill=stripe)


def _bottle(p: Pen) -> None:
    glass = p.ink(30, 130, 60)
    p.box(0.36, 0.35, 0.64, 0.98, fill=glass)
    p.shape((0.36, 0.36), (0.44, 0.2), (0.56, 0.2), (0.64, 0.36), fill=glass)
    p.box(0.44, 0.05, 0.56, 0.22, fill=glass)
    p.box(0.42, 0.0, 0.58, 0.08, fill=p.ink(200, 40, 40))
    p.box(0.36, 0.55, 0.64, 0.75, fill=p.ink(235, 235, 235))


def _cup(p: Pen) -> None:
    china = p.ink(235, 235, 235)
    p.ring(0.6, 0.38, 0.95, 0.72, fill=china, width=0.08)
    p.shape((0.12, 0.25), (0.75, 0.25), (0.68, 0.88), (0.2, 0.88), fill=china)
    p.disc(0.12, 0.18, 0.75, 0.34, fill=p.ink(110, 60, 30))


def _bowl(p: Pen) -> None:
    china = p.ink(60, 90, 190)
    p.pie(0.02, -0.05, 0.98, 0.88, start=0, end=180, fill=china)
    p.disc(0.02, 0.3, 0.98, 0.52, fill=p.ink(200, 215, 245))
    p.box(0.35, 0.84, 0.65, 0.92, fill=china)


def _banana(p: Pen) -> None:
    p.pie(0.02, -0.25, 0.98, 0.8, start=10, end=170, fill=p.ink(250, 220, 50))
    p.pie(0.12, -0.45, 0.88, 0.52, start=0, end=180, fill=(0, 0, 0, 0))
    p.box(0.02, 0.33, 0.1, 0.43, fill=p.ink(90, 60, 20))


def _apple(p: Pen) -> None:
    skin = p.ink(215, 30, 45)
    p.disc(0.1, 0.25, 0.6, 0.92, fill=skin)
    p.disc(0.4, 0.25, 0.9, 0.92, fill=skin)
    p.line((0.5, 0.32), (0.55, 0.05), fill=p.ink(90, 55, 20), width=0.07)
    p.shape((0.55, 0.15), (0.8, 0.05), (0.72, 0.22), fill=p.ink(60, 180, 60))


def _couch(p: Pen) -> None:
    cloth, foot = p.ink(150, 50, 160), p.ink(30, 30, 30)
    p.box(0.12, 0.2, 0.88, 0.6, fill=cloth)
    p.box(0.0, 0.4, 0.16, 0.85, fill=cloth)
    p.box(0.84, 0.4, 1, 0.85, fill=cloth)
    p.box(0.14, 0.55, 0.86, 0.8, fill=p.ink(190, 100, 200))
    p.line((0.5, 0.55), (0.5, 0.8), fill=cloth, width=0.03)
    p.box(0.06, 0.85, 0.13, 0.95, fill=foot)
    p.box(0.87, 0.85, 0.94, 0.95, fill=foot)


def _potted_plant(p: Pen) -> None:
    leaf = p.ink(40, 160, 60)
    p.shape((0.28, 0.62), (0.72, 0.62), (0.64, 0.98), (0.36, 0.98), fill=p.ink(190, 90, 40))
    for corners in ((0.05, 0.15, 0.5, 0.5), (0.5, 0.15, 0.95, 0.5), (0.3, 0.0, 0.7, 0.5)):
        p.disc(*corners, fill=leaf)
    p.line((0.5, 0.4), (0.5, 0.65), fill=leaf, width=0.07)


def _tv(p: Pen) -> None:
    case = p.ink(30, 30, 30)
    p.box(0.0, 0.12, 1, 0.78, fill=case)
    p.box(0.06, 0.18, 0.94, 0.72, fill=p.ink(110, 190, 240))
    p.shape((0.06, 0.72), (0.4, 0.4), (0.6, 0.72), fill=p.ink(60, 160, 90))
    p.box(0.44, 0.78, 0.56, 0.88, fill=case)
    p.box(0.25, 0.88, 0.75, 0.94, fill=case)


def _oven(p: Pen) -> None:
    dark = p.ink(30, 30, 30)
    p.box(0.08, 0.03, 0.92, 0.98, fill=p.ink(170, 175, 180))
    p.box(0.16, 0.38, 0.84, 0.86, fill=dark)
    p.box(0.22, 0.44, 0.78, 0.8, fill=p.ink(240, 130, 40))
    for x in (0.2, 0.42, 0.64):
        p.disc(x, 0.12, x + 0.15, 0.27, fill=dark)


def _book(p: Pen) -> None:
    cover, page, text = p.ink(40, 120, 90), p.ink(235, 235, 235), p.ink(30, 30, 30)
    p.shape((0.02, 0.25), (0.48, 0.32), (0.48, 0.85), (0.02, 0.78), fill=page)
    p.shape((0.98, 0.25), (0.52, 0.32), (0.52, 0.85), (0.98, 0.78), fill=page)
    p.line((0.5, 0.3), (0.5, 0.88), fill=cover, width=0.08)
    p.line((0.02, 0.8), (0.5, 0.88), (0.98, 0.8), fill=cover, width=0.07)
    for y in (0.42, 0.54, 0.66):
        p.line((0.08, y), (0.42, y + 0.05), fill=text, width=0.03)
        p.line((0.92, y), (0.58, y + 0.05), fill=text, width=0.03)


def _clock(p: Pen) -> None:
    hand = p.ink(30, 30, 30)
    p.disc(0.05, 0.05, 0.95, 0.95, fill=p.ink(40, 40, 110))
    p.disc(0.14, 0.14, 0.86, 0.86, fill=p.ink(235, 235, 235))
    p.line((0.5, 0.5), (0.5, 0.22), fill=hand, width=0.07)
    p.line((0.5, 0.5), (0.7, 0.6), fill=hand, width=0.07)


def _boat(p: Pen) -> None:
    p.shape((0.02, 0.65), (0.98, 0.65), (0.8, 0.92), (0.2, 0.92), fill=p.ink(120, 60, 30))
    p.line((0.5, 0.65), (0.5, 0.02), fill=p.ink(30, 30, 30), width=0.05)
    p.shape((0.54, 0.05), (0.54, 0.6), (0.92, 0.6), fill=p.ink(235, 235, 235))
    p.shape((0.46, 0.12), (0.46, 0.6), (0.15, 0.6), fill=p.ink(230, 230, 120))


GLYPHS: dict[str, Callable[[Pen], None]] = {
    "person": _person, "bicycle": _bicycle, "car": _car, "bus": _bus, "traffic light": _traffic_light,
    "bench": _bench, "bird": _bird, "cat": _cat, "dog": _dog, "umbrella": _umbrella, "kite": _kite,
    "surfboard": _surfboard, "bottle": _bottle, "cup": _cup, "bowl": _bowl, "banana": _banana,
    "apple": _apple, "couch": _couch, "potted plant": _potted_plant, "tv": _tv, "oven": _oven, "book": _book,
    "clock": _clock, "boat": _boat,
}  # fmt: skip
