"""One pass over label images: where each object lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_histoseg.slide.compiled import kernel

UInt32 = npt.NDArray[np.uint32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a part of a label image shows of each object in it.

    Attributes
    ----------
    ids : uint32 (n,)
        Ascending, without 0.
    counts : int64 (n,)
        Pixels.
    sums : int64 (n, 2)
        Sums of x and of y over the pixels.
    extents : int64 (n, 4)
        Left, top, right, bottom; half-open.
    """

    ids: UInt32
    counts: Int64
    sums: Int64
    extents: Int64

    @property
    def centers(self) -> npt.NDArray[np.float64]:
        """``(n, 2)`` x and y of the centroids; pixel 0 has its center at 0.5."""
        return self.sums / self.counts[:, None] + 0.5


def scan(labels: UInt32, x: int = 0, y: int = 0) -> Parts:
    """Scan a label image ``(h, w)`` whose upper left pixel is ``(x, y)`` of the frame that is counted in."""
    values, rows, lefts, rights = _runs(np.ascontiguousarray(labels, np.uint32))
    ids, which = np.unique(values, return_inverse=True)
    counts, sums, extents = _add_up(which, rows + y, lefts + x, rights + x, len(ids))
    return Parts(ids, counts, sums, extents)


def merged(parts: Sequence[Parts]) -> Parts:
    """Several parts of one label image as one; an object may lie in many of them."""
    ids, which = np.unique(np.concatenate([p.ids for p in parts]), return_inverse=True)
    counts, sums, extents = _empty(len(ids))
    np.add.at(counts, which, np.concatenate([p.counts for p in parts]))
    np.add.at(sums, which, np.concatenate([p.sums for p in parts]))
    all_extents = np.concatenate([p.extents for p in parts])
    np.minimum.at(extents[:, :2], which, all_extents[:, :2])
    np.maximum.at(extents[:, 2:], which, all_extents[:, 2:])
    return Parts(ids, counts, sums, extents)


@kernel
def _empty(count: int) -> tuple[Int64, Int64, Int64]:
    extents = np.empty((count, 4), np.int64)
    extents[:, :2] = np.iinfo(np.int64).max
    extents[:, 2:] = np.iinfo(np.int64).min
    return np.zeros(count, np.int64), np.zeros((count, 2), np.int64), extents


@kernel
def _runs(labels: UInt32) -> tuple[UInt32, Int64, Int64, Int64]:
    """The horizontal runs of objects: value, row, first column, column past the last."""
    height, width = labels.shape
    total = 0
    for y in range(height):
        before = np.uint32(0)
        for x in range(width):
            value = labels[y, x]
            total += value != before and value != 0
            before = value
    values = np.empty(total, np.uint32)
    rows, lefts, rights = np.empty(total, np.int64), np.empty(total, np.int64), np.empty(total, np.int64)
    run = -1
    for y in range(height):
        before = np.uint32(0)
        for x in range(width):
            value = labels[y, x]
            if value != 0 and value != before:
                run += 1
                values[run], rows[run], lefts[run] = value, y, x
            if value != 0:
                rights[run] = x + 1
            before = value
    return values, rows, lefts, rights


@kernel
def _add_up(which: Int64, rows: Int64, lefts: Int64, rights: Int64, count: int) -> tuple[Int64, Int64, Int64]:
    """Per object: pixels; sums of x and y; left, top, right, bottom."""
    counts, sums, extents = _empty(count)
    for run in range(which.size):
        item, y, left, right = which[run], rows[run], lefts[run], rights[run]
        size = right - left
        counts[item] += size
        sums[item, 0] += (left + right - 1) * size // 2
        sums[item, 1] += y * size
        extents[item, 0], extents[item, 1] = min(extents[item, 0], left), min(extents[item, 1], y)
        extents[item, 2], extents[item, 3] = max(extents[item, 2], right), max(extents[item, 3], y + 1)
    return counts, sums, extents
