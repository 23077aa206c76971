"""Seeds of objects: local maxima, their merging, and the watershed that grows them.

All maps are integers or are quantized with a fixed step, so that two crops of one image give the same seeds
and the same labels wherever both hold the whole object.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from napari_histoseg.objects.runs import Float32, Int32, Int64, connect_runs, encode_runs, paint_runs
from napari_histoseg.slide.compiled import kernel

Mask = npt.NDArray[np.bool_]


@kernel
def find_peaks(height_map: Int32, radius: int, floor: int) -> Int32:
    """Local maxima above ``floor`` within a disc; of equal heights the first in raster order wins.

    Returns
    -------
    int32 (n, 2)
        Row and column of each peak in raster order; a plateau has one peak, its first pixel.
    """
    height, width = height_map.shape
    capacity = 256
    peaks = np.empty((capacity, 2), np.int32)
    count = 0
    for y in range(height):
        for x in range(width):
            value = height_map[y, x]
            if value <= floor:
                continue
            if (x > 0 and height_map[y, x - 1] >= value) or (x + 1 < width and height_map[y, x + 1] > value):
                continue
            highest = True
            for v in range(max(0, y - radius), min(height, y + radius + 1)):
                reach = int(math.sqrt(radius * radius - (v - y) * (v - y)))
                for u in range(max(0, x - reach), min(width, x + reach + 1)):
                    other = height_map[v, u]
                    if other > value or (other == value and (v < y or (v == y and u < x))):
                        highest = False
                        break
                if not highest:
                    break
            if highest:
                if count == capacity:
                    capacity *= 2
                    grown = np.empty((capacity, 2), np.int32)
                    grown[:count] = peaks
                    peaks = grown
                peaks[count, 0], peaks[count, 1] = y, x
                count += 1
    return peaks[:count]


@kernel
def _lowest_between(height_map: Int32, y0: int, x0: int, y1: int, x1: int) -> int:
    """Least height on the straight line between two pixels."""
    steps = max(abs(y1 - y0), abs(x1 - x0))
    lowest = height_map[y0, x0]
    for step in range(1, steps):
        y = y0 + math.floor((y1 - y0) * step / steps + 0.5)
        x = x0 + math.floor((x1 - x0) * step / steps + 0.5)
        lowest = min(lowest, height_map[y, x])
    return int(lowest)


@kernel
def merge_peaks(height_map: Int32, peaks: Int32, radius: float, saddle: float) -> Int32:
    """Give one id to peaks that stand close together on one ridge.

    Two peaks merge when they are at most ``radius`` apart and the map between them never falls below
    ``saddle`` times the lower of the two.

    Returns
    -------
    int32 (n,)
        Id of each peak, 1 to the number of merged peaks in raster order.
    """
    count = len(peaks)
    roots = np.arange(count).astype(np.int32)
    for one in range(count):
        for other in range(one + 1, count):
            dy, dx = peaks[other, 0] - peaks[one, 0], peaks[other, 1] - peaks[one, 1]
            if dy > radius:
                break
            if dy * dy + dx * dx > radius * radius:
                continue
            y0, x0, y1, x1 = peaks[one, 0], peaks[one, 1], peaks[other, 0], peaks[other, 1]
            lower = min(height_map[y0, x0], height_map[y1, x1])
            if _lowest_between(height_map, y0, x0, y1, x1) < saddle * lower:
                continue
            first, second = one, other
            while roots[first] != first:
                first = roots[first]
            while roots[second] != second:
                second = roots[second]
            roots[max(first, second)] = min(first, second)
    ids = np.empty(count, np.int32)
    top = 0
    for item in range(count):
        if roots[item] == item:
            top += 1
            ids[item] = top
        else:
            ids[item] = ids[roots[item]]
    return ids


@kernel
def nearest_peak(peaks: Int32, ids: Int32, height: int, width: int, radius: float) -> Int32:
    """Id of the nearest peak of every pixel, 0 beyond ``radius``; of equally near peaks the first wins."""
    reach = math.floor(radius)
    owner = np.zeros((height, width), np.int32)
    distance = np.full((height, width), 2**31 - 1, np.int32)
    for peak in range(len(peaks)):
        y, x = peaks[peak, 0], peaks[peak, 1]
        for v in range(max(0, y - reach), min(height, y + reach + 1)):
            for u in range(max(0, x - reach), min(width, x + reach + 1)):
                squared = (v - y) * (v - y) + (u - x) * (u - x)
                if squared <= radius * radius and squared < distance[v, u]:
                    distance[v, u] = squared
                    owner[v, u] = ids[peak]
    return owner


@kernel
def _sole_markers(rows: Int64, starts: Int32, inside: Int32, components: Int32, count: int, markers: Int32) -> Int32:
    """Marker id of each component, 0 for none, -1 for several."""
    soles = np.zeros(count, np.int32)
    for run in range(inside.size):
        if inside[run] == 0:
            continue
        component = components[run]
        for pixel in range(starts[run], starts[run + 1]):
            value = markers[pixel]
            if value > 0 and soles[component] != value:
                soles[component] = value if soles[component] == 0 else -1
    return soles


@kernel
def _flood(levels: Int32, labels: Int32, starts: Int32, several: Mask, open_pixels: Mask) -> None:
    """Flood the flat ``labels`` from their positive pixels, high levels first, first come first served."""
    height, width = levels.shape
    flat = levels.ravel()
    top = np.int32(0)
    for run in range(several.size):
        if several[run]:
            for pixel in range(starts[run], starts[run + 1]):
                top = max(top, flat[pixel])
    head, tail = np.full(top + 1, -1, np.int32), np.full(top + 1, -1, np.int32)
    following = np.empty(flat.size, np.int32)
    for run in range(several.size):
        if several[run]:
            for pixel in range(starts[run], starts[run + 1]):
                if labels[pixel] > 0:
                    level = flat[pixel]
                    following[pixel] = -1
                    if head[level] < 0:
                        head[level] = pixel
                    else:
                        following[tail[level]] = pixel
                    tail[level] = pixel
    level = top
    while level >= 0:
        pixel = head[level]
        if pixel < 0:
            level -= 1
            continue
        head[level] = following[pixel]
        x = pixel % width
        for side in range(4):
            if side == 0:
                near, exists = pixel - width, pixel >= width
            elif side == 1:
                near, exists = pixel - 1, x > 0
            elif side == 2:
                near, exists = pixel + 1, x < width - 1
            else:
                near, exists = pixel + width, pixel < (height - 1) * width
            if exists and open_pixels[near] and labels[near] == 0:
                labels[near] = labels[pixel]
                queue = min(level, flat[near])
                following[near] = -1
                if head[queue] < 0:
                    head[queue] = near
                else:
                    following[tail[queue]] = near
                tail[queue] = near


@kernel
def _quantize(priority: Float32, mask: Mask, steps_per_unit: float) -> Int32:
    """Priority levels inside the mask: 0 for nothing and below, then one for each started step."""
    levels = np.zeros(priority.shape, np.int32)
    source, inside, target = priority.ravel(), mask.ravel(), levels.ravel()
    for pixel in range(source.size):
        value = source[pixel]
        if inside[pixel] and value > 0:
            target[pixel] = int(min(value * steps_per_unit, 65535.0))
    return levels


def watershed(priority: Float32, markers: Int32, mask: Mask, *, step: float = 0.25) -> Int32:
    """Grow markers through a mask, pixels of high priority first.

    Components of the mask with one marker take its label without a flood; those without any stay 0.

    Parameters
    ----------
    priority : float32 (h, w)
        Larger floods earlier (a distance to the background, or a blob response); values below 0 count as 0.
    markers : int32 (h, w)
        Positive ids of the seeds, 0 elsewhere; seeds outside the mask are ignored.
    mask : bool (h, w)
        Where labels may grow; 4-connected.
    step : float
        Priorities within one step are flooded in the order of arrival. Fixed rather than relative to the
        largest priority, so that a crop floods as the whole does; at most 65,536 levels.

    Returns
    -------
    int32 (h, w)
    """
    width = mask.shape[1]
    rows, starts, inside = encode_runs(mask.astype(np.int32))
    components, count = connect_runs(rows, starts, inside, width)
    flat_markers = np.ascontiguousarray(markers, np.int32).ravel()
    soles = _sole_markers(rows, starts, inside, components, count, flat_markers)
    of_run = np.where(inside > 0, soles[components], 0).astype(np.int32)
    labels = np.empty(mask.shape, np.int32)
    flat = labels.reshape(-1)
    paint_runs(starts, of_run, flat)
    if (of_run < 0).any():
        np.copyto(flat, flat_markers, where=flat < 0)
        levels = _quantize(np.ascontiguousarray(priority, np.float32), np.ascontiguousarray(mask, np.bool_), 1.0 / step)
        _flood(levels, flat, starts, of_run < 0, np.ascontiguousarray(mask, np.bool_).ravel())
    return labels
