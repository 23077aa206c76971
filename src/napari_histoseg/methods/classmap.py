"""Class maps on tiles: network → class and its certainty, pixel by pixel; glass is background."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from napari_histoseg.methods.base import Survey, TileFrame, TileOutput
from napari_histoseg.methods.glass import glass
from napari_histoseg.methods.settings import MapSettings
from napari_histoseg.nn.inference import keep_freed_memory, prepared, to_input
from napari_histoseg.nn.weights import ModelCard, sha256_of


class ClassMapModel:
    """A trained network whose output channels are the classes of its card, ready for tiles.

    Parameters
    ----------
    settings : MapSettings
    card : ModelCard
    network : Module
        Prepared for inference; gives logits at the resolution of its input.
    halo_px, stride_px : int
        Margin that a tile needs, and what tiles start at multiples of.
    device, precision
        Where and how precisely it computes.
    about : dict
        Name, file and sha256 of the weights.
    """

    merged: dict[int, int] = {}

    def __init__(
        self,
        settings: MapSettings,
        card: ModelCard,
        network: nn.Module,
        halo_px: int,
        stride_px: int,
        device: torch.device,
        precision: torch.dtype,
        about: dict[str, Any],
    ) -> None:
        self.settings, self.mpp = settings, card.mpp
        self.weights: dict[str, Any] | None = about
        self.halo_px, self.stride_px = halo_px, stride_px
        # A background that nobody named needs no row in legends.
        self.classes = [c for c in card.classes if c["value"] or "color" in c]
        self._values = np.array([c["value"] for c in card.classes], np.int32)
        self._network, self._device, self._precision = network, device, precision

    def fit(self, survey: Survey) -> Iterator[tuple[int, int]]:
        """Nothing is fitted to the slide."""
        return iter(())

    def forward(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(n, h, w, 3) uint8 → class probabilities (n, classes, h, w) float32."""
        with torch.inference_mode():
            output = self._network(to_input(images, self._device, self._precision)).float()
            return np.ascontiguousarray(torch.softmax(output, 1).cpu().numpy())

    def decode(self, raw: NDArray[np.float32], image: NDArray[np.uint8], frame: TileFrame) -> TileOutput:
        """The most probable class of each pixel, its value, and its probability; glass is background with probability 0."""
        keep = frame.tile.keep
        where = keep.relative_to(frame.tile.read).slices
        chance = raw[:, where[0], where[1]]
        labels = self._values[chance.argmax(0)]
        certainty = (chance.max(0) * 255 + 0.5).astype(np.uint8)
        if self.settings.glass_um:
            reach = min(max(1, round(self.settings.glass_um / frame.mpp)), self.halo_px)
            bare = glass(image, reach)[where]
            labels, certainty = np.where(bare, 0, labels), np.where(bare, 0, certainty)
        return TileOutput((keep, labels.astype(np.int32)), None, (keep, certainty.astype(np.uint8)))

    def finish(self, objects: pd.DataFrame) -> pd.DataFrame:
        """A class map has no objects."""
        return pd.DataFrame(index=objects.index)


def model_of(
    settings: MapSettings, card: ModelCard, weights: Path, network: nn.Module, halo_px: int, stride_px: int, device: torch.device, precision: torch.dtype
) -> ClassMapModel:
    """The model of a network that a weights file holds, prepared for the device."""
    if device.type == "cpu":
        keep_freed_memory()
    about = {"name": card.name, "sha256": sha256_of(weights), "file": weights.name}
    return ClassMapModel(settings, card, prepared(network, device, precision), halo_px, stride_px, device, precision, about)
