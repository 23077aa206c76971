"""Batches, losses and scores of label super-resolution, for the shared loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from napari_histoseg.annotations.dataset import UNLABELED
from napari_histoseg.errors import WeightsError
from napari_histoseg.methods.lsr.config import PAPER_SMOOTHING, LsrTraining
from napari_histoseg.methods.lsr.loss import block_loss, block_statistics
from napari_histoseg.methods.lsr.network import STRIDE_PX, UNet
from napari_histoseg.methods.lsr.pictures import Blocks, Painted, crop, turned
from napari_histoseg.methods.lsr.predictor import network_of
from napari_histoseg.methods.lsr.sampler import Groups
from napari_histoseg.methods.lsr.table import Table
from napari_histoseg.nn.inference import to_input
from napari_histoseg.nn.weights import ModelCard, read_card
from napari_histoseg.train.augment import degrade, jitter_stain
from napari_histoseg.train.card import card_of
from napari_histoseg.train.loop import cosine

PAINTED_CROPS = 6
"""Of painted patches in a step, where there are any."""
SCORED_AT_ONCE = 16


@dataclass
class Lessons:
    """What is learned from, and what is held out.

    Attributes
    ----------
    blocks, val_blocks : Blocks
    painted, val_painted : list of Painted
    """

    blocks: Blocks
    val_blocks: Blocks
    painted: list[Painted] = field(default_factory=list)
    val_painted: list[Painted] = field(default_factory=list)


class LsrTask:
    """Training on blocks whose shares are known, and on painted ones.

    Parameters
    ----------
    settings : LsrTraining
        With a pixel size.
    table : Table
    classes : list of dict
        Value, name and color of each output channel, as in the table.
    lessons : Lessons
    provenance : mapping, optional
        Name, data, hash and license for the model card.
    """

    readers = 1

    def __init__(
        self, settings: LsrTraining, table: Table, classes: list[dict[str, Any]], lessons: Lessons, provenance: Mapping[str, Any] | None = None
    ) -> None:
        self.settings, self.table, self.classes, self.lessons = settings, table, classes, lessons
        self.provenance = dict(provenance or {})
        self._groups = Groups(lessons.blocks.coarse)
        self._width = settings.width
        self._eta = torch.as_tensor(table.eta, dtype=torch.float32)
        self._rho = torch.as_tensor(table.rho, dtype=torch.float32)

    def network(self) -> UNet:
        """A fresh network, or the one to go on from.

        Raises
        ------
        WeightsError
            That one has other classes, or its file cannot be used.
        """
        start = self.settings.start
        if start is None:
            return UNet(len(self.classes), self.settings.width)
        card = read_card(start, "lsr")
        if (known := [c["value"] for c in card.classes]) != list(self.table.values):
            raise WeightsError(f"{start.name} has the classes {known}, and the table {list(self.table.values)}. Start from weights with the same classes, or from none.")
        self._width = card.width
        return network_of(start, card).train()

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """RMSprop as in the paper (§3.3), or the loop's AdamW."""
        settings = self.settings
        if settings.variant != "paper":
            return torch.optim.AdamW(network.parameters(), lr=settings.rate, weight_decay=settings.weight_decay)
        return torch.optim.RMSprop(network.parameters(), settings.rate, alpha=PAPER_SMOOTHING)

    def rate(self, step: int) -> float:
        """Constant in the paper, else a cosine."""
        settings = self.settings
        return settings.rate if settings.variant == "paper" else cosine(step, settings.steps, settings.rate)

    def batch_at(self, rng: np.random.Generator, step: int) -> dict[str, NDArray[np.generic]]:
        """Groups of blocks, then crops of painted patches: pixels, what counts, coarse label, and masks of the latter."""
        settings, blocks = self.settings, self.lessons.blocks
        images, counted = list[NDArray[np.generic]](), list[NDArray[np.generic]]()
        which = self._groups.draw(rng, settings.groups, settings.own_group)
        for i in which:
            turn = turned(rng)
            image, counts = blocks.view(int(i), *(int(v) for v in rng.integers(blocks.margin + 1, size=2)))
            images.append(self._varied(rng, turn(image)))
            counted.append(turn(counts))
        masks = []
        if self.lessons.painted and settings.painted_weight:
            for _ in range(PAINTED_CROPS):
                image, mask = crop(rng, self.lessons.painted[int(rng.integers(len(self.lessons.painted)))], blocks.view_px)
                turn = turned(rng)
                images.append(self._varied(rng, turn(image)))
                masks.append(turn(mask))
        batch = {"image": np.stack(images), "counted": np.stack(counted), "coarse": blocks.coarse[which]}
        return {**batch, **({"mask": np.stack(masks)} if masks else {})}

    def _varied(self, rng: np.random.Generator, image: NDArray[Any]) -> NDArray[np.uint8]:
        strength = self.settings.strength
        if strength:
            image = degrade(rng, jitter_stain(rng, image, strength), 0.5 * strength)
        return np.ascontiguousarray(image.transpose(2, 0, 1))

    def losses(self, network: nn.Module, image: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss of the shares, and the pixel loss of painted patches where there are any."""
        settings = self.settings
        logits = network(image).float()
        coarse, counted = batch["coarse"], batch["counted"]
        count = len(coarse)
        eta, rho = (t.to(logits.device)[coarse] for t in (self._eta, self._rho))
        chance = torch.softmax(logits[:count], 1)
        found = {"shares": block_loss(chance, counted, eta, rho, settings.own_group, settings.level, settings.matching)}
        if "mask" in batch:
            target = torch.where(batch["mask"] == UNLABELED, -1, batch["mask"].long())
            pixels = functional.cross_entropy(logits[count:], target, ignore_index=-1, reduction="sum")
            found["painted"] = settings.painted_weight * pixels / (target >= 0).sum().clamp(min=1)
        return found

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Scores of held-out blocks and painted patches.

        ``agreement`` is 1 minus the mean difference, over coarse labels and classes, between the share in the map and the
        stated one; ``dice`` the mean over classes but background in painted patches, where there are any, and then it is the
        ``score``. ``share_<label>_<class>`` is the mean share in the map, ``sure`` the mean probability of the class shown.
        """
        network.eval()
        shares, sure = shares_of(network, self.lessons.val_blocks)
        scores = {"agreement": 0.0, "sure": sure}
        off = []
        for i, label in enumerate(self.table.coarse):
            rows = shares[self.lessons.val_blocks.coarse == i]
            if not len(rows):
                continue
            mean = rows.mean(0)
            off.append(np.abs(mean - self.table.eta[i]).mean())
            scores |= {f"share_{label}_{value}": float(mean[j]) for j, value in enumerate(self.table.values)}
        scores["agreement"] = 1 - float(np.mean(off))
        dice = dice_of(network, self.lessons.val_painted, len(self.classes))
        if not np.isnan(dice):
            scores["dice"] = dice
        return {"score": scores.get("dice", scores["agreement"]), **scores}

    def card(self, scores: Mapping[str, float], seconds: float) -> ModelCard:
        """The model card: settings, data, table, scores, hardware."""
        table = [row.model_dump(by_alias=True) for row in self.table.statistics()]
        data = [{**entry, "statistics": table} for entry in self.provenance.get("data", [{}])]
        return card_of(
            "lsr", self.settings, {**self.provenance, "data": data}, scores, len(self.lessons.val_blocks), seconds,
            name="lsr",
            summary="Classes learned from coarse labels of blocks.",
            architecture="unet",
            width=self._width,
            mpp=self.settings.mpp,
            classes=self.classes,
        )  # fmt: skip


def logits_of(network: nn.Module, images: NDArray[np.uint8]) -> Tensor:
    """Class logits (n, classes, h, w) of pictures (n, h, w, 3) of one size."""
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (0, -height % STRIDE_PX), (0, -width % STRIDE_PX), (0, 0)), "symmetric")
    device = next(network.parameters()).device
    with torch.inference_mode():
        output: Tensor = network(to_input(padded, device, torch.float32)).float()
    return output[:, :, :height, :width]


def shares_of(network: nn.Module, blocks: Blocks) -> tuple[NDArray[np.float64], float]:
    """Share of each class (blocks, classes) among the pixels of each block that count, in the map; and the mean certainty."""
    shares, sure = [], []
    for first in range(0, len(blocks), SCORED_AT_ONCE):
        part = slice(first, first + SCORED_AT_ONCE)
        images, counts = blocks.middle(part)
        chance = torch.softmax(logits_of(network, images), 1)
        counted = torch.from_numpy(np.ascontiguousarray(counts)).to(chance.device)
        best = functional.one_hot(chance.argmax(1), chance.shape[1]).permute(0, 3, 1, 2).float()
        shares.append(block_statistics(best, counted)[0].cpu().numpy())
        sure.append(block_statistics(chance.amax(1, keepdim=True), counted)[0].cpu().numpy())
    return np.concatenate(shares).astype(np.float64), float(np.concatenate(sure).mean())


def dice_of(network: nn.Module, painted: Sequence[Painted], classes: int) -> float:
    """Mean Dice of the classes but background, all painted pixels together; NaN without any."""
    table = np.zeros((classes, classes), np.int64)
    for patch in painted:
        found = logits_of(network, patch.image[None])[0].argmax(0).cpu().numpy()
        known = patch.mask != UNLABELED
        table += np.bincount(patch.mask[known].astype(np.int64) * classes + found[known], minlength=classes**2).reshape(classes, classes)
    total = table.sum(0) + table.sum(1)
    shown = total[1:] > 0
    return float((2 * np.diag(table)[1:][shown] / total[1:][shown]).mean()) if shown.any() else float("nan")
