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

from napari_histoseg.errors import WeightsError
from napari_histoseg.methods.base import Survey, TileFrame, TileOutput
from napari_histoseg.methods.glass import glass
from napari_histoseg.methods.joint.config import JointSettings
from napari_histoseg.methods.joint.network import HALO_PX, STRIDE_PX, JointNetwork, build, fold
from napari_histoseg.nn.inference import keep_freed_memory, prepared, to_input
from napari_histoseg.nn.weights import ModelCard, load_into, read_card, sha256_of


class JointModel:
    """A trained network with its classes, ready for tiles.

    Parameters
    ----------
    settings : JointSettings
    card : ModelCard
    network : Module
        Prepared for inference.
    device, precision
        Where and how precisely it computes.
    about : dict
        Name, file and sha256 of the weights.
    """

    stride_px = STRIDE_PX
    merged: dict[int, int] = {}

    def __init__(
        self,
        settings: JointSettings,
        card: ModelCard,
        network: nn.Module,
        device: torch.device,
        precision: torch.dtype,
        about: dict[str, Any],
    ) -> None:
        self.settings, self.mpp = settings, card.mpp
        self.weights: dict[str, Any] | None = about
        self.halo_px = HALO_PX[card.architecture]
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


def network_of(path: Path, card: ModelCard) -> JointNetwork:
    """The network of a weights file, in float32 on the CPU.

    Raises
    ------
    WeightsError
        If the file does not fit what its card says.
    """
    if card.architecture not in HALO_PX:
        raise WeightsError(f"{path} names a network '{card.architecture}' that this version does not have. Update napari-histoseg.")
    network = build(card.architecture, card.width, len(card.classes), str(card.settings.get("head", "conv")))
    load_into(network, path)
    return network.eval()


def load(settings: JointSettings, weights: Path | None, device: torch.device, precision: torch.dtype) -> JointModel:
    """The model of a weights file.

    Raises
    ------
    WeightsError
        If no weights are given, or they are for another method or damaged.
    """
    if weights is None:
        raise WeightsError(
            "The method 'joint' has no weights of its own: its classes are yours. Annotate patches and train (histoseg train joint), or choose weights that were trained so."
        )
    card = read_card(weights, "joint")
    network = network_of(weights, card)
    fold(network)
    if device.type == "cpu":
        keep_freed_memory()
    about = {"name": card.name, "sha256": sha256_of(weights), "file": weights.name}
    return JointModel(settings, card, prepared(network, device, precision), device, precision, about)
