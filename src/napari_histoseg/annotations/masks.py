"""Painted masks: as PNG, checked against their classes, and counted."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_histoseg.annotations.dataset import UNLABELED, PatchClass, read_mask
from napari_histoseg.errors import DatasetError
from napari_histoseg.slide.geometry import Box

BACKGROUND = 0
#: zlib's 3 is as fast as 1 on masks, and half as large.
COMPRESSION = 3


@dataclass(frozen=True, slots=True)
class Tally:
    """What one mask holds: its ``(h, w)`` and how many pixels have each value."""

    shape: tuple[int, int]
    pixels: dict[int, int]

    @classmethod
    def of(cls, mask: NDArray[np.uint8]) -> Tally:
        """Count a mask of uint8."""
        # Pillow's histogram is several times faster than NumPy's, which needs wider numbers.
        return cls(mask.shape, {v: n for v, n in enumerate(Image.fromarray(mask).histogram()) if n})

    @property
    def painted(self) -> bool:
        """Whether any pixel is annotated."""
        return any(value != UNLABELED for value in self.pixels)


@dataclass(frozen=True, slots=True)
class Painted:
    """A mask as the PNG that its file holds, and what is in it."""

    png: bytes
    tally: Tally

    @classmethod
    def of(cls, mask: NDArray[np.uint8]) -> Painted:
        """Pack a mask."""
        buffer = io.BytesIO()
        Image.fromarray(mask).save(buffer, "PNG", compress_level=COMPRESSION)
        return cls(buffer.getvalue(), Tally.of(mask))

    @classmethod
    def read(cls, png: bytes) -> Painted:
        """The mask of a file."""
        return cls(png, Tally.of(_pixels(png)))

    def mask(self) -> NDArray[np.uint8]:
        """Its values, ``(h, w)``; a copy."""
        return _pixels(self.png)


def _pixels(png: bytes) -> NDArray[np.uint8]:
    return np.array(Image.open(io.BytesIO(png)), np.uint8)


def load(path: Path) -> NDArray[np.uint8]:
    """A class mask from a file.

    Raises
    ------
    DatasetError
        It cannot be read, or holds values from 256 on.
    """
    mask = read_mask(path)
    if mask.size and (mask.min() < 0 or mask.max() > 255):
        raise DatasetError(f"The mask {path} holds values up to {mask.max()}. Values of classes are 0 to 254, and 255 is not annotated.")
    return mask.astype(np.uint8)


def blank(shape: tuple[int, int]) -> NDArray[np.uint8]:
    """A mask that nobody annotated."""
    return np.full(shape, UNLABELED, np.uint8)


def shape_at(box: Box, slide_mpp: float, mpp: float) -> tuple[int, int]:
    """``(h, w)`` of a level-0 box at ``mpp``."""
    factor = slide_mpp / mpp
    return max(1, round(box.height * factor)), max(1, round(box.width * factor))


def fits(shape: tuple[int, int], box: Box) -> bool:
    """Whether a mask can cover exactly a box, whatever its resolution: its sides are rounded to pixels."""
    height, width = shape
    return abs(width * box.height - height * box.width) <= (box.width + box.height) / 2


def unknown_values(values: Iterable[int], classes: Sequence[PatchClass]) -> list[int]:
    """The values that no class has."""
    return sorted({int(v) for v in values} - {c.value for c in classes} - {BACKGROUND, UNLABELED})


def known_values(classes: Sequence[PatchClass]) -> str:
    """What a mask may hold, for messages."""
    named = [f"{c.value} ({c.name})" for c in sorted(classes, key=lambda c: c.value)]
    background = [] if any(c.value == BACKGROUND for c in classes) else ["0 (background)"]
    return ", ".join([*background, *named, f"{UNLABELED} (not annotated)"])


def checked(mask: Any, shape: tuple[int, int], classes: Sequence[PatchClass], what: str) -> Painted:
    """A mask that somebody painted.

    Raises
    ------
    DatasetError
        It has another shape, is no array of whole numbers, or holds values that no class has.
    """
    array = np.asarray(mask)
    if array.shape != shape:
        given = " x ".join(map(str, array.shape[::-1])) or "a single value"
        raise DatasetError(f"The mask for {what} has {given} px; it must have {shape[1]} x {shape[0]} px.")
    if array.dtype.kind not in "uib":
        raise DatasetError(f"The mask for {what} has type {array.dtype}. A mask holds whole numbers.")
    if array.dtype not in (np.uint8, np.bool_) and array.size and not 0 <= array.min() <= array.max() <= UNLABELED:
        # Turned into uint8, these values would pass for others.
        raise _unknown(unknown_values(np.unique(array), classes), classes, what)
    painted = Painted.of(array.astype(np.uint8))
    if wrong := unknown_values(painted.tally.pixels, classes):
        raise _unknown(wrong, classes, what)
    return painted


def _unknown(wrong: list[int], classes: Sequence[PatchClass], what: str) -> DatasetError:
    return DatasetError(f"The mask for {what} holds {some(wrong)}, which no class has. It may hold {known_values(classes)}.")


def some(values: Sequence[int]) -> str:
    """The first of many values, for messages."""
    return ", ".join(map(str, values[:5])) + (" …" if len(values) > 5 else "")
