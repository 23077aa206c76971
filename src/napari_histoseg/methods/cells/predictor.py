"""Classes of nuclei on tiles: pictures and neighborhoods → embedding → class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from napari_histoseg.errors import SettingsError
from napari_histoseg.methods.base import Survey, TileFrame, TileOutput
from napari_histoseg.methods.carry import MODEL
from napari_histoseg.methods.cells.config import CellsSettings
from napari_histoseg.methods.cells.encoder import NetworkNumbers
from napari_histoseg.methods.cells.fitted import (
    SEEN,
    Fitted,
    Seen,
    card_of_fit,
    check_count,
    fit_groups,
    read_fitted,
)
from napari_histoseg.methods.cells.looks import Look, Viewer, local_labels, looks_until
from napari_histoseg.methods.cells.sources import source_of
from napari_histoseg.nn.inference import keep_freed_memory
from napari_histoseg.nn.weights import sha256_of
from napari_histoseg.objects.colors import numbered_classes
from napari_histoseg.objects.trace import outlines, to_wkb
from napari_histoseg.slide import Box, Slide

COLOR_SAMPLE = 2000
"""Nuclei that a slide's mean color is taken from."""


class CellsModel:
    """Classes of the nuclei of one slide, ready for tiles once it is fitted.

    Parameters
    ----------
    slide : Slide
    settings : CellsSettings
        With the nuclei in ``labels``.
    weights : Path, optional
        A fitted model; its own settings say how nuclei are looked at.
    device : torch.device
    """

    stride_px = 1
    merged: dict[int, int] = {}

    def __init__(self, slide: Slide, settings: CellsSettings, weights: Path | None, device: torch.device) -> None:
        source = source_of(settings.labels, slide)
        self._device = device
        self.weights: dict[str, Any] | None = None
        self._fitted: Fitted | None = None
        if weights is not None:
            self._fitted, card = read_fitted(weights, device)
            self.weights = {"name": card.name, "sha256": sha256_of(weights), "file": weights.name}
            own = self._fitted.settings
            settings = settings.model_copy(update={k: getattr(own, k) for k in (*SEEN, "n_classes")})
        self.settings = settings.model_copy(update={"labels": source.describe()})
        self.mpp = slide.working_mpp(settings.mpp, force=True)
        index = source.index()
        check_count(len(index), 1 if weights is not None else settings.n_classes)
        self._viewer = Viewer(source, index, settings.style, self.mpp, self.mpp / slide.require_mpp(), settings.reach_um)
        self.halo_px = self._viewer.margin_px
        # Classes that a person merged have one value.
        self.classes = list({c["value"]: c for c in (self._fitted.classes if self._fitted else numbered_classes(settings.n_classes))}.values())
        self.notes = list(source.notes)
        self._mean: NDArray[np.float64] | None = None

    # -- before the first tile ----------------------------------------------------------------------------------------

    def fit(self, survey: Survey) -> Iterator[tuple[int, int] | str]:
        """Learn the classes, or only the slide's mean color where they are known; what is learned lies in the result's folder."""
        yield from self.notes
        kept = survey.folder / MODEL
        if kept.exists():
            self._fitted, card = read_fitted(kept, self._device)
            self._mean = np.asarray(card.scores["slide_color"], np.float64)
            return
        wanted = self.settings.sample if self._fitted is None else COLOR_SAMPLE
        looks = []
        for step, look in enumerate(self._looks(survey, wanted)):
            looks.append(look)
            yield sum(int(one.own.sum()) for one in looks[: step + 1]), max(min(wanted, len(self._viewer.index)), 1)
        check_count(sum(int(look.own.sum()) for look in looks), 1 if self._fitted is not None else self.settings.n_classes)
        self._mean = mean_color(looks)
        if self._fitted is None:
            yield from self._learn(looks)
        assert self._fitted is not None
        card = card_of_fit(self._fitted, name="cells", scores={"slide_color": [float(v) for v in self._mean]})
        self._fitted.save(kept, card)

    def _looks(self, survey: Survey, wanted: int) -> Iterator[Look]:
        """Looks at tiles from all over the slide, until that many nuclei were seen."""
        places = ((frame.tile.keep, lambda frame=frame: self._look(survey.read(frame), frame)) for frame in survey.frames)
        return looks_until(wanted, self._viewer, places)

    def _learn(self, looks: list[Look]) -> Iterator[tuple[int, int] | str]:
        assert self._mean is not None
        seen = [Seen(self._viewer, look, look.crops) for look in looks]
        if self.settings.method == "infogan":
            from napari_histoseg.methods.cells.gantrain import learn_gan

            self._fitted = yield from learn_gan(seen, self.settings, self._mean)
            return
        encoder = NetworkNumbers(self._device, self.settings.encoder) if self.settings.method == "features" else None
        self._fitted, used = fit_groups(seen, self.settings, self.settings.n_classes, self._mean, encoder)
        if used < self.settings.n_classes:
            yield alike(used, self.settings.n_classes)

    # -- tiles --------------------------------------------------------------------------------------------------------

    def forward(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Nothing for a whole tile: nuclei are looked at one by one. (n, 0, h, w)."""
        return np.empty((len(images), 0, *images.shape[1:3]), np.float32)

    def decode(self, raw: NDArray[np.float32], image: NDArray[np.uint8], frame: TileFrame) -> TileOutput:
        """Class, probability, embedding and measurements of a tile's nuclei; their pixels as they were given."""
        if not self._viewer.holds(frame.tile.keep):
            return TileOutput(own_ids=True)
        assert self._fitted is not None
        look = self._look(image, frame)
        every, embedding = self._fitted.apply(self._viewer, look, self._mean)
        chance = merged(every, [c["value"] for c in self._fitted.classes], [c["value"] for c in self.classes])
        best = chance.argmax(1)
        objects = look.table[look.own].reset_index(drop=True)
        ids = self._viewer.index.ids[look.positions[look.own]]
        values = np.array([c["value"] for c in self.classes], np.int32)
        objects.insert(0, "id", ids)
        objects["class"] = np.array([c["name"] for c in self.classes], object)[best]
        objects["probability"] = chance.max(1)
        objects["cluster"] = values[best]
        for axis in range(embedding.shape[1]):
            objects[f"embedding_{axis:02d}"] = embedding[:, axis]
        box, labels = self._pixels(look, ids)
        local = local_labels(labels, ids)
        shapes = outlines(local, np.arange(1, len(ids) + 1))
        objects["outline"] = to_wkb(*shapes, scale=frame.downsample, origin_xy=(box.x, box.y))
        return TileOutput((box, labels), objects, own_ids=True)

    def _look(self, image: NDArray[np.uint8], frame: TileFrame) -> Look:
        box = frame.tile.read.intersect(frame.bounds)
        return self._viewer.look(image[box.relative_to(frame.tile.read).slices], box, frame.tile.keep)

    def _pixels(self, look: Look, ids: NDArray[np.uint32]) -> tuple[Box, NDArray[np.uint32]]:
        """The own nuclei's pixels, whole also where one reaches beyond what was read for its picture."""
        extents = self._viewer.index.extents[look.positions[look.own]] / self._viewer.downsample
        low, high = np.floor(extents[:, :2].min(0)).astype(int), np.ceil(extents[:, 2:].max(0)).astype(int)
        box = Box(int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1]))
        found = self._viewer.source.read(box, self.mpp)
        return box, np.where(np.isin(found, ids), found, np.uint32(0))

    def finish(self, objects: pd.DataFrame) -> pd.DataFrame:
        """Nothing needs all nuclei at once."""
        return pd.DataFrame(index=objects.index)


def mean_color(looks: list[Look]) -> NDArray[np.float64]:
    """Mean color (0–255) of the pictures of all own nuclei."""
    sums = np.sum([look.crops[look.own].sum((0, 1, 2), dtype=np.float64) for look in looks], 0)
    pixels = sum(int(look.own.sum()) * look.crops.shape[1] * look.crops.shape[2] for look in looks)
    return np.asarray(sums / pixels)


def merged(chance: NDArray[np.float32], given: list[int], values: list[int]) -> NDArray[np.float32]:
    """Probabilities (n, K) of classes whose values may repeat → those of each value (n, len(values))."""
    return np.stack([chance[:, [k for k, each in enumerate(given) if each == value]].sum(1) for value in values], 1)


def alike(used: int, asked: int) -> str:
    """What to say where nuclei fall into fewer classes than were asked for."""
    return f"The nuclei are so alike that they fall into {used} of the {asked} classes. Lower n_classes, or choose another region."


def load(
    slide: Slide, settings: CellsSettings, weights: Path | None, device: torch.device
) -> CellsModel:
    """The model for a slide.

    Raises
    ------
    SettingsError
        There are no nuclei, or they are not this slide's.
    WeightsError
        If the weights are for another method or damaged.
    """
    if settings.labels is None:
        raise SettingsError(
            "The method 'cells' groups nuclei that were found before. Give them as labels: a result of nuclei, a label image, or a GeoJSON file."
        )
    if isinstance(settings.labels, dict):
        path = settings.labels.get("path")
        if not path:
            raise SettingsError("The nuclei of this run were given as an array, which was not kept. Give them again as labels.")
        settings = settings.model_copy(update={"labels": path})
    if device.type == "cpu":
        keep_freed_memory()
    return CellsModel(slide, settings, weights, device)
