"""Tissue by fuzzy c-means of superpixels: each belongs to every class by a part.

References
----------
Lei et al., Superpixel-based fast fuzzy c-means clustering for color image segmentation, IEEE Transactions on Fuzzy Systems 27(9), 2019:
superpixels count by their pixels. Theirs come from a watershed, ours from SLIC.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from napari_histoseg.errors import SettingsError
from napari_histoseg.methods.tissue.color import ColorSettings, Float32, Float64, UInt8, different, squares, too_few
from napari_histoseg.methods.tissue.segments import SegmentClusterer, largest_first, side_of_um, survey

MOST = 10_000
"""Superpixels that classes are learned from."""
TOLERANCE = 1e-2
"""Centers that move less than this, in units of CIELAB, are where they stay."""
ROUNDS = 300
STARTS = 3


@dataclass(frozen=True, eq=False)
class FuzzyColors(SegmentClusterer):
    """Learned colors that superpixels belong to by parts.

    Attributes
    ----------
    fuzziness : float
        The exponent m.
    """

    fuzziness: float

    def judge(self, color: Float64) -> tuple[Float32, Float64]:
        """Memberships, and the distance to the nearest color."""
        apart = squares(color, self.points)
        return memberships(apart, self.fuzziness).astype(np.float32), np.sqrt(apart.min(1))

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """The colors and the three numbers."""
        return {"points": self.points, "numbers": np.array([self.reach, self.side_px, self.fuzziness])}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """What `arrays` gave."""
        reach, side, fuzziness = (float(v) for v in arrays["numbers"])
        return cls(np.asarray(arrays["points"], np.float64), reach, round(side), fuzziness)


def fit_fuzzy_cmeans(pictures: Sequence[UInt8], settings: ColorSettings, mpp: float) -> Iterator[tuple[int, int] | str | FuzzyColors]:
    """Learn colors from superpixels of pictures (h, w, 3); says how far it is, and gives what was learned at last.

    Raises
    ------
    SettingsError
        There is no picture, one is not 8-bit RGB, or a setting is out of range.
    """
    m = settings.fuzziness
    if not (math.isfinite(m) and m > 1):
        raise SettingsError(f"The fuzziness of fuzzy c-means is above 1. Got {m!r} instead; 2 is usual.")
    side = side_of_um(settings.superpixel_um, mpp)
    segments = yield from survey(pictures, side, MOST, settings.seed)
    kinds = different(segments.color)
    if kinds < settings.n_classes:
        yield too_few(kinds)
    points = cmeans(segments.color, segments.size, min(settings.n_classes, kinds), m, settings.seed)
    classes, _ = largest_first(squares(segments.color, points).argmin(1), segments)
    # A class whose place another one takes has no superpixel of its own.
    order = [int(np.flatnonzero(classes == c)[0]) for c in range(int(classes.max()) + 1)]
    points = points[squares(segments.color[order], points).argmin(1)]
    apart = np.sqrt(squares(segments.color, points).min(1))
    yield FuzzyColors(points, max(float(np.quantile(apart, 0.99)), 1.0), side, m)


def cmeans(rows: Float64, weights: Float64, n: int, m: float, seed: int) -> Float64:
    """Centers (n, d) of fuzzy c-means of weighted rows; of several starts the one of the least cost."""
    rng = np.random.default_rng(seed)
    tries = [_descend(rows, weights, _start(rows, weights, n, rng), m) for _ in range(STARTS)]
    return min(tries, key=lambda t: t[0])[1]


def memberships(apart: Float64, m: float) -> Float64:
    """Memberships (n, k), which sum to 1, from squared distances (n, k)."""
    # Powers of parts of the least distance stay within range whatever m is.
    apart = np.maximum(apart, 1e-9)
    share = (apart.min(1, keepdims=True) / apart) ** (1 / (m - 1))
    return np.asarray(share / share.sum(1, keepdims=True), np.float64)


def _start(rows: Float64, weights: Float64, n: int, rng: np.random.Generator) -> Float64:
    """Rows that are far from each other, drawn as k-means++ does."""
    points = rows[rng.choice(len(rows), 1, p=weights / weights.sum())]
    while len(points) < n:
        chance = weights * squares(rows, points).min(1)
        points = np.concatenate([points, rows[rng.choice(len(rows), 1, p=chance / chance.sum())]])
    return points


def _descend(rows: Float64, weights: Float64, points: Float64, m: float) -> tuple[float, Float64]:
    """Cost and centers, once these stay."""
    for _ in range(ROUNDS):
        share = weights[:, None] * memberships(squares(rows, points), m) ** m
        # Not a product of matrices: its sums depend on the number of threads.
        moved: Float64 = np.stack([(s[:, None] * rows).sum(0) / s.sum() for s in share.T])
        step = float(np.abs(moved - points).max())
        points = moved
        if step < TOLERANCE:
            break
    apart = squares(rows, points)
    return float((weights[:, None] * memberships(apart, m) ** m * apart).sum()), points
