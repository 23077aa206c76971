"""A picture of the labels over the slide, small enough to look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_histoseg.errors import HistosegError
from napari_histoseg.results import geojson
from napari_histoseg.results.pyramid import rgb
from napari_histoseg.results.result import Result
from napari_histoseg.results.tiff import main_kind, shown_levels
from napari_histoseg.slide.geometry import Box

if TYPE_CHECKING:
    from napari_histoseg.slide import Slide

FILL = 0.3
"""How much of the class color lies over the tissue inside an object; its border has the full color."""


def write_png(result: Result, path: Path, slide: Slide | None = None, max_px: int = 2400) -> None:
    """Labels as colored outlines with a light fill over the slide, at most ``max_px`` wide or high."""
    kind = main_kind(result)
    levels = shown_levels(result, kind)
    level = next((i for i, a in enumerate(levels) if max(a.shape[:2]) <= max_px), len(levels) - 1)
    pixels = np.asarray(levels[level])
    if kind == "image":
        picture = pixels
    elif kind == "probability":
        picture = np.round(pixels * 255).astype(np.uint8)
    else:
        picture = paint(background(result, level, pixels.shape, slide), pixels, colors_of(result, pixels))
    image = Image.fromarray(picture)
    image.thumbnail((max_px, max_px))
    image.save(path)


def background(result: Result, level: int, shape: tuple[int, ...], slide: Slide | None = None) -> NDArray[np.uint8]:
    """The slide under a level of the result, ``(h, w, 3)``; white when the slide is not to be had."""
    height, width = shape[:2]
    blank = np.full((height, width, 3), 255, np.uint8)
    source = slide if slide is not None else _slide_of(result)
    if source is None or result.mpp is None or source.mpp is None:
        return blank
    factor = 2**level
    box = Box(round(result.frame.x / factor), round(result.frame.y / factor), width, height)
    return source.read_at(result.mpp * factor, box)


def _slide_of(result: Result) -> Slide | None:
    from napari_histoseg.slide import open_slide

    path = result.record.slide.path
    if path is None or not Path(path).exists():
        return None
    try:
        return open_slide(path, mpp=result.record.slide.mpp)
    except HistosegError:
        # The file was replaced by something else since the run: the labels are shown all the same.
        return None


def colors_of(result: Result, labels: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    """The values in a label array, sorted, and their class colors ``(n, 3)``."""
    values = np.unique(labels)
    named = geojson.class_colors(result)
    if result.has_objects:
        names = result.objects.set_index("id")["class"].reindex(values)
        found = [geojson.color_of(n if isinstance(n, str) else "", named) for n in names]
    else:
        by_value = {c.value: c.color for c in result.classes}
        found = [by_value.get(int(v)) or geojson.color_of(str(v), {}) for v in values]
    return values, np.array([rgb(color) for color in found], np.uint8)


def paint(image: NDArray[np.uint8], labels: NDArray[np.uint32], colors: tuple[NDArray[np.uint32], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Lay labels over an image of the same shape."""
    values, table = colors
    color = table[np.searchsorted(values, labels)]
    inside = labels != 0
    edge = np.zeros_like(inside)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    weight = (FILL * inside + (1 - FILL) * (edge & inside))[..., None]
    painted: NDArray[np.uint8] = np.round(image * (1 - weight) + color * weight).astype(np.uint8)
    return painted
