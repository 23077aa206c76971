"""The heatmap: the probability of tumour in each patch, on tissue alone (§2.5 of the paper)."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from napari_histoseg.methods.tumour.sheets import cell_means, stained
from napari_histoseg.nn.inference import to_input

CHUNK = 8
"""Patches at once; larger batches are slower on a processor, whose caches they leave."""
CHUNK_CUDA = 64


@dataclass(frozen=True, eq=False)
class HeatNetwork:
    """A classifier of patches, ready for pictures of any size.

    Attributes
    ----------
    network : Module
        (n, 3, side, side) in 0–1 → (n, 2) logits, prepared for inference.
    side_px : int
        Of a patch, in pixels that are read.
    scale : int
        Pixels that are read for each working pixel.
    overlap : float
        Of neighboring patches.
    least_tissue : float
    """

    network: nn.Module
    device: torch.device
    precision: torch.dtype
    side_px: int
    scale: int
    overlap: float = 0.0
    least_tissue: float = 0.25

    @property
    def step_px(self) -> int:
        """Distance of neighboring patches, in pixels that are read."""
        return round(self.side_px * (1 - self.overlap))

    @property
    def halo_px(self) -> int:
        """Margin that a tile needs, in working pixels: overlapping patches reach into it."""
        return 0 if self.overlap == 0 else self.side_px // self.scale

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """A picture (h, w, 3), in whole patches → the probability of each step × step square, 0 on glass."""
        side, step = self.side_px, self.step_px
        rows, columns = (image.shape[0] - side) // step + 1, (image.shape[1] - side) // step + 1
        shape = (image.shape[1] // self.scale, image.shape[0] // self.scale)
        small = np.asarray(cv2.resize(image, shape, interpolation=cv2.INTER_AREA), np.uint8)
        tissue = cell_means(stained(small), step // self.scale)
        reach = side // step
        share = cv2.boxFilter(tissue, -1, (reach, reach), anchor=(0, 0), borderType=cv2.BORDER_REPLICATE)[:rows, :columns]
        wanted = (share >= self.least_tissue) & (share > 0)
        chance = np.zeros((rows, columns), np.float32)
        places = np.argwhere(wanted)
        chunk = CHUNK if self.device.type == "cpu" else CHUNK_CUDA
        for start in range(0, len(places), chunk):
            some = places[start : start + chunk]
            patches = np.stack([image[y * step : y * step + side, x * step : x * step + side] for y, x in some])
            chance[some[:, 0], some[:, 1]] = self.probability(patches)
        return chance if reach == 1 else _averaged(chance, wanted, reach)

    def probability(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(n, side, side, 3) → the probability of tumour (n,)."""
        with torch.inference_mode():
            logits = self.network(to_input(patches, self.device, self.precision)).float()
            return np.asarray(torch.softmax(logits, 1)[:, 1].cpu().numpy())


def _averaged(chance: NDArray[np.float32], wanted: NDArray[np.bool_], reach: int) -> NDArray[np.float32]:
    """Patches that begin at each step → the mean over all that cover a square of a step; squares that none covers are 0."""
    last = reach - 1
    chance, known = (np.pad(v.astype(np.float32), last) for v in (chance * wanted, wanted))
    view = np.lib.stride_tricks.sliding_window_view
    total, count = (view(v, (reach, reach)).sum((2, 3)) for v in (chance, known))
    return np.asarray(np.divide(total, count, out=np.zeros_like(total), where=count > 0), np.float32)
