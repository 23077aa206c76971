"""The ways of clustering tissue by their names: how each is learned, comes back from a file, and how far it looks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from napari_histoseg.methods.tissue import color, segments, textures
from napari_histoseg.methods.tissue.baselines import BASELINES
from napari_histoseg.methods.tissue.clusterer import Clusterer
from napari_histoseg.methods.tissue.config import Clustering, TissueSettings, TissueTraining, Variant

Pictures = Sequence[NDArray[np.uint8]]
Said = tuple[int, int] | str | Clusterer
"""How far learning is, a sentence for the person, or, at last, what was learned."""
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Way:
    """How one is learned from pictures at an mpp, how it comes back, and the margin (px) that it needs at an mpp."""

    fit: Callable[[Pictures, Clustering, float], Iterator[Said]]
    restore: Callable[[Arrays], Clusterer]
    margin_px: Callable[[Clustering, float], int]


def _fit_textures(pictures: Pictures, settings: Clustering, mpp: float) -> Iterator[Said]:
    yield from textures.fit_textures(
        pictures, n_fine=settings.n_classes, n_words=settings.n_words, window_um=settings.window_um, glass_um=settings.glass_um,
        mpp=mpp, seed=settings.seed,
    )  # fmt: skip


def _fit_network(pictures: Pictures, settings: Clustering, mpp: float) -> Iterator[Said]:
    from napari_histoseg.methods.tissue.deeptask import fit_deep

    training = network_training(settings)
    yield (yield from fit_deep(pictures, training, mpp))


def _restore_network(arrays: Arrays) -> Clusterer:
    from napari_histoseg.methods.tissue.deep import DeepClusterer

    return DeepClusterer.from_arrays(arrays)


def _network_margin(settings: Clustering, mpp: float) -> int:
    from napari_histoseg.methods.tissue.deep import STRIDE_PX
    from napari_histoseg.methods.tissue.network import Encoder

    return STRIDE_PX * math.ceil(Encoder(4, 1).radius_px / STRIDE_PX)


def _color_margin(settings: Clustering, mpp: float) -> int:
    widest = max(settings.smooth_um, color.PLACE_UM) / mpp
    return color.STRIDE_PX * math.ceil((4 * widest + 1) / color.STRIDE_PX)


def _segment_margin(settings: Clustering, mpp: float) -> int:
    return segments.MARGIN * segments.side_of_um(settings.superpixel_um, mpp)


def _texture_margin(settings: Clustering, mpp: float) -> int:
    return textures.margin_px(settings.window_um / mpp, mpp)


MARGINS = {"kmeans": _color_margin, "mean_shift": _color_margin, "normalized_cut": _segment_margin, "fuzzy_cmeans": _segment_margin}
WAYS: dict[Variant, Way] = {
    "improved": Way(_fit_textures, textures.Textures.from_arrays, _texture_margin),
    "paper": Way(_fit_network, _restore_network, _network_margin),
    **{cast(Variant, name): Way(each.fit, each.from_arrays, MARGINS[name]) for name, each in BASELINES.items()},
}


def network_training(settings: Clustering) -> TissueTraining:
    """What the network is trained by, in a run and in a training alike."""
    if isinstance(settings, TissueTraining):
        return settings
    assert isinstance(settings, TissueSettings)
    shared = {name: getattr(settings, name) for name in TissueTraining.model_fields.keys() & TissueSettings.model_fields.keys()}
    return TissueTraining.parse({**shared, "steps": settings.net_steps, "validate_every": max(settings.net_steps // 4, 1)})
