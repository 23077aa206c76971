"""A fitted model of cell classes: how nuclei become numbers, and numbers classes. What a weights file holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from napari_histoseg.errors import SettingsError, WeightsError
from napari_histoseg.methods.cells.config import CellsSettings, CellsTraining
from napari_histoseg.methods.cells.encoder import NetworkNumbers
from napari_histoseg.methods.cells.gan import InfoGan
from napari_histoseg.methods.cells.gantask import classify
from napari_histoseg.methods.cells.grouping import (
    AROUND_WEIGHT,
    EXTRA_WEIGHT,
    MOST_AXES,
    Axes,
    Groups,
    Planes,
    from_tensors,
    to_tensors,
)
from napari_histoseg.methods.cells.looks import Look, Viewer, picture_numbers, shape_numbers, size_and_roundness
from napari_histoseg.nn.weights import ModelCard, load_tensors, read_card, save_tensors
from napari_histoseg.objects.colors import numbered_classes

SEEN = ("method", "colors", "around_um", "surroundings", "crop_px", "encoder", "mpp")
"""Settings that say how nuclei are looked at: a fitted model brings its own."""


@dataclass(frozen=True)
class Fitted:
    """Classes of cells, ready for nuclei of any slide.

    Attributes
    ----------
    settings : CellsSettings
        How nuclei are looked at.
    goal : float64 (3,)
        Mean color (0–255) of the pictures that were learned from; those of another slide are shifted to it.
    looks : Axes
        Of what is seen of a nucleus: its picture, its measurements, or what a network sees in it.
    extra : Axes, optional
        Of size and roundness.
    embedding : Axes
        From the nucleus and its neighborhood to the numbers that are kept of it.
    groups : Groups or Planes, optional
        The classes; None where a network says them.
    gan : InfoGan, optional
    encoder : NetworkNumbers, optional
    classes : list of dict
        Value, name and color.
    """

    settings: CellsSettings
    goal: NDArray[np.float64]
    looks: Axes
    embedding: Axes
    extra: Axes | None = None
    groups: Groups | Planes | None = None
    gan: InfoGan | None = None
    encoder: NetworkNumbers | None = None
    classes: tuple[dict[str, Any], ...] = ()

    @property
    def n_classes(self) -> int:
        """How many kinds of cells are told apart."""
        return len(self.classes)

    def shifted(self, crops: NDArray[np.uint8], mean: NDArray[np.float64] | None) -> NDArray[np.uint8]:
        """Pictures at the mean color that was learned at; ``mean`` is that of their slide."""
        return shifted(crops, None if self.settings.colors == "absolute" or mean is None else self.goal - mean)

    def numbers(self, look: Look, crops: NDArray[np.uint8]) -> NDArray[np.float64]:
        """What is seen of each nucleus of a look (n, k), before its neighborhood is."""
        return _project(self.settings.method, self.looks, self.extra, self.encoder, crops, look.table)

    def apply(self, viewer: Viewer, look: Look, mean: NDArray[np.float64] | None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Class probabilities (n, K) and embedding (n, at most 16) of a look's own nuclei."""
        crops = self.shifted(look.crops, mean)
        if self.gan is None:
            place = self.place(Seen(viewer, look, crops))
        else:
            chance, features = classify(self.gan, crops[look.own])
            place = self.embedding.project(features)
            if self.groups is None:
                return chance, place.astype(np.float32)
        assert self.groups is not None
        return self.groups.probability(place).astype(np.float32), place.astype(np.float32)

    def place(self, seen: Seen) -> NDArray[np.float64]:
        """Embedding (n, at most 16) of a look's own nuclei, their colors as they are learned at; not of a network."""
        return self.embedding.project(with_around(self.settings, seen.viewer, seen.look, self.numbers(seen.look, seen.crops)))

    def save(self, path: Path, card: ModelCard) -> None:
        """Write a weights file."""
        arrays = {"goal": self.goal, **to_tensors("looks", self.looks), **to_tensors("embedding", self.embedding)}
        if self.extra is not None:
            arrays |= to_tensors("extra", self.extra)
        if self.groups is not None:
            arrays |= to_tensors("groups", self.groups)
        # Copies, for a weights file takes no two tensors of one memory.
        tensors = {name: torch.from_numpy(np.array(values, order="C")) for name, values in arrays.items()}
        if self.gan is not None:
            tensors |= {f"gan.{name}": values.detach().cpu().contiguous() for name, values in self.gan.state_dict().items()}
        save_tensors(path, tensors, card)


def with_around(settings: CellsSettings, viewer: Viewer, look: Look, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """The numbers of a look's own nuclei, beside the mean of their neighborhoods where these count."""
    if not settings.reach_um:
        return numbers[look.own]
    return np.hstack([numbers[look.own], AROUND_WEIGHT * viewer.mean_around(look, numbers)])


def raw_numbers(method: str, encoder: NetworkNumbers | None, crops: NDArray[np.uint8], table: pd.DataFrame) -> NDArray[np.float32]:
    """What is seen of each nucleus (n, d), as it is."""
    if method in ("morphology", "mixture"):
        return shape_numbers(table)
    return picture_numbers(crops) if encoder is None else encoder(crops)


def _project(
    method: str, looks: Axes, extra: Axes | None, encoder: NetworkNumbers | None, crops: NDArray[np.uint8], table: pd.DataFrame
) -> NDArray[np.float64]:
    seen = looks.project(raw_numbers(method, encoder, crops, table))
    return seen if extra is None else np.hstack([seen, EXTRA_WEIGHT * extra.project(size_and_roundness(table))])


def shifted(crops: NDArray[np.uint8], by: NDArray[np.float64] | None) -> NDArray[np.uint8]:
    """Pictures whose colors are moved by (3,), 0–255."""
    return crops if by is None else np.clip(np.rint(crops + by.astype(np.float32)), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Seen:
    """A look whose pictures have the colors that are learned at, with its viewer."""

    viewer: Viewer
    look: Look
    crops: NDArray[np.uint8]


def fit_groups(seen: list[Seen], settings: CellsSettings, n_classes: int, goal: NDArray[np.float64], encoder: NetworkNumbers | None) -> tuple[Fitted, int]:
    """Learn classes from looks, all of their nuclei together; and how many classes have any of them.

    Raises
    ------
    SettingsError
        There are fewer nuclei than classes.
    """
    order = order_of(seen)
    check_count(len(order), n_classes)
    method = settings.method
    raw = np.concatenate([raw_numbers(method, encoder, s.crops[s.look.own], _owned(s.look)) for s in seen])[order]
    shape = method in ("morphology", "mixture")
    looks = Axes.fit(raw, MOST_AXES, each_scaled=shape, seed=settings.seed)
    extra = None
    if method == "neighborhood":
        sizes = np.concatenate([size_and_roundness(_owned(s.look)) for s in seen])[order]
        extra = Axes.fit(sizes, 2, each_scaled=True, seed=settings.seed)
    rows = [with_around(settings, s.viewer, s.look, _project(method, looks, extra, encoder, s.crops, s.look.table)) for s in seen]
    joined = np.concatenate(rows)[order]
    embedding = Axes.fit(joined, MOST_AXES, each_scaled=False, seed=settings.seed)
    places = embedding.project(joined)
    if encoder is not None:
        settings = settings.model_copy(update={"encoder": encoder.kind})
    groups = Groups.fit(places, n_classes, "mixture" if method == "mixture" else "kmeans", settings.seed)
    used = len(np.unique(groups.probability(places).argmax(1)))
    return Fitted(settings, goal, looks, embedding, extra, groups, None, encoder, numbered_classes(n_classes)), used


def order_of(seen: list[Seen]) -> NDArray[np.int64]:
    """Order in which the own nuclei of all looks, one look after the other, do not hang on tiles: by slide, then by id."""
    slides = {id(viewer): n for n, viewer in enumerate(dict.fromkeys(s.viewer for s in seen))}
    which = np.concatenate([np.full(int(s.look.own.sum()), slides[id(s.viewer)]) for s in seen])
    return np.lexsort((np.concatenate([s.look.positions[s.look.own] for s in seen]), which))


def _owned(look: Look) -> pd.DataFrame:
    return look.table[look.own]


def check_count(count: int, n_classes: int) -> None:
    """Refuse to make more classes than there are nuclei.

    Raises
    ------
    SettingsError
    """
    if not count:
        raise SettingsError("There are no nuclei here to group. Segment nuclei first (histoseg run nuclei), or choose a region that holds some.")
    if count < n_classes:
        found = "is 1 nucleus" if count == 1 else f"are {count} nuclei"
        raise SettingsError(f"There {found}, too few for {n_classes} classes. Lower n_classes, or choose a larger region.")


def card_of_fit(fitted: Fitted, *, name: str, summary: str = "", training: CellsTraining | None = None, **more: Any) -> ModelCard:
    """The card of a fitted model."""
    settings = fitted.settings.model_dump(mode="json", include={*SEEN, "n_classes", "seed", "sample"})
    if training is not None:
        settings |= training.model_dump(mode="json")
    width = int(fitted.gan.classifier.in_features // 8) if fitted.gan is not None else int(fitted.embedding.directions.shape[1])
    return ModelCard(
        method="cells", name=name, summary=summary or "Classes of cells that nobody named yet.", architecture=fitted.settings.method,
        width=width, mpp=fitted.settings.mpp, classes=list(fitted.classes), settings=settings, **more,
    )  # fmt: skip


def read_fitted(path: Path, device: torch.device) -> tuple[Fitted, ModelCard]:
    """A fitted model from a weights file.

    Raises
    ------
    WeightsError
        The file is missing, damaged, or for something else.
    """
    card = read_card(path, "cells")
    try:
        seen = {key: card.settings[key] for key in SEEN}
        settings = CellsSettings.parse({**seen, "n_classes": max(len(card.classes), 2)})
        tensors = load_tensors(path)
        arrays = {name: values.numpy() for name, values in tensors.items() if not name.startswith("gan.")}
        fitted = Fitted(
            settings, arrays["goal"], from_tensors("looks", Axes, arrays), from_tensors("embedding", Axes, arrays),
            extra=from_tensors("extra", Axes, arrays) if "extra.mean" in arrays else None,
            groups=_groups(arrays),
            classes=tuple(card.classes),
        )  # fmt: skip
        if settings.method == "infogan":
            fitted = replace(fitted, gan=gan_of(card, {k.removeprefix("gan."): v for k, v in tensors.items() if k.startswith("gan.")}, device))
    except (KeyError, ValueError, RuntimeError, TypeError, SettingsError) as error:
        raise WeightsError(f"{path} is no model of cell classes that this version can read: {error}. The file was damaged, or made by another version.") from None
    if settings.method == "features":
        fitted = replace(fitted, encoder=NetworkNumbers(device, settings.encoder))
    return fitted, card


def _groups(arrays: dict[str, Any]) -> Groups | Planes | None:
    kind = Planes if "groups.weights" in arrays else Groups
    found: Groups | Planes | None = from_tensors("groups", kind, arrays) if any(name.startswith("groups.") for name in arrays) else None
    return found


def gan_of(card: ModelCard, state: dict[str, Any], device: torch.device) -> InfoGan:
    """The generative network of a card, with its tensors."""
    training = CellsTraining.parse({k: v for k, v in card.settings.items() if k in CellsTraining.model_fields})
    network = InfoGan(int(state["classifier.bias"].shape[0]), training.z_dim, training.width, own_trunk=training.improved)
    network.load_state_dict(state)
    return network.to(device).eval()
