"""How MiniCPM-V cuts an image into slices (LLaVA-UHD, arXiv 2403.11703): sizes only, no pixels.

A large image is shown as a whole, shrunk to about ``resolution`` squared pixels, and again as a grid of
slices of about that size each. The number of slices follows the area, the shape of the grid the aspect ratio.
Sizes are (width, height), grids (columns, rows).
"""

import math
from dataclasses import dataclass

Size = tuple[int, int]


@dataclass(frozen=True)
class Slicing:
    """What becomes of an image of one size.

    Attributes:
        overview: Size of the whole image.
        grid: Columns and rows of slices; (0, 0) if the overview is all.
        refined: Size of the image that is cut into the grid; (0, 0) without one.
    """

    overview: Size
    grid: Size
    refined: Size

    @property
    def slice_size(self) -> Size:
        """Of each cell, where there is a grid."""
        return self.refined[0] // self.grid[0], self.refined[1] // self.grid[1]


def slicing(size: Size, max_slices: int, resolution: int, patch: int) -> Slicing:
    """How to cut an image.

    Args:
        max_slices: At most so many cells has the grid; the overview isn't counted.
        resolution: Side of the square whose area a slice is given.
        patch: Side of a patch, in pixels: all sizes are multiples of it.
    """
    area = size[0] * size[1] / resolution**2
    wanted = min(math.ceil(area), max_slices)
    if wanted <= 1:
        return Slicing(_scaled(size, resolution, patch), (0, 0), (0, 0))
    grid = _grid(size, wanted, max_slices)
    columns, rows = grid
    # One cell of the image at about its own size, stretched until it divides.
    cell = _multiple(size[0], columns) / columns, _multiple(size[1], rows) / rows
    width, height = _scaled(cell, resolution, patch)
    return Slicing(_scaled(size, resolution, patch), grid, (width * columns, height * rows))


def _grid(size: Size, wanted: int, max_slices: int) -> Size:
    """Of all grids of about the wanted number of cells the one most like the image.

    That is the one whose aspect ratio is nearest to the image's, on a logarithmic scale.
    """
    numbers = [n for n in (wanted - 1, wanted, wanted + 1) if 1 < n <= max_slices]
    grids = [(columns, n // columns) for n in numbers for columns in range(1, n + 1) if n % columns == 0]
    return min(grids, key=lambda grid: abs(math.log(size[0] / size[1]) - math.log(grid[0] / grid[1])))


def _scaled(size: tuple[float, float], resolution: int, patch: int) -> Size:
    """A size of about the area of a square of this resolution.

    The aspect ratio is kept as far as whole patches allow.
    """
    ratio = size[0] / size[1]
    height = int(resolution / math.sqrt(ratio))
    return _multiple(int(height * ratio), patch), _multiple(height, patch)


def _multiple(length: float, of: int) -> int:
    """The nearest multiple, but not 0.

    Halves are rounded to even, as Python does.
    """
    return max(round(length / of) * of, of)
