"""Tissue by the paper's network: a trained one says the class of each pixel of any slide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from napari_histoseg.methods.tissue.clusterer import Seen
from napari_histoseg.methods.tissue.network import EPS, DeepNet
from napari_histoseg.nn.inference import fold_batch_norm, to_input

STRIDE_PX = 8
PIECE_PX = 512
"""Side of what goes through the network at once, without its margin, so that memory does not grow with the picture."""
LEAST_SHARE = 1e-3
"""A class with a smaller share of the pixels is empty."""
SAMPLE_PX = 4
"""Every so manieth pixel, down and across, is measured."""
FAR = 0.99
"""Share of the training's places that are no farther from their class than ``reach``."""
FLAT = 1e-4
"""Where what the network sees differs by less, there is one class: rounding would make several."""
_PARTS = ("encoder.", "response_", "feature_", "centers", "share", "reach")


class DeepClusterer:
    """A trained network as a clusterer.

    The paper normalizes the responses of each image by that image. Here the means and spreads are those of the training
    pictures as a whole, since a slide is seen in tiles: tiles that are normalized by themselves make seams, and would see each
    class in each tile. Classes that died are left out; the others come in order of their size.

    Parameters
    ----------
    network : DeepNet
        Measured by :func:`measure`. It is copied.
    mpp : float
        Pixel size that it was trained at.
    device : torch.device
        Where it runs.
    """

    stride_px = STRIDE_PX

    def __init__(self, network: DeepNet, mpp: float, device: torch.device | None = None) -> None:
        self.mpp = mpp
        self._state = {
            name: values.detach().cpu().contiguous().clone() for name, values in network.state_dict().items() if name.startswith(_PARTS)
        }
        self._network = DeepNet(network.classes, network.encoder.head.in_channels // 3, decoder=False)
        self._network.load_state_dict(self._state, strict=False)
        self._order = living(self._network.share)
        self._centers = self._network.centers[self._order].clone()
        self._network.eval().requires_grad_(False)
        fold_batch_norm(self._network)
        self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.on(device or torch.device("cpu"))

    def on(self, device: torch.device) -> Self:
        """Run there."""
        self._device = device
        self._network.to(device)
        return self

    @property
    def n_fine(self) -> int:
        """Classes that live."""
        return len(self._order)

    @property
    def margin_px(self) -> int:
        """How far the network sees, to whole squares of ``stride_px``."""
        return -(-self._network.encoder.radius_px // STRIDE_PX) * STRIDE_PX

    @property
    def centers(self) -> NDArray[np.float64]:
        """Mean of what the network sees in the pixels of each class (n_fine, 3·width), in standard deviations."""
        return self._centers.double().numpy()

    def see(self, image: NDArray[np.uint8]) -> Seen:
        """Probabilities of every pixel, and what the network sees, on average, in squares of 8 pixels, in standard deviations."""
        height, width = image.shape[:2]
        rows, columns = -(-height // STRIDE_PX), -(-width // STRIDE_PX)
        probability = np.empty((self.n_fine, height, width), np.float32)
        features = np.empty((self._network.encoder.head.in_channels, rows, columns), np.float32)
        surprise = np.empty((rows, columns), np.float32)
        for top, left in _corners(height, width):
            chance, pooled, far = self._piece(image, top, left)
            probability[:, top : top + PIECE_PX, left : left + PIECE_PX] = chance
            coarse = slice(top // STRIDE_PX, (top + PIECE_PX) // STRIDE_PX), slice(left // STRIDE_PX, (left + PIECE_PX) // STRIDE_PX)
            features[:, *coarse] = pooled
            surprise[coarse] = far
        return Seen(probability, features, surprise)

    @torch.inference_mode()
    def _piece(self, image: NDArray[np.uint8], top: int, left: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Probabilities, features and surprise of a piece, seen with its margin."""
        network, margin = self._network, self.margin_px
        above, before = min(top, margin), min(left, margin)
        around = image[top - above : top + PIECE_PX + margin, left - before : left + PIECE_PX + margin]
        seen = network.encoder.features(to_input(around[None], self._device, torch.float32))
        seen = seen[..., above : above + PIECE_PX, before : before + PIECE_PX]
        chance = network.normed(network.encoder.head(seen))[0, self._order].softmax(0)
        pooled = standardized(network, pool(seen))[0]
        apart = torch.cdist(pooled.flatten(1).T, self._centers.to(pooled)).amin(1).reshape(pooled.shape[1:])
        return chance.cpu().numpy(), pooled.cpu().numpy(), (apart / network.reach).cpu().numpy()

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """The encoder, and what the training measured."""
        return {"mpp": np.array([self.mpp]), **{name: values.numpy() for name, values in self._state.items()}}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], device: torch.device | None = None) -> Self:
        """What :meth:`arrays` gave."""
        state = {name: torch.from_numpy(np.array(values)) for name, values in arrays.items() if name.startswith(_PARTS)}
        classes, seen = arrays["centers"].shape
        network = DeepNet(classes, seen // 3, decoder=False)
        network.load_state_dict(state, strict=False)
        return cls(network, float(arrays["mpp"][0]), device)


def _corners(height: int, width: int) -> Iterator[tuple[int, int]]:
    for top in range(0, height, PIECE_PX):
        for left in range(0, width, PIECE_PX):
            yield top, left


def pool(features: Tensor) -> Tensor:
    """Means of squares of 8 pixels; those at the end may be smaller."""
    return functional.avg_pool2d(features, STRIDE_PX, ceil_mode=True, count_include_pad=False)


def standardized(network: DeepNet, features: Tensor) -> Tensor:
    """Features (n, c, h, w) in standard deviations of the training pictures."""
    return (features - network.feature_mean[:, None, None]) / network.feature_std[:, None, None]


def living(share: Tensor) -> list[int]:
    """Classes that are not empty, the largest first."""
    order = sorted(range(len(share)), key=lambda k: (-float(share[k]), k))
    return [k for k in order if float(share[k]) >= LEAST_SHARE] or order[:1]


@torch.no_grad()
def measure(network: DeepNet, crops: list[NDArray[np.uint8]]) -> None:
    """Measure on training pictures what the trained network needs, and put it there.

    Mean and spread of the responses of each class and of what the network sees, then each class's share of the pixels
    and its center, and how far places are from their centers.

    Parameters
    ----------
    network : DeepNet
        In evaluation mode.
    crops : list of (h, w, 3) uint8
    """
    device = network.share.device
    pixels, places = [], []
    for crop in crops:
        seen = network.encoder.features(to_input(crop[None], device, torch.float32))
        pixels.append(seen[0, :, SAMPLE_PX // 2 :: SAMPLE_PX, SAMPLE_PX // 2 :: SAMPLE_PX].flatten(1).T)
        places.append(pool(seen)[0].flatten(1).T)
    sample, squares = torch.cat(pixels), torch.cat(places)
    head = network.encoder.head
    assert head.bias is not None
    response = sample @ head.weight[:, :, 0, 0].T + head.bias
    if network.instance_norm:
        network.response_mean.copy_(response.mean(0))
        network.response_std.copy_((response.var(0, correction=0) + EPS).sqrt())
    network.feature_mean.copy_(sample.mean(0))
    network.feature_std.copy_((sample.var(0, correction=0) + EPS).sqrt())
    labels = ((response - network.response_mean) / network.response_std).argmax(1)
    if float((sample.amax(0) - sample.amin(0)).max()) < FLAT:
        labels = torch.zeros_like(labels)
    count = torch.bincount(labels, minlength=network.classes)
    network.share.copy_(count / len(labels))
    scaled = (sample - network.feature_mean) / network.feature_std
    sums = torch.stack([scaled[labels == k].sum(0) for k in range(network.classes)])
    network.centers.copy_(sums / count.clamp_min(1)[:, None])
    alive = network.centers[living(network.share)]
    far = torch.cdist((squares - network.feature_mean) / network.feature_std, alive).amin(1)
    network.reach.copy_(far.sort().values[int(FAR * (len(far) - 1))].clamp_min(EPS))
