"""Objects in the colors of their classes: a lookup from id to class to color, whatever the number of objects.

napari's own direct colormap holds one color an object and takes seconds for 200,000. Here the ids go through one array to the class,
and only the classes have colors; a class that is recolored costs a table of a few rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from napari.utils.colormaps import DirectLabelColormap
from numpy.typing import NDArray
from pydantic import PrivateAttr

from napari_histoseg.results.record import ClassRecord

CLEAR = (0.0, 0.0, 0.0, 0.0)
UNKNOWN_COLOR = "#9a9a9a"
"""Of objects whose class is not in the list."""
DIMMED = 0.12
"""What is left of the opacity of objects that are not chosen, while some are."""
DENSE = 1 << 24
"""Up to this id a plain array is the table; ids beyond are searched for."""
SMALL = 254
"""As many codes fit into the texture of one byte that napari makes."""


class IdTable:
    """A small code for each id, looked up for whole pictures at once; 0 where an id is not known.

    Parameters
    ----------
    ids : ndarray (n,), integer
        Each at most once.
    codes : ndarray (n,), uint8 or uint16
    """

    def __init__(self, ids: NDArray[Any], codes: NDArray[Any]) -> None:
        top = int(ids.max(initial=0))
        self.dtype = codes.dtype
        self._dense: NDArray[Any] | None = None
        if top < max(DENSE, 16 * len(ids)):
            self._dense = np.zeros(top + 2, codes.dtype)
            self._dense[ids] = codes
        else:
            order = np.argsort(ids)
            self._ids, self._codes = ids[order], codes[order]

    def look_up(self, values: NDArray[Any]) -> NDArray[Any]:
        """Codes of an array of ids, in its shape."""
        if self._dense is not None:
            # Clipping leads ids below to the background, and those beyond to the last entry: both have no color.
            return np.take(self._dense, values, mode="clip")
        at = np.minimum(np.searchsorted(self._ids, values), len(self._ids) - 1)
        return np.where(self._ids[at] == values, self._codes[at], 0).astype(self.dtype)


class ObjectColors(DirectLabelColormap):  # type: ignore[misc]
    """Colors of objects by their class; made by `object_colors_of`.

    Only what napari asks of a direct colormap is answered anew; if it asked otherwise one day, objects would be gray.
    """

    _table: IdTable = PrivateAttr()
    _palette: NDArray[np.float32] = PrivateAttr()
    _objects: tuple[NDArray[Any], NDArray[Any], tuple[ClassRecord, ...]] = PrivateAttr()

    def undimmed(self) -> ObjectColors:
        """The same with every object in its full color."""
        return object_colors_of(*self._objects)

    def map(self, values: Any) -> NDArray[Any]:
        """RGBA colors of ids; for one id its four numbers."""
        ids = np.asarray(values)
        colors = self._palette[self._table.look_up(ids)]
        if self.use_selection:
            colors = np.where((ids == self.selection)[..., None], colors, 0)
        return np.asarray(colors)

    def _data_to_texture(self, values: Any) -> Any:
        if values.dtype.itemsize <= 2:
            return values.view(f"u{values.dtype.itemsize}")
        if self.use_selection:
            found = (np.asarray(values) == self.selection).astype(self._table.dtype)
        else:
            found = self._table.look_up(np.asarray(values))
        return found if isinstance(values, np.ndarray) else self._table.dtype.type(found)

    def _values_mapping_to_minimum_values_set(self, apply_selection: bool = True) -> tuple[dict[int | None, int], dict[int, Any]]:
        if self.use_selection and apply_selection:
            return {self.selection: 1, None: 0}, {0: np.zeros(4), 1: self.map(self.selection)}
        return {None: 0}, dict(enumerate(self._palette))

    def _get_mapping_from_cache(self, data_dtype: Any) -> NDArray[Any] | None:
        if data_dtype.itemsize > 2:
            return None
        every = np.arange(256**data_dtype.itemsize).astype(data_dtype)
        return np.asarray(self._palette[self._table.look_up(every)])

    @property
    def _num_unique_colors(self) -> int:
        # napari adds two and takes the smallest integers that hold as many.
        return len(self._palette) - 2


def object_colors_of(
    ids: NDArray[Any], values: NDArray[Any], classes: Sequence[ClassRecord], chosen: NDArray[np.bool_] | None = None
) -> ObjectColors:
    """A colormap that shows objects in the colors of their classes.

    Parameters
    ----------
    ids, values : ndarray (n,)
        Objects, and the value of the class of each.
    classes : sequence of ClassRecord
    chosen : ndarray (n,), bool, optional
        Objects that keep their full color; the others are dimmed. None dims none.
    """
    known = [c for c in classes if c.value]
    palette = np.array([CLEAR, *(rgba(c.color) for c in known), rgba(UNKNOWN_COLOR)], np.float32)
    if chosen is not None:
        dimmed = palette[1:] * (1, 1, 1, DIMMED)
        palette = np.vstack([palette, dimmed]).astype(np.float32)
    codes = codes_of(values, [c.value for c in known])
    if chosen is not None:
        codes = np.where(chosen, codes, codes + len(known) + 1)
    codes = codes.astype(np.uint8 if len(palette) < SMALL else np.uint16)
    # The dictionary is what napari looks at to tell this from a colormap without any color.
    made = ObjectColors(color_dict={None: UNKNOWN_COLOR, 0: "transparent", 1: UNKNOWN_COLOR}, name="histoseg classes of objects")
    made._table, made._palette, made._objects = IdTable(ids, codes), palette, (ids, values, tuple(classes))
    return made


def codes_of(values: NDArray[Any], order: Sequence[int]) -> NDArray[np.int64]:
    """Place of each value in ``order``, from 1; one more than there are for values that are not in it."""
    other = len(order) + 1
    if not len(values):
        return np.zeros(0, np.int64)
    low, high = int(values.min()), int(values.max())
    table = np.full(high - low + 1, other, np.int64)
    for place, value in enumerate(order, 1):
        if low <= value <= high:
            table[value - low] = place
    return np.asarray(table[values - low])


def rgba(color: str) -> tuple[float, float, float, float]:
    """``#rrggbb`` as four numbers from 0 to 1."""
    red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue, 1.0
