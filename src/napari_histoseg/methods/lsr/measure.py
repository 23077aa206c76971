"""Shares of classes in painted blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_histoseg.annotations.blocks import Block
from napari_histoseg.annotations.dataset import UNLABELED, Patch, PatchDataset, read_mask
from napari_histoseg.slide.geometry import Box

LEAST_PAINTED = 0.9
"""A block counts as painted from this share of its pixels on."""


@dataclass
class _Mask:
    """A mask, where it lies, and its pixels per level-0 pixel."""

    values: NDArray[np.int32]
    box: Box | None

    def part(self, box: Box | None) -> NDArray[np.int32] | None:
        """What lies in a block; None where it is not all there."""
        if box is None or self.box is None:
            return self.values if box == self.box else None
        if self.box.intersect(box) != box:
            return None
        rows, columns = self.values.shape
        y, x = rows / self.box.height, columns / self.box.width
        top, bottom = (round((v - self.box.y) * y) for v in (box.y, box.bottom))
        left, right = (round((v - self.box.x) * x) for v in (box.x, box.right))
        return self.values[top : max(bottom, top + 1), left : max(right, left + 1)]


def painted_shares(dataset: PatchDataset, blocks: Sequence[Block], values: Sequence[int]) -> dict[int, NDArray[np.float64]]:
    """Shares of the classes in the blocks that are painted, by coarse label.

    A block is painted where a painted patch of the same slide or picture covers it, and at least nine tenths of it have a class.

    Returns
    -------
    dict of int to (blocks, classes) array
        An entry for every coarse label, with no rows where nothing is painted.
    """
    masks: dict[str, list[_Mask]] = {}
    for patch in dataset.patches:
        if patch.mask is not None:
            masks.setdefault(_source(patch), []).append(_Mask(read_mask(dataset.path(patch.mask)), None if patch.box is None else Box(*patch.box)))
    found: dict[int, list[list[float]]] = {block.coarse: [] for block in blocks}
    for block in blocks:
        parts = (mask.part(block.box) for mask in masks.get(_source(block.patch), ()))
        part = next((p for p in parts if p is not None and (p != UNLABELED).mean() >= LEAST_PAINTED), None)
        if part is not None:
            known = part[part != UNLABELED]
            found[block.coarse].append([float((known == value).mean()) for value in values])
    return {label: np.array(rows).reshape(-1, len(values)) for label, rows in found.items()}


def _source(patch: Patch) -> str:
    return patch.slide_fingerprint or patch.source
