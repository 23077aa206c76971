"""`ObjectIndex`: where all objects of a slide lie."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_histoseg.slide.geometry import Box

PER_CELL = 16
"""Objects in a cell of the grid that places are looked up in, on average."""
EPS = 1e-6


class ObjectIndex:
    """Ids, centroids and extents of objects, in level-0 pixels of the slide; pixel 0 reaches from 0 to 1.

    Parameters
    ----------
    ids : uint32 (n,)
        Each once; in any order.
    x, y : float64 (n,)
        Centroids.
    extents : float64 (n, 4)
        Left, top, right, bottom of the objects.

    Attributes
    ----------
    ids, x, y, extents
        As given, by ascending id. A *position* is an index into them.
    """

    def __init__(self, ids: npt.ArrayLike, x: npt.ArrayLike, y: npt.ArrayLike, extents: npt.ArrayLike) -> None:
        ids = np.asarray(ids, np.uint32)
        order = np.argsort(ids, kind="stable")
        self.ids: npt.NDArray[np.uint32] = ids[order]
        self.x: npt.NDArray[np.float64] = np.asarray(x, np.float64)[order]
        self.y: npt.NDArray[np.float64] = np.asarray(y, np.float64)[order]
        self.extents: npt.NDArray[np.float64] = np.asarray(extents, np.float64).reshape(-1, 4)[order]

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def boxes(self) -> npt.NDArray[np.int32]:
        """``(n, 4)`` x, y, width, height: the whole pixels that an object touches."""
        corners = np.floor(self.extents[:, :2] + EPS)
        return np.hstack([corners, np.ceil(self.extents[:, 2:] - EPS) - corners]).astype(np.int32)

    def positions_of(self, ids: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Positions of ids; those that do not exist are left out."""
        wanted = np.asarray(ids).ravel()
        found = np.minimum(np.searchsorted(self.ids, wanted), max(len(self) - 1, 0))
        known = self.ids[found] == wanted if len(self) else np.zeros(len(wanted), bool)
        return np.asarray(found[known], np.int64)

    def within(self, box: Box, downsample: float = 1.0) -> npt.NDArray[np.int64]:
        """Ascending positions of the objects whose centroid lies in a box, half-open: tiles that touch share none and lose none.

        Parameters
        ----------
        box : Box
            In pixels of ``downsample`` level-0 pixels each.
        downsample : float
        """
        near = self._grid.candidates(box.scaled(downsample)) if len(self) else np.zeros(0, np.int64)
        x, y = self.x[near] / downsample, self.y[near] / downsample
        inside = (x >= box.x) & (x < box.right) & (y >= box.y) & (y < box.bottom)
        return np.sort(near[inside])

    def inside(self, bounds: Box) -> ObjectIndex:
        """The objects whose centroid lies in a box."""
        keep = (self.x >= bounds.x) & (self.x < bounds.right) & (self.y >= bounds.y) & (self.y < bounds.bottom)
        return self if keep.all() else ObjectIndex(self.ids[keep], self.x[keep], self.y[keep], self.extents[keep])

    def fingerprint(self) -> str:
        """``sha256:`` of ids, centroids and extents to the hundredth of a pixel."""
        digest = hashlib.sha256(self.ids.astype("<u4").tobytes())
        for numbers in (self.x, self.y, self.extents):
            digest.update(np.round(numbers * 100).astype("<i8").tobytes())
        return f"sha256:{digest.hexdigest()}"

    @cached_property
    def _grid(self) -> _Grid:
        return _Grid(self.x, self.y)


class _Grid:
    """Points sorted by the cells of a regular grid, so that a row of cells is one slice."""

    def __init__(self, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> None:
        n = max(len(x), 1)
        self.x, self.y = (float(v.min(initial=0.0)) if not len(v) else float(v.min()) for v in (x, y))
        width, height = (float(np.ptp(v)) + 1.0 if len(v) else 1.0 for v in (x, y))
        # At least as wide as makes n columns or rows, for points along a line.
        self.side = max(np.sqrt(width * height * PER_CELL / n), max(width, height) / n)
        self.columns, self.rows = int(width // self.side) + 1, int(height // self.side) + 1
        cells = self._cell(y - self.y, self.rows) * self.columns + self._cell(x - self.x, self.columns)
        self.order = np.argsort(cells, kind="stable")
        self.starts = np.searchsorted(cells[self.order], np.arange(self.columns * self.rows + 1))

    def _cell(self, offset: Any, count: int) -> npt.NDArray[np.int64]:
        return np.asarray(np.clip(np.floor(np.asarray(offset) / self.side), 0, count - 1), np.int64)

    def candidates(self, box: Box) -> npt.NDArray[np.int64]:
        """The points in all cells that a box touches."""
        left, right = self._cell([box.x - self.x, box.right - self.x], self.columns)
        top, bottom = self._cell([box.y - self.y, box.bottom - self.y], self.rows)
        lines = [
            self.order[self.starts[row * self.columns + left] : self.starts[row * self.columns + right + 1]]
            for row in range(int(top), int(bottom) + 1)
        ]
        return np.concatenate(lines)
