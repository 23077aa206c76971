"""Kinds of tissue on tiles: what a clusterer sees → class and certainty, pixel by pixel; glass is background."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from napari_histoseg.errors import PixelSizeError
from napari_histoseg.methods.base import Survey, TileFrame, TileOutput
from napari_histoseg.methods.carry import MODEL
from napari_histoseg.methods.glass import open_glass
from napari_histoseg.methods.tissue.clusterer import Seen
from napari_histoseg.methods.tissue.config import Clustering, TissueSettings
from napari_histoseg.methods.tissue.crf import CrfSettings, dense_crf, reach_px
from napari_histoseg.methods.tissue.fields import fields
from napari_histoseg.methods.tissue.fitted import Fitted, fit, read_fitted
from napari_histoseg.methods.tissue.shades import leveled, slide_density
from napari_histoseg.methods.tissue.variants import WAYS
from napari_histoseg.nn.inference import keep_freed_memory
from napari_histoseg.nn.weights import sha256_of
from napari_histoseg.objects.colors import numbered_classes
from napari_histoseg.slide import Box, Slide

ALIGN_PX = 32
"""Tiles start at multiples of this, so that squares of 4 pixels and more are the same in every tile."""
SAME_MPP = 0.16
"""Pixel sizes that differ by less are the same to classes that were learned at one of them."""
SAMPLED = 12
"""Fields that a slide's colors, and how it differs from the training, are taken from where classes are known."""
STRANGE, MANY = 1.0, 0.25
"""A place farther than this from all that was learned is strange; a slide with this share of them is unlike the training."""


class TissueModel:
    """Kinds of tissue of a slide, ready for tiles once it is fitted.

    Parameters
    ----------
    slide : Slide
    settings : TissueSettings
    weights : Path, optional
        Learned classes; their own settings say how tissue is looked at.
    """

    stride_px = ALIGN_PX

    def __init__(self, slide: Slide, settings: TissueSettings, weights: Path | None) -> None:
        self._slide = slide
        self._data: list[dict[str, Any]] = [{"title": slide.name, "train_images": 1, "slide_fingerprint": slide.fingerprint()}]
        self.weights: dict[str, Any] | None = None
        self._fitted: Fitted | None = None
        self._density: NDArray[np.float64] | None = None
        if weights is not None:
            self._fitted, card = read_fitted(weights)
            self._data = card.data
            self.weights = {"name": card.name, "sha256": sha256_of(weights), "file": weights.name}
            settings = _of_model(settings, self._fitted, weights)
        self.settings = settings
        self.mpp = slide.working_mpp(settings.mpp, force=weights is None or settings.force_mpp)
        if self._fitted is None:
            # Detail that a slide does not have says nothing.
            self.mpp = max(self.mpp, slide.require_mpp())
        self._crf = _crf(settings, self.mpp) if settings.crf else None
        margin = WAYS[settings.variant].margin_px(settings, self.mpp)
        margin += 0 if self._crf is None else reach_px(self._crf)
        margin = max(margin, 2 * round(settings.glass_um / self.mpp))
        self.halo_px = ALIGN_PX * -(-margin // ALIGN_PX)
        self._take(self._fitted)

    def _take(self, fitted: Fitted | None) -> None:
        self.classes = list(numbered_classes(self.settings.n_classes) if fitted is None else fitted.classes)
        self.merged = {} if fitted is None else dict(fitted.shown)

    # -- before the first tile ----------------------------------------------------------------------------------------

    def fit(self, survey: Survey) -> Iterator[tuple[int, int] | str]:
        """Learn the classes, or only the slide's colors where they are known; what is learned lies in the result's folder."""
        kept = survey.folder / MODEL
        if kept.exists():
            self._fitted, card = read_fitted(kept)
            self._density = np.asarray(card.scores["slide_density"], np.float64)
            self._take(self._fitted)
            return
        known = self._fitted is not None
        pictures = fields(survey, SAMPLED if known else self.settings.sample, self.settings.sample_px, self.settings.seed)
        self._density = slide_density(self._slide)
        seen = [self._colored(picture) for picture in pictures]
        if self._fitted is None:
            yield from self._learn(seen)
        elif reason := unlike(self._fitted, seen):
            yield reason
        assert self._fitted is not None
        self._take(self._fitted)
        scores = {"slide_density": self._density.tolist()}
        self._fitted.save(kept, self._fitted.card(name="tissue", data=self._data, scores=scores))

    def _learn(self, pictures: list[NDArray[np.uint8]]) -> Iterator[tuple[int, int] | str]:
        for said in fit(pictures, self.settings, self.mpp):
            if isinstance(said, Fitted):
                self._fitted = said
            else:
                yield said
        assert self._fitted is not None
        found = self._fitted.n_classes
        if found < self.settings.n_classes:
            yield alike(found, self.settings.n_classes)

    def _colored(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        assert self._density is not None
        return picture if self.settings.colors == "absolute" else leveled(picture, self._density)

    # -- tiles --------------------------------------------------------------------------------------------------------

    def forward(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Nothing for a whole batch: pictures are looked at one by one. (n, 0, h, w)."""
        return np.empty((len(images), 0, *images.shape[1:3]), np.float32)

    def decode(self, raw: NDArray[np.float32], image: NDArray[np.uint8], frame: TileFrame) -> TileOutput:
        """The most probable class of each pixel, as its fine value, and its probability; and patches."""
        assert self._fitted is not None
        colored = self._colored(image)
        seen = self._fitted.clusterer.see(colored)
        keep = frame.tile.keep
        inner = keep.relative_to(frame.tile.read)
        chance = self._chance(seen, colored, inner, frame)
        best = chance.argmax(0)
        stride = self._fitted.clusterer.stride_px
        fine = self._fitted.fine(seen)
        rows = np.minimum(np.arange(inner.y, inner.bottom) // stride, fine.shape[1] - 1)
        columns = np.minimum(np.arange(inner.x, inner.right) // stride, fine.shape[2] - 1)
        labels = fine[best, rows[:, None], columns[None, :]]
        certainty = (chance.max(0) * 255 + 0.5).astype(np.uint8)
        if self.settings.glass_um:
            bare = open_glass(image, max(1, round(self.settings.glass_um / frame.mpp)))[inner.slices]
            labels, certainty = np.where(bare, 0, labels), np.where(bare, 0, certainty)
        patches = self._patches(labels, certainty, seen, frame)
        return TileOutput((keep, labels.astype(np.int32)), None, (keep, certainty.astype(np.uint8)), patches=patches)

    def _chance(self, seen: Seen, image: NDArray[np.uint8], inner: Box, frame: TileFrame) -> NDArray[np.float32]:
        """Probability of each class (k, h, w) in the tile without its margin."""
        assert self._fitted is not None
        chance = self._fitted.probability(seen)
        around = inner if self._crf is None else inner.padded(reach_px(self._crf)).intersect(Box(0, 0, image.shape[1], image.shape[0]))
        chance = enlarged(chance, image.shape[:2], around)
        if self._crf is None:
            return chance
        origin = (frame.tile.read.x + around.x, frame.tile.read.y + around.y)
        refined = dense_crf(chance, np.ascontiguousarray(image[around.slices]), self._crf, origin)
        return refined[:, *inner.relative_to(around).slices]

    def _patches(self, labels: NDArray[np.int32], certainty: NDArray[np.uint8], seen: Seen, frame: TileFrame) -> pd.DataFrame:
        """Places of a grid over the whole slide, with what they look like; none on glass."""
        assert self._fitted is not None
        keep, stride = frame.tile.keep, self._fitted.clusterer.stride_px
        step = max(ALIGN_PX, round(self.settings.patch_um / frame.mpp / ALIGN_PX) * ALIGN_PX)
        y, x = (v.ravel() for v in np.meshgrid(_multiples(keep.y, keep.bottom, step), _multiples(keep.x, keep.right, step), indexing="ij"))
        value = labels[y - keep.y, x - keep.x]
        y, x, value = y[value > 0], x[value > 0], value[value > 0]
        rows, columns = ((v - o) // stride for v, o in ((y, frame.tile.read.y), (x, frame.tile.read.x)))
        place = self._fitted.place(seen.features[:, rows, columns].T)
        names = {c["value"]: c["name"] for c in self.classes}
        table = {
            "id": np.arange(1, len(x) + 1, dtype=np.uint32),
            "centroid_x_um": (x + 0.5) * frame.mpp,
            "centroid_y_um": (y + 0.5) * frame.mpp,
            "class": np.array([names[self.merged.get(int(v), int(v))] for v in value], object),
            "probability": certainty[y - keep.y, x - keep.x].astype(np.float32) / np.float32(255),
            "cluster": value.astype(np.int32),
        }
        return pd.DataFrame(table | {f"embedding_{axis:02d}": place[:, axis] for axis in range(place.shape[1])})

    def finish(self, objects: pd.DataFrame) -> pd.DataFrame:
        """A class map has no objects."""
        return pd.DataFrame(index=objects.index)


def enlarged(chance: NDArray[np.float32], shape: tuple[int, ...], part: Box) -> NDArray[np.float32]:
    """A part of probabilities at every pixel of (h, w), from those of squares (linear between their middles)."""
    if chance.shape[1:] == shape:
        return chance[:, *part.slices]
    stride = -(-shape[0] // chance.shape[1])
    size = (chance.shape[2] * stride, chance.shape[1] * stride)
    out = [cv2.resize(one, size, interpolation=cv2.INTER_LINEAR)[part.slices] for one in chance]
    return np.stack(out).astype(np.float32, copy=False)


def _multiples(start: int, stop: int, step: int) -> NDArray[np.int64]:
    """The middles of a grid's cells that lie in [start, stop)."""
    first = -(-(start - step // 2) // step)
    return np.arange(first * step + step // 2, stop, step)


def _crf(settings: TissueSettings, mpp: float) -> CrfSettings:
    return CrfSettings.parse(
        {
            "smooth_px": max(settings.crf_smooth_um / mpp, 0.5),
            "smooth_weight": settings.crf_weight / 3,
            "color_px": max(settings.crf_color_um / mpp, 1.0),
            "color_sd": settings.crf_color_sd,
            "color_weight": settings.crf_weight,
            "rounds": settings.crf_rounds,
        }
    )


def _of_model(settings: TissueSettings, fitted: Fitted, weights: Path) -> TissueSettings:
    """Settings where the model's own say how tissue is looked at."""
    if "mpp" in settings.model_fields_set and abs(settings.mpp / fitted.mpp - 1) > SAME_MPP and not settings.force_mpp:
        raise PixelSizeError(
            f"The classes of {weights.name} were learned at {fitted.mpp:g} µm/px and mean nothing at {settings.mpp:g}. "
            "Leave mpp out, or learn classes at this pixel size."
        )
    known = {name: getattr(fitted.settings, name) for name in Clustering.model_fields}
    return settings.model_copy(update={**known, "mpp": fitted.mpp})


def unlike(fitted: Fitted, pictures: list[NDArray[np.uint8]]) -> str:
    """Why a slide is unlike those that classes were learned from; empty where it is not."""
    far = [seen.surprise for picture in pictures if (seen := fitted.clusterer.see(picture)).surprise is not None]
    share = float(np.mean(np.concatenate([np.ravel(f) for f in far if f is not None]) > STRANGE)) if far else 0.0
    if share < MANY:
        return ""
    return (
        f"This slide looks unlike those that the classes were learned from: {share:.0%} of the tissue looked at is farther from every class than "
        "99 % of theirs was. Look at the result with care, normalize the slide's stain, or learn classes with this slide among others."
    )


def alike(found: int, asked: int) -> str:
    """What to say where there are fewer classes than were asked for."""
    kinds = "1 kind" if found == 1 else f"{found} kinds"
    return f"The tissue is so alike that {kinds} could be told apart, not {asked}. Choose a larger region to find more."


def load(slide: Slide, settings: TissueSettings, weights: Path | None, device: torch.device) -> TissueModel:
    """The model for a slide.

    Raises
    ------
    WeightsError
        If the weights are for another method or damaged.
    PixelSizeError
        If the slide has no pixel size, or classes were learned at another.
    """
    if device.type == "cpu":
        keep_freed_memory()
    return TissueModel(slide, settings, weights)
