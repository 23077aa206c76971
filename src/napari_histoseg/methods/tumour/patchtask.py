"""Training the classifier of patches: drawn down the tree, read straight from the slides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_histoseg.errors import TileError, WeightsError
from napari_histoseg.methods.tumour.clusters import ClusterGuide
from napari_histoseg.methods.tumour.config import TumourTraining
from napari_histoseg.methods.tumour.loss import cwce
from napari_histoseg.methods.tumour.network import Classifier
from napari_histoseg.methods.tumour.sampler import Tree
from napari_histoseg.nn.imagenet import find_imagenet, load_imagenet
from napari_histoseg.nn.inference import to_input
from napari_histoseg.nn.weights import ModelCard
from napari_histoseg.slide import Box, Slide
from napari_histoseg.train.augment import jitter_stain
from napari_histoseg.train.card import card_of
from napari_histoseg.train.loop import adamw, cosine

PROBABILITY = "probability"
HSV_SHIFT, BRIGHTNESS = 20, 0.2
"""Of the paper (§3.4): shift of hue and saturation in OpenCV's units, and the range of brightness."""
CHUNK = 16
OTHER_PATCHES = 8
"""Patches that are drawn instead of one that cannot be read, before giving up."""


@dataclass(frozen=True, eq=False)
class Pool:
    """Patches of several slides.

    Attributes
    ----------
    rows : DataFrame
        ``slide`` (number in ``slides``), ``name``, ``x``, ``y`` (working pixels), ``label``, and the labels of the slides.
    slides : sequence of Slide
        Open, and safe to be read from several threads.
    mpps : sequence of float
        µm per pixel that each slide is read at.
    """

    rows: pd.DataFrame
    slides: Sequence[Slide]
    mpps: Sequence[float]
    side_px: int
    scale: int

    def read(self, number: int) -> NDArray[np.uint8]:
        """The pixels (side, side, 3) of a row.

        Raises
        ------
        TileError
        """
        slide = int(self.rows["slide"].iat[number])
        x, y = int(self.rows["x"].iat[number]), int(self.rows["y"].iat[number])
        return self.slides[slide].read_at(self.mpps[slide], Box(x * self.scale, y * self.scale, self.side_px, self.side_px))

    def of(self, slides: set[int]) -> Pool:
        """The patches of some slides."""
        return Pool(self.rows[self.rows["slide"].isin(slides)].reset_index(drop=True), self.slides, self.mpps, self.side_px, self.scale)


class ClassifierTask:
    """Training the classifier.

    Parameters
    ----------
    settings : TumourTraining
    pool, held : Pool
        Patches to learn from, and to be scored on.
    guide : (extractor, ClusterGuide), optional
        The network whose features are clustered, and the clusters, for cluster guiding.
    start : mapping, optional
        Tensors of a classifier to go on from.
    """

    def __init__(
        self,
        settings: TumourTraining,
        pool: Pool,
        held: Pool,
        guide: tuple[nn.Module, ClusterGuide] | None = None,
        start: Mapping[str, Tensor] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings, self.pool, self.held, self.guide = settings, pool, held, guide
        self.readers = settings.readers
        self.provenance = dict(provenance or {})
        self._start = start
        stages = (*settings.stages, "name", "label", "cluster") if settings.sampling == "balanced" else ()
        self.tree = Tree(pool.rows, [stage for stage in stages if stage in pool.rows])
        rng = np.random.default_rng(settings.seed)
        tree = Tree(held.rows, ["label"])
        count = min(settings.val_patches, len(held.rows))
        drawn = dict.fromkeys(tree.draw(rng) for _ in range(8 * count)) if count < len(held.rows) else range(count)
        # In the order of the draws, in which classes are even and slides mixed, as far as there are patches.
        self._scored = sorted(list(drawn)[:count])
        self._patches: NDArray[np.uint8] | None = None
        self.worst = pd.DataFrame()
        self.pretrained = self._found() is not None or start is not None

    def _found(self) -> Any:
        wanted = self.settings.encoder
        if wanted == "scratch" or self._start is not None:
            return None
        found = find_imagenet(self.settings.backbone, self.settings.encoder_file)
        if found is None and wanted == "imagenet":
            raise WeightsError(
                f"ImageNet weights of {self.settings.backbone} were not found. Name torchvision's checkpoint (.pth) in encoder_file, or set encoder to auto or scratch."
            )
        return found

    def network(self) -> nn.Module:
        """A classifier with the start that the settings name."""
        assert self.settings.backbone != "none"
        network = Classifier(self.settings.backbone)
        if self._start is not None:
            network.load_state_dict(dict(self._start))
        elif (path := self._found()) is not None:
            load_imagenet(network.backbone, path, self.settings.backbone)
        return network

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Adam as in the paper (§3.4), or the loop's AdamW."""
        if self.settings.variant == "paper":
            return torch.optim.Adam(network.parameters(), lr=self.settings.rate(self.pretrained))
        return adamw(network, self.settings)

    def rate(self, step: int) -> float:
        """Constant in the paper, else a cosine."""
        rate = self.settings.rate(self.pretrained)
        return rate if self.settings.variant == "paper" else cosine(step, self.settings.steps, rate)

    def sample_at(self, rng: np.random.Generator, place: int) -> dict[str, NDArray[np.generic]]:
        """A patch, drawn down the tree and changed a little."""
        number, image = self._readable(rng)
        image = varied(rng, image, self.settings.variant, self.settings.augmentation)
        label = np.asarray(self.pool.rows["label"].iat[number])
        return {"image": np.ascontiguousarray(image.transpose(2, 0, 1)), "label": label}

    def _readable(self, rng: np.random.Generator) -> tuple[int, NDArray[np.uint8]]:
        """A patch; where the file is damaged, another one."""
        problem: TileError | None = None
        for _ in range(OTHER_PATCHES):
            number = self.tree.draw(rng)
            try:
                return number, self.pool.read(number)
            except TileError as error:
                problem = error
        assert problem is not None
        raise problem

    def losses(self, network: nn.Module, image: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Cross-entropy, of all patches alike or balanced on clusters."""
        logits, label = network(image).float(), batch["label"]
        if self.guide is None:
            return {"classifier": nn.functional.cross_entropy(logits, label)}
        extractor, clusters = self.guide
        with torch.no_grad():
            cluster = clusters(embedded(extractor, image))
        return {"classifier": cwce(logits, label, cluster)}

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Mean recall of both classes over patches of slides that are held out: ``score``."""
        network.eval()
        if self._patches is None:
            self._patches = self._readable_patches()
        device = next(network.parameters()).device
        chance = []
        with torch.inference_mode():
            for start in range(0, len(self._patches), CHUNK):
                image = to_input(self._patches[start : start + CHUNK], device, torch.float32)
                chance.append(torch.softmax(network(image).float(), 1)[:, 1].cpu().numpy())
        rows = self.held.rows.iloc[self._scored].assign(**{PROBABILITY: np.concatenate(chance)})
        wrong = np.where(rows["label"] == 1, 1 - rows[PROBABILITY], rows[PROBABILITY])
        self.worst = rows.assign(wrong=wrong).sort_values("wrong", ascending=False)
        recalls = [float((wrong[rows["label"] == label] < 0.5).mean()) for label in (0, 1) if (rows["label"] == label).any()]
        return {"score": float(np.mean(recalls)), "accuracy": float((wrong < 0.5).mean())}

    def _readable_patches(self) -> NDArray[np.uint8]:
        """Those to score on, but for what cannot be read."""
        found: dict[int, NDArray[np.uint8]] = {}
        problem: TileError | None = None
        for number in self._scored:
            try:
                found[number] = self.held.read(number)
            except TileError as error:
                problem = error
        if problem is not None and not found:
            raise problem
        self._scored = list(found)
        return np.stack(list(found.values()))

    def card(self, scores: Mapping[str, float], seconds: float) -> ModelCard:
        """The card of a classifier by itself, which is an intermediate file."""
        settings = self.settings
        return card_of("tumour", settings, self.provenance, scores, len(self._scored), seconds, name="patches", architecture=settings.backbone, width=0, mpp=settings.mpp)

    def drawn(self, steps: int) -> pd.DataFrame:
        """What the first steps drew, branch by branch: drawn again, because only the seed decides."""
        settings = self.settings
        numbers = (self.tree.draw(np.random.default_rng((settings.seed, step, i))) for step in range(steps) for i in range(settings.batch))
        return self.tree.report(numbers)


def embedded(extractor: nn.Module, image: Tensor) -> Tensor:
    """Features (n, c) of patches: the means over each of them."""
    features: Tensor = extractor(image)
    return features.mean((2, 3)) if features.ndim == 4 else features


def varied(rng: np.random.Generator, image: NDArray[np.uint8], variant: str, strength: float) -> NDArray[np.uint8]:
    """Flips and quarter turns; then the paper's shift of hue, saturation and brightness, or a change of the stain."""
    if rng.random() < 0.5:
        image = image[:, ::-1]
    if rng.random() < 0.5:
        image = image[::-1]
    if rng.random() < 0.5:
        image = np.rot90(image, int(rng.integers(1, 4)))
    image = np.ascontiguousarray(image)
    if not strength:
        return image
    if variant == "paper":
        return _shifted(rng, image, strength)
    return jitter_stain(rng, image, strength) if rng.random() < 0.5 else image


def _shifted(rng: np.random.Generator, image: NDArray[np.uint8], strength: float) -> NDArray[np.uint8]:
    """§3.4: shift of hue and saturation by up to 20, brightness times 0.8 to 1.2, each every second time."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.float32)
    if rng.random() < 0.5:
        hue, saturation = rng.uniform(-HSV_SHIFT, HSV_SHIFT, 2) * strength
        hsv[..., 0] = (hsv[..., 0] + hue) % 180
        hsv[..., 1] += saturation
    if rng.random() < 0.5:
        hsv[..., 2] *= rng.uniform(1 - BRIGHTNESS * strength, 1 + BRIGHTNESS * strength)
    hsv[..., 1:] = np.clip(hsv[..., 1:], 0, 255)
    return np.asarray(cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB), np.uint8)
