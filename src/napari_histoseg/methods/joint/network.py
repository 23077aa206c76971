"""The networks: ResNet-18 to its third layer with the paper's two modules (Ciga & Martel 2021, tables A.1 and A.2), and a finer one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from napari_histoseg.errors import SettingsError
from napari_histoseg.nn.blocks import conv_bn_relu

STRIDE_PX = 16
"""The encoder halves four times: tiles start at multiples of this, and input sides are multiples of it."""
HALO_PX = {"paper": 144, "improved": 192}
"""A pixel's output depends on no pixel farther away than this (tested)."""
RESNET_WIDTH, DECODER_CHANNELS, CLASSIFIER_CHANNELS = 64, 64, 8
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of RGB in 0–1, as the ImageNet weights expect it."""
MAPS_PX = {"paper": 8, "improved": 4}
"""Pixels of the picture along a side of a pixel of the segmentation output, before it is enlarged."""
CLASS_AXIS = {"answer.weight": 0, "answer.bias": 0, "decoder.4.weight": 0, "decoder.4.bias": 0, "classifier.1.weight": 1, "classifier.4.weight": 0}
"""Tensors with an entry for each class, and along which axis."""


class Block(nn.Module):
    """ResNet's basic block, with torchvision's names."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if stride > 1 or channels_in != channels:
            self.downsample = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) → (n, channels, h / stride, w / stride)."""
        identity = x if self.downsample is None else self.downsample(x)
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        return functional.relu(self.bn2(self.conv2(x)) + identity, inplace=True)


class Encoder(nn.Module):
    """ResNet-18 up to and including its third layer, with torchvision's names, so that its checkpoints load.

    Parameters
    ----------
    width : int
        Channels of the first layer; ResNet-18's is 64, and the third layer has four times as many.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, width: int = RESNET_WIDTH) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(Block(width, width), Block(width, width))
        self.layer2 = nn.Sequential(Block(width, 2 * width, 2), Block(2 * width, 2 * width))
        self.layer3 = nn.Sequential(Block(2 * width, 4 * width, 2), Block(4 * width, 4 * width))
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("spread", torch.tensor(SPREAD)[:, None, None], persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(n, 3, h, w) in 0–1 → the three layers' features, at 1/4, 1/8 and 1/16 of the resolution."""
        x = functional.relu(self.bn1(self.conv1((image - self.mean) / self.spread)), inplace=True)
        first = self.layer1(functional.max_pool2d(x, 3, 2, 1))
        second = self.layer2(first)
        return first, second, self.layer3(second)


class PaperNetwork(nn.Module):
    """Encoder, segmentation module, and classification module on the segmentation output.

    Parameters
    ----------
    classes : int
    width : int
    head : str
        ``conv``: the classification module of table A.2; ``maxpool``: as in the authors' code, the largest logit of each class.
    """

    def __init__(self, classes: int, width: int = RESNET_WIDTH, head: str = "conv") -> None:
        super().__init__()
        self.classes = classes
        self.encoder = Encoder(width)
        self.decoder = nn.Sequential(
            nn.Conv2d(4 * width, DECODER_CHANNELS, 3, padding=1, bias=False),
            nn.BatchNorm2d(DECODER_CHANNELS),
            nn.ReLU(inplace=True),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(DECODER_CHANNELS, classes, 1),
        )
        self.classifier = nn.Sequential(nn.AdaptiveMaxPool2d(1)) if head == "maxpool" else _classifier(classes)

    def maps(self, image: Tensor) -> Tensor:
        """(n, 3, h, w) in 0–1 → class logits (n, classes, h / 8, w / 8): the segmentation output of table A.1."""
        maps: Tensor = self.decoder(self.encoder(image)[-1])
        return maps

    def enlarge(self, maps: Tensor) -> Tensor:
        """The segmentation output at the picture's resolution, nearest neighbor."""
        return functional.interpolate(maps, scale_factor=MAPS_PX["paper"], mode="nearest")

    def classify(self, maps: Tensor) -> Tensor:
        """Segmentation output → class logits (n, classes) of the patch."""
        scores: Tensor = self.classifier(maps)
        return scores.flatten(1)

    def forward(self, image: Tensor) -> Tensor:
        """(n, 3, h, w) in 0–1 → class logits (n, classes, h, w); h and w divisible by 16."""
        return self.enlarge(self.maps(image))


def _classifier(classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(classes, CLASSIFIER_CHANNELS, 1, bias=False),
        nn.BatchNorm2d(CLASSIFIER_CHANNELS),
        nn.ReLU(inplace=True),
        nn.Conv2d(CLASSIFIER_CHANNELS, classes, 1, bias=False),
    )


class FinerNetwork(nn.Module):
    """The encoder with a decoder that uses all three layers and answers at 1/4 of the resolution.

    Regions smaller than the paper's 8 px cells are seen, borders are smooth, and nothing hangs on the size of a patch. It has
    no classification module: what a classification patch says is told to the class probabilities of its pixels.
    """

    def __init__(self, classes: int, width: int = RESNET_WIDTH) -> None:
        super().__init__()
        self.classes = classes
        self.encoder = Encoder(width)
        self.lateral = nn.ModuleList([nn.Conv2d(width * k, width, 1) for k in (1, 2, 4)])
        self.merge = nn.ModuleList([conv_bn_relu(width, width) for _ in range(3)])
        self.answer = nn.Conv2d(width, classes, 1)

    def maps(self, image: Tensor) -> Tensor:
        """(n, 3, h, w) in 0–1 → class logits (n, classes, h / 4, w / 4)."""
        first, second, third = self.encoder(image)
        x = self.merge[2](self.lateral[2](third))
        x = self.merge[1](self.lateral[1](second) + _doubled(x))
        x = self.merge[0](self.lateral[0](first) + _doubled(x))
        maps: Tensor = self.answer(x)
        return maps

    def enlarge(self, maps: Tensor) -> Tensor:
        """The segmentation output at the picture's resolution, bilinear."""
        return functional.interpolate(maps, scale_factor=MAPS_PX["improved"], mode="bilinear", align_corners=False)

    def forward(self, image: Tensor) -> Tensor:
        """(n, 3, h, w) in 0–1 → class logits (n, classes, h, w); h and w divisible by 16."""
        return self.enlarge(self.maps(image))


def _doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


JointNetwork = PaperNetwork | FinerNetwork


def build(variant: str, width: int, classes: int, head: str = "conv") -> JointNetwork:
    """An untrained network: ``paper`` or ``improved``.

    Raises
    ------
    SettingsError
        If there is no such variant.
    """
    if variant not in HALO_PX:
        raise SettingsError(f"There is no joint network '{variant}'. Choose 'paper' or 'improved'.")
    return PaperNetwork(classes, width, head) if variant == "paper" else FinerNetwork(classes, width)


def fold(network: nn.Module) -> None:
    """Fold the batch norms of the encoder into its convolutions, in place; those in a ``Sequential`` are folded elsewhere."""
    for module in network.modules():
        for convolution, norm in _pairs(module):
            setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm)))
            setattr(module, norm, nn.Identity())


def _pairs(module: nn.Module) -> Sequence[tuple[str, str]]:
    if isinstance(module, Block):
        return (("conv1", "bn1"), ("conv2", "bn2"))
    return (("conv1", "bn1"),) if isinstance(module, Encoder) else ()
