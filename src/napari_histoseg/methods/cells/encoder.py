"""What a network sees in a nucleus: features for grouping by them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_histoseg.errors import WeightsError
from napari_histoseg.nn.compact import CompactNet
from napari_histoseg.nn.imagenet import find_imagenet
from napari_histoseg.nn.inference import to_input
from napari_histoseg.nn.resnet import Encoder, load_encoder
from napari_histoseg.nn.weights import load_into, read_card

NUCLEI = Path(__file__).parents[1] / "nuclei" / "weights" / "compact.safetensors"
SIDE_PX = 64
"""Pictures are enlarged to this side: both encoders halve four times."""
BATCH = 256


class NetworkNumbers:
    """An encoder whose coarsest features are averaged over a picture: ResNet-18 as trained on ImageNet, or that of the nuclei network.

    Parameters
    ----------
    device : torch.device
    kind : {"auto", "imagenet", "nuclei"}
        ``auto`` takes ImageNet's where torch's own folder has it.

    Raises
    ------
    WeightsError
        ImageNet's weights are asked for and not found, or damaged.
    """

    def __init__(self, device: torch.device, kind: Literal["auto", "imagenet", "nuclei"] = "auto") -> None:
        found = None if kind == "nuclei" else find_imagenet("resnet18")
        if kind == "imagenet" and found is None:
            raise WeightsError("ImageNet weights were not found. Put torchvision's resnet18-….pth into torch's folder for checkpoints, or set encoder to nuclei.")
        self.kind: Literal["imagenet", "nuclei"] = "nuclei" if found is None else "imagenet"
        self._device = device
        network: CompactNet | Encoder
        if found is None:
            network = CompactNet(read_card(NUCLEI, "nuclei").width)
            load_into(network, NUCLEI)
        else:
            network = Encoder()
            load_encoder(network, found)
        self._network = network.to(device).eval()

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pictures (n, px, px, 3) → features (n, 192 or 256)."""
        parts = [self._features(crops[i : i + BATCH]) for i in range(0, len(crops), BATCH)]
        return np.concatenate(parts) if parts else np.empty((0, 1), np.float32)

    def _features(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        large = np.stack([cv2.resize(crop, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_LINEAR) for crop in crops]).astype(np.uint8)
        with torch.inference_mode():
            deepest = self._deepest(to_input(large, self._device, torch.float32))
            return np.asarray(deepest.mean((2, 3)).cpu().numpy(), np.float32)

    def _deepest(self, image: Tensor) -> Tensor:
        levels = self._network.features(image) if isinstance(self._network, CompactNet) else self._network(image)
        deepest: Tensor = levels[-1]
        return deepest
