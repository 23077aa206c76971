"""Gaussian filter over place and color: the permutohedral lattice.

A pixel is a point in five dimensions. Its value is given to the six corners of the simplex that holds it, corners share with
their neighbors, and the pixel reads the corners again: a sum over all pairs of pixels, in time that grows with their number.

The lattice is fixed to the slide's frame, not to the tile's, so tiles that overlap meet the same corners.

References
----------
Adams, Baek, Davis, Fast high-dimensional filtering using the permutohedral lattice, Computer Graphics Forum 29(2), 2010.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_histoseg.errors import SettingsError
from napari_histoseg.slide.compiled import kernel

UInt8 = npt.NDArray[np.uint8]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]

AXES = 5
CORNERS = AXES + 1
#: What makes one standard deviation of each axis right for the lattice's own blur (Adams et al., §3.1).
SCALE = tuple(math.sqrt(2 / 3) * CORNERS / math.sqrt((axis + 1) * (axis + 2)) for axis in range(AXES))


@dataclass(frozen=True)
class Lattice:
    """Where the pixels of a tile lie in the lattice.

    Attributes
    ----------
    corners : int32 (pixels, 6)
        The corners around each pixel.
    weights : float32 (pixels, 6)
        How near each of them is; they add up to one.
    neighbors : int32 (6, n, 2)
        The two neighbors of each of the n corners along each direction; n where there is none.
    """

    corners: Int32
    weights: Float32
    neighbors: Int32

    @property
    def size(self) -> int:
        """Number of corners."""
        return int(self.neighbors.shape[1])

    @classmethod
    def build(cls, image: UInt8, color_px: float, color_sd: float, origin: tuple[int, int] = (0, 0)) -> Lattice:
        """Place the pixels of an image.

        Parameters
        ----------
        image : uint8 (h, w, 3)
            RGB.
        color_px, color_sd : float
            Standard deviations in pixels, and in gray levels of each color.
        origin : (x, y)
            Where in the slide the image begins, in pixels of the image's own size.

        Raises
        ------
        SettingsError
            The lattice is too fine for so large an image.
        """
        height, width = image.shape[:2]
        xs, ys = _places(origin[0], width, SCALE[0] / color_px), _places(origin[1], height, SCALE[1] / color_px)
        levels = np.arange(256) / color_sd
        colors = np.stack([levels * SCALE[axis] for axis in (2, 3, 4)]).astype(np.float32)
        steps = _steps([xs, ys, *colors])
        corners, weights = np.empty((height * width, CORNERS), np.int32), np.empty((height * width, CORNERS), np.float32)
        codes, slots = _place(image, xs, ys, colors, steps, corners, weights)
        return cls(corners, weights, _neighbors(codes, slots, steps))

    def filter(self, values: Float32, scale: Float32, out: Float32) -> None:
        """Add the filtered values ``(pixels, c)``, times ``scale`` ``(pixels,)`` before and after, to ``out``."""
        found = np.zeros((self.size + 1, values.shape[1]), np.float32)
        other = np.zeros_like(found)
        _splat(self.corners, self.weights, scale, values, found)
        for direction in self.neighbors:
            _share(direction, found, other)
            found, other = other, found
        _slice(self.corners, self.weights, scale, found, out)

    def normalizer(self) -> Float32:
        """One over the square root of the filtered ones ``(pixels,)``: the symmetric normalization."""
        pixels = len(self.corners)
        total = np.zeros((pixels, 1), np.float32)
        ones = np.ones((pixels, 1), np.float32)
        self.filter(ones, ones[:, 0], total)
        normalizer: Float32 = (1 / np.sqrt(np.maximum(total[:, 0], 1e-20))).astype(np.float32)
        return normalizer


def _places(start: int, count: int, scale: float) -> Float32:
    """Places along an axis, in lattice units.

    The lattice looks the same after six units along an axis, so whole periods are taken off in double precision: far from the
    slide's corner the fractions are as exact as near it.
    """
    period = CORNERS * math.floor(start * scale / CORNERS)
    places: Float32 = ((start + np.arange(count)) * scale - period).astype(np.float32)
    return places


def _steps(axes: list[Float32]) -> Int64:
    """What one unit of each coordinate adds to the code of a corner, such that no two corners in reach share a code."""
    low, high = np.array([[axis.min(), axis.max()] for axis in axes], np.float64).T
    steps, step = [], 1
    for coordinate in range(AXES):
        # Coordinate k is the sum of axes k, k + 1, ... less k times axis k - 1.
        least, most = low[coordinate:].sum(), high[coordinate:].sum()
        if coordinate:
            least, most = least - coordinate * high[coordinate - 1], most - coordinate * low[coordinate - 1]
        steps.append(step)
        step *= math.ceil(most - least) + 6 * CORNERS
    if step > 2**62:
        raise SettingsError(
            f"The CRF's lattice has about {step:.0e} corners, more than can be numbered. Raise color_px or color_sd, or give smaller tiles."
        )
    return np.array([*steps, 0], np.int64)


@kernel
def _slot(code: np.int64, codes: Int64, slots: Int32) -> np.int64:
    """The place of a code in the table, or the free place where it belongs."""
    mask = slots.size - 1
    mixed = np.uint64(code) * np.uint64(0x9E3779B97F4A7C15)
    at = np.int64(mixed >> np.uint64(32)) & mask
    while slots[at] >= 0 and codes[slots[at]] != code:
        at = (at + 1) & mask
    return at


@kernel
def _grown(codes: Int64, count: int, slots: Int32) -> tuple[Int64, Int32]:
    """Twice the room, with the codes that were there."""
    more = np.empty(2 * codes.size, np.int64)
    more[:count] = codes[:count]
    table = np.full(2 * slots.size, -1, np.int32)
    for corner in range(count):
        table[_slot(more[corner], more, table)] = corner
    return more, table


@kernel
def _surround(point: Float32, nearest: Int32, rank: Int32, shares: Float32) -> None:
    """The simplex around a point of the lattice's plane (Adams et al., §3.2).

    ``nearest`` becomes the corner of remainder 0, ``rank`` the order of the coordinates' distances from it, ``shares`` the
    barycentric coordinates.
    """
    total = 0
    for i in range(CORNERS):
        whole = math.floor(point[i] / CORNERS + np.float32(0.5))
        nearest[i] = whole * CORNERS
        total += whole
        rank[i] = 0
    for i in range(CORNERS):
        for j in range(i + 1, CORNERS):
            if point[i] - nearest[i] < point[j] - nearest[j]:
                rank[i] += 1
            else:
                rank[j] += 1
    for i in range(CORNERS):
        rank[i] += total
        if rank[i] < 0:
            rank[i] += CORNERS
            nearest[i] += CORNERS
        elif rank[i] >= CORNERS:
            rank[i] -= CORNERS
            nearest[i] -= CORNERS
    shares[:] = 0
    for i in range(CORNERS):
        part = (point[i] - nearest[i]) / np.float32(CORNERS)
        shares[AXES - rank[i]] += part
        shares[AXES + 1 - rank[i]] -= part
    shares[0] += np.float32(1) + shares[CORNERS]


@kernel
def _place(image: UInt8, xs: Float32, ys: Float32, colors: Float32, steps: Int64, corners: Int32, weights: Float32) -> tuple[Int64, Int32]:
    """Find the corners of all pixels; returns the codes of the corners and the table that finds them."""
    height, width = image.shape[:2]
    codes, slots = np.empty(1 << 15, np.int64), np.full(1 << 16, -1, np.int32)
    count = 0
    point, nearest, rank = np.empty(CORNERS, np.float32), np.empty(CORNERS, np.int32), np.empty(CORNERS, np.int32)
    shares, axes = np.empty(CORNERS + 1, np.float32), np.empty(AXES, np.float32)
    coordinate = np.empty(CORNERS, np.int32)
    # The pixel before often has the same corners.
    last_code, last_corner = np.zeros(CORNERS, np.int64), np.full(CORNERS, -1, np.int32)
    one = steps.sum()
    for y in range(height):
        for x in range(width):
            axes[0], axes[1] = xs[x], ys[y]
            for channel in range(3):
                axes[2 + channel] = colors[channel, image[y, x, channel]]
            above = np.float32(0)
            for i in range(AXES, 0, -1):
                point[i] = above - i * axes[i - 1]
                above += axes[i - 1]
            point[0] = above
            _surround(point, nearest, rank, shares)
            code = np.int64(0)
            for i in range(CORNERS):
                code += nearest[i] * steps[i]
                coordinate[rank[i]] = i
            pixel = y * width + x
            for k in range(CORNERS):
                if code != last_code[k] or last_corner[k] < 0:
                    at = _slot(code, codes, slots)
                    if slots[at] < 0:
                        codes[count] = code
                        slots[at] = count
                        count += 1
                    last_code[k], last_corner[k] = code, slots[at]
                    if count == codes.size:
                        codes, slots = _grown(codes, count, slots)
                corners[pixel, k], weights[pixel, k] = last_corner[k], shares[k]
                # The next corner is one further in every coordinate, and a whole period back in the one of the highest rank left.
                code += one - CORNERS * steps[coordinate[AXES - k]]
    return codes[:count].copy(), slots


@kernel
def _neighbors(codes: Int64, slots: Int32, steps: Int64) -> Int32:
    """Neighbors of all corners along all directions."""
    count, one = codes.size, steps.sum()
    found = np.empty((CORNERS, count, 2), np.int32)
    for direction in range(CORNERS):
        step = CORNERS * steps[direction] - one
        for corner in range(count):
            for side in range(2):
                at = slots[_slot(codes[corner] + (step if side == 0 else -step), codes, slots)]
                found[direction, corner, side] = at if at >= 0 else count
    return found


@kernel
def _splat(corners: Int32, weights: Float32, scale: Float32, values: Float32, found: Float32) -> None:
    """Sum pixels into their corners."""
    channels = values.shape[1]
    for pixel in range(len(corners)):
        row = values[pixel]
        for k in range(CORNERS):
            corner, weight = found[corners[pixel, k]], weights[pixel, k] * scale[pixel]
            for channel in range(channels):
                corner[channel] += weight * row[channel]


@kernel
def _share(neighbors: Int32, given: Float32, out: Float32) -> None:
    """Add half of both neighbors along one direction."""
    channels = given.shape[1]
    half = np.float32(0.5)
    for corner in range(len(neighbors)):
        one, other = given[neighbors[corner, 0]], given[neighbors[corner, 1]]
        own, to = given[corner], out[corner]
        for channel in range(channels):
            to[channel] = own[channel] + half * (one[channel] + other[channel])


@kernel
def _slice(corners: Int32, weights: Float32, scale: Float32, found: Float32, out: Float32) -> None:
    """Add to pixels what their corners hold."""
    channels = found.shape[1]
    for pixel in range(len(corners)):
        row = out[pixel]
        for k in range(CORNERS):
            corner, weight = found[corners[pixel, k]], weights[pixel, k] * scale[pixel]
            for channel in range(channels):
                row[channel] += weight * corner[channel]
