"""Network output → labels: offset votes, and the paper's boundary classes.

Both decoders are local and exact: votes and distances are integers, ties follow raster order, and nothing is
scaled by a maximum of the tile. An object that lies whole within two overlapping tiles comes out pixel for
pixel the same in both.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from napari_histoseg.objects import runs as pixel_runs
from napari_histoseg.objects.runs import Float32, Int32
from napari_histoseg.slide.compiled import kernel

from .seeds import Mask, find_peaks, merge_peaks, nearest_peak, watershed

__all__ = [
    "Decoded",
    "decode_boundary",
    "decode_votes",
    "fill_holes",
    "keep_largest_component",
    "mean_probability",
    "relabel",
    "remove_small",
    "tidy",
    "watershed",
]

_VOTE = 255
"""Integer weight of a vote of probability 1."""

_CENTER = 16
"""Integer weight of the middle tap of the smoothing kernel, per axis."""

_FARTHEST_PX = 4096.0
"""Offsets longer than this, and those that are not numbers, are not votes."""

_DISTANCE_UNIT = 64
"""Distances are 1/64 px in 16 bits, where OpenCV's Gaussian blur is exact; they saturate at 1023 px."""


class Decoded(NamedTuple):
    """What a decoder returns.

    Attributes
    ----------
    labels : int32 (h, w)
        0 background; ids 1 to n in the raster order of each object's first pixel. Objects are 4-connected and
        hold no hole, except one that other objects fill in part.
    probability : float32 (n,)
        Mean probability of the pixels of each object, id 1 first.
    """

    labels: Int32
    probability: Float32


def decode_votes(
    nucleus: Float32,
    offset: Float32,
    *,
    threshold: float = 0.5,
    min_area_px: int = 30,
    peak_radius_px: int = 4,
    min_votes: float = 10.0,
    smooth_sigma_px: float = 1.5,
    merge_radius_px: float = 8.0,
    merge_saddle: float = 0.6,
    reach_px: float = 8.0,
    grow_px: int = 6,
) -> Decoded:
    """Objects from a nucleus probability and vectors to the centroid.

    Every foreground pixel votes, with its probability as weight, for the place where its vector ends. Peaks
    of the smoothed votes are nuclei; each pixel joins the peak nearest to the end of its vector.

    Parameters
    ----------
    nucleus : float32 (h, w)
        Probability of nucleus.
    offset : float32 (2, h, w)
        Vector (dy, dx) in pixels from the pixel to the centroid of its nucleus.
    threshold
        Foreground is where ``nucleus`` is above this.
    min_area_px
        Smaller objects are dropped.
    peak_radius_px
        A peak is the highest within this radius.
    min_votes
        Least height of a peak: the votes about it, each weighted by its probability and by a Gaussian (1 in
        the middle) of ``smooth_sigma_px``.
    smooth_sigma_px
        Standard deviation of the Gaussian that smooths the votes.
    merge_radius_px, merge_saddle
        Peaks at most this far apart are one nucleus if the votes on the line between them never fall below
        ``merge_saddle`` times the lower peak; 0 merges by distance alone, a value above 1 never merges.
    reach_px
        A pixel joins no peak farther than this from the end of its vector.
    grow_px
        Foreground pixels left without a peak, or cut off from the rest of their nucleus, join a nucleus that
        they touch within this many pixels; the others are dropped.

    Returns
    -------
    Decoded

    Raises
    ------
    ValueError
        The two maps are not of one size.
    """
    if nucleus.ndim != 2 or offset.shape != (2, *nucleus.shape):
        raise ValueError(
            f"offset has shape {offset.shape}; with a nucleus map of shape {nucleus.shape} it must be "
            f"{(2, *nucleus.shape)}. Pass both maps of the same tile, dy first."
        )
    nucleus = np.ascontiguousarray(nucleus, np.float32)
    offset = np.ascontiguousarray(offset, np.float32)
    foreground = nucleus > np.float32(threshold)
    taps = _integer_gaussian(smooth_sigma_px)
    votes = _smooth_votes(_count_votes(nucleus, offset, foreground), taps, (2**31 - 1) // int(taps.sum()) ** 2)
    peaks = find_peaks(votes, peak_radius_px, int(min_votes * _VOTE * _CENTER**2))
    ids = merge_peaks(votes, peaks, float(merge_radius_px), float(merge_saddle))
    owner = nearest_peak(peaks, ids, nucleus.shape[0], nucleus.shape[1], float(reach_px))
    labels = _follow(offset, foreground, owner)
    return tidy(labels, nucleus, foreground, min_area_px=min_area_px, grow_px=grow_px)


def decode_boundary(
    probabilities: Float32,
    *,
    threshold: float = 0.5,
    seed_threshold: float = 0.2,
    min_area_px: int = 30,
    peak_radius_px: int = 3,
    min_depth_px: float = 0.5,
    smooth_sigma_px: float = 0.6,
    merge_radius_px: float = 40.0,
    merge_saddle: float = 0.35,
) -> Decoded:
    """Objects from the probabilities of background, nucleus and nuclear boundary (Yuan & Suh, §2.2).

    Seeds are the peaks of the distance transform of the interior, where nucleus minus boundary is above
    ``seed_threshold``; a watershed on that distance grows them back into the foreground.

    Parameters
    ----------
    probabilities : float32 (3, h, w)
        Background, nucleus, boundary; they add up to 1.
    threshold
        Foreground is where nucleus and boundary together are above this.
    seed_threshold
        Interior is where nucleus minus boundary is above this.
    min_area_px
        Smaller objects are dropped.
    peak_radius_px
        A seed is the deepest interior pixel within this radius.
    min_depth_px
        Least distance of a seed to the end of the interior, after smoothing.
    smooth_sigma_px
        Standard deviation of the Gaussian that smooths the distance.
    merge_radius_px, merge_saddle
        Seeds at most this far apart are one nucleus if the distance on the line between them never falls
        below ``merge_saddle`` times the lower seed.

    Returns
    -------
    Decoded

    Raises
    ------
    ValueError
        The map has not three channels.
    """
    if probabilities.ndim != 3 or len(probabilities) != 3:
        raise ValueError(f"probabilities have shape {probabilities.shape}; they must be (3, h, w): background, nucleus, boundary.")
    _, nucleus, boundary = np.ascontiguousarray(probabilities, np.float32)
    either = nucleus + boundary
    foreground = either > np.float32(threshold)
    interior = (nucleus - boundary > np.float32(seed_threshold)) & foreground
    depth = distance(interior, smooth_sigma_px)
    peaks = find_peaks(depth, peak_radius_px, int(min_depth_px * _DISTANCE_UNIT))
    ids = merge_peaks(depth, peaks, float(merge_radius_px), float(merge_saddle))
    markers = np.zeros(foreground.shape, np.int32)
    markers[peaks[:, 0], peaks[:, 1]] = ids
    labels = watershed(depth.astype(np.float32), markers, foreground, step=_DISTANCE_UNIT / 8)
    return tidy(labels, either, foreground, min_area_px=min_area_px, grow_px=0)


def distance(mask: Mask, smooth_sigma_px: float = 0.0) -> Int32:
    """Distance (1/64 px) of every mask pixel to the nearest pixel outside, smoothed; the same in every crop.

    OpenCV's 5×5 chamfer distance, within 2 % of the Euclidean.
    """
    if mask.size == 0:
        return np.zeros(mask.shape, np.int32)
    exact = cv2.distanceTransform(np.ascontiguousarray(mask).view(np.uint8), cv2.DIST_L2, 5)
    quantized: npt.NDArray[np.uint16] = (np.minimum(exact, 65535 / _DISTANCE_UNIT) * _DISTANCE_UNIT).astype(np.uint16)
    if smooth_sigma_px > 0:
        quantized = cv2.GaussianBlur(quantized, (0, 0), smooth_sigma_px).astype(np.uint16, copy=False)
    return quantized.astype(np.int32)


def tidy(
    labels: Int32,
    probability: Float32,
    foreground: Mask | None = None,
    *,
    min_area_px: int = 0,
    grow_px: int = 0,
) -> Decoded:
    """Make objects whole, drop what is small, and number the rest.

    In this order: only the largest 4-connected part of each label is kept; labels grow into foreground that
    is left over; holes are filled; labels below ``min_area_px`` are dropped; ids become 1 to n in raster
    order.

    Parameters
    ----------
    labels : int32 (h, w)
        Not changed.
    probability : float32 (h, w)
        Averaged over each object.
    foreground : bool (h, w), optional
        Where labels may grow to, by at most ``grow_px`` pixels.
    """
    labels, width = np.ascontiguousarray(labels, np.int32), labels.shape[1]
    rows, starts, values = pixel_runs.encode_runs(labels)
    pixel_runs.drop_fragments(starts, values, *pixel_runs.connect_runs(rows, starts, values, width))
    if foreground is not None and grow_px > 0:
        labels = np.empty(labels.shape, np.int32)
        pixel_runs.paint_runs(starts, values, labels.reshape(-1))
        pixel_runs.grow(labels, foreground, grow_px)
        rows, starts, values = pixel_runs.encode_runs(labels)
    components, count = pixel_runs.connect_runs(rows, starts, values, width)
    pixel_runs.fill_enclosed(rows, starts, values, components, count, width)
    pixel_runs.drop_small(starts, values, min_area_px)
    count = pixel_runs.renumber(values)
    out = np.empty(labels.shape, np.int32)
    pixel_runs.paint_runs(starts, values, out.reshape(-1))
    flat = np.ascontiguousarray(probability, np.float32).reshape(-1)
    return Decoded(out, pixel_runs.mean_in_runs(starts, values, flat, count))


def keep_largest_component(labels: Int32) -> Int32:
    """Keep only the largest 4-connected part of each id; of equal parts the first in raster order."""
    rows, starts, values = pixel_runs.encode_runs(np.ascontiguousarray(labels, np.int32))
    pixel_runs.drop_fragments(starts, values, *pixel_runs.connect_runs(rows, starts, values, labels.shape[1]))
    return _painted(labels, starts, values)


def fill_holes(labels: Int32) -> Int32:
    """Fill every hole: 4-connected background off the image border that touches one id only."""
    width = labels.shape[1]
    rows, starts, values = pixel_runs.encode_runs(np.ascontiguousarray(labels, np.int32))
    components, count = pixel_runs.connect_runs(rows, starts, values, width)
    pixel_runs.fill_enclosed(rows, starts, values, components, count, width)
    return _painted(labels, starts, values)


def remove_small(labels: Int32, min_area_px: int) -> Int32:
    """Drop the ids of fewer than ``min_area_px`` pixels."""
    _, starts, values = pixel_runs.encode_runs(np.ascontiguousarray(labels, np.int32))
    pixel_runs.drop_small(starts, values, min_area_px)
    return _painted(labels, starts, values)


def relabel(labels: Int32) -> tuple[Int32, int]:
    """Give labels the ids 1 to n in the raster order of their first pixels; returns them and n."""
    _, starts, values = pixel_runs.encode_runs(np.ascontiguousarray(labels, np.int32))
    count = pixel_runs.renumber(values)
    return _painted(labels, starts, values), count


def mean_probability(labels: Int32, probability: Float32, count: int | None = None) -> Float32:
    """Average a map over each id from 1 to ``count`` (default the largest); NaN for an id without pixels."""
    _, starts, values = pixel_runs.encode_runs(np.ascontiguousarray(labels, np.int32))
    if count is None:
        count = int(values.max(initial=0))
    return pixel_runs.mean_in_runs(starts, values, np.ascontiguousarray(probability, np.float32).reshape(-1), count)


def _painted(labels: Int32, starts: Int32, values: Int32) -> Int32:
    out = np.empty(labels.shape, np.int32)
    pixel_runs.paint_runs(starts, values, out.reshape(-1))
    return out


def _integer_gaussian(sigma: float) -> Int32:
    """Taps of a Gaussian as integers, ``_CENTER`` in the middle, cut where they round to 0."""
    if sigma <= 0:
        return np.array([_CENTER], np.int32)
    reach = math.ceil(3 * sigma)
    bell = _CENTER * np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    taps: Int32 = np.rint(bell[bell >= 0.5]).astype(np.int32)
    return taps


@kernel
def _end(start: int, move: float, size: int) -> int:
    """Where a vector ends on one axis, rounded without regard to where it starts; -1 outside."""
    if not abs(move) < _FARTHEST_PX:
        return -1
    end = start + math.floor(move + 0.5)
    return end if 0 <= end < size else -1


@kernel
def _count_votes(nucleus: Float32, offset: Float32, foreground: Mask) -> Int32:
    """Histogram of where the foreground's vectors end, in integers of 1/255 vote."""
    height, width = nucleus.shape
    votes = np.zeros((height, width), np.int32)
    for y in range(height):
        for x in range(width):
            if foreground[y, x]:
                v, u = _end(y, offset[0, y, x], height), _end(x, offset[1, y, x], width)
                if v >= 0 and u >= 0:
                    votes[v, u] += int(min(nucleus[y, x], 1.0) * _VOTE + 0.5)
    return votes


@kernel
def _smooth_votes(votes: Int32, taps: Int32, cap: int) -> Int32:
    """Convolve with the taps along both axes; votes are capped first so that 32 bits hold the result."""
    height, width = votes.shape
    reach = taps.size // 2
    across = np.zeros((height, width), np.int32)
    busy = np.zeros(height, np.bool_)
    for y in range(height):
        for x in range(width):
            if votes[y, x] > 0:
                busy[y] = True
                value = np.int32(min(votes[y, x], cap))
                for u in range(max(0, x - reach), min(width, x + reach + 1)):
                    across[y, u] += value * taps[u - x + reach]
    out = np.zeros((height, width), np.int32)
    for y in range(height):
        target = out[y]
        for v in range(max(0, y - reach), min(height, y + reach + 1)):
            if busy[v]:
                source, tap = across[v], taps[v - y + reach]
                for x in range(width):
                    target[x] += source[x] * tap
    return out


@kernel
def _follow(offset: Float32, foreground: Mask, owner: Int32) -> Int32:
    """Label of each foreground pixel: the owner of the place where its vector ends."""
    height, width = owner.shape
    labels = np.zeros((height, width), np.int32)
    for y in range(height):
        for x in range(width):
            if foreground[y, x]:
                v, u = _end(y, offset[0, y, x], height), _end(x, offset[1, y, x], width)
                if v >= 0 and u >= 0:
                    labels[y, x] = owner[v, u]
    return labels
