"""Weights on disk: one ``.safetensors`` file whose metadata hold the model card. No pickle, ever."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from napari_histoseg.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor, nn

CARD_KEY = "histoseg"
FORMAT_VERSION = 1


class ModelCard(BaseModel):
    """What a weights file is, what it was trained on, and how good it is."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format_version: int = FORMAT_VERSION
    method: str
    name: str
    summary: str = ""
    architecture: str
    width: int
    mpp: float = Field(gt=0)
    classes: list[dict[str, Any]] = Field(default_factory=list)
    settings: dict[str, Any] = Field(default_factory=dict)
    data: list[dict[str, Any]] = Field(default_factory=list)
    data_sha256: str = ""
    scores: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    hardware: str = ""
    seconds: float = 0.0
    license: str = ""

    @property
    def notices(self) -> list[str]:
        """What the training had to say about its data."""
        return [sentence for entry in self.data for sentence in entry.get("notices", ())]


def sha256_of(path: Path) -> str:
    """Hash of a file, as the run record names weights."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def save_weights(path: Path, network: nn.Module, card: ModelCard, half: bool = False) -> None:
    """Write a network and its card; the file appears whole or not at all.

    Parameters
    ----------
    half : bool
        Store floating-point tensors as float16, half the size; they are widened again when loaded.
    """
    state = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    if half:
        state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    save_tensors(path, state, card)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], card: ModelCard) -> None:
    """Write tensors by name, and a card; the file appears whole or not at all."""
    from safetensors.torch import save_file

    partial = path.with_name(path.name + ".partial")
    save_file(dict(tensors), partial, metadata={CARD_KEY: card.model_dump_json()})
    os.replace(partial, path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name; read its card first, which checks the file."""
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = load_file(path)
    return tensors


def read_card(path: Path, method: str | None = None) -> ModelCard:
    """The model card of a weights file, without reading the weights.

    Raises
    ------
    WeightsError
        If the file is missing, no safetensors file, has no card, or was made for another method.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise WeightsError(f"The weights file {path} does not exist. Give the path of a .safetensors file made by 'histoseg train'.")
    try:
        with safe_open(path, framework="np") as file:  # only the header is read; torch stays out
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path} is not a weights file: it cannot be read as safetensors ({error}). "
            "Give a .safetensors file made by 'histoseg train'; other formats are not loaded, because they can run code."
        ) from None
    if CARD_KEY not in metadata:
        raise WeightsError(f"{path} has no model card, so its method and pixel size are unknown. Give a file made by 'histoseg train'.")
    try:
        card = ModelCard.model_validate(json.loads(metadata[CARD_KEY]))
    except (ValueError, ValidationError) as error:
        raise WeightsError(f"The model card in {path} cannot be read: {error}. The file was damaged or made by another program.") from None
    if card.format_version > FORMAT_VERSION:
        raise WeightsError(
            f"{path} was made by a newer version (card format {card.format_version}, this version reads {FORMAT_VERSION}). Update napari-histoseg."
        )
    if method is not None and card.method != method:
        raise WeightsError(f"{path} holds weights for the method '{card.method}', not for '{method}'. Choose weights made for '{method}'.")
    return card


def load_into(network: nn.Module, path: Path) -> None:
    """Load the tensors of a weights file into a network of the card's architecture.

    Raises
    ------
    WeightsError
        If names or shapes differ from the network's.
    """
    state = load_tensors(path)
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    expected = network.state_dict()
    wrong = sorted(k for k in expected.keys() | state.keys() if k not in state or k not in expected or state[k].shape != expected[k].shape)
    if wrong:
        raise WeightsError(
            f"{path} does not fit the network that its card names: {len(wrong)} tensors differ (first: {wrong[0]}). The file was damaged."
        )
    network.load_state_dict(state)
