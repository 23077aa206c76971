"""Training a stain style: crops of reference pictures, streamed from them, for the shared loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_histoseg.annotations.dataset import Patch, PatchDataset, data_sha256, read_dataset, split_groups
from napari_histoseg.errors import DatasetError, HistosegError
from napari_histoseg.methods.stain.config import StainTraining
from napari_histoseg.methods.stain.lab import to_lab
from napari_histoseg.methods.stain.loss import NO_CLASS, transfer_loss
from napari_histoseg.methods.stain.network import AB_UNIT, StainNetwork, build
from napari_histoseg.methods.stain.style import colorize, global_vector
from napari_histoseg.nn.weights import ModelCard
from napari_histoseg.slide import Box, Slide
from napari_histoseg.slide.stain import measure
from napari_histoseg.train.card import card_of
from napari_histoseg.train.loop import adamw, cosine

FINEST = 0.85
"""Crops are drawn at down to this part of the working pixel size."""
GLASS_L, LEAST_TISSUE, TRIES = 90.0, 0.1, 6
"""A crop that is brighter than this nearly everywhere is glass: another place is drawn, a few times."""
VECTOR_CROPS = 64
HELD_PX = 1024
PROFILE_PICTURES, PROFILE_PX = 48, 512
"""The stain profile is measured on the middle of so many training pictures."""
COARSE = 4.0
"""Held-out pictures are scored at the working pixel size and at this many times it."""


@dataclass(frozen=True)
class Reference:
    """A picture in the style to learn: a box, in level-0 pixels, of a slide or image; its class, -1 for none."""

    slide: Slide
    box: Box
    name: str
    category: int = NO_CLASS

    @property
    def mpp(self) -> float:
        """µm per level-0 pixel."""
        return self.slide.require_mpp()


class StainTask:
    """Samples, loss and scores of learning a stain style.

    Parameters
    ----------
    settings : StainTraining
    train, val : sequence of Reference
    classes : sequence of str
        Names of the references' classes; with fewer than two there is no class loss.
    provenance : mapping, optional
        Name, summary, data, hash and license for the model card.
    """

    def __init__(
        self,
        settings: StainTraining,
        train: Sequence[Reference],
        val: Sequence[Reference],
        classes: Sequence[str] = (),
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings = settings
        self.train, self.val = list(train), list(val)
        self.classes = list(classes) if len(classes) > 1 else []
        self.provenance = dict(provenance or {})
        # A slide among pictures is drawn more often than they are, but does not drown them.
        chance = np.sqrt([r.box.area * r.mpp**2 for r in self.train])
        self._chance = chance / chance.sum()

    def network(self) -> StainNetwork:
        """A fresh network of the chosen architecture and width."""
        return build(self.settings.architecture, self.settings.width, len(self.classes))

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Adadelta as in the paper, or the loop's AdamW."""
        if self.settings.optimizer == "adamw":
            return adamw(network, self.settings)
        return torch.optim.Adadelta(network.parameters(), lr=self.settings.rate, rho=0.9, eps=1e-6)

    def rate(self, step: int) -> float:
        """Constant for Adadelta, a cosine for AdamW."""
        rate = self.settings.rate
        return cosine(step, self.settings.steps, rate) if self.settings.optimizer == "adamw" else rate

    def sample(self, rng: np.random.Generator) -> dict[str, NDArray[np.generic]]:
        """A shifted, flipped and zoomed crop: ``image`` (1, h, w) uint8 lightness, ``ab`` (2, h, w), ``category``."""
        reference = self.train[int(rng.choice(len(self.train), p=self._chance))]
        strength = self.settings.augmentation
        pixels = self._crop(rng, reference)
        lightness, ab = to_lab(change_amount(rng, pixels, strength) if strength else pixels)
        lightness = degrade(rng, lightness, strength)
        return {
            "image": np.rint(lightness * 2.55).astype(np.uint8)[None],
            "ab": np.ascontiguousarray(ab.transpose(2, 0, 1) / AB_UNIT, np.float32),
            "category": np.int64(reference.category if self.classes else NO_CLASS),
        }

    def _crop(self, rng: np.random.Generator, reference: Reference) -> NDArray[np.uint8]:
        """Pixels of a random place at a random magnification; with tissue in it, where a few tries find some."""
        side, box = self.settings.crop_px, reference.box
        finest = FINEST * max(self.settings.mpp, reference.mpp)
        # At most until the reference covers half of the crop's side, and more often fine than coarse.
        coarsest = min(self.settings.zoom_out * self.settings.mpp, 2 * min(box.shape) * reference.mpp / side)
        zoom_out = max(np.log(coarsest / finest), 0.0)
        pixels = np.empty(0, np.uint8)
        for _ in range(TRIES):
            mpp = float(finest * np.exp(rng.random() ** 2 * zoom_out))
            place = box.scaled(reference.mpp / mpp)
            x, y = (int(_between(rng, start, size, side)) for start, size in ((place.x, place.width), (place.y, place.height)))
            pixels = reference.slide.read_at(mpp, Box(x, y, side, side))
            if np.mean(to_lab(pixels[::4, ::4])[0] < GLASS_L) > LEAST_TISSUE:
                break
        return _turned(pixels, int(rng.integers(8)))

    def loss(self, output: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Squared error of the colors, and the class loss where there are classes."""
        return transfer_loss(output, batch, self.settings.class_weight)

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Root mean square error of a* and b* on the held-out pictures, each under its own mean vector.

        ``rms`` and ``rms_coarse`` are at the working pixel size and at four times it; ``chroma`` is the mean chroma over the
        true one. ``score`` is the negative mean of the two errors. The mean global vector over the training pictures is
        stored in the network on the way.
        """
        assert isinstance(network, StainNetwork)
        network.eval()
        rng = np.random.default_rng(0)
        crops = [self._crop(rng, self.train[i % len(self.train)]) for i in range(VECTOR_CROPS)]
        network.mean_vector.copy_(global_vector(network, [to_lab(c)[0] for c in crops]))
        rows = [self._scores(network, reference) for reference in self.val]
        mean = {k: float(np.mean([row[k] for row in rows])) for k in rows[0]}
        return {"score": -(mean["rms"] + mean["rms_coarse"]) / 2, **mean}

    def _scores(self, network: StainNetwork, reference: Reference) -> dict[str, float]:
        fine = max(self.settings.mpp, reference.mpp)
        out: dict[str, float] = {}
        vector: Tensor | None = None
        for name, mpp in (("rms", fine), ("rms_coarse", COARSE * fine)):
            place = reference.box.scaled(reference.mpp / mpp, inside=True)
            width, height = min(place.width, HELD_PX), min(place.height, HELD_PX)
            corner = Box(place.x + (place.width - width) // 2, place.y + (place.height - height) // 2, max(width, 8), max(height, 8))
            lightness, ab = to_lab(reference.slide.read_at(mpp, corner))
            if vector is None:
                vector = global_vector(network, [lightness])
            found = colorize(network, lightness, vector)
            out[name] = float(np.sqrt(np.mean((found - ab) ** 2)))
            if name == "rms":
                out["chroma"] = float(np.linalg.norm(found, axis=-1).mean() / (np.linalg.norm(ab, axis=-1).mean() + 1e-6))
        return out

    def card(self, scores: Mapping[str, float], seconds: float) -> ModelCard:
        """The model card: settings, data with its stain profile, scores, hardware."""
        settings = self.settings
        return card_of(
            "stain", settings, self.provenance, scores, len(self.val), seconds,
            name="stain style",
            summary="A stain style, learned from reference pictures.",
            architecture=settings.architecture,
            width=settings.width,
            mpp=settings.mpp,
            classes=[{"value": i, "name": name} for i, name in enumerate(self.classes)],
        )  # fmt: skip


def _between(rng: np.random.Generator, start: int, size: int, side: int) -> float:
    """Where a crop begins: inside the box where that is large enough, else around it."""
    return start + (rng.uniform(0, size - side) if size > side else rng.uniform(size - side, 0))


def _turned(pixels: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    """One of the eight flips and quarter turns."""
    turned = np.rot90(pixels, turn % 4)
    return np.ascontiguousarray(turned[:, ::-1] if turn >= 4 else turned)


def change_amount(rng: np.random.Generator, pixels: NDArray[np.uint8], strength: float) -> NDArray[np.uint8]:
    """More or less of all stain: optical density times a number. Lightness and color change together, so hue is kept."""
    amount = float(np.exp(rng.uniform(-0.45, 0.35) * strength))
    table = np.rint(255 * (np.arange(256) / 255) ** amount).astype(np.uint8)
    return np.asarray(table[pixels])


def degrade(rng: np.random.Generator, lightness: NDArray[np.float32], strength: float) -> NDArray[np.float32]:
    """Another scanner's lightness, 0 to 100: contrast, at times blur, sharpening or noise. Its colors stay as they were."""
    if not strength:
        return lightness
    out = 100 * (np.clip(lightness, 0, 100) / 100) ** np.float32(np.exp(rng.normal(0, 0.12 * strength)))
    kind = rng.random()
    if kind < 0.25 * strength:
        out = np.asarray(cv2.GaussianBlur(out, (0, 0), rng.uniform(0.4, 1.4)))
    elif kind < 0.4 * strength:
        out = 1.8 * out - 0.8 * np.asarray(cv2.GaussianBlur(out, (0, 0), 1.0))
    if rng.random() < 0.2 * strength:
        out = out + rng.normal(0, rng.uniform(0.5, 3), out.shape)
    return np.asarray(np.clip(out, 0, 100), np.float32)


def task_from_dataset(folder: Path | PatchDataset, settings: StainTraining) -> StainTask:
    """The training task over a patch dataset: pictures, or boxes of slides, of one style; ``label`` is the optional class.

    A patch with several classes counts as one without.

    Raises
    ------
    DatasetError
        If a picture cannot be opened, or its pixel size is unknown.
    """
    dataset = read_dataset(folder)
    labels = {p.label for p in dataset.patches}
    classes = [c.name for c in dataset.classes if c.name in labels]
    slides: dict[str, Slide] = {}
    train, val = (
        [_reference(dataset, p, classes, slides) for p in part]
        for part in split_groups(dataset.patches, settings.val_fraction, settings.seed)
    )
    if not train:
        raise DatasetError(f"{dataset.folder} has no patch to train on: all are held out. Set the split of at least one patch to 'train'.")
    held = sorted({r.name for r in val})
    note = "scores are of held-out pictures" if held else "nothing was held out: scores are of the training pictures"
    title = dataset.folder.name
    look = {} if dataset.look is None else {"stain": str(dataset.look)}
    data = {"title": title, "train_images": len({r.name for r in train}), "held_out_images": held, "note": note, **look}
    provenance = {
        "name": f"stain style ({title})",
        "data": [{**data, "stain_profile": profile_of(train, title)}],
        "data_sha256": data_sha256(dataset),
    }
    return StainTask(settings, train, val or train, classes, provenance)


def _reference(dataset: PatchDataset, patch: Patch, classes: Sequence[str], slides: dict[str, Slide]) -> Reference:
    """The place that a patch names; its file is opened once."""
    try:
        if patch.source not in slides:
            slides[patch.source] = dataset.open(patch)
    except HistosegError as error:
        raise DatasetError(f"The patch {patch.source} cannot be read: {error}") from error
    slide = slides[patch.source]
    if slide.mpp is None:
        raise DatasetError(f"The pixel size of {patch.source} is unknown. Write \"mpp\" (µm/px) into dataset.json.")
    box = slide.bounds if patch.box is None else Box(*patch.box)
    category = classes.index(patch.label) if isinstance(patch.label, str) else NO_CLASS
    return Reference(slide, box, patch.source, category)


def profile_of(references: Sequence[Reference], name: str) -> dict[str, Any]:
    """The stain profile of the training pictures, as JSON types: measured on up to 48 of them, taken evenly."""
    chosen = np.unique(np.linspace(0, len(references) - 1, PROFILE_PICTURES).astype(int))
    pictures = []
    for reference in (references[i] for i in chosen):
        box = reference.box
        width, height = min(box.width, PROFILE_PX), min(box.height, PROFILE_PX)
        corner = Box(box.x + (box.width - width) // 2, box.y + (box.height - height) // 2, width, height)
        pictures.append(reference.slide.read(0, corner))
    profile: dict[str, Any] = measure(pictures, name=name).model_dump(mode="json")
    return profile
