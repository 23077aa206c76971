"""Tables of all 256³ colors, built when first needed and shared by all threads; the least used are forgotten."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

UInt8 = npt.NDArray[np.uint8]
UInt32 = npt.NDArray[np.uint32]
Recolor = Callable[[UInt8], UInt8]

#: 64 MiB each.
KEPT = 3
_tables: OrderedDict[str, UInt32] = OrderedDict()
_building: dict[str, threading.Lock] = {}
_lock = threading.Lock()


def table_for(key: str, recolor: Recolor) -> UInt32:
    """The table of a map; two threads that ask at once build it once.

    Parameters
    ----------
    key : str
        Says what the map does; the same key gets the same table.
    recolor : callable
        The map of colors ``(n, 3)``; called only when there is no table yet.
    """
    with _lock:
        if key in _tables:
            _tables.move_to_end(key)
            return _tables[key]
        turn = _building.setdefault(key, threading.Lock())
    with turn:
        with _lock:
            if key in _tables:
                return _tables[key]
        table = build(recolor)
        with _lock:
            _tables[key] = table
            _building.pop(key, None)
            while len(_tables) > KEPT:
                _tables.popitem(last=False)
        return table


def build(recolor: Recolor) -> UInt32:
    """All colors recolored, a slice of one red value at a time, so that little memory is used besides the table's."""
    from napari_histoseg.slide.stain import kernels

    table = np.empty(256**3, np.uint32)
    colors = np.empty((256, 256, 3), np.uint8)
    colors[..., 1], colors[..., 2] = np.arange(256)[:, None], np.arange(256)
    flat = colors.reshape(-1, 3)
    for red in range(256):
        flat[:, 0] = red
        kernels.pack(recolor(flat), table[red << 16 : (red + 1) << 16])
    table.setflags(write=False)
    return table


def clear() -> None:
    """Forget all tables."""
    with _lock:
        _tables.clear()
