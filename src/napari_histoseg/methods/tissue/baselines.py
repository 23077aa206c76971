"""The usual ways of clustering tissue behind one interface, each by its name among the variants."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histoseg.methods.tissue.color import Colors, ColorSettings, fit_kmeans, fit_mean_shift
from napari_histoseg.methods.tissue.fuzzy import FuzzyColors, fit_fuzzy_cmeans
from napari_histoseg.methods.tissue.graph import CutColors, fit_normalized_cut

Learned = Colors | CutColors | FuzzyColors


@dataclass(frozen=True)
class Baseline:
    """How one is learned from pictures and settings at an mpp, and how it comes back from its arrays."""

    fit: Callable[[Sequence[NDArray[np.uint8]], ColorSettings, float], Iterator[tuple[int, int] | str | Learned]]
    from_arrays: Callable[[Mapping[str, NDArray[Any]]], Learned]


BASELINES: dict[str, Baseline] = {
    "kmeans": Baseline(fit_kmeans, Colors.from_arrays),
    "mean_shift": Baseline(fit_mean_shift, Colors.from_arrays),
    "normalized_cut": Baseline(fit_normalized_cut, CutColors.from_arrays),
    "fuzzy_cmeans": Baseline(fit_fuzzy_cmeans, FuzzyColors.from_arrays),
}
