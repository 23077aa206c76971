"""Tables of all 256³ colors, filled as colors are met and shared by all threads; the least used are forgotten.

A slide has some hundred thousand colors. Each is computed when it is first seen, so the first tile waits for nothing, and
looked up from then on.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
import numpy.typing as npt

UInt32 = npt.NDArray[np.uint32]

#: At most 64 MiB each; memory is taken for the parts that are used.
KEPT = 3
_tables: OrderedDict[str, UInt32] = OrderedDict()
_lock = threading.Lock()


def table_for(key: str) -> UInt32:
    """The table of a map, empty (zeros) at first.

    Parameters
    ----------
    key : str
        Says what the map does; the same key gets the same table.
    """
    with _lock:
        if key not in _tables:
            _tables[key] = np.zeros(256**3, np.uint32)
            while len(_tables) > KEPT:
                _tables.popitem(last=False)
        _tables.move_to_end(key)
        return _tables[key]


def clear() -> None:
    """Forget all tables."""
    with _lock:
        _tables.clear()
