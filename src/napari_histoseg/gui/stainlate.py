"""Layers whose colors take long: what a network has not colored yet is shown in other colors, so that panning never waits."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer

from napari_histoseg.gui.background import in_background

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

KEPT_CHUNKS = 96
"""Of 512 × 512 pixels, about 0.75 MB each: three screens."""
LOOK_MS = 80

Place = tuple[int, int]


class LateLevel:
    """A level that is sliced like an array (h, w, 3) and never makes its reader wait for the network.

    Parameters
    ----------
    colored, quick : dask arrays (h, w, 3)
        The same level by the network, and as it is shown until then.
    """

    def __init__(self, colored: Any, quick: Any) -> None:
        self.colored, self.quick = colored, quick
        self.shape: tuple[int, ...] = tuple(colored.shape)
        self.dtype: np.dtype[Any] = np.dtype(colored.dtype)
        self.ndim = len(self.shape)
        self.size = int(np.prod(self.shape))
        self.chunks: tuple[int, ...] = tuple(colored.chunksize)
        self.wanted: list[Place] = []
        """Chunks that were looked at last and are not colored yet."""
        self._kept: OrderedDict[Place, NDArray[np.uint8]] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        keys = key if isinstance(key, tuple) else (key,)
        if not all(isinstance(k, slice) and k.step in (None, 1) for k in keys[:2]) or len(keys) < 2:
            return np.asarray(self.quick[keys])
        (top, bottom, _), (left, right, _) = (k.indices(n) for k, n in zip(keys[:2], self.shape[:2], strict=True))
        out = np.array(self.quick[top:bottom, left:right])
        high, wide = self.chunks[:2]
        missing = []
        for row in range(top // high, -(-bottom // high)):
            for column in range(left // wide, -(-right // wide)):
                chunk = self._chunk((row, column))
                if chunk is None:
                    missing.append((row, column))
                    continue
                y, x = row * high, column * wide
                y0, y1, x0, x1 = max(top, y), min(bottom, y + high), max(left, x), min(right, x + wide)
                out[y0 - top : y1 - top, x0 - left : x1 - left] = chunk[y0 - y : y1 - y, x0 - x : x1 - x]
        self.wanted = missing
        return out[(..., *keys[2:])] if len(keys) > 2 else out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self.colored, dtype=dtype)

    def _chunk(self, place: Place) -> NDArray[np.uint8] | None:
        with self._lock:
            if place in self._kept:
                self._kept.move_to_end(place)
            return self._kept.get(place)

    def color(self, place: Place) -> None:
        """Color a chunk and keep it; for a worker."""
        high, wide = self.chunks[:2]
        row, column = place
        chunk = np.asarray(self.colored[row * high : (row + 1) * high, column * wide : (column + 1) * wide])
        with self._lock:
            self._kept[place] = chunk
            while len(self._kept) > KEPT_CHUNKS:
                self._kept.popitem(last=False)


def late_levels(colored: Sequence[Any], quick: Sequence[Any]) -> list[Any]:
    """Layer data, finest first. The coarsest level is colored at once where there are several; for a worker."""
    if len(colored) == 1:
        return [LateLevel(colored[0], quick[0])]
    return [*(LateLevel(c, q) for c, q in zip(colored[:-1], quick[:-1], strict=True)), np.asarray(colored[-1])]


class Colorist(QObject):
    """Colors what a layer shows, chunk by chunk on a thread, until the layer is removed."""

    def __init__(self, viewer: Viewer, layer: Layer, levels: Sequence[Any], parent: QObject) -> None:
        super().__init__(parent)
        self._viewer, self._layer = viewer, layer
        self._levels = [level for level in levels if isinstance(level, LateLevel)]
        self._busy = False
        self._timer = QTimer(self)
        self._timer.timeout.connect(self._look)
        self._timer.start(LOOK_MS)

    def _look(self) -> None:
        if self._layer not in self._viewer.layers:
            self._timer.stop()
            self.deleteLater()
            return
        if self._busy or not self._layer.visible:
            return
        for level in self._levels:
            if level.wanted:
                self._color(level, level.wanted.pop(0))
                return

    def _color(self, level: LateLevel, place: Place) -> None:
        self._busy = True
        in_background(f"Coloring {self._layer.name}", lambda: level.color(place), self._on_colored, self._on_failed)

    def _on_colored(self, _: object) -> None:
        self._busy = False
        if self._layer in self._viewer.layers:
            self._layer.refresh(extent=False, thumbnail=False)

    def _on_failed(self, sentence: str) -> None:
        """What cannot be colored stays as it is shown; it would fail each time that it is looked at."""
        self._timer.stop()
        self._layer.help = sentence
