"""What the baselines that tell superpixels apart have in common: measuring superpixels, and saying of pixels what is known of theirs.

Superpixels start from a grid. Tiles that begin at multiples of its step have the same grid, and with it the same superpixels but for what
is handed on from beyond a tile's margin.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_histoseg.errors import SettingsError
from napari_histoseg.methods.tissue.clusterer import Seen
from napari_histoseg.methods.tissue.color import Float32, Float64, UInt8, check, lab_of, some
from napari_histoseg.objects.superpixels import Int32, mean_of, superpixels

MARGIN = 8
"""Superpixels around a tile that its own may depend on."""


@dataclass(frozen=True, eq=False)
class Segments:
    """Measured superpixels.

    Attributes
    ----------
    color : float64 (n, 3)
        Mean CIELAB.
    size : float64 (n,)
        Pixels.
    place : float64 (n, 2)
        Mean y and x.
    picture : int64 (n,)
        Which picture they are of.
    """

    color: Float64
    size: Float64
    place: Float64
    picture: NDArray[np.int64]


MOST_DOUBLED = 5
"""Tiles start at multiples of 2 to this."""


@dataclass(frozen=True, eq=False)
class SegmentClusterer:
    """Tells superpixels apart by their mean colors. Each subclass says how, in ``judge``.

    Superpixels depend on the tile. Tiles that begin at multiples of ``stride_px`` and have the margin agree on more than 98 of 100 pixels,
    others on about 93.

    Attributes
    ----------
    points : float64 (n_fine, 3)
        Mean color of each class, CIELAB; the largest class first.
    reach : float
        The distance in color that 99 of 100 superpixels keep to what was learned.
    side_px : int
        Mean side of a superpixel.
    """

    points: Float64
    reach: float
    side_px: int

    @property
    def stride_px(self) -> int:
        """A superpixel's side."""
        return self.side_px

    @property
    def n_fine(self) -> int:
        """Classes that are told apart."""
        return len(self.points)

    @property
    def centers(self) -> Float64:
        """The classes' colors."""
        return self.points

    @property
    def margin_px(self) -> int:
        """Some superpixels."""
        return MARGIN * self.side_px

    def judge(self, color: Float64) -> tuple[Float32, Float64]:
        """Probabilities (n, n_fine) of superpixels of a color (n, 3), and how far they are from what was learned."""
        raise TypeError(f"{type(self).__name__} does not say how it tells superpixels apart.")

    def see(self, image: UInt8) -> Seen:
        """Probabilities of pixels, which are those of their superpixels.

        A place is described by the mean of its superpixel's color, and by how much each of the three coordinates varies inside.
        """
        labels = cut(image, self.side_px)
        color, varied = _measure(lab_of(image), labels)
        probability, far = self.judge(color)
        at = labels[:: self.side_px, :: self.side_px]
        features = np.concatenate([color, varied], 1).astype(np.float32).T
        known = np.stack([np.ascontiguousarray(of_class)[labels] for of_class in probability.T])
        return Seen(known, np.ascontiguousarray(features[:, at]), (far / self.reach).astype(np.float32)[at])


def side_of_um(side_um: float, mpp: float) -> int:
    """Mean side of superpixels in pixels: the power of two next to what is wished, up to 32, so that tiles share their grid."""
    if not (math.isfinite(side_um) and side_um > 0):
        raise SettingsError(f"The mean side of a superpixel is above 0 µm. Got {side_um!r} instead; 4 is usual.")
    return int(2 ** min(max(round(math.log2(side_um / mpp)), 0), MOST_DOUBLED))


def cut(image: UInt8, side_px: int) -> Int32:
    """Superpixels (h, w), numbered from 0, that start from squares of ``side_px``."""
    height, width = image.shape[:2]
    # Only whole squares make a grid of equal steps.
    edges = ((0, -height % side_px), (0, -width % side_px), (0, 0))
    labels = superpixels(np.pad(image, edges, mode="edge"), side_px)[:height, :width]
    used = np.bincount(labels.ravel()) > 0
    return (np.cumsum(used, dtype=np.int32) - 1)[labels]


def _measure(lab: Float32, labels: Int32) -> tuple[Float64, Float64]:
    """Mean colors (n, 3) of superpixels, and how much they vary."""
    planes = lab.transpose(2, 0, 1)
    mean = mean_of(np.concatenate([planes, planes * planes]), labels).astype(np.float64)
    return mean[:, :3], np.sqrt(np.maximum(mean[:, 3:] - mean[:, :3] ** 2, 0))


def survey(pictures: Sequence[UInt8], side_px: int, most: int, seed: int) -> Generator[tuple[int, int], None, Segments]:
    """Measure superpixels of all pictures, at most ``most`` of them, drawn evenly; says how far it is.

    Raises
    ------
    SettingsError
        There is no picture, or one is not 8-bit RGB.
    """
    check(pictures)
    rng = np.random.default_rng(seed)
    share, found = math.ceil(most / len(pictures)), []
    for number, picture in enumerate(pictures):
        labels = cut(picture, side_px)
        size = np.bincount(labels.ravel())
        where = mean_of(np.indices(labels.shape, np.float32), labels)
        rows = np.column_stack([_measure(lab_of(picture), labels)[0], size, where, np.full(len(size), number)])
        found.append(some(rows, share, rng))
        yield number + 1, len(pictures) + 1
    every = some(np.concatenate(found), most, rng)
    # Weights files take no views.
    color, place = (np.ascontiguousarray(part) for part in (every[:, :3], every[:, 4:6]))
    return Segments(color, every[:, 3], place, every[:, 6].astype(np.int64))


def largest_first(classes: NDArray[np.integer], segments: Segments) -> tuple[NDArray[np.intp], Float64]:
    """Classes numbered from 0 by their area, without gaps, and their mean colors (n, 3)."""
    area = np.bincount(classes, segments.size)
    order = np.array([c for c in np.argsort(-area, kind="stable") if area[c]])
    number = np.zeros(len(area), np.intp)
    number[order] = np.arange(len(order))
    colors = np.stack([np.bincount(classes, segments.size * segments.color[:, axis])[order] / area[order] for axis in range(3)], 1)
    return number[classes], colors
