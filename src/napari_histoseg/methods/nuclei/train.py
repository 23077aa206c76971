"""Training nuclei segmentation: samples, loss and validation for the shared loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_histoseg.annotations.dataset import (
    Patch,
    PatchDataset,
    data_sha256,
    load_patch,
    read_dataset,
    split_groups,
)
from napari_histoseg.errors import DatasetError
from napari_histoseg.methods.nuclei import loss as losses
from napari_histoseg.methods.nuclei.config import NucleiTraining
from napari_histoseg.methods.nuclei.network import build
from napari_histoseg.methods.nuclei.targets import (
    OFFSET_UNIT_PX,
    UNLABELED,
    boundary_classes,
    instance_weights,
    offsets,
)
from napari_histoseg.nn.weights import ModelCard, load_into, read_card
from napari_histoseg.slide.stain import jitter, measure
from napari_histoseg.train.augment import degrade, jitter_stain, warp
from napari_histoseg.train.card import card_of

CONTEXT_PX = 32
"""Targets are made on a crop this much larger on each side, so that a nucleus cut by the crop keeps its true centroid."""


@dataclass(frozen=True)
class Example:
    """An annotated picture: (h, w, 3) uint8 RGB, (h, w) int32 instances, its pixel size, and where it comes from."""

    image: NDArray[np.uint8]
    instances: NDArray[np.int32]
    mpp: float
    source: str
    name: str


class NucleiTask:
    """Samples, loss and scores of nuclei segmentation.

    Pictures are drawn by source with a probability that grows with the square root of the source's pixels, then uniformly
    by pixels within the source, so that a small set from another laboratory is seen without drowning the large one.
    """

    def __init__(
        self, settings: NucleiTraining, train: Sequence[Example], val: Sequence[Example], provenance: Mapping[str, Any] | None = None
    ) -> None:
        self.settings = settings
        self.train, self.val = list(train), list(val)
        self.provenance = dict(provenance or {})
        pixels = np.array([e.instances.size for e in self.train], float)
        total: dict[str, float] = {}
        for example, n in zip(self.train, pixels, strict=True):
            total[example.source] = total.get(example.source, 0.0) + n
        chance = np.array([n / np.sqrt(total[e.source]) for e, n in zip(self.train, pixels, strict=True)])
        self._chance = chance / chance.sum()
        self._shakes = settings.stain_sigma1 > 0 or settings.stain_sigma2 > 0
        self._stains = [measure(e.image) for e in self.train] if self._shakes else []

    def network(self) -> nn.Module:
        """The network of the chosen architecture and width: fresh, or with the weights to start from."""
        network = build(self.settings.architecture, self.settings.width)
        if self.settings.start is not None:
            read_card(self.settings.start, "nuclei")
            load_into(network, self.settings.start)
        return network

    def sample(self, rng: np.random.Generator) -> dict[str, NDArray[np.generic]]:
        """An augmented crop with ``nucleus``, ``offset`` and ``weight`` (compact) or ``classes`` (unet)."""
        settings = self.settings
        drawn = int(rng.choice(len(self.train), p=self._chance))
        example = self.train[drawn]
        zoom = example.mpp / settings.mpp * float(np.exp(rng.uniform(-0.55, 0.45) * min(settings.augmentation, 1.0)))
        image, instances = warp(rng, example.image, example.instances, settings.crop_px + 2 * CONTEXT_PX, zoom, UNLABELED)
        inner = slice(CONTEXT_PX, CONTEXT_PX + settings.crop_px)
        image = image[inner, inner]
        if self._shakes:
            image = jitter(rng, image, self._stains[drawn], settings.stain_sigma1, settings.stain_sigma2)
        if settings.augmentation:
            image = degrade(rng, jitter_stain(rng, image, settings.augmentation), settings.augmentation)
        out: dict[str, NDArray[np.generic]] = {"image": np.ascontiguousarray(image.transpose(2, 0, 1))}
        if settings.architecture == "unet":
            out["classes"] = boundary_classes(instances)[inner, inner].copy()
            return out
        crop = instances[inner, inner]
        out["nucleus"] = np.where(crop == UNLABELED, -1, crop > 0).astype(np.float32)
        out["offset"] = (offsets(instances)[:, inner, inner] / OFFSET_UNIT_PX).astype(np.float32)
        out["weight"] = instance_weights(instances)[inner, inner].copy()
        return out

    def loss(self, output: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """The architecture's loss."""
        if self.settings.architecture == "unet":
            return losses.boundary_loss(output, batch["classes"])
        return losses.compact_loss(output, batch["nucleus"], batch["offset"], batch["weight"])

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Mean AJI, PQ, F1 and Dice over the held-out pictures; ``score`` is the mean of AJI and PQ, sources weighing alike.

        For each source also its own means, and their standard deviations over pictures.
        """
        from napari_histoseg.methods.nuclei.predictor import segment
        from napari_histoseg.metrics import score_nuclei

        network.eval()
        by_source: dict[str, list[dict[str, float]]] = {}
        for example in self.val:
            labels = segment(network, self.settings.architecture, example.image, example.mpp, self.settings.mpp)
            known = example.instances != UNLABELED
            scores = score_nuclei(np.where(known, labels, 0), np.where(known, example.instances, 0))
            by_source.setdefault(example.source, []).append(scores)
        keys = ("aji", "pq", "f1_50", "dice")
        means = {s: {k: float(np.mean([r[k] for r in rows])) for k in keys} for s, rows in by_source.items()}
        overall = {k: float(np.mean([m[k] for m in means.values()])) for k in keys}
        detail = {f"{s}_{k}": m[k] for s, m in sorted(means.items()) for k in ("aji", "pq")}
        for source, rows in sorted(by_source.items()):
            detail |= {f"{source}_{k}_sd": float(np.std([r[k] for r in rows], ddof=min(1, len(rows) - 1))) for k in ("aji", "pq")}
        return {"score": (overall["aji"] + overall["pq"]) / 2, **overall, **detail}

    def card(self, scores: Mapping[str, float], seconds: float) -> ModelCard:
        """The model card: settings, data, scores, hardware."""
        settings = self.settings
        return card_of(
            "nuclei", settings, self.provenance, scores, len(self.val), seconds,
            name=f"nuclei {settings.architecture}",
            summary="Nuclei of H&E slides.",
            architecture=settings.architecture,
            width=settings.width,
            mpp=settings.mpp,
            classes=[{"value": 1, "name": "nucleus", "color": "#3cb44b"}],
        )  # fmt: skip


def task_from_dataset(folder: Path | PatchDataset, settings: NucleiTraining) -> NucleiTask:
    """The training task over a patch dataset whose masks are instance maps.

    Raises
    ------
    DatasetError
        If nothing in it has an instance mask, or the pixel size is unknown.
    """
    dataset = read_dataset(folder)
    annotated = [p for p in dataset.patches if p.mask is not None]
    if not annotated:
        raise DatasetError(f"{dataset.folder} has no patch with a mask. Training nuclei needs instance masks: a number for each nucleus, 0 elsewhere.")
    train, val = (
        [_example(dataset, p) for p in part] for part in split_groups(annotated, settings.val_fraction, settings.seed)
    )
    held = [e.name for e in val]
    note = "scores are of held-out pictures" if held else "nothing was held out: scores are of the training pictures"
    title = dataset.folder.name
    stain = {} if dataset.look is None else {"stain": str(dataset.look)}
    provenance = {
        "name": f"nuclei {settings.architecture} ({title})",
        "data": [{"title": title, "train_images": len(train), "held_out_images": held, "note": note, **stain}],
        "data_sha256": data_sha256(dataset),
    }
    return NucleiTask(settings, train, val or train, provenance)


def _example(dataset: PatchDataset, patch: Patch) -> Example:
    image, mask, mpp = load_patch(dataset, patch)
    if mpp is None:
        raise DatasetError(f"The pixel size of {patch.source} is unknown. Write \"mpp\" (µm/px) into dataset.json.")
    assert mask is not None
    extra = patch.model_extra or {}
    return Example(image, mask, mpp, str(extra.get("source", "dataset")), patch.source)
