"""What every way of clustering tissue is to the method: it sees a picture, and says how probable each of its classes is where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Seen:
    """What a clusterer says of a picture of h × w pixels.

    Attributes
    ----------
    probability : float32 (n_fine, h, w) or (n_fine, ceil(h / s), ceil(w / s))
        Of each class, sums to 1; for every pixel, or for squares of s pixels, s being the clusterer's ``stride_px``.
    features : float32 (d, ceil(h / s), ceil(w / s))
        What describes a place, for its patch's place on the map of patches.
    surprise : float32 (ceil(h / s), ceil(w / s)), optional
        How far a place is from everything that was learned from; about 1 or less where it is alike.
    """

    probability: NDArray[np.float32]
    features: NDArray[np.float32]
    surprise: NDArray[np.float32] | None = None


class Clusterer(Protocol):
    """A learned way of clustering. Thread-safe; the same pixels give the same numbers in every tile with a margin."""

    @property
    def n_fine(self) -> int:
        """Classes that are told apart."""

    @property
    def margin_px(self) -> int:
        """What has to be seen around a tile."""

    @property
    def stride_px(self) -> int:
        """Squares of this many pixels have one description."""

    @property
    def centers(self) -> NDArray[np.float64]:
        """A point (n_fine, d) a class; alike classes are near each other."""

    def see(self, image: NDArray[np.uint8]) -> Seen:
        """Look at a picture (h, w, 3)."""

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """All that was learned, for a weights file."""
