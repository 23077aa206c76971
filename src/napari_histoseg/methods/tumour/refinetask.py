"""Training the refining network on pictures of low resolution and heatmaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_histoseg.methods.tumour.config import TumourTraining
from napari_histoseg.methods.tumour.fitted import new_refiner
from napari_histoseg.methods.tumour.loss import dice_loss
from napari_histoseg.methods.tumour.refine import Refiner, as_input, refined, shrunk, stacked
from napari_histoseg.methods.tumour.sheets import Sheet
from napari_histoseg.metrics.tumour import shares
from napari_histoseg.nn.weights import ModelCard
from napari_histoseg.predict.device import choose_device, choose_precision
from napari_histoseg.slide import Box
from napari_histoseg.slide.stain import jitter
from napari_histoseg.train.augment import jitter_stain
from napari_histoseg.train.card import card_of
from napari_histoseg.train.loop import adamw, cosine
from napari_histoseg.train.task import Optimizers

ZOOM = 0.2
JITTER = 0.1
"""σ₁ and σ₂ of the paper's change of the stains (§3.4)."""
AIM = 0.7
"""Share of crops around a place of the outline, where there is one."""


@dataclass(frozen=True, eq=False)
class Example:
    """A slide at low resolution with the heatmap (h, w) uint8 that its refiner is taught with."""

    sheet: Sheet
    heat: NDArray[np.uint8]

    def shrunk(self, factor: int) -> Example:
        """At ``factor`` times the pixel size, from the sheet's corner."""
        sheet = self.sheet
        if factor == 1:
            return self
        picture, heat = (shrunk(np.ascontiguousarray(v), factor) for v in (sheet.picture, self.heat))
        truth = np.ascontiguousarray(sheet.truth[factor // 2 :: factor, factor // 2 :: factor][: heat.shape[0], : heat.shape[1]])
        return Example(Sheet(Box(0, 0, heat.shape[1], heat.shape[0]), sheet.mpp * factor, picture, truth), heat)


class RefinerTask:
    """Training the refiner; it takes whole steps itself, of several batches where gradients are accumulated."""

    def __init__(
        self,
        settings: TumourTraining,
        examples: Sequence[Example],
        held: Sequence[Example],
        start: Mapping[str, Tensor] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        # Not checked again: a batch of one picture is enough here.
        self.settings = settings.model_copy(
            update={
                "steps": settings.refine_steps,
                "batch": settings.refine_batch,
                "learning_rate": settings.refine_rate,
                "patience": settings.refine_patience,
                "validate_every": max(1, min(settings.validate_every, settings.refine_steps // 4)),
            }
        )
        self.examples, self.held = [example.shrunk(settings.factor) for example in examples], list(held)
        self.readers = settings.readers
        self.provenance = dict(provenance or {})
        self._start = start
        self._device = choose_device(settings.device)
        self._precision = choose_precision(settings.precision, self._device)

    @property
    def takes_heat(self) -> bool:
        """Whether there is a classifier whose heatmap is refined."""
        return self.settings.backbone != "none"

    def network(self) -> nn.Module:
        """The refiner that the settings name."""
        network = new_refiner(self.settings)
        if self._start is not None:
            network.load_state_dict(dict(self._start))
        return network

    def optimizers(self, network: nn.Module) -> Optimizers:
        """Adam as in the paper, or the loop's AdamW."""
        if self.settings.variant == "paper":
            return Optimizers(refiner=torch.optim.Adam(network.parameters(), lr=self.settings.refine_rate))
        return Optimizers(refiner=adamw(network, self.settings))

    def batch_at(self, rng: np.random.Generator, step: int) -> dict[str, NDArray[np.generic]]:
        """Pictures with heatmaps, and truths; ``accumulated`` times a batch."""
        count = self.settings.batch * self.settings.accumulated
        several = [self._one(np.random.default_rng(int(seed))) for seed in rng.integers(2**62, size=count)]
        return {"image": np.stack([image for image, _ in several]), "truth": np.stack([truth for _, truth in several])}

    def _one(self, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        example = self.examples[int(rng.integers(len(self.examples)))]
        sheet, side = example.sheet, self.settings.picture_px
        paper = self.settings.variant == "paper"
        matrix = _placed(rng, sheet, side, whole=paper)
        picture = _warped(sheet.picture, matrix, side, cv2.INTER_LINEAR, cv2.BORDER_REFLECT)
        heat = _warped(example.heat, matrix, side, cv2.INTER_LINEAR, cv2.BORDER_REFLECT)
        truth = _warped(sheet.truth, matrix, side, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT)
        if self.settings.augmentation and rng.random() < 0.5:
            strength = self.settings.augmentation
            picture = jitter(rng, picture, None, JITTER * strength, JITTER * strength) if paper else jitter_stain(rng, picture, strength)
        return stacked(picture, heat if self.takes_heat else None), truth[None]

    def take_step(self, network: nn.Module, optimizers: Optimizers, batch: Mapping[str, Tensor], step: int) -> tuple[float, dict[str, float]]:
        """Gradients of all batches of the step, then one step of the optimizer."""
        settings, optimizer = self.settings, optimizers["refiner"]
        if settings.variant != "paper":
            for group in optimizer.param_groups:
                group["lr"] = cosine(step, settings.steps, settings.refine_rate)
        optimizer.zero_grad(set_to_none=True)
        total, parts = 0.0, settings.accumulated
        for image, truth in zip(batch["image"].chunk(parts), batch["truth"].chunk(parts), strict=True):
            with torch.autocast(image.device.type, self._precision, enabled=self._precision != torch.float32):
                logits = [each.float() for each in network(as_input(image, image.device))]
            loss = dice_loss(logits, (truth == 1).float(), truth <= 1) / parts
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        return total, {"refiner": total}

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Dice of the outlines of held-out slides, each by itself: ``score`` is their mean."""
        network.eval()
        refiner = Refiner(network, self._device, torch.float32, self.settings.levels, self.settings.factor, self.takes_heat, self.settings.whole_px)
        return {"score": float(np.mean([dice_of(outline_of(refiner, example) >= 0.5, example.sheet.truth) for example in self.held]))}

    def card(self, scores: Mapping[str, float], seconds: float) -> ModelCard:
        """The card of a refiner by itself, which is an intermediate file."""
        settings = self.settings
        return card_of("tumour", settings, self.provenance, scores, len(self.held), seconds, name="refiner", architecture=settings.refiner, width=0, mpp=settings.mpp)


def outline_of(refiner: Refiner, example: Example) -> NDArray[np.float32]:
    """The probability (h, w) over an example's sheet."""
    sheet = example.sheet
    found = np.zeros(sheet.box.shape, np.float32)

    def read(box: Box) -> NDArray[np.uint8]:
        return np.ascontiguousarray(sheet.picture[box.relative_to(sheet.box).slices])

    for keep, mean, _ in refined(refiner, sheet.box, sheet.box, read, example.heat):
        found[keep.relative_to(sheet.box).slices] = mean
    return found


def dice_of(outline: NDArray[np.bool_], truth: NDArray[np.uint8]) -> float:
    """Of an outline, where somebody annotated."""
    found, tumour = outline & (truth <= 1), truth == 1
    return shares(int((found & tumour).sum()), int(found.sum()), int(tumour.sum()))["dice"]


def _placed(rng: np.random.Generator, sheet: Sheet, side: int, whole: bool) -> NDArray[np.float64]:
    """Matrix (2, 3) from a sheet to a square: zoom 0.8 to 1.2, flips, quarter turns; around a place of the outline, or of all of it."""
    height, width = sheet.box.shape
    zoom = rng.uniform(1 - ZOOM, 1 + ZOOM) if rng.random() < 0.5 else 1.0
    if whole:
        scale = np.array([side / width, side / height]) * zoom
        center = np.array([width / 2, height / 2])
    else:
        scale = np.array([zoom, zoom])
        center = _aimed(rng, sheet) if rng.random() < AIM else rng.uniform(0, 1, 2) * (width, height)
        half = np.minimum(side / 2 / zoom, np.array([width, height]) / 2)
        center = np.clip(center, half, np.array([width, height]) - half)
    linear = np.diag(scale)
    for _ in range(int(rng.integers(4))):
        linear = np.array([[0, -1], [1, 0]]) @ linear
    if rng.random() < 0.5:
        linear = np.diag([-1, 1]) @ linear
    return np.column_stack([linear, side / 2 - linear @ center])


def _aimed(rng: np.random.Generator, sheet: Sheet) -> NDArray[np.float64]:
    """A place (x, y) of tumour, coarsely; anywhere where there is none."""
    step = max(1, min(sheet.box.shape) // 64)
    rows, columns = np.nonzero(np.asarray(sheet.truth[::step, ::step]) == 1)
    if not len(rows):
        return rng.uniform(0, 1, 2) * (sheet.box.width, sheet.box.height)
    i = int(rng.integers(len(rows)))
    return np.array([columns[i], rows[i]], float) * step


def _warped(plane: NDArray[np.uint8], matrix: NDArray[np.float64], side: int, how: int, border: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.warpAffine(np.ascontiguousarray(plane), matrix, (side, side), flags=how, borderMode=border, borderValue=255), np.uint8)
