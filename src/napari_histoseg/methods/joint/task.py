"""Samples, losses and scores of joint training, for the shared loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_histoseg.errors import WeightsError
from napari_histoseg.methods.joint import loss as losses
from napari_histoseg.methods.joint.config import JointTraining
from napari_histoseg.methods.joint.data import UNLABELED, Picture, Place, crop, grid, on_tissue, places
from napari_histoseg.methods.joint.network import STRIDE_PX, JointNetwork, PaperNetwork, build
from napari_histoseg.methods.joint.start import load_state, warm_start
from napari_histoseg.metrics.joint import Counts
from napari_histoseg.nn.imagenet import find_imagenet
from napari_histoseg.nn.inference import to_input
from napari_histoseg.nn.resnet import RESNET_WIDTH, load_encoder
from napari_histoseg.nn.weights import ModelCard, read_card
from napari_histoseg.train.augment import degrade, jitter_stain
from napari_histoseg.train.card import card_of
from napari_histoseg.train.loop import adamw, cosine

PAPER_BETAS = (0.9, 0.999)
ONE_CROP = 1.25
"""A patch up to this many times a crop is drawn by its middle."""
PRESENT = 0.35
"""Presence from which a class counts as present: about 1.5 % of a patch."""


@dataclass
class _Drawn:
    """Crops of one kind to draw from: which picture, where, how likely."""

    pictures: list[Picture]
    spots: list[tuple[int, Place]] = field(default_factory=list)
    chance: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def draw(self, rng: np.random.Generator) -> tuple[Picture, Place]:
        """A crop's picture and center."""
        picture, place = self.spots[int(rng.choice(len(self.spots), p=self.chance))]
        return self.pictures[picture], place


class JointTask:
    """Training on segmentation and classification patches together.

    Parameters
    ----------
    settings : JointTraining
    classes : list of dict
        Value, name and color of each output channel, in this order.
    outlined, classified : sequence of Picture
        Training patches with a mask, and with a class.
    val_outlined, val_classified : sequence of Picture
        Held-out ones.
    provenance : mapping, optional
        Name, data, hash and license for the model card.
    """

    def __init__(
        self,
        settings: JointTraining,
        classes: list[dict[str, Any]],
        outlined: Sequence[Picture],
        classified: Sequence[Picture],
        val_outlined: Sequence[Picture],
        val_classified: Sequence[Picture] = (),
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings, self.classes = settings, classes
        self.val_outlined, self.val_classified = list(val_outlined), list(val_classified)
        self.provenance = dict(provenance or {})
        self.background = next((i for i, c in enumerate(classes) if c["value"] == 0), None)
        self._outlined = _Drawn(list(outlined))
        self._classified = _Drawn(list(classified))
        self._lay_out()
        counts = sum(np.bincount(p.mask[p.mask != UNLABELED], minlength=len(classes)) for p in outlined if p.mask is not None)
        labels = np.bincount([i for p in classified for i in p.labels], minlength=len(classes))
        self.pixel_weights = losses.frequency_weights(counts, settings.weighting)
        self.patch_weights = losses.frequency_weights(labels, settings.weighting)
        self._most_labels = max((len(p.labels) for p in classified), default=1)
        self.encoder_start, self._width = "scratch", 0

    def _lay_out(self) -> None:
        """Where crops may be taken; classes with few crops are drawn as often as others, but in the paper's variant."""
        for drawn in (self._outlined, self._classified):
            for i, picture in enumerate(drawn.pictures):
                drawn.spots += [(i, place) for place in self._spots(picture)]
            if not drawn.spots:
                continue
            # A large patch has many crops, but the patches count alike, as do the classes.
            share = np.array([1 / sum(j == i for j, _ in drawn.spots) for i, _ in drawn.spots])
            if self.settings.variant == "improved":
                value = np.array([place.value for _, place in drawn.spots])
                share = share / np.array([share[value == v].sum() for v in value])
            drawn.chance = share / share.sum()

    def _spots(self, picture: Picture) -> list[Place]:
        """Centers of crops of a patch: its middle when it is about one crop, else by the data rules."""
        side, least = self.settings.crop_px, self.settings.least_foreground
        height, width = picture.image.shape[:2]
        if max(height, width) <= ONE_CROP * side:
            return [Place(width / 2, height / 2, _largest(picture, self.background))]
        everywhere = grid((height, width), side)
        if picture.mask is None:
            return [Place(p.x, p.y, picture.label) for p in on_tissue(picture.image, everywhere, side, least)]
        known = picture.mask != UNLABELED
        everywhere = [p for p in everywhere if _known(known, p, side)]
        centered = on_tissue(picture.image, places(picture.mask, side, self.background, self.settings.seed), side, least)
        # The paper's crops are centered on regions only; elsewhere a network would never see plain background.
        return centered if centered and self.settings.variant == "paper" else centered + everywhere

    @property
    def n_outlined(self) -> int:
        """Segmentation patches in a batch."""
        batch = self.settings.batch
        # The classifier's batch norm needs two patches.
        return min(max(1, round(self.settings.mix * batch)), batch - 2) if self._classified.spots else batch

    def network(self) -> JointNetwork:
        """A network with the start that the settings name."""
        settings = self.settings
        card = None if settings.start is None else read_card(settings.start, "joint")
        found = None if card or settings.encoder == "scratch" else find_imagenet("resnet18", settings.encoder_file)
        if settings.encoder == "imagenet" and found is None and card is None:
            raise WeightsError("ImageNet weights were not found. Name torchvision's resnet18-….pth in encoder_file, or set encoder to auto or scratch.")
        self._width = settings.width or (card.width if card else settings.own_width(found is not None))
        network = build(settings.variant, self._width, len(self.classes), settings.head)
        if card is not None and settings.start is not None:
            warm_start(network, load_state(settings.start), card, self.classes, settings.start)
            self.encoder_start = f"weights: {card.name}"
        elif found is not None and (settings.encoder == "imagenet" or self._width == RESNET_WIDTH):
            load_encoder(network.encoder, found)
            self.encoder_start = f"ImageNet ({found.name})"
        return network

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Adam as in the paper (§2.3), or the loop's AdamW."""
        if self.settings.variant == "paper":
            return torch.optim.Adam(network.parameters(), lr=self.settings.rate, betas=PAPER_BETAS)
        return adamw(network, self.settings)

    def rate(self, step: int) -> float:
        """Constant in the paper, else a cosine."""
        rate = self.settings.rate
        return rate if self.settings.variant == "paper" else cosine(step, self.settings.steps, rate)

    def sample_at(self, rng: np.random.Generator, place: int) -> dict[str, NDArray[np.generic]]:
        """A crop: the first places of a batch are segmentation patches (``label`` -1), the others have classes and no mask."""
        drawn = self._outlined if place < self.n_outlined else self._classified
        picture, spot = drawn.draw(rng)
        strength = self.settings.augmentation
        image, mask = crop(rng, picture, spot, self.settings.crop_px, strength)
        if strength:
            image = degrade(rng, jitter_stain(rng, image, strength), 0.5 * strength)
        labels = [*picture.labels, *[-1] * (self._most_labels - len(picture.labels))]
        return {"image": np.ascontiguousarray(image.transpose(2, 0, 1)), "mask": mask, "label": np.asarray(labels)}

    def losses(self, network: nn.Module, image: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Segmentation loss of the patches with a mask, and classification loss of the others through the segmentation output.

        All go through the encoder and the segmentation module together; only classification patches go on to the
        classification module, so that its batch norm sees no others.
        """
        assert isinstance(network, JointNetwork)
        maps = network.maps(image)
        label = batch["label"].reshape(len(image), -1)
        outlined = label[:, 0] < 0
        pixel_weights = losses.as_tensor(self.pixel_weights, maps)
        logits = network.enlarge(maps[outlined]).float()
        mask = batch["mask"][outlined]
        segmentation = losses.pixel_loss(logits, mask, pixel_weights)
        if self.settings.variant == "improved":
            segmentation = segmentation + losses.dice_loss(logits, mask)
        if not self._classified.spots:
            return {"segmentation": segmentation}
        classification = self._classification(network, maps[~outlined], label[~outlined])
        return {"segmentation": segmentation, "classification": self.settings.class_weight * classification}

    def _classification(self, network: JointNetwork, maps: Tensor, label: Tensor) -> Tensor:
        weights = losses.as_tensor(self.patch_weights, maps)
        if not isinstance(network, PaperNetwork):
            return losses.class_loss(maps, label, weights, self.background)
        # It knows patches of one class only; others do not reach it, see `train.task_from_dataset`.
        label = label[:, 0]
        loss = nn.functional.cross_entropy(network.classify(maps).float(), label, weights)
        if self.settings.head == "maxpool":
            loss = loss + losses.constant_mask_loss(maps.float(), label, losses.as_tensor(self.pixel_weights, maps))
        return loss

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Scores of the held-out patches, all their pixels together; ``score`` is the macro F1.

        ``classification`` is the share of the classification patches whose class is right (one of theirs, where they have several), ``f1_<name>`` the F1 of a class.
        """
        assert isinstance(network, JointNetwork)
        network.eval()
        names = [str(c["name"]) for c in self.classes]
        return evaluate(network, self.val_outlined, self.val_classified, self.background, names=names)

    def card(self, scores: Mapping[str, float], seconds: float) -> ModelCard:
        """The model card: settings, data, start, scores, hardware."""
        settings = self.settings
        data = [{**entry, "encoder": self.encoder_start} for entry in self.provenance.get("data", [{}])]
        return card_of(
            "joint", settings, {**self.provenance, "data": data}, scores, len(self.val_outlined), seconds,
            name="joint",
            summary="Classes learned from segmentation and classification patches.",
            architecture=settings.variant,
            width=self._width,
            mpp=settings.mpp,
            classes=self.classes,
        )  # fmt: skip


def _known(known: NDArray[np.bool_], place: Place, side: int) -> bool:
    left, top = (max(0, round(v - side / 2)) for v in (place.x, place.y))
    return bool(known[top : top + side, left : left + side].any())


def _largest(picture: Picture, background: int | None) -> int:
    """The class that covers most of a patch, background only where there is nothing else."""
    if picture.mask is None:
        return picture.label
    counts = np.bincount(picture.mask[picture.mask != UNLABELED], minlength=1)
    if background is not None and counts.sum() > counts[background : background + 1].sum():
        counts[background] = 0
    return int(counts.argmax())


def logits_of(network: nn.Module, image: NDArray[np.uint8]) -> Tensor:
    """Class logits (classes, h, w) of a picture of any size."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, -height % STRIDE_PX), (0, -width % STRIDE_PX), (0, 0)), "symmetric")
    device = next(network.parameters()).device
    with torch.inference_mode():
        output: Tensor = network(to_input(padded[None], device, torch.float32)).float()
    return output[0, :, :height, :width]


def patch_class(network: JointNetwork, image: NDArray[np.uint8], background: int | None) -> int:
    """Class index of a patch: by the paper's classifier, or the class that is present most; background where none is."""
    height, width = (max(STRIDE_PX, size // STRIDE_PX * STRIDE_PX) for size in image.shape[:2])
    padded = np.pad(image, ((0, max(0, height - image.shape[0])), (0, max(0, width - image.shape[1])), (0, 0)), "symmetric")
    device = next(network.parameters()).device
    with torch.inference_mode():
        maps = network.maps(to_input(padded[None, :height, :width], device, torch.float32))
        if isinstance(network, PaperNetwork):
            return int(network.classify(maps)[0].argmax())
        presence = losses.presence(maps)[0].cpu().numpy()
    if background is not None:
        presence[background] = PRESENT
    return int(presence.argmax())


def evaluate(
    network: JointNetwork,
    outlined: Sequence[Picture],
    classified: Sequence[Picture],
    background: int | None,
    count: int | None = None,
    names: Sequence[str] = (),
) -> dict[str, float]:
    """Scores of a network on patches: pixels of all masks together, and the share of classes that are right.

    ``count`` is the number of classes of the masks, where there are more than the network knows. With ``names`` of the classes,
    ``f1_<name>`` is the F1 of each that the masks show.
    """
    count = count or network.classes
    table = Counts.none(count)
    for picture in outlined:
        assert picture.mask is not None
        known = picture.mask != UNLABELED
        predicted = logits_of(network, picture.image).argmax(0).cpu().numpy()
        table = table + Counts.of(predicted[known], picture.mask[known], count)
    scores = table.scores(background)
    right = [patch_class(network, p.image, background) in p.labels for p in classified]
    extra = {"classification": float(np.mean(right))} if right else {}
    shown = table.table.sum(1) > 0
    extra |= {f"f1_{name}": float(f1) for name, f1, known in zip(names, table.f1, shown, strict=False) if known}
    return {"score": scores["macro_f1"], **{k: v for k, v in scores.items() if not np.isnan(v)}, **extra}
