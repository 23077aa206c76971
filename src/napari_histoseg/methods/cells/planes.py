"""Label images that are read in parts: arrays of any library, and files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_histoseg.errors import SettingsError, TileError
from napari_histoseg.slide.geometry import Box

BLOCK_PX = 2048
"""Side of the parts that an image is gone through by, about."""
BLOCK_AREA = 1 << 26
"""Most pixels in such a part."""
LARGEST_ID = 2**32 - 1


class Plane:
    """One flat image of whole numbers; nothing is read before it is asked for.

    Parameters
    ----------
    array : array-like
        ``(h, w)`` behind any number of axes of length 1: NumPy, dask, zarr, or whatever is sliced like them.
    name : str
        What messages call it.

    Raises
    ------
    SettingsError
        It is no flat image of whole numbers.
    """

    def __init__(self, array: Any, name: str) -> None:
        self.name = name
        if isinstance(array, Sequence) and not isinstance(array, (str, bytes)) and len(array):
            # A pyramid: the finest level is the first.
            array = array[0]
        if not all(hasattr(array, a) for a in ("shape", "dtype", "__getitem__")):
            raise SettingsError(
                f"{name} is a {type(array).__name__}. Objects come as a result, a label image (array or file), or a GeoJSON file."
            )
        shape = tuple(int(n) for n in array.shape)
        if len(shape) < 2 or any(n != 1 for n in shape[:-2]):
            raise SettingsError(f"{name} has the shape {shape}. A label image is flat: (height, width).{_advice(shape)}")
        _check_type(np.dtype(array.dtype), name)
        _check_values(array, name)
        self._array = array
        self._lead = (0,) * (len(shape) - 2)
        self.height, self.width = shape[-2:]

    @property
    def shape(self) -> tuple[int, int]:
        """``(height, width)``."""
        return self.height, self.width

    def read(self, box: Box) -> npt.NDArray[np.uint32]:
        """The ids in a box inside the image.

        Raises
        ------
        SettingsError
            There are values below 0 or above 4,294,967,295.
        TileError
            The part cannot be read.
        """
        try:
            raw = np.asarray(self._array[(*self._lead, *box.slices)])
        except Exception as error:  # any library may stand behind the array
            reason = str(error).strip() or type(error).__name__
            raise TileError(f"{self.name}: x {box.x} to {box.right}, y {box.y} to {box.bottom} cannot be read ({reason}).") from error
        return as_ids(raw, self.name)

    def blocks(self) -> Iterator[Box]:
        """Boxes that cover the image once, made of whole chunks where it has chunks that are not larger than a box may be."""
        (chunk, height), (_, width) = (self._side(axis) for axis in (-2, -1))
        if height * width > BLOCK_AREA:
            # Rows of an image are usually stored together.
            width = min(width, BLOCK_AREA)
            height = max(BLOCK_AREA // width, 1)
            height -= height % chunk if height > chunk else 0
        for y in range(0, self.height, height):
            for x in range(0, self.width, width):
                yield Box(x, y, width, height).intersect(Box(0, 0, self.width, self.height))

    def _side(self, axis: int) -> tuple[int, int]:
        """Side of a chunk along an axis, and of so many that they make about a block."""
        chunks = getattr(self._array, "shards", None) or getattr(self._array, "chunks", None)
        if not chunks:
            return 1, BLOCK_PX
        # dask names every chunk of an axis, zarr their common size.
        chunk = max(int(chunks[axis][0] if isinstance(chunks[axis], tuple) else chunks[axis]), 1)
        return chunk, chunk * max(1, BLOCK_PX // chunk)


def as_ids(raw: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint32]:
    """Whole numbers as ids.

    Raises
    ------
    SettingsError
        There are values below 0 or above 4,294,967,295.
    """
    if raw.size and (raw.dtype.kind == "i" or raw.dtype.itemsize > 4):
        low, high = int(raw.min()), int(raw.max())
        if low < 0 or high > LARGEST_ID:
            raise SettingsError(
                f"{name} holds the value {low if low < 0 else high}. Ids of objects are whole numbers from 1 to {LARGEST_ID:,}, and 0 is "
                "background; number the objects anew."
            )
    return np.ascontiguousarray(raw, np.uint32)


def _check_type(dtype: np.dtype[Any], name: str) -> None:
    if dtype.kind == "b":
        raise SettingsError(
            f"{name} is a mask of true and false: it does not say which pixel belongs to which object. "
            "Number the objects first (for example with skimage.measure.label)."
        )
    if dtype.kind not in "ui":
        raise SettingsError(f"{name} holds values of type {dtype}. Ids of objects are whole numbers; convert it to uint32.")


def _check_values(array: Any, name: str) -> None:
    # What lies in memory is looked at once, at once; everything else where it is read.
    if type(array) is np.ndarray and array.dtype.kind == "i":
        as_ids(array[..., :0] if not array.size else np.array([array.min(), array.max()]), name)


def _advice(shape: tuple[int, ...]) -> str:
    if len(shape) == 3 and shape[-1] in (3, 4):
        return " This one looks like a picture in colors; give the image of the ids that it was painted from."
    return " Give one plane of it."
