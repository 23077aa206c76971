"""Pyramids on disk that change while napari shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from napari.layers.base import Layer


class LiveLevel:
    """A level of a growing pyramid: every slice is read anew, nothing is cached in between.

    Parameters
    ----------
    array : zarr.Array
    """

    def __init__(self, array: Any) -> None:
        self.array = array
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.dtype: np.dtype[Any] = np.dtype(array.dtype)
        self.ndim = len(self.shape)
        self.size = int(np.prod(self.shape))
        self.chunks: tuple[int, ...] = tuple(array.chunks)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        keys = key if isinstance(key, tuple) else (key,)
        # napari slices once by corners and once more by nothing: the second must not read the level whole.
        return np.asarray(self.array[keys])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self.array[...], dtype=dtype)


class CoarseLevel(np.ndarray[Any, Any]):
    """The coarsest level, in memory.

    napari keeps the coarsest level that it was given for good; as an array it is kept by reference, so that copying the
    stored values into it is enough to show them.
    """

    source: Any = None
    step: int = 1

    def update(self) -> None:
        """Copy what is stored now."""
        if self.source is not None:
            self[...] = self.source[...][:: self.step, :: self.step]


def live_levels(arrays: Sequence[Any]) -> list[Any]:
    """Layer data of a growing pyramid, finest first; always two levels or more, as multiscale layers need."""
    finer, last = list(arrays[:-1]), arrays[-1]
    step = 1 if finer else 2
    coarse = np.array(last[...][::step, ::step]).view(CoarseLevel)
    coarse.source, coarse.step = last, step
    return [*(LiveLevel(array) for array in finer or [last]), coarse]


def show_changes(layer: Layer, thumbnail: bool = False) -> None:
    """Show what was written to the pyramid behind a layer since it was last drawn; main thread only."""
    levels: Any = layer.data
    coarse = levels[len(levels) - 1]
    if isinstance(coarse, CoarseLevel):
        coarse.update()
    layer.refresh(extent=False, thumbnail=thumbnail)
