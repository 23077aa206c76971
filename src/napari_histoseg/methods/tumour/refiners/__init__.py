"""Networks that refine a heatmap, behind one interface: pictures in, a list of logits out."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from napari_histoseg.errors import SettingsError
from napari_histoseg.methods.tumour.refiners.attention import AttentionUNet
from napari_histoseg.methods.tumour.refiners.double import DoubleUNet
from napari_histoseg.methods.tumour.refiners.unet import FILTERS, UNet

LEVELS = len(FILTERS) - 1
_NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {
    "unet": UNet,
    "agunet": AttentionUNet,
    "dagunet": lambda channels_in, levels: AttentionUNet(channels_in, levels, dual=True),
    "doubleunet": DoubleUNet,
}
NAMES = tuple(_NETWORKS)


def build(name: str, channels_in: int = 4, levels: int = LEVELS) -> nn.Module:
    """A refiner with random weights.

    Its ``forward`` takes (n, channels_in, h, w) in 0–1, sides divisible by 2^levels, and returns a list of logits
    (n, 1, h, w): the result first and, in training, those for deep supervision after it.

    Parameters
    ----------
    name : {"unet", "agunet", "dagunet", "doubleunet"}
    channels_in : int
        4 for RGB and heatmap, 3 for RGB alone.
    levels : int
        Poolings, 1 to 8.

    Raises
    ------
    SettingsError
        If there is no such network, or none with as many levels.
    """
    if name not in _NETWORKS:
        raise SettingsError(f"There is no refiner '{name}'. The refiners are: {', '.join(NAMES)}.")
    if not 1 <= levels <= LEVELS:
        raise SettingsError(f"A refiner has 1 to {LEVELS} levels, and {levels} were asked for.")
    return _NETWORKS[name](channels_in, levels)


def dropout_on(network: nn.Module) -> nn.Module:
    """The network for Monte-Carlo dropout: its dropout layers on, all else, batch norm too, as in inference."""
    network.eval()
    for module in network.modules():
        if isinstance(module, (nn.Dropout, nn.Dropout2d)):
            module.train()
    return network
