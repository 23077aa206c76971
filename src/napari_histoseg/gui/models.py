"""The models of nuclei segmentation as the window lists them."""

from __future__ import annotations

import logging

from napari_histoseg.errors import HistosegError
from napari_histoseg.gui.modelpicker import ModelChoice
from napari_histoseg.methods.nuclei import config
from napari_histoseg.nn.weights import read_card

log = logging.getLogger(__name__)

TITLES = {
    "compact": "Compact network (fast, default)",
    "unet": "U-Net (3 classes)",
    "log": "Blobs and watershed (no network)",
}
LOG_NOTE = "Blob detection on the hematoxylin density, then a watershed. Needs no weights and no training; less exact."


def nuclei_models() -> list[ModelChoice]:
    """The shipped weights with their cards, the default first, and the way without a network."""
    from pathlib import Path

    folder = Path(config.__file__).parent / "weights"
    choices = []
    for name in ("compact", "unet"):
        try:
            card = read_card(folder / f"{name}.safetensors", "nuclei")
        except HistosegError as error:
            # An incomplete installation still runs what it has; the list shows only that.
            log.warning("%s", error)
            continue
        choices.append(ModelChoice(TITLES[name], name, None, card))
    return [*choices, ModelChoice(TITLES["log"], "log", None, None, LOG_NOTE)]
