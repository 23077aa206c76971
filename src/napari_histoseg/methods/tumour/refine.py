"""The outline: a network over the picture at low resolution and the heatmap (§2.6 of the paper), in training and in a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_histoseg.methods.tumour.refiners import dropout_on
from napari_histoseg.methods.tumour.sheets import stained
from napari_histoseg.slide import Box

BLOCK_PX, HALO_PX = 1024, 256
"""Pixels of an outline that are computed at once, and the margin around them."""

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Refiner:
    """A refining network, ready for a run.

    Attributes
    ----------
    network : Module
        (n, 3 or 4, h, w) in 0–1 → list of logits (n, 1, h, w), the first one final.
    levels : int
        Halvings in the network: sides of what it sees are multiples of 2 to this power.
    factor : int
        Pixels of the heatmap for each pixel that the network sees, along each axis.
    heat : bool
        Whether it takes the heatmap.
    whole_px : int
        Side that the whole slide is brought to, as published; 0 works at the pixels of the heatmap, block by block.
    """

    network: nn.Module
    device: torch.device
    precision: torch.dtype
    levels: int
    factor: int = 1
    heat: bool = True
    whole_px: int = 0

    @property
    def step_px(self) -> int:
        """Pixels of the heatmap that the network pools together in the end."""
        return int(2**self.levels) * self.factor

    def probability(self, picture: NDArray[np.uint8], heat: NDArray[np.uint8], seeds: Sequence[int] = ()) -> tuple[Array, Array]:
        """The probability (h, w) of tumour in a picture, and its standard deviation over passes with dropout; without seeds one pass without.

        Parameters
        ----------
        picture : (h, w, 3) uint8
        heat : (h, w) uint8
        seeds : sequence of int
            One of each pass with dropout on.
        """
        height, width = picture.shape[:2]
        if self.whole_px:
            seen = [np.asarray(cv2.resize(v, (self.whole_px, self.whole_px), interpolation=cv2.INTER_LINEAR), np.uint8) for v in (picture, heat)]
            back = (height, width)
        else:
            step = self.step_px
            below, right = -height % step, -width % step
            padded = (cv2.copyMakeBorder(v, 0, below, 0, right, cv2.BORDER_REFLECT) for v in (picture, heat))
            seen = [shrunk(np.asarray(v, np.uint8), self.factor) for v in padded]
            back = (height + below, width + right)
        both = self._passes(stacked(seen[0], seen[1] if self.heat else None)[None], seeds)
        mean, spread = (v if v.shape == back else np.asarray(cv2.resize(v, back[::-1], interpolation=cv2.INTER_LINEAR), np.float32) for v in both)
        return mean[:height, :width], spread[:height, :width]

    def _passes(self, packed: NDArray[np.uint8], seeds: Sequence[int]) -> tuple[Array, Array]:
        image = as_input(torch.from_numpy(packed), self.device).to(self.precision)
        if not seeds:
            mean = self._once(image)
            return mean, np.zeros_like(mean)
        dropout_on(self.network)
        try:
            several = []
            for seed in seeds:
                with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
                    torch.manual_seed(seed)
                    several.append(self._once(image))
        finally:
            self.network.eval()
        return np.mean(several, 0, dtype=np.float32), np.std(several, 0, dtype=np.float32)

    def _once(self, image: Tensor) -> Array:
        with torch.inference_mode():
            return np.asarray(torch.sigmoid(self.network(image)[0].float())[0, 0].cpu().numpy(), np.float32)


def shrunk(plane: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """A plane or picture at ``factor`` times its pixel size: means of squares, of whole ones only."""
    rows, columns = plane.shape[0] // factor, plane.shape[1] // factor
    if factor == 1:
        return plane
    return np.asarray(cv2.resize(plane[: rows * factor, : columns * factor], (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)


def stacked(picture: NDArray[np.uint8], heat: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """What a refiner sees: (3, h, w), or (4, h, w) with the heatmap."""
    planes = picture.transpose(2, 0, 1)
    return np.ascontiguousarray(planes if heat is None else np.concatenate([planes, heat[None]]))


def as_input(packed: Tensor, device: torch.device) -> Tensor:
    """(n, c, h, w) uint8 → float32 in 0–1, channels last."""
    return packed.to(device).float().div_(255).contiguous(memory_format=torch.channels_last)


def blocks(frame: Box) -> Iterator[tuple[Box, Box]]:
    """What is computed at once, and what is looked at for it, over a frame of working pixels; anchored at the slide's corner."""
    first_y, first_x = frame.y // BLOCK_PX * BLOCK_PX, frame.x // BLOCK_PX * BLOCK_PX
    for y in range(first_y, frame.bottom, BLOCK_PX):
        for x in range(first_x, frame.right, BLOCK_PX):
            keep = Box(x, y, BLOCK_PX, BLOCK_PX).intersect(frame)
            yield keep, keep.padded(HALO_PX)


def refined(
    refiner: Refiner, frame: Box, bounds: Box, picture: Callable[[Box], NDArray[np.uint8]], heat: NDArray[np.uint8], seeds: Sequence[int] = ()
) -> Iterator[tuple[Box, Array, Array]]:
    """The probability of tumour over a frame, piece by piece, with its spread over passes with dropout.

    Parameters
    ----------
    frame, bounds : Box
        What the heatmap covers, and the slide, in working pixels.
    picture : callable
        Box → pixels (h, w, 3).
    heat : array (h, w) uint8
        Over the frame. Outside it is continued by mirroring, as far as the slide goes.

    Notes
    -----
    Where there is nothing to refine, and on glass where there is no heatmap, there is no tumour, whatever the network says.
    """
    if refiner.whole_px:
        mean, spread = refiner.probability(picture(frame), np.asarray(heat[:]), seeds)
        yield frame, mean, spread
        return
    for keep, around in blocks(frame):
        seen = _stepped(around, refiner.step_px).intersect(bounds)
        inside = seen.intersect(frame)
        part = np.asarray(heat[inside.relative_to(frame).slices])
        if not part.any() and refiner.heat:
            yield keep, np.zeros(keep.shape, np.float32), np.zeros(keep.shape, np.float32)
            continue
        padding = (inside.y - seen.y, seen.bottom - inside.bottom, inside.x - seen.x, seen.right - inside.right)
        part = np.asarray(cv2.copyMakeBorder(part, *padding, cv2.BORDER_REFLECT), np.uint8)
        shown = picture(seen)
        if not refiner.heat and not stained(shown).any():
            yield keep, np.zeros(keep.shape, np.float32), np.zeros(keep.shape, np.float32)
            continue
        mean, spread = refiner.probability(shown, part, seeds)
        where = keep.relative_to(seen).slices
        yield keep, mean[where], spread[where]


def _stepped(box: Box, step: int) -> Box:
    """A box that begins at a multiple of a step of the slide: what the network pools together does not hang on the frame."""
    x, y = box.x // step * step, box.y // step * step
    return Box(x, y, box.right - x, box.bottom - y)
