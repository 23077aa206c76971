"""The heatmap on tiles, and the outline from the whole heatmap."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from napari_histoseg.errors import SettingsError, TileError, WeightsError
from napari_histoseg.methods.base import Outputs, Survey, TileFrame, TileOutput, Whole
from napari_histoseg.methods.tumour.baselines import smoothed
from napari_histoseg.methods.tumour.config import TumourSettings
from napari_histoseg.methods.tumour.fitted import TUMOUR, Fitted, read_fitted
from napari_histoseg.methods.tumour.heat import HeatNetwork
from napari_histoseg.methods.tumour.refine import Refiner, refined
from napari_histoseg.nn.inference import keep_freed_memory, prepared
from napari_histoseg.nn.weights import sha256_of
from napari_histoseg.slide import Box

BLOCK_PX, PIECE_PX = 1024, 64
GLASS = 243


class TumourModel:
    """Both networks, ready for a slide.

    Parameters
    ----------
    settings : TumourSettings
    heat : HeatNetwork or None
        None where the outline comes from low resolution alone; its own probability is the map then.
    refiner : Refiner or None
    working_mpp : float
        µm per pixel of the heatmap.
    about : dict
        Name, file and sha256 of the weights.
    """

    merged: dict[int, int] = {}

    def __init__(
        self, settings: TumourSettings, heat: HeatNetwork | None, refiner: Refiner | None, working_mpp: float, about: dict[str, Any]
    ) -> None:
        self.settings, self.weights = settings, about
        self.classes: list[dict[str, Any]] = [TUMOUR]
        self.mpp = working_mpp
        self.scale = 1 if heat is None else heat.scale
        self.stride_px = 32 if heat is None else heat.side_px // heat.scale
        self.halo_px = 0 if heat is None else heat.halo_px
        self.outputs: Outputs = ("labels", "probability", *(["uncertainty"] if settings.mc_samples and self._by_network(settings, refiner) else []))
        self._heat, self._refiner = heat, refiner

    @staticmethod
    def _by_network(settings: TumourSettings, refiner: Refiner | None) -> bool:
        return refiner is not None and settings.outline in ("auto", "refined")

    def fit(self, survey: Survey) -> Iterator[tuple[int, int]]:
        """Nothing is fitted to the slide."""
        return iter(())

    def forward(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(n, h, w, 3) → the probability of tumour (n, 1, rows, columns), a value for each step from patch to patch."""
        if self._heat is None:
            return np.zeros((len(images), 1, 1, 1), np.float32)
        return np.stack([self._heat(image)[None] for image in images])

    def decode(self, raw: NDArray[np.float32], image: NDArray[np.uint8], frame: TileFrame) -> TileOutput:
        """The heatmap in ``tile.keep``; labels follow once all of it is there."""
        keep, read = frame.tile.keep, frame.tile.read
        if self._heat is None:
            return TileOutput(probability=(keep, np.zeros(keep.shape, np.uint8)))
        step = self._heat.step_px // self._heat.scale
        values = (raw[0] * 255 + 0.5).astype(np.uint8).repeat(step, 0).repeat(step, 1)
        return TileOutput(probability=(keep, values[keep.relative_to(read).slices]))

    def finish(self, objects: pd.DataFrame) -> pd.DataFrame:
        """A map has no objects."""
        return pd.DataFrame(index=objects.index)

    def refine(self, whole: Whole) -> Iterator[TileOutput | str]:
        """The outline, in pieces of the tiles that the run wants."""
        if self._by_network(self.settings, self._refiner):
            yield from self._refined(whole)
        else:
            yield from self._thresholded(whole)

    def _refined(self, whole: Whole) -> Iterator[TileOutput | str]:
        assert self._refiner is not None
        seeds = [self.settings.seed + i for i in range(self.settings.mc_samples)]
        read = _Patched(whole.read)
        for keep, mean, spread in refined(self._refiner, whole.frame, whole.bounds, read, whole.probability, seeds):
            for part in pieces(whole.frames, keep):
                where = part.relative_to(keep).slices
                labels = (mean[where] >= self.settings.threshold).astype(np.int32)
                chance = (part, (mean[where] * 255 + 0.5).astype(np.uint8)) if self._heat is None else None
                spreads = (part, (spread[where] * 510 + 0.5).clip(0, 255).astype(np.uint8)) if seeds else None
                yield TileOutput((part, labels), probability=chance, uncertainty=spreads)
        if read.problem is not None:
            yield f"The refiner saw glass where the slide could not be read: {read.problem}"

    def _thresholded(self, whole: Whole) -> Iterator[TileOutput]:
        settings = self.settings
        width = 0 if settings.outline == "threshold" else round(settings.smooth_um / self.mpp)
        for y in range(whole.frame.y, whole.frame.bottom, BLOCK_PX):
            for x in range(whole.frame.x, whole.frame.right, BLOCK_PX):
                keep = Box(x, y, BLOCK_PX, BLOCK_PX).intersect(whole.frame)
                seen = keep.padded(2 * width).intersect(whole.frame)
                heat = np.asarray(whole.probability[seen.relative_to(whole.frame).slices])
                outline = smoothed(heat >= settings.threshold * 255, width)
                for part in pieces(whole.frames, keep):
                    yield TileOutput((part, outline[part.relative_to(seen).slices].astype(np.int32)))


class _Patched:
    """Reads a slide that is damaged in places, which are glass then; the last problem is kept."""

    def __init__(self, read: Callable[[Box], NDArray[np.uint8]]) -> None:
        self._read, self.problem = read, cast("TileError | None", None)

    def __call__(self, box: Box) -> NDArray[np.uint8]:
        """The pixels (h, w, 3)."""
        try:
            return self._read(box)
        except TileError:
            found = np.full((*box.shape, 3), GLASS, np.uint8)
        for y in range(box.y, box.bottom, PIECE_PX):
            for x in range(box.x, box.right, PIECE_PX):
                piece = Box(x, y, PIECE_PX, PIECE_PX).intersect(box)
                try:
                    found[piece.relative_to(box).slices] = self._read(piece)
                except TileError as problem:
                    self.problem = problem
        return found


def pieces(frames: Sequence[TileFrame], box: Box) -> Iterator[Box]:
    """The parts of tiles in a box."""
    for frame in frames:
        part = frame.tile.keep.intersect(box)
        if not part.empty:
            yield part


def load(settings: TumourSettings, weights: Path | None, device: torch.device, precision: torch.dtype) -> TumourModel:
    """The model of a weights file, or of somebody else's ONNX networks that a ``.json`` file describes.

    Raises
    ------
    WeightsError
        No weights are given, or they are for another method or damaged.
    SettingsError
        A refined outline is wanted of a model without a refiner, or another one of a model without a classifier.
    """
    if weights is None:
        raise WeightsError(
            "The method 'tumour' has no weights of its own: it learns from slides that you outlined. Train it (histoseg train tumour), or choose weights that were trained so."
        )
    if device.type == "cpu":
        keep_freed_memory()
    if weights.suffix.lower() == ".json":
        from napari_histoseg.methods.tumour.exchange.bring import brought

        others = brought(weights, settings)
        heat, refiner, mpp, about = others.heat, others.refiner, others.mpp, others.about
    else:
        fitted = read_fitted(weights)
        heat, refiner = heat_of(fitted, settings, device, precision), refiner_of(fitted, device, precision)
        mpp = fitted.settings.mpp * fitted.settings.scale
        about = {"name": fitted.card.name, "sha256": sha256_of(weights), "file": weights.name}
    if heat is None and settings.outline in ("smoothed", "threshold"):
        raise SettingsError(f"{weights.name} has no classifier, and so no heatmap. Set outline to auto or refined.")
    if settings.outline == "refined" and refiner is None:
        raise SettingsError(f"{weights.name} has no network that refines. Set outline to smoothed or threshold, or train with a refiner.")
    return TumourModel(settings, heat, refiner, mpp, about)


def heat_of(fitted: Fitted, settings: TumourSettings, device: torch.device, precision: torch.dtype) -> HeatNetwork | None:
    """The classifier, ready for tiles."""
    if fitted.classifier is None:
        return None
    how = fitted.settings
    network = prepared(fitted.classifier, device, precision)
    return HeatNetwork(network, device, precision, how.crop_px, how.scale, float(settings.overlap), settings.least_tissue)


def refiner_of(fitted: Fitted, device: torch.device, precision: torch.dtype) -> Refiner | None:
    """The refiner, ready for a run."""
    if fitted.refiner is None:
        return None
    how = fitted.settings
    network = prepared(fitted.refiner, device, precision)
    return Refiner(network, device, precision, how.levels, how.factor, how.backbone != "none", how.whole_px)
