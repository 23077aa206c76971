"""The pictures of a patch dataset in one set of colors, for training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_histoseg.methods.stain.resolve import stained
from napari_histoseg.slide import Box, Slide, open_slide
from napari_histoseg.slide.normalized import Normalizer

if TYPE_CHECKING:
    from napari_histoseg.annotations.dataset import Patch, PatchDataset

CROP_PX = 512
MOST_PICTURES = 32


class PictureStain:
    """How a dataset is looked at: each slide, or group of pictures, is measured once, never a patch by itself.

    Parameters
    ----------
    stain, method
        As for :func:`~napari_histoseg.methods.stain.resolve.stained`.
    """

    def __init__(self, stain: Any, method: str | None = None) -> None:
        self._stain, self._method = stain, method
        self._known: dict[str, Normalizer | None] = {}

    def __call__(self, dataset: PatchDataset, patch: Patch, slide: Slide) -> Slide:
        """The patch's picture or slide, normalized."""
        key = patch.slide or patch.group or patch.source
        if key not in self._known:
            whole = slide if patch.slide is not None else _together(dataset, key)
            self._known[key] = stained(whole, self._stain, self._method).stain
        return slide.with_stain(self._known[key])

    def __str__(self) -> str:
        name = getattr(self._stain, "name", self._stain)
        return f"{name} ({self._method or 'macenko'})"


def _together(dataset: PatchDataset, key: str) -> Slide:
    """The pictures of a group side by side, each cut to its middle, so that they are measured as one."""
    pieces: list[NDArray[np.uint8]] = []
    for patch in dataset.patches:
        if patch.image is None or (patch.group or patch.source) != key or len(pieces) == MOST_PICTURES:
            continue
        with open_slide(dataset.path(patch.image), mpp=dataset.mpp) as picture:
            side = Box((picture.width - CROP_PX) // 2, (picture.height - CROP_PX) // 2, CROP_PX, CROP_PX)
            pieces.append(picture.read(0, side))
    return open_slide(np.concatenate(pieces, 1), mpp=dataset.mpp)
