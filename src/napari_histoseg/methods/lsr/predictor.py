"""Maps of the classes that were learned from coarse labels."""

from __future__ import annotations

from pathlib import Path

import torch

from napari_histoseg.errors import WeightsError
from napari_histoseg.methods.classmap import ClassMapModel, model_of
from napari_histoseg.methods.lsr.config import LsrSettings
from napari_histoseg.methods.lsr.network import HALO_PX, STRIDE_PX, UNet
from napari_histoseg.nn.weights import ModelCard, load_into, read_card


def network_of(path: Path, card: ModelCard) -> UNet:
    """The network of a weights file, in float32 on the CPU.

    Raises
    ------
    WeightsError
        If the file does not fit what its card says.
    """
    if card.architecture != "unet":
        raise WeightsError(f"{path} names a network '{card.architecture}' that this version does not have. Update napari-histoseg.")
    network = UNet(len(card.classes), card.width)
    load_into(network, path)
    return network.eval()


def load(settings: LsrSettings, weights: Path | None, device: torch.device, precision: torch.dtype) -> ClassMapModel:
    """The model of a weights file.

    Raises
    ------
    WeightsError
        If no weights are given, or they are for another method or damaged.
    """
    if weights is None:
        raise WeightsError(
            "The method 'lsr' has no weights of its own: its classes are yours. Label blocks and train (histoseg train lsr), or choose weights that were trained so."
        )
    card = read_card(weights, "lsr")
    return model_of(settings, card, weights, network_of(weights, card), HALO_PX, STRIDE_PX, device, precision)
