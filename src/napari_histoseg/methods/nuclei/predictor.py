"""Nuclei segmentation on tiles: network → decode → owned objects → table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from napari_histoseg.errors import RegionError
from napari_histoseg.methods.base import Survey, TileFrame, TileOutput
from napari_histoseg.methods.nuclei.config import NucleiSettings
from napari_histoseg.methods.nuclei.decode import Decoded, decode_boundary, decode_votes
from napari_histoseg.methods.nuclei.network import MARGIN_STRIDE, build
from napari_histoseg.methods.nuclei.targets import OFFSET_UNIT_PX
from napari_histoseg.nn.inference import keep_freed_memory, prepared, to_input
from napari_histoseg.nn.weights import ModelCard, load_into, read_card, sha256_of
from napari_histoseg.objects.measure import neighbors, object_table
from napari_histoseg.objects.runs import encode_runs
from napari_histoseg.slide import Box

WEIGHTS = Path(__file__).parent / "weights"
CLASSES = [{"value": 1, "name": "nucleus", "color": "#3cb44b"}]
HALO_PX = 96
"""Enough that the network and the decoder see the same around an object in every tiling (tested: objects are equal)."""
DECODE_MPP = 0.25
"""Pixel size that the decoders' lengths were chosen at."""
VOTES_PX = {"peak_radius_px": 4, "smooth_sigma_px": 2.0, "merge_radius_px": 16.0, "reach_px": 8.0, "grow_px": 6}
BOUNDARY_PX = {"peak_radius_px": 5, "merge_radius_px": 20.0, "smooth_sigma_px": 1.0}
"""Lengths of the two decoders, chosen on the held-out pictures of the shipped weights."""
LOG_SAMPLES = 16
"""Tiles of tissue from all over the slide that blob detection takes its threshold from."""
LOG_MPP = 0.5
"""Blob detection needs no finer pixels, and is four times cheaper at this size than at 0.25."""


def decode(
    architecture: str, raw: NDArray[np.float32], mpp: float, threshold: float = 0.5, min_area_um2: float = 3.0
) -> tuple[Decoded, NDArray[np.float32]]:
    """Activated network output (3, h, w) → labels and nucleus probability (h, w)."""
    least, scale = round(min_area_um2 / mpp**2), DECODE_MPP / mpp
    if architecture == "unet":
        lengths = _scaled(BOUNDARY_PX, scale)
        found = decode_boundary(raw, threshold=threshold, min_area_px=least, merge_saddle=0.7, **lengths)
        return found, raw[1] + raw[2]
    lengths = _scaled(VOTES_PX, scale)
    votes = 30.0 * scale**2
    found = decode_votes(
        raw[0], raw[1:], threshold=threshold, min_area_px=least, min_votes=votes, merge_saddle=0.5, **lengths
    )
    return found, raw[0]


def _scaled(lengths_px: dict[str, Any], scale: float) -> dict[str, Any]:
    """Lengths in pixels at another pixel size; whole numbers stay whole, and at least 1."""
    if abs(scale - 1) < 0.2:
        return lengths_px
    return {k: max(1, round(v * scale)) if isinstance(v, int) else v * scale for k, v in lengths_px.items()}


def activate(architecture: str, output: torch.Tensor) -> torch.Tensor:
    """Logits → probabilities; offsets → pixels."""
    if architecture == "unet":
        return torch.softmax(output, 1)
    return torch.cat([torch.sigmoid(output[:, :1]), output[:, 1:] * OFFSET_UNIT_PX], 1)


def segment(
    network: nn.Module, architecture: str, image: NDArray[np.uint8], mpp: float, model_mpp: float
) -> NDArray[np.int32]:
    """Labels (h, w) of a picture small enough to go through the network at once; for validation while training."""
    height, width = image.shape[:2]
    scale = mpp / model_mpp
    if abs(scale - 1) > 0.15:
        image = np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC), np.uint8)
    rows, columns = image.shape[:2]
    below, right = -rows % MARGIN_STRIDE, -columns % MARGIN_STRIDE
    padded = np.asarray(cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REFLECT), np.uint8)
    device = next(network.parameters()).device
    with torch.inference_mode():
        output = activate(architecture, network(to_input(padded[None], device, torch.float32)).float())
    raw = np.ascontiguousarray(output[0, :, :rows, :columns].cpu().numpy())
    labels = decode(architecture, raw, model_mpp)[0].labels
    if labels.shape != (height, width):
        labels = cv2.resize(labels.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST).astype(np.int32)
    return labels


def on_slide(labels: NDArray[np.int32], frame: TileFrame, least_px: int) -> NDArray[np.int32]:
    """Labels without what lies outside the slide.

    There the picture is mirrored, and a nucleus that the edge cuts is one with its mirror image: only its own half counts, so
    that it is measured as it is, and its center lies on the slide. Halves below ``least_px`` are dropped.
    """
    inside = frame.bounds.intersect(frame.tile.read)
    if inside == frame.tile.read:
        return labels
    where = inside.relative_to(frame.tile.read).slices
    part = labels[where]
    large = np.bincount(part.ravel(), minlength=int(labels.max(initial=0)) + 1) >= max(least_px, 1)
    out = np.zeros_like(labels)
    out[where] = np.where(large[part], part, 0)
    return out


def owned(decoded: Decoded, frame: TileFrame) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Only the objects whose centroid lies in the tile's ``keep`` box, numbered anew from 1; and their probabilities."""
    labels, count = decoded.labels, len(decoded.probability)
    if not count:
        return labels, decoded.probability
    keep, read = frame.tile.keep, frame.tile.read
    table = _centroids(labels, count)
    x, y = table[:, 0] + read.x, table[:, 1] + read.y
    mine = (x >= keep.x) & (x < keep.right) & (y >= keep.y) & (y < keep.bottom)
    lookup = np.zeros(count + 1, np.int32)
    lookup[1:][mine] = np.arange(1, mine.sum() + 1)
    return lookup[labels], decoded.probability[mine]


def _centroids(labels: NDArray[np.int32], count: int) -> NDArray[np.float64]:
    """(n, 2) mean pixel centers (x, y) of ids 1 to n (the corner for ids that are not there), from the runs of the labels: a few thousand instead of a million pixels."""
    _, starts, values = encode_runs(labels)
    inside = values > 0
    ids, first, length = values[inside] - 1, starts[:-1][inside], np.diff(starts)[inside]
    rows, columns = np.divmod(first, labels.shape[1])
    area = np.maximum(np.bincount(ids, length, count), 1)
    x = np.bincount(ids, length * (columns + length / 2), count) / area
    y = np.bincount(ids, length * (rows + 0.5), count) / area
    return np.stack([x, y], 1)


def _cropped(labels: NDArray[np.int32], read: Box) -> tuple[Box, NDArray[np.int32]] | None:
    """The smallest part of the labels that holds all objects, and its box in the slide's frame."""
    rows, columns = np.flatnonzero(labels.any(1)), np.flatnonzero(labels.any(0))
    if not len(rows):
        return None
    box = Box(int(columns[0]), int(rows[0]), int(columns[-1] - columns[0]) + 1, int(rows[-1] - rows[0]) + 1)
    return box.shifted(read.x, read.y), labels[box.slices]


class NucleiModel:
    """Any of the three detectors behind one decode: probability map, owned objects, measurements."""

    stride_px = MARGIN_STRIDE
    classes = CLASSES
    merged: dict[int, int] = {}

    def __init__(
        self,
        settings: NucleiSettings,
        mpp: float,
        forward: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
        find: Callable[[NDArray[np.float32], float], tuple[Decoded, NDArray[np.float32]]],
        weights: dict[str, Any] | None = None,
        fit: Callable[[Survey], None] | None = None,
        halo_px: int = HALO_PX,
    ) -> None:
        self.settings, self.mpp, self.weights = settings, mpp, weights
        self.halo_px = halo_px
        self.forward = forward
        self._find = find
        self._fit = fit

    def fit(self, survey: Survey) -> Iterator[tuple[int, int]]:
        """Blob detection takes its threshold from tissue all over the slide; networks need nothing."""
        if self._fit is not None:
            self._fit(survey)
        return iter(())

    def decode(self, raw: NDArray[np.float32], image: NDArray[np.uint8], frame: TileFrame) -> TileOutput:
        """Labels, object table and probability map of one tile."""
        decoded, probability = self._find(raw, frame.mpp)
        keep, read = frame.tile.keep, frame.tile.read
        least = round(self.settings.min_area_um2 / frame.mpp**2)
        labels, certainty = owned(decoded._replace(labels=on_slide(decoded.labels, frame, least)), frame)
        where = keep.relative_to(read).slices
        chance = (probability[where] * 255 + 0.5).astype(np.uint8)
        objects = object_table(
            labels, image, mpp=frame.mpp, downsample=frame.downsample, origin_px=(read.x, read.y), probability=certainty
        )
        objects.insert(3, "class", "nucleus")
        if self.settings.min_probability > 0:
            labels, objects = _certain(labels, objects, self.settings.min_probability)
        return TileOutput(_cropped(labels, read), objects, (keep, chance))

    def finish(self, objects: pd.DataFrame) -> pd.DataFrame:
        """Number of other nuclei within the neighborhood radius, over the whole run."""
        centers = objects[["centroid_x_um", "centroid_y_um"]].to_numpy(float)
        return pd.DataFrame({"neighbors": neighbors(centers, self.settings.neighbor_radius_um)}, index=objects.index)


def _certain(
    labels: NDArray[np.int32], objects: pd.DataFrame, least: float
) -> tuple[NDArray[np.int32], pd.DataFrame]:
    sure = objects["probability"].to_numpy() >= least
    lookup = np.zeros(int(labels.max(initial=0)) + 1, np.int32)
    ids = objects["id"].to_numpy()[sure]
    lookup[ids] = ids
    return lookup[labels], objects[sure].reset_index(drop=True)


def load(
    settings: NucleiSettings, weights: Path | None, device: torch.device, precision: torch.dtype
) -> NucleiModel:
    """The model that the settings name; given weights bring their own architecture.

    Raises
    ------
    WeightsError
        If the weights are no weights, for another method, or damaged.
    """
    if settings.model == "log" and weights is None:
        return _load_log(settings)
    path = weights if weights is not None else WEIGHTS / f"{settings.model}.safetensors"
    card = read_card(path, "nuclei")
    network = _network(path, card, device, precision)

    def forward(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            output = network(to_input(images, device, precision)).float()
            return np.ascontiguousarray(activate(card.architecture, output).cpu().numpy())

    def find(raw: NDArray[np.float32], mpp: float) -> tuple[Decoded, NDArray[np.float32]]:
        return decode(card.architecture, raw, mpp, settings.threshold, settings.min_area_um2)

    about = {"name": card.name, "sha256": sha256_of(path), "file": path.name}
    return NucleiModel(settings, card.mpp, forward, find, about)


def _network(path: Path, card: ModelCard, device: torch.device, precision: torch.dtype) -> nn.Module:
    network = build(card.architecture, card.width)
    load_into(network, path)
    if device.type == "cpu":
        keep_freed_memory()
    return prepared(network, device, precision)


def _load_log(settings: NucleiSettings) -> NucleiModel:
    from napari_histoseg.methods.nuclei import log

    model: list[log.LogModel] = []

    def fit(survey: Survey) -> None:
        with suppress(RegionError):  # nothing but glass: nothing is found
            model[:] = [log.fit_log(survey.tissue(LOG_SAMPLES), LOG_MPP)]

    def forward(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Blob detection works on pixels: the picture goes through as it is."""
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32)

    def find(raw: NDArray[np.float32], mpp: float) -> tuple[Decoded, NDArray[np.float32]]:
        image = np.ascontiguousarray(raw.transpose(1, 2, 0)).astype(np.uint8)
        if not model:
            return Decoded(np.zeros(image.shape[:2], np.int32), np.zeros(0, np.float32)), np.zeros(image.shape[:2], np.float32)
        return log.segment_log(image, model[0], mpp=mpp, min_area_um2=settings.min_area_um2)

    halo = -(-round(log.halo_um() / LOG_MPP) // MARGIN_STRIDE) * MARGIN_STRIDE
    return NucleiModel(settings, LOG_MPP, forward, find, fit=fit, halo_px=halo)

