"""Arrays as slides: NumPy, dask, anything that is sliced like them, and lists of them (pyramids)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histoseg.errors import SlideError, TileError
from napari_histoseg.slide._source import Source, file_identity, make_levels
from napari_histoseg.slide.geometry import Box
from napari_histoseg.slide.normalize import Layout, find_layout, find_scaling, sample_boxes

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEFAULT_TILE = 512


class ArraySource(Source):
    """One array, or several of them from fine to coarse.

    Parameters
    ----------
    arrays : sequence of array-like
        Each with ``shape``, ``dtype`` and slicing; all with the same axes.
    name, format : str
        What messages call it.
    path : str, optional
        The file that the arrays come from.
    layout : Layout, optional
        Which axis is which, when it is known; otherwise found from the shape.
    """

    def __init__(
        self,
        arrays: Sequence[Any],
        name: str = "the array",
        format: str = "array",
        path: str | None = None,
        layout: Layout | None = None,
    ) -> None:
        super().__init__()
        if not arrays:
            raise SlideError(f"{name} is an empty list. Give at least one array, the finest first.")
        self.arrays = list(arrays)
        self.name, self.format, self.path = name, format, path
        what = path or name
        shape = tuple(self.arrays[0].shape)
        self.layout = layout or find_layout(shape, what)
        self._check(what)
        sizes = [self.layout.size(a.shape) for a in self.arrays]
        self.levels = make_levels(sizes)
        self.tiles = tuple(_tile_of(a, self.layout, size) for a, size in zip(self.arrays, sizes, strict=True))
        self.scaling = find_scaling(
            np.dtype(self.arrays[0].dtype), self.layout.channels(shape), self._sample, what
        )
        if self.scaling.note:
            self.properties["histoseg.scaling"] = self.scaling.note

    def _check(self, what: str) -> None:
        """Refuse lists that are no pyramid."""
        first = self.arrays[0]
        width, height = self.layout.size(first.shape)
        for finer, array in zip(self.arrays, self.arrays[1:], strict=False):
            if len(array.shape) != len(first.shape) or array.dtype != first.dtype:
                raise SlideError(
                    f"{what}: the arrays of a pyramid differ in axes or type ({tuple(first.shape)} "
                    f"{first.dtype} and "
                    f"{tuple(array.shape)} {array.dtype}). All must have the same."
                )
            w, h = self.layout.size(array.shape)
            fw, fh = self.layout.size(finer.shape)
            if w > fw or h > fh or (w, h) == (fw, fh) or abs(width * h - height * w) > 2 * (width + height):
                raise SlideError(
                    f"{what}: {fw} x {fh} px followed by {w} x {h} px is no pyramid. "
                    "Give the same picture from fine to coarse."
                )

    def _sample(self) -> NDArray[Any]:
        """Values of the coarsest level, strewn over the image."""
        level = self.levels[-1]
        parts = [self._raw(len(self.levels) - 1, b).ravel() for b in sample_boxes(level.width, level.height)]
        return np.concatenate(parts)

    def _raw(self, level: int, box: Box) -> NDArray[Any]:
        return self.layout.cut(self.arrays[level], box)

    def read(self, level: int, box: Box) -> NDArray[np.uint8]:
        try:
            raw = self._raw(level, box)
        except Exception as error:  # any library may stand behind the array
            raise tile_error(self.path or self.name, level, box, error) from error
        pixels = self.scaling.rgb(raw)
        # What is read belongs to the reader, never to the array's owner.
        return pixels.copy() if np.may_share_memory(pixels, raw) else pixels

    def identity(self) -> bytes:
        if self.path is not None:
            return file_identity(self.path)
        return b"".join(_strided(self, level) for level in range(len(self.levels)))


def tile_error(what: str, level: int, box: Box, error: BaseException) -> TileError:
    """The error for a part of a slide that cannot be decoded."""
    reason = str(error).strip() or type(error).__name__
    return TileError(
        f"{what}: level {level}, x {box.x} to {box.right}, y {box.y} to {box.bottom} cannot be read "
        f"({reason})."
    )


def _strided(source: ArraySource, level: int) -> bytes:
    """A sample that does not load the level: at most 5 x 5 blocks."""
    size = source.levels[level]
    boxes = sample_boxes(size.width, size.height)
    return b"".join(np.ascontiguousarray(source._raw(level, box)).tobytes() for box in boxes)


def _tile_of(array: Any, layout: Layout, size: tuple[int, int]) -> tuple[int, int]:
    """Chunk size ``(width, height)`` of a chunked array, a default for others."""
    chunks = getattr(array, "chunks", None)
    if not chunks or len(chunks) != layout.ndim:
        return min(DEFAULT_TILE, size[0]), min(DEFAULT_TILE, size[1])
    width, height = (c[0] if isinstance(c, tuple) else c for c in (chunks[layout.x], chunks[layout.y]))
    return int(width), int(height)
