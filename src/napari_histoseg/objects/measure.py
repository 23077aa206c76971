"""Labels and pixels → the table of objects."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pandas as pd

from napari_histoseg.objects.runs import Float32, Float64, Int32, Int64, encode_runs, mean_in_runs
from napari_histoseg.objects.trace import outlines, to_wkb
from napari_histoseg.slide.compiled import kernel

UInt8 = npt.NDArray[np.uint8]

RGB_FROM_HED: Float64 = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Optical density of hematoxylin, eosin and DAB in red, green and blue.

Ruifrok & Johnston 2001, as in scikit-image.
"""

MEASUREMENTS = (
    "centroid_x_um",
    "centroid_y_um",
    "area_um2",
    "perimeter_um",
    "major_axis_um",
    "minor_axis_um",
    "eccentricity",
    "solidity",
    "orientation_deg",
    "hematoxylin_od_mean",
    "hematoxylin_od_sd",
    "eosin_od_mean",
    "eosin_od_sd",
    "probability",
)
"""Columns of :func:`measure` after ``id``."""

_DIAGONAL = math.pi / (4 * math.sqrt(2))
_AXIAL = math.pi / 4
_CROFTON: Float64 = np.array(
    [0, _AXIAL + _DIAGONAL, _DIAGONAL, 2 * _DIAGONAL, 0, _AXIAL + _DIAGONAL, 0, _DIAGONAL, _AXIAL, 2 * _AXIAL, _DIAGONAL, _DIAGONAL,
     _AXIAL, 2 * _AXIAL, 0, 0]
)  # fmt: skip
"""Length of outline for each 2 × 2 pattern: 1 lower right, 2 upper right, 4 lower left, 8 upper left.

Crofton's formula in four directions (Rivollier 2010, as in scikit-image).
"""


def stain_table() -> Float32:
    """Optical density of hematoxylin and eosin that each 8-bit red, green and blue value adds.

    Returns
    -------
    float32 (2, 3, 256)
        Stain (hematoxylin, eosin), channel, value. The density of a pixel is the sum over its three channels;
        base 10, light 255. The value 0 counts as 1, so that no pixel is infinitely dense.
    """
    density = -np.log10(np.maximum(np.arange(256), 1) / 255)
    unmixing = np.linalg.inv(RGB_FROM_HED)
    return (unmixing[:, :2].T[:, :, None] * density).astype(np.float32)


def measure(
    labels: Int32,
    image: UInt8,
    *,
    mpp: float,
    origin_um: tuple[float, float] = (0.0, 0.0),
    probability: npt.ArrayLike | None = None,
) -> pd.DataFrame:
    """Shape and stain of each object.

    Parameters
    ----------
    labels : int32 (h, w)
        0 background; ids need not be consecutive, absent ones get no row.
    image : uint8 (h, w, 3)
        RGB.
    mpp : float
        Pixel size, µm.
    origin_um : (float, float)
        x and y of the image's upper left corner, µm. Pixel (0, 0) has its center half a pixel from it.
    probability : float (n,) or (h, w), optional
        For each id from 1 to the largest, or a map to be averaged over each object. Without it the column is
        NaN.

    Returns
    -------
    pandas.DataFrame
        ``id`` in ascending order, then :data:`MEASUREMENTS`. ``perimeter_um`` is Crofton's in four directions
        (:func:`skimage.measure.perimeter_crofton`); the axes are those of the ellipse of equal moments;
        ``solidity`` is area over the pixels whose centers lie in the convex hull of the object's pixel
        centers, so that a digital disc has 1; ``orientation_deg`` is the angle from the x axis to the major
        axis, counterclockwise on the screen, in [0, 180). Optical densities are base 10, by color
        deconvolution with :data:`RGB_FROM_HED`, negative amounts of a pixel counted as 0; SD is that of the
        object's pixels (denominator n).

    Raises
    ------
    ValueError
        Sizes do not match, or ``mpp`` is not positive.
    """
    _check(labels, image, mpp)
    labels = np.ascontiguousarray(labels, np.int32)
    _, starts, values = encode_runs(labels)
    count = int(values.max(initial=0))
    area, first, sums, box = _shape_sums(starts, values, labels.shape[1], count)
    present = np.flatnonzero(area)
    stains = _stain_sums(starts, values, np.ascontiguousarray(image).reshape(-1, 3), stain_table(), count)[present]
    hull = _hull_pixels(starts, values, labels.shape[1], first, box)[present]
    perimeter = _perimeters(labels, _CROFTON, count)[present]
    pixels, first, raw = area[present].astype(np.float64), first[present], sums[present].astype(np.float64)
    shape = _moments(pixels, raw, mpp)
    center = (first[:, ::-1] + raw[:, 1::-1] / pixels[:, None] + 0.5) * mpp + np.asarray(origin_um)
    mean, sd = _mean_sd(pixels, stains)
    columns: dict[str, npt.NDArray[np.generic]] = {
        "id": present.astype(np.int64),
        "centroid_x_um": center[:, 0],
        "centroid_y_um": center[:, 1],
        "area_um2": pixels * mpp**2,
        "perimeter_um": perimeter * mpp,
        **shape,
        "hematoxylin_od_mean": mean[:, 0],
        "hematoxylin_od_sd": sd[:, 0],
        "eosin_od_mean": mean[:, 1],
        "eosin_od_sd": sd[:, 1],
        "probability": _per_object(probability, starts, values, labels.shape, count)[present - 1],
    }
    columns["solidity"] = pixels / np.maximum(hull, 1)
    return pd.DataFrame(columns)[["id", *MEASUREMENTS]]


def object_table(
    labels: Int32,
    image: UInt8,
    *,
    mpp: float,
    origin_px: tuple[int, int] = (0, 0),
    downsample: float = 1.0,
    probability: npt.ArrayLike | None = None,
) -> pd.DataFrame:
    """:func:`measure`, and the outline of each object.

    Parameters
    ----------
    labels, image, mpp, probability
        As in :func:`measure`.
    origin_px : (int, int)
        x and y of the image's upper left corner in working pixels (of size ``mpp``).
    downsample : float
        Level-0 pixels per working pixel.

    Returns
    -------
    pandas.DataFrame
        The columns of :func:`measure` and ``outline``: WKB polygons in level-0 pixels (bytes).
    """
    origin_um = (origin_px[0] * mpp, origin_px[1] * mpp)
    table = measure(labels, image, mpp=mpp, origin_um=origin_um, probability=probability)
    table["outline"] = to_wkb(*outlines(labels, table["id"].to_numpy()), scale=downsample, origin_xy=origin_px)
    return table


def neighbors(centroids_um: npt.ArrayLike, radius_um: float) -> Int32:
    """Count the other objects whose centroid lies within a radius of each object's centroid.

    Parameters
    ----------
    centroids_um : float (n, 2)
    radius_um : float

    Returns
    -------
    int32 (n,)
    """
    from scipy.spatial import cKDTree

    points = np.asarray(centroids_um, np.float64).reshape(-1, 2)
    if not len(points):
        return np.zeros(0, np.int32)
    found = cKDTree(points).query_ball_point(points, radius_um, return_length=True)
    return np.asarray(found, np.int32) - np.int32(1)


def _check(labels: Int32, image: UInt8, mpp: float) -> None:
    problems = []
    if labels.ndim != 2:
        problems.append(f"labels have shape {labels.shape}; they must be (h, w)")
    elif image.shape != (*labels.shape, 3):
        problems.append(f"image has shape {image.shape}; for these labels it must be {(*labels.shape, 3)}")
    if image.dtype != np.uint8:
        problems.append(f"image has dtype {image.dtype}; it must be uint8")
    if not (math.isfinite(mpp) and mpp > 0):
        problems.append(f"mpp is {mpp}; it must be a positive number of µm/px")
    if problems:
        raise ValueError("Cannot measure objects: " + "; ".join(problems) + ".")


def _per_object(probability: npt.ArrayLike | None, starts: Int32, values: Int32, shape: tuple[int, ...], count: int) -> Float32:
    """Probability of the ids 1 to ``count``."""
    if probability is None:
        return np.full(count, np.nan, np.float32)
    given = np.ascontiguousarray(probability, np.float32)
    if given.shape == shape:
        return mean_in_runs(starts, values, given.reshape(-1), count)
    if given.ndim != 1 or len(given) < count:
        raise ValueError(f"probability has shape {given.shape}; pass one value for each of the ids 1 to {count}, or a map of {shape}.")
    return given


def _moments(area: Float64, sums: Float64, mpp: float) -> dict[str, npt.NDArray[np.generic]]:
    """Axes, eccentricity and orientation from the raw moments about each object's first pixel."""
    sy, sx, syy, sxx, sxy = sums.T
    yy, xx, xy = ((area * syy - sy**2), (area * sxx - sx**2), (area * sxy - sx * sy)) / area**2
    spread = np.sqrt((xx - yy) ** 2 + 4 * xy**2)
    large, small = (xx + yy + spread) / 2, np.maximum((xx + yy - spread) / 2, 0)
    ratio = np.divide(small, large, out=np.ones_like(large), where=large > 0)
    # y points down, so that a counterclockwise angle on the screen has the opposite sign.
    angle = np.rad2deg(0.5 * np.arctan2(-2 * xy, xx - yy)) % 180.0
    return {
        "major_axis_um": 4 * np.sqrt(large) * mpp,
        "minor_axis_um": 4 * np.sqrt(small) * mpp,
        "eccentricity": np.sqrt(np.maximum(1 - ratio, 0)),
        "orientation_deg": np.where(angle >= 180.0, 0.0, angle),
    }


def _mean_sd(area: Float64, sums: Float64) -> tuple[Float64, Float64]:
    mean = sums[:, :2] / area[:, None]
    return mean, np.sqrt(np.maximum(sums[:, 2:] / area[:, None] - mean**2, 0))


@kernel
def _shape_sums(starts: Int32, values: Int32, width: int, count: int) -> tuple[Int64, Int32, Int64, Int32]:
    """Per id: area; first pixel (y, x); sums of y, x, y², x², xy about it; box top, left, bottom, right."""
    area = np.zeros(count + 1, np.int64)
    first = np.zeros((count + 1, 2), np.int32)
    sums = np.zeros((count + 1, 5), np.int64)
    box = np.zeros((count + 1, 4), np.int32)
    for run in range(values.size):
        value = values[run]
        if value == 0:
            continue
        y, left = starts[run] // width, starts[run] % width
        size = starts[run + 1] - starts[run]
        right = left + size - 1
        if area[value] == 0:
            first[value, 0], first[value, 1] = y, left
            box[value, 0], box[value, 1], box[value, 3] = y, left, right
        box[value, 1], box[value, 3] = min(box[value, 1], left), max(box[value, 3], right)
        box[value, 2] = y
        area[value] += size
        dy, low, high = y - first[value, 0], left - first[value, 1], right - first[value, 1]
        along = size * (low + high) // 2
        squares = (high * (high + 1) * (2 * high + 1) - (low - 1) * low * (2 * low - 1)) // 6
        sums[value, 0] += dy * size
        sums[value, 1] += along
        sums[value, 2] += dy * dy * size
        sums[value, 3] += squares
        sums[value, 4] += dy * along
    return area, first, sums, box


@kernel
def _stain_sums(starts: Int32, values: Int32, pixels: UInt8, table: Float32, count: int) -> Float64:
    """Per id: sums of hematoxylin, eosin and of their squares."""
    sums = np.zeros((count + 1, 4), np.float64)
    hematoxylin, eosin = table[0], table[1]
    for run in range(values.size):
        value = values[run]
        if value == 0:
            continue
        total_h, total_e, square_h, square_e = 0.0, 0.0, 0.0, 0.0
        for pixel in range(starts[run], starts[run + 1]):
            red, green, blue = pixels[pixel, 0], pixels[pixel, 1], pixels[pixel, 2]
            h = max(float(hematoxylin[0, red] + hematoxylin[1, green] + hematoxylin[2, blue]), 0.0)
            e = max(float(eosin[0, red] + eosin[1, green] + eosin[2, blue]), 0.0)
            total_h += h
            total_e += e
            square_h += h * h
            square_e += e * e
        sums[value, 0] += total_h
        sums[value, 1] += total_e
        sums[value, 2] += square_h
        sums[value, 3] += square_e
    return sums


@kernel
def _perimeters(labels: Int32, lengths: Float64, count: int) -> Float64:
    """Per id: sum of the lengths of all 2 × 2 patterns, beyond the image nothing."""
    height, width = labels.shape
    out = np.zeros(count + 1, np.float64)
    corner = np.empty(4, np.int32)
    nothing = np.zeros(width, np.int32)
    for y in range(height + 1):
        upper = labels[y - 1] if y > 0 else nothing
        lower = labels[y] if y < height else nothing
        corner[2], corner[3] = 0, 0
        for x in range(width + 1):
            corner[3], corner[2] = corner[1] if x > 0 else np.int32(0), corner[0] if x > 0 else np.int32(0)
            corner[1] = upper[x] if x < width else np.int32(0)
            corner[0] = lower[x] if x < width else np.int32(0)
            if corner[0] == corner[1] and corner[2] == corner[3] and corner[0] == corner[2]:
                continue
            for one in range(4):
                value = corner[one]
                pattern = 0
                for other in range(4):
                    if corner[other] == value:
                        # An id that an earlier corner holds has been counted there.
                        pattern = -16 if other < one else pattern + (1 << other)
                if value > 0 and pattern > 0:
                    out[value] += lengths[pattern]
    return out


@kernel
def _chain(extremes: Int32, top: int, bottom: int, side: int, chain: Int32) -> int:
    """Fill in the convex chain (y, x) of left (side 1) or right (side -1) row extremes; returns its size."""
    size = 0
    for y in range(top, bottom + 1):
        x = extremes[y - top]
        if x < 0:
            continue
        while size >= 2:
            dy, dx = chain[size - 1, 0] - chain[size - 2, 0], chain[size - 1, 1] - chain[size - 2, 1]
            if side * (dx * (y - chain[size - 2, 0]) - dy * (x - chain[size - 2, 1])) < 0:
                break
            size -= 1
        chain[size, 0], chain[size, 1] = y, x
        size += 1
    return size


@kernel
def _lattice_points(left: Int32, lefts: int, right: Int32, rights: int) -> int:
    """Pixel centers in the polygon of a left chain downward and a right chain upward, by Pick's theorem."""
    total = lefts + rights
    twice_area, border = 0, 0
    for item in range(total):
        following = (item + 1) % total
        y0, x0 = left[item] if item < lefts else right[total - 1 - item]
        y1, x1 = left[following] if following < lefts else right[total - 1 - following]
        twice_area += y0 * x1 - y1 * x0
        a, b = abs(y1 - y0), abs(x1 - x0)
        while b > 0:
            a, b = b, a % b
        border += a
    return (abs(twice_area) + border) // 2 + 1


@kernel
def _hull_pixels(starts: Int32, values: Int32, width: int, first: Int32, box: Int32) -> Int64:
    """Per id: number of pixels in the convex hull of the pixel centers."""
    count = first.shape[0] - 1
    begin = np.zeros(count + 2, np.int64)
    tallest = 0
    for value in range(1, count + 1):
        height = box[value, 2] - box[value, 0] + 1
        begin[value + 1] = begin[value] + height
        tallest = max(tallest, height)
    low, high = np.full(begin[count + 1], -1, np.int32), np.full(begin[count + 1], -1, np.int32)
    for run in range(values.size):
        value = values[run]
        if value > 0:
            row = begin[value] + starts[run] // width - box[value, 0]
            if low[row] < 0:
                low[row] = starts[run] % width
            high[row] = starts[run] % width + starts[run + 1] - starts[run] - 1
    left, right = np.empty((tallest, 2), np.int32), np.empty((tallest, 2), np.int32)
    pixels = np.zeros(count + 1, np.int64)
    for value in range(1, count + 1):
        top, bottom = box[value, 0], box[value, 2]
        lefts = _chain(low[begin[value] : begin[value + 1]], top, bottom, 1, left)
        rights = _chain(high[begin[value] : begin[value + 1]], top, bottom, -1, right)
        if lefts > 0:
            pixels[value] = _lattice_points(left, lefts, right, rights)
    return pixels
