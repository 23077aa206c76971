"""The networks: ResNet-18 to its third layer with the paper's two modules (Ciga & Martel 2021, tables A.1 and A.2), and a finer one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from napari_histoseg.errors import SettingsError
from napari_histoseg.nn.blocks import conv_bn_relu
from napari_histoseg.nn.resnet import RESNET_WIDTH, Block, Encoder

STRIDE_PX = 16
"""The encoder halves four times: tiles start at multiples of this, and input sides are multiples of it."""
HALO_PX = {"paper": 144, "improved": 192}
"""A pixel's output depends on no pixel farther away than this (tested)."""
DECODER_CHANNELS, CLASSIFIER_CHANNELS = 64, 8
MAPS_PX = {"paper": 8, "improved": 4}
"""Pixels of the picture along a side of a pixel of the segmentation output, before it is enlarged."""
CLASS_AXIS = {"answer.weight": 0, "answer.bias": 0, "decoder.4.weight": 0, "decoder.4.bias": 0, "classifier.1.weight": 1, "classifier.4.weight": 0}
"""Tensors with an entry for each class, and along which axis."""


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
