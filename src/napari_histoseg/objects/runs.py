"""Compiled passes over label images in run-length form.

A label image is encoded as horizontal runs of equal values (background included). Components, holes, areas
and relabeling then cost a visit to each run, not to each pixel, and every result follows raster order alone:
it does not depend on where in a larger image the objects lie.

Numba checks only the file of a cached kernel for changes, so a kernel calls no kernel of another module.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from napari_histoseg.slide.compiled import kernel

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


@kernel
def encode_runs(labels: Int32) -> tuple[Int64, Int32, Int32]:
    """Cut a label image ``(h, w)`` into runs.

    Returns
    -------
    rows : int64 (h + 1,)
        Row ``y`` holds the runs ``rows[y]`` to ``rows[y + 1] - 1``.
    starts : int32 (runs + 1,)
        Flat index of each run's first pixel; the last entry is ``h * w``.
    values : int32 (runs,)
        The label of each run, 0 for background.
    """
    height, width = labels.shape
    rows = np.zeros(height + 1, np.int64)
    for y in range(height):
        line = labels[y]
        changes = 1 if width > 0 else 0
        for x in range(1, width):
            changes += line[x] != line[x - 1]
        rows[y + 1] = rows[y] + changes
    starts = np.empty(rows[height] + 1, np.int32)
    values = np.empty(rows[height], np.int32)
    run = 0
    for y in range(height):
        line = labels[y]
        before = np.int32(-1)
        for x in range(width):
            if line[x] != before or x == 0:
                before = line[x]
                starts[run] = y * width + x
                values[run] = before
                run += 1
    starts[run] = height * width
    return rows, starts, values


@kernel
def paint_runs(starts: Int32, values: Int32, flat: Int32) -> None:
    """Write the value of each run to its pixels in the flat image."""
    for run in range(values.size):
        flat[starts[run] : starts[run + 1]] = values[run]


@kernel
def _root(parents: Int32, item: int) -> int:
    while parents[item] != item:
        parents[item] = parents[parents[item]]
        item = parents[item]
    return item


@kernel
def _join(parents: Int32, one: int, other: int) -> None:
    one, other = _root(parents, one), _root(parents, other)
    if one < other:
        parents[other] = one
    else:
        parents[one] = other


@kernel
def connect_runs(rows: Int64, starts: Int32, values: Int32, width: int) -> tuple[Int32, int]:
    """Number the 4-connected components of equal value, background included, in raster order from 0."""
    parents = np.arange(values.size).astype(np.int32)
    for y in range(rows.size - 1):
        for run in range(rows[y] + 1, rows[y + 1]):
            if values[run] == values[run - 1]:
                _join(parents, run - 1, run)
        if y == 0:
            continue
        above, run = rows[y - 1], rows[y]
        while above < rows[y] and run < rows[y + 1]:
            if values[above] == values[run]:
                _join(parents, above, run)
            above_end, run_end = starts[above + 1] + width, starts[run + 1]
            above += above_end <= run_end
            run += run_end <= above_end
    count = 0
    components = np.empty(values.size, np.int32)
    for run in range(values.size):
        root = _root(parents, run)
        if root == run:
            components[run] = count
            count += 1
        else:
            components[run] = components[root]
    return components, count


@kernel
def drop_fragments(starts: Int32, values: Int32, components: Int32, count: int) -> None:
    """Set to 0 all but the largest component of each label (the first of equals), in place."""
    areas = np.zeros(count, np.int64)
    top = np.int32(0)
    for run in range(values.size):
        areas[components[run]] += starts[run + 1] - starts[run]
        top = max(top, values[run])
    best = np.full(top + 1, -1, np.int32)
    for run in range(values.size):
        value, component = values[run], components[run]
        if value > 0 and (best[value] < 0 or areas[component] > areas[best[value]]):
            best[value] = component
    for run in range(values.size):
        if values[run] > 0 and best[values[run]] != components[run]:
            values[run] = 0


@kernel
def _touch(owners: Int32, component: int, value: int) -> None:
    if owners[component] == 0:
        owners[component] = value
    elif owners[component] != value:
        owners[component] = -1


@kernel
def fill_enclosed(rows: Int64, starts: Int32, values: Int32, components: Int32, count: int, width: int) -> None:
    """Give each background component off the border that touches one label to that label, in place."""
    owners = np.zeros(count, np.int32)
    height = rows.size - 1
    for y in range(height):
        for run in range(rows[y], rows[y + 1]):
            if values[run] == 0:
                if y == 0 or y == height - 1 or run == rows[y] or run == rows[y + 1] - 1:
                    owners[components[run]] = -1
                    continue
                if values[run - 1] > 0:
                    _touch(owners, components[run], values[run - 1])
                if values[run + 1] > 0:
                    _touch(owners, components[run], values[run + 1])
        if y == 0:
            continue
        above, run = rows[y - 1], rows[y]
        while above < rows[y] and run < rows[y + 1]:
            if values[above] == 0 and values[run] > 0:
                _touch(owners, components[above], values[run])
            elif values[run] == 0 and values[above] > 0:
                _touch(owners, components[run], values[above])
            above_end, run_end = starts[above + 1] + width, starts[run + 1]
            above += above_end <= run_end
            run += run_end <= above_end
    for run in range(values.size):
        if values[run] == 0 and owners[components[run]] > 0:
            values[run] = owners[components[run]]


@kernel
def drop_small(starts: Int32, values: Int32, min_area: int) -> None:
    """Set labels of fewer than ``min_area`` pixels to 0, in place."""
    top = np.int32(0)
    for run in range(values.size):
        top = max(top, values[run])
    areas = np.zeros(top + 1, np.int64)
    for run in range(values.size):
        areas[values[run]] += starts[run + 1] - starts[run]
    for run in range(values.size):
        if areas[values[run]] < min_area:
            values[run] = 0


@kernel
def renumber(values: Int32) -> int:
    """Give labels the numbers 1 to n in the raster order of their first pixels, in place; returns n."""
    top = np.int32(0)
    for run in range(values.size):
        top = max(top, values[run])
    new = np.zeros(top + 1, np.int32)
    count = 0
    for run in range(values.size):
        value = values[run]
        if value > 0:
            if new[value] == 0:
                count += 1
                new[value] = count
            values[run] = new[value]
    return count


@kernel
def mean_in_runs(starts: Int32, values: Int32, flat: Float32, count: int) -> Float32:
    """Mean of a flat map over each label 1 to ``count``; NaN for a label without pixels."""
    sums = np.zeros(count + 1, np.float64)
    areas = np.zeros(count + 1, np.int64)
    for run in range(values.size):
        value = values[run]
        if value > 0:
            areas[value] += starts[run + 1] - starts[run]
            for pixel in range(starts[run], starts[run + 1]):
                sums[value] += flat[pixel]
    means = np.full(count, np.nan, np.float32)
    for value in range(1, count + 1):
        if areas[value] > 0:
            means[value - 1] = sums[value] / areas[value]
    return means


@kernel
def grow(labels: Int32, mask: npt.NDArray[np.bool_], steps: int) -> None:
    """Grow labels into unlabeled mask pixels, 4-connected, at most ``steps`` pixels, in place.

    Each step sees the labels as the step before left them; a pixel between two labels takes that of the pixel
    above, else left, right, below.
    """
    height, width = labels.shape
    flat, inside = labels.ravel(), mask.ravel()
    size = 0
    for pixel in range(flat.size):
        size += inside[pixel] and flat[pixel] == 0
    waiting, taken = np.empty(size, np.int32), np.empty(size, np.int32)
    size = 0
    for pixel in range(flat.size):
        if inside[pixel] and flat[pixel] == 0:
            waiting[size] = pixel
            size += 1
    for _ in range(steps):
        for item in range(size):
            pixel = waiting[item]
            x, value = pixel % width, np.int32(0)
            if pixel >= width:
                value = flat[pixel - width]
            if value == 0 and x > 0:
                value = flat[pixel - 1]
            if value == 0 and x < width - 1:
                value = flat[pixel + 1]
            if value == 0 and pixel < (height - 1) * width:
                value = flat[pixel + width]
            taken[item] = value
        kept = 0
        for item in range(size):
            if taken[item] > 0:
                flat[waiting[item]] = taken[item]
            else:
                waiting[kept] = waiting[item]
                kept += 1
        if kept == size:
            break
        size = kept
