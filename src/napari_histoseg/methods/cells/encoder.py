"""What the nuclei network sees in a nucleus: features of its encoder, for grouping by them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from napari_histoseg.nn.compact import CompactNet
from napari_histoseg.nn.inference import to_input
from napari_histoseg.nn.weights import load_into, read_card

WEIGHTS = Path(__file__).parents[1] / "nuclei" / "weights" / "compact.safetensors"
SIDE_PX = 64
"""Pictures are enlarged to this side: the encoder halves four times."""
BATCH = 256


class NetworkNumbers:
    """The encoder of the shipped nuclei network, its coarsest features averaged over a picture."""

    def __init__(self, device: torch.device) -> None:
        network = CompactNet(read_card(WEIGHTS, "nuclei").width)
        load_into(network, WEIGHTS)
        self._network, self._device = network.to(device).eval(), device

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pictures (n, px, px, 3) → features (n, 192)."""
        parts = [self._features(crops[i : i + BATCH]) for i in range(0, len(crops), BATCH)]
        return np.concatenate(parts) if parts else np.empty((0, 1), np.float32)

    def _features(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        large = np.stack([cv2.resize(crop, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_LINEAR) for crop in crops]).astype(np.uint8)
        with torch.inference_mode():
            deepest = self._network.features(to_input(large, self._device, torch.float32))[-1]
            return np.asarray(deepest.mean((2, 3)).cpu().numpy(), np.float32)
