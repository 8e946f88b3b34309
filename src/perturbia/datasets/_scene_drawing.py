"""Images of two objects on a background of discs, drawn with distance fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = ["VIEWS", "View", "draw_images"]

N_DISCS = 25
OBJECT_RADIUS = 0.04
_DISC_RADIUS = (0.05, 0.2)
_CHUNK = 64  # images that are in memory in double at a time


@dataclass(frozen=True)
class View:
    """How one camera sees the scene.

    Attributes
    ----------
    shape
        Shape of the objects.
    background
        Colours between which the background runs `(n_colours, 3)`, from 0 to 1.
    objects
        Colours of the two objects `(2, 3)`.
    """

    shape: Literal["circle", "square"]
    background: tuple[tuple[float, float, float], ...]
    objects: tuple[tuple[float, float, float], tuple[float, float, float]]


VIEWS = {
    # teal to pale green, with red and violet circles
    "source": View(
        "circle",
        ((0.02, 0.24, 0.28), (0.08, 0.42, 0.42), (0.30, 0.62, 0.50), (0.60, 0.80, 0.58), (0.86, 0.94, 0.72)),
        ((0.92, 0.08, 0.10), (0.45, 0.00, 0.85)),
    ),
    # brown to pale sand, with blue and green squares
    "target": View(
        "square",
        ((0.36, 0.16, 0.06), (0.62, 0.30, 0.08), (0.84, 0.50, 0.20), (0.94, 0.74, 0.46), (0.98, 0.92, 0.78)),
        ((0.02, 0.12, 0.75), (0.00, 0.45, 0.30)),
    ),
}


def draw_images(rng: np.random.Generator, position: np.ndarray, view: View, image_size: int) -> np.ndarray:
    """Draw a scene for each cell.

    Parameters
    ----------
    rng
        Generator of the backgrounds.
    position
        Coordinates x1, y1, x2, y2 of the centres of the objects `(n, 4)`, from 0 at the left or top to 1.
    view
        Shapes and colours.
    image_size
        Pixels of a side.

    Returns
    -------
    uint8 images, channels first `(n, 3, image_size, image_size)`.
    """
    n = len(position)
    centre = rng.random((n, N_DISCS, 2))
    radius = rng.uniform(*_DISC_RADIUS, (n, N_DISCS))
    shade = rng.random((n, N_DISCS + 1))
    images = np.empty((n, 3, image_size, image_size), dtype=np.uint8)
    for start in range(0, n, _CHUNK):
        rows = slice(start, start + _CHUNK)
        images[rows] = _draw(position[rows], centre[rows], radius[rows], shade[rows], view, image_size)
    return images


def _draw(
    position: np.ndarray, centre: np.ndarray, radius: np.ndarray, shade: np.ndarray, view: View, image_size: int
) -> np.ndarray:
    """One chunk of images; discs are painted in shades first, which become colours in the end."""
    field = np.broadcast_to(shade[:, -1:, None], (len(position), image_size, image_size)).astype(np.float32)
    for disc in range(N_DISCS):
        cover = coverage(centre[:, disc], radius[:, disc], image_size, "circle")
        field += cover * (shade[:, disc, None, None].astype(np.float32) - field)
    knots = np.linspace(0, 1, len(view.background))
    image = np.stack([np.interp(field, knots, channel) for channel in np.transpose(view.background)], axis=1)
    for which, colour in enumerate(view.objects):
        at = position[:, 2 * which : 2 * which + 2]
        cover = coverage(at, np.full(len(at), OBJECT_RADIUS), image_size, view.shape)[:, None]
        image += cover * (np.reshape(colour, (1, 3, 1, 1)) - image)
    return np.round(255 * image).astype(np.uint8)


def coverage(centre: np.ndarray, radius: np.ndarray, image_size: int, shape: Literal["circle", "square"]) -> np.ndarray:
    """Share of each pixel that a circle, or a square of side twice the `radius`, covers.

    Parameters
    ----------
    centre
        x and y, columns and rows from 0 to 1 `(n, 2)`.
    radius
        `(n,)`, in the same unit.
    image_size
        Pixels of a side.
    shape
        What is drawn. The edge of a circle is blurred over one pixel, that of a square is exact.

    Returns
    -------
    float32 `(n, image_size, image_size)`, from 0 to 1.
    """
    middle = np.arange(image_size, dtype=np.float32) + 0.5
    offset = np.abs(middle - np.float32(image_size) * centre[..., None].astype(np.float32))  # (n, 2, image_size)
    half = np.float32(image_size) * radius.astype(np.float32)[:, None]
    if shape == "square":
        # of a pixel, the part from its inner edge to the edge of the square, on either axis
        along = np.clip(half[:, None] - offset + 0.5, 0, np.minimum(1, 2 * half[:, None]))
        return along[:, 1, :, None] * along[:, 0, None, :]
    distance = np.sqrt(offset[:, 1, :, None] ** 2 + offset[:, 0, None, :] ** 2)
    return np.clip(half[:, None] - distance + 0.5, 0, 1)
