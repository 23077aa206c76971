"""Maps of the classes that were learned from segmentation and classification patches."""

from __future__ import annotations

from pathlib import Path

import torch

from napari_histoseg.errors import WeightsError
from napari_histoseg.methods.classmap import ClassMapModel, model_of
from napari_histoseg.methods.joint.config import JointSettings
from napari_histoseg.methods.joint.network import HALO_PX, STRIDE_PX, JointNetwork, build, fold
from napari_histoseg.nn.weights import ModelCard, load_into, read_card


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


def load(settings: JointSettings, weights: Path | None, device: torch.device, precision: torch.dtype) -> ClassMapModel:
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
    return model_of(settings, card, weights, network, HALO_PX[card.architecture], STRIDE_PX, device, precision)
