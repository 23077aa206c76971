"""torchvision's ImageNet checkpoints: where they lie, whether they are whole, and what of them is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from napari_histoseg.errors import WeightsError
from napari_histoseg.nn.weights import sha256_of

MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of RGB in 0–1, as most of the ImageNet weights expect it."""


@dataclass(frozen=True, slots=True)
class Published:
    """A checkpoint as torchvision publishes it.

    Attributes
    ----------
    title : str
        What messages call it.
    stem : str
        Its file is called ``stem-hash.pth``.
    unused : tuple of str
        How the names of the tensors begin that the networks here leave out.
    """

    title: str
    stem: str
    unused: tuple[str, ...]


PUBLISHED = {
    "resnet18": Published("ResNet-18", "resnet18", ("layer4.", "fc.")),
    "mobilenet_v2": Published("MobileNetV2", "mobilenet_v2", ("classifier.",)),
    "inception_v3": Published("InceptionV3", "inception_v3_google", ("AuxLogits.", "fc.")),
    "vgg16": Published("VGG-16", "vgg16", ("classifier.",)),
}
"""The networks that there are weights for, by torchvision's names."""


class FromPixels(nn.Sequential):
    """Layers that take RGB in 0–1 and give it ImageNet's mean and spread first; the layers' names are those of a plain sequence."""

    mean: Tensor
    spread: Tensor

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("spread", torch.tensor(SPREAD)[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """(n, 3, h, w) in 0–1 → the last layer's output."""
        x = (image - self.mean) / self.spread
        for layer in self:
            x = layer(x)
        return x


def start_convolutions(network: nn.Module) -> None:
    """Random numbers for every convolution that keep the spread of what flows back through it (He et al. 2015); biases are 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def find_imagenet(name: str, file: Path | None = None) -> Path | None:
    """torchvision's checkpoint of that name: the given file, else the one in torch's own folder; None where there is none.

    Parameters
    ----------
    name : str
        One of :data:`PUBLISHED`.
    file : Path, optional

    Raises
    ------
    WeightsError
        If a file is given and is not there.
    """
    published = PUBLISHED[name]
    if file is not None:
        if not file.is_file():
            raise WeightsError(f"The encoder file {file} does not exist. Give torchvision's {published.title} checkpoint ({published.stem}-….pth).")
        return file
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return next(iter(sorted(folder.glob(f"{published.stem}-*.pth"))), None)


def load_imagenet(network: nn.Module, path: Path, name: str) -> None:
    """Load torchvision's checkpoint of that name into a network with its tensors' names and shapes.

    The hash in the file's name is checked, and the file is read as tensors only: it can run no code.

    Raises
    ------
    WeightsError
        If the file is damaged or is none of these.
    """
    published = PUBLISHED[name]
    stem, _, wanted = path.stem.rpartition("-")
    if stem and not sha256_of(path).startswith(wanted):
        raise WeightsError(f"{path} is damaged: its hash does not begin with {wanted}, as its name says. Download it again.")
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged file raises in there is not listed anywhere
        raise WeightsError(f"{path} cannot be read as a checkpoint of tensors ({type(error).__name__}). Give torchvision's {published.title}.") from None
    kept = {k: v for k, v in state.items() if not k.startswith(published.unused)}
    expected = network.state_dict()
    # Checkpoints from before batch norm counted its batches lack the counters, which nothing here needs.
    wrong = [k for k in expected if not k.endswith("num_batches_tracked") and (k not in kept or kept[k].shape != expected[k].shape)]
    if wrong or set(kept) - set(expected):
        difference = (wrong or sorted(set(kept) - set(expected)))[0]
        raise WeightsError(f"{path} is no {published.title} checkpoint with torchvision's names (first difference: {difference}).")
    network.load_state_dict(kept, strict=False)
