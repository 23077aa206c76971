"""A trained model as a file: both networks in one, and the settings that they were made with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from napari_histoseg.errors import SettingsError, WeightsError
from napari_histoseg.methods.tumour.config import TumourTraining
from napari_histoseg.methods.tumour.network import Classifier
from napari_histoseg.methods.tumour.refiners import build
from napari_histoseg.nn.weights import ModelCard, load_tensors, read_card, save_tensors

CLASSIFIER, REFINER = "classifier.", "refiner."
TUMOUR = {"value": 1, "name": "tumour", "color": "#e6194b"}


@dataclass(frozen=True, eq=False)
class Fitted:
    """Both networks, in float32 on the CPU; either may be missing.

    Attributes
    ----------
    settings : TumourTraining
        That they were trained with.
    """

    settings: TumourTraining
    card: ModelCard
    classifier: Classifier | None
    refiner: nn.Module | None


def new_refiner(settings: TumourTraining) -> nn.Module:
    """An untrained refiner; without a classifier there is no heatmap that it could take."""
    return build(settings.refiner, channels_in=4 if settings.backbone != "none" else 3, levels=settings.levels)


def save_fitted(path: Path, classifier: Mapping[str, Tensor] | None, refiner: Mapping[str, Tensor] | None, card: ModelCard) -> None:
    """Write the tensors of both networks and their card; the file appears whole or not at all."""
    parts = {CLASSIFIER: classifier or {}, REFINER: refiner or {}}
    tensors = {prefix + name: value.detach().cpu().contiguous() for prefix, state in parts.items() for name, value in state.items()}
    save_tensors(path, tensors, card)


def states(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of classifier and refiner in a file; empty where it has none."""
    tensors = load_tensors(path)
    classifier, refiner = ({k.removeprefix(p): v for k, v in tensors.items() if k.startswith(p)} for p in (CLASSIFIER, REFINER))
    return classifier, refiner


def read_fitted(path: Path) -> Fitted:
    """Read a weights file.

    Raises
    ------
    WeightsError
        It is of another method, damaged, or of a newer version.
    """
    card = read_card(path, "tumour")
    try:
        settings = TumourTraining.parse({k: v for k, v in card.settings.items() if k in TumourTraining.model_fields})
    except SettingsError as error:
        raise WeightsError(f"The model card in {path} cannot be used: {error} The file was damaged, or made by a newer version.") from None
    classifier, refiner = states(path)
    made = None if settings.backbone == "none" or not classifier else _loaded(Classifier(settings.backbone), classifier, path)
    outline = _loaded(new_refiner(settings), refiner, path) if refiner else None
    if made is None and outline is None:
        raise WeightsError(f"{path} holds neither a classifier nor a refiner. The file was damaged.")
    assert made is None or isinstance(made, Classifier)
    return Fitted(settings, card, made, outline)


def _loaded(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> nn.Module:
    expected = network.state_dict()
    wrong = sorted(k for k in expected.keys() | state.keys() if k not in state or k not in expected or state[k].shape != expected[k].shape)
    if wrong:
        raise WeightsError(
            f"{path} does not fit the network that its card names: {len(wrong)} tensors differ (first: {wrong[0]}). The file was damaged."
        )
    network.load_state_dict(dict(state))
    return network.eval().requires_grad_(False)


def start_of(settings: TumourTraining) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of classifier and refiner that a training goes on from; empty where it begins anew.

    Raises
    ------
    WeightsError
        The file is no model of tumour, or one of other pixels, patches or networks than are to be trained.
    """
    path = settings.start
    if path is None:
        return {}, {}
    had = read_fitted(path).settings
    classifier, refiner = states(path)
    rest = "or train from the beginning."
    if abs(had.mpp / settings.mpp - 1) > 1e-3:
        raise WeightsError(f"{path} was trained at {had.mpp:g} µm/px, not at {settings.mpp:g}. Set mpp to {had.mpp:g}, {rest}")
    if had.backbone != settings.backbone:
        raise WeightsError(f"{path} has the classifier '{had.backbone}', not '{settings.backbone}'. Set backbone to {had.backbone}, {rest}")
    if had.crop_px != settings.crop_px:
        raise WeightsError(f"{path} was trained on patches of {had.crop_px} px, not of {settings.crop_px}. Set crop_px to {had.crop_px}, {rest}")
    if refiner and settings.refiner != "none":
        if had.refiner != settings.refiner:
            raise WeightsError(f"{path} has the refiner '{had.refiner}', not '{settings.refiner}'. Set refiner to {had.refiner}, {rest}")
        if had.levels != settings.levels:
            raise WeightsError(f"{path} has a refiner for pictures of {had.picture_px} px, not of {settings.picture_px}. Set refine_px to {had.picture_px}, {rest}")
    return classifier, refiner
