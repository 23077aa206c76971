"""Superpixels: SLIC, and what is said of pixels said of superpixels.

Sums run in raster order on one thread, so equal images have equal superpixels, bit for bit. The kernels let go of Python's
lock: several images are worked on at once by calling from several threads.

References
----------
Achanta et al., SLIC superpixels compared to state-of-the-art superpixel methods, IEEE TPAMI 34(11), 2012.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from napari_histoseg.errors import SettingsError
from napari_histoseg.slide.compiled import kernel

UInt8 = npt.NDArray[np.uint8]
Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]
_Scalar = TypeVar("_Scalar", bound=np.generic)

COUNT = 5000
"""The paper's number of superpixels of an image of 512²."""
SMALLEST = 0.5
"""Pieces below this part of a mean superpixel join a neighbor."""


def side_of(count: int, height: int, width: int) -> float:
    """Mean side in pixels of ``count`` superpixels of an image, at least 1."""
    if count < 1 or height < 1 or width < 1:
        raise SettingsError(f"{count} superpixels of {height} × {width} pixels are impossible. Give one or more of each.")
    return max(1.0, math.sqrt(height * width / count))


SIDE_PX = side_of(COUNT, 512, 512)


def superpixels(image: UInt8, side_px: float = SIDE_PX, compactness: float = 10.0, rounds: int = 5) -> Int32:
    """Cut an image into superpixels of like color.

    Parameters
    ----------
    image : uint8 (h, w, 3)
        RGB.
    side_px : float
        Mean side of a superpixel, 1 or more; one that is larger than the image gives a single superpixel.
    compactness : float
        How much a side's distance weighs against distance in CIELAB: higher is squarer.
    rounds : int
        Times that pixels are given to centers; the centers move in between.

    Returns
    -------
    int32 (h, w)
        0 to n - 1 in raster order of their first pixels; each is 4-connected.

    Raises
    ------
    SettingsError
        The image is not 8-bit RGB, or a number is out of range.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise SettingsError(f"Superpixels are made from 8-bit RGB pixels of the shape (h, w, 3). Got {_said(image)} instead; convert it first.")
    if not (math.isfinite(side_px) and side_px >= 1):
        raise SettingsError(f"The mean side of a superpixel is 1 pixel or more. Got {side_px!r} instead; give a larger one.")
    if not (math.isfinite(compactness) and compactness > 0):
        raise SettingsError(f"The compactness of superpixels is above 0. Got {compactness!r} instead; 10 is usual.")
    if rounds < 1:
        raise SettingsError(f"Superpixels take 1 round or more. Got {rounds!r} instead; 5 is usual.")
    height, width = image.shape[:2]
    side = min(float(side_px), float(max(height, width)))
    lab: Any = cv2.cvtColor(image.astype(np.float32) * np.float32(1 / 255), cv2.COLOR_RGB2LAB)
    light, green, blue = cv2.split(lab)
    rows, columns = max(1, round(height / side)), max(1, round(width / side))
    labels = _cluster(light, green, blue, rows, columns, side, (compactness / side) ** 2, rounds)
    return _connect(labels, max(1, int(SMALLEST * height * width / (rows * columns))))


def majority(labels: npt.NDArray[np.integer[Any]], superpixels: Int32, n_classes: int) -> Int32:
    """Give every pixel the most frequent label of its superpixel; of equally frequent ones the least (paper §3.2).

    Parameters
    ----------
    labels : integers (h, w)
        0 to ``n_classes - 1``.
    superpixels : int32 (h, w)
        0 to n - 1.
    """
    if n_classes < 1:
        raise SettingsError(f"There are {n_classes} classes. Give one or more.")
    count = _count(superpixels, labels.shape)
    if labels.dtype.kind not in "iu" or int(labels.min()) < 0 or int(labels.max()) >= n_classes:
        raise SettingsError(f"Labels of {n_classes} classes are whole numbers from 0 to {n_classes - 1}. Got {_said(labels)} instead.")
    found = np.zeros((count, n_classes), np.int32)
    _count_labels(np.ascontiguousarray(labels, np.int32), superpixels, found)
    return spread(found.argmax(1).astype(np.int32), superpixels)


def mean_of(values: Float32, superpixels: Int32) -> Float32:
    """Mean of each channel in each superpixel.

    Parameters
    ----------
    values : float32 (c, h, w)
    superpixels : int32 (h, w)
        0 to n - 1.

    Returns
    -------
    float32 (n, c)
        NaN where a number between has no pixel.
    """
    if values.ndim != 3:
        raise SettingsError(f"Means are taken of values of the shape (c, h, w). Got {_said(values)} instead.")
    count = _count(superpixels, values.shape[1:])
    flat = superpixels.ravel()
    pixels = np.bincount(flat, minlength=count)
    sums = np.empty((count, len(values)))
    for channel, plane in enumerate(values):
        sums[:, channel] = np.bincount(flat, weights=plane.ravel(), minlength=count)
    with np.errstate(invalid="ignore"):
        return (sums / pixels[:, None]).astype(np.float32)


def spread(values: npt.NDArray[_Scalar], superpixels: Int32) -> npt.NDArray[_Scalar]:
    """What is known of superpixels ``(n, ...)``, at every pixel: ``(h, w, ...)``."""
    if len(values) < (count := _count(superpixels, superpixels.shape)):
        raise SettingsError(f"There are {count} superpixels and {len(values)} values. Give one for each.")
    return values[superpixels]


def _said(given: Any) -> str:
    if not isinstance(given, np.ndarray):
        return type(given).__name__
    range_ = f" with values from {given.min()} to {given.max()}" if given.size and given.ndim == 2 else ""
    return f"{given.dtype} {given.shape}{range_}"


def _count(superpixels: Int32, shape: tuple[int, ...]) -> int:
    """Number of superpixels, when they fit pixels of a shape."""
    if superpixels.dtype != np.int32 or superpixels.ndim != 2 or superpixels.shape != shape or not superpixels.size:
        raise SettingsError(f"Superpixels of pixels {shape} are int32 of that shape. Got {_said(superpixels)} instead.")
    if (least := int(superpixels.min())) < 0:
        raise SettingsError(f"Superpixels are numbered from 0. Got {least}; give what superpixels() returns.")
    return int(superpixels.max()) + 1


@kernel
def _cluster(
    light: Float32, green: Float32, blue: Float32, rows: int, columns: int, side: float, weight: float, rounds: int
) -> Int32:
    """Nearest center of every pixel, in color and place; the planes are those of CIELAB."""
    height, width = light.shape
    centers = np.empty((rows * columns, 5), np.float32)
    labels = np.empty((height, width), np.int32)
    for y in range(height):
        for x in range(width):
            labels[y, x] = (y * rows // height) * columns + x * columns // width
    for row in range(rows):
        for column in range(columns):
            cy, cx = (row + 0.5) * height / rows, (column + 0.5) * width / columns
            y, x = int(cy), int(cx)
            center = centers[row * columns + column]
            center[0], center[1], center[2], center[3], center[4] = cy - 0.5, cx - 0.5, light[y, x], green[y, x], blue[y, x]
    distance = np.empty((height, width), np.float32)
    for number in range(rounds):
        if number > 0:
            _move(light, green, blue, labels, centers)
        _assign(light, green, blue, centers, side, weight, distance, labels)
    return labels


@kernel
def _assign(
    light: Float32, green: Float32, blue: Float32, centers: Float32, side: float, weight: float, distance: Float32, labels: Int32
) -> None:
    """Give each pixel to the nearest of the centers whose windows hold it; one without any keeps its label."""
    height, width = light.shape
    # Windows have one width, a multiple of what a vector register holds: rows then take no slow steps at their ends.
    wide = min(width, (int(2 * side + 1) + 7) // 8 * 8)
    scale = np.float32(weight)
    distance[:] = np.float32(1e30)
    for k in range(len(centers)):
        cy, cx, l, a, b = centers[k]  # noqa: E741
        left = min(max(0, int(cx + np.float32(0.5)) - wide // 2), width - wide)
        for y in range(max(0, int(cy - side)), min(height, int(cy + side) + 2)):
            dy = np.float32(y) - cy
            far = dy * dy * scale
            ll, aa, bb = light[y, left : left + wide], green[y, left : left + wide], blue[y, left : left + wide]
            best, label = distance[y, left : left + wide], labels[y, left : left + wide]
            for x in range(wide):
                dx = np.float32(left + x) - cx
                dl, da, db = ll[x] - l, aa[x] - a, bb[x] - b
                d = dl * dl + da * da + db * db + dx * dx * scale + far
                # Both are written always, as a choice without a jump.
                nearer = d < best[x]
                label[x] = k if nearer else label[x]
                best[x] = d if nearer else best[x]


@kernel
def _move(light: Float32, green: Float32, blue: Float32, labels: Int32, centers: Float32) -> None:
    """Move centers to the mean of their pixels; one without pixels stays."""
    height, width = labels.shape
    sums = np.zeros((len(centers), 6), np.float64)
    for y in range(height):
        for x in range(width):
            total = sums[labels[y, x]]
            total[0] += y
            total[1] += x
            total[2] += light[y, x]
            total[3] += green[y, x]
            total[4] += blue[y, x]
            total[5] += 1
    for k in range(len(centers)):
        if sums[k, 5] > 0:
            for axis in range(5):
                centers[k, axis] = sums[k, axis] / sums[k, 5]


@kernel
def _pieces(labels: Int32) -> tuple[Int32, Int32]:
    """Number 4-connected pieces in raster order.

    Returns
    -------
    pieces : int32 (h, w)
    facts : int32 (n, 3)
        Of each piece its label, its pixels, and the piece to the left of its first pixel, or above it; -1 where there is none.
    """
    height, width = labels.shape
    pieces, facts = np.full((height, width), -1, np.int32), np.empty((height * width, 3), np.int32)
    ys, xs = np.empty(height * width, np.int32), np.empty(height * width, np.int32)
    count = 0
    for y in range(height):
        for x in range(width):
            if pieces[y, x] >= 0:
                continue
            label = labels[y, x]
            facts[count, 0] = label
            facts[count, 2] = pieces[y, x - 1] if x > 0 else (pieces[y - 1, x] if y > 0 else -1)
            ys[0], xs[0] = y, x
            pieces[y, x] = count
            seen, filled = 0, 1
            while seen < filled:
                v, u = ys[seen], xs[seen]
                seen += 1
                for dv, du in ((-1, 0), (1, 0), (0, -1), (0, 1)):
                    p, q = v + dv, u + du
                    if 0 <= p < height and 0 <= q < width and pieces[p, q] < 0 and labels[p, q] == label:
                        pieces[p, q] = count
                        ys[filled], xs[filled] = p, q
                        filled += 1
            facts[count, 1] = filled
            count += 1
    return pieces, facts[:count]


@kernel
def _connect(labels: Int32, smallest: int) -> Int32:
    """Make superpixels of pieces: those of ``smallest`` pixels or more, and the largest of every label.

    Others join the piece to their left, or above them; the first one has no such neighbor and stays. Without the largest ones,
    an image full of noise, where all pieces are small, would become one superpixel.
    """
    pieces, facts = _pieces(labels)
    largest = np.full(labels.max() + 1, -1, np.int32)
    for piece in range(len(facts)):
        label = facts[piece, 0]
        if largest[label] < 0 or facts[piece, 1] > facts[largest[label], 1]:
            largest[label] = piece
    numbers = np.empty(len(facts), np.int32)
    count = 0
    for piece in range(len(facts)):
        label, pixels, before = facts[piece]
        if pixels >= smallest or before < 0 or largest[label] == piece:
            numbers[piece] = count
            count += 1
        else:
            numbers[piece] = numbers[before]
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            pieces[y, x] = numbers[pieces[y, x]]
    return pieces


@kernel
def _count_labels(labels: Int32, superpixels: Int32, found: Int32) -> None:
    """Add the pixels of each label ``found[superpixel, label]``."""
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            found[superpixels[y, x], labels[y, x]] += 1
