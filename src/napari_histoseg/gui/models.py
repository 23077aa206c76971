"""Models as the window lists them."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from napari_histoseg.gui.modelpicker import ModelChoice
from napari_histoseg.methods.nuclei import config
from napari_histoseg.nn.weights import CARD_KEY, ModelCard

log = logging.getLogger(__name__)

TITLES = {
    "compact": "Compact network (fast, default)",
    "unet": "U-Net (3 classes)",
    "log": "Blobs and watershed (no network)",
}
LOG_NOTE = "Blob detection on the hematoxylin density, then a watershed. Needs no weights and no training; less exact."


def nuclei_models() -> list[ModelChoice]:
    """The shipped weights with their cards, the default first, and the way without a network."""
    folder = Path(config.__file__).parent / "weights"
    choices = []
    for name in ("compact", "unet"):
        try:
            card = shipped_card(folder / f"{name}.safetensors")
        except (OSError, ValueError) as error:
            # An incomplete installation still runs what it has; the list shows only that.
            log.warning("The weights '%s' that ship with the package cannot be read: %s", name, error)
            continue
        choices.append(ModelChoice(TITLES[name], name, None, card))
    return [*choices, ModelChoice(TITLES["log"], "log", None, None, LOG_NOTE)]


def shipped_card(path: Path) -> ModelCard:
    """The card of weights that ship, read from the file's header alone: no torch, whose import takes seconds."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return ModelCard.model_validate_json(header["__metadata__"][CARD_KEY])


def choice_of(path: Path) -> ModelChoice | None:
    """A weights file as a line of the list; None when it cannot be read."""
    try:
        card = shipped_card(path)
    except (OSError, ValueError, KeyError) as error:
        log.warning("The weights %s cannot be read: %s", path, error)
        return None
    score = card.scores.get("validation", {}).get("score")
    title = path.stem if score is None else f"{path.stem} (score {score:.2f})"
    return ModelChoice(title, card.architecture, path, card)
