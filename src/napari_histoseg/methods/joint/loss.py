"""Losses of the two kinds of patches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from napari_histoseg.methods.joint.data import UNLABELED

LARGEST_WEIGHT = 20.0
"""A class of a few pixels does not outweigh all others."""
SHARPNESS = 4.0
"""Power of the mean that says whether a class is present: 1 would ask for it everywhere, more for a small place."""
PRESENCE_WEIGHT = 0.25
POWERS = {"inverse": 1.0, "root": 0.5, "none": 0.0}


def frequency_weights(counts: ArrayLike, weighting: str = "inverse") -> NDArray[np.float32]:
    """Class weights from class frequencies.

    w_c = (N / (K n_c))^p, with n_c the pixels (or patches) of a class, N those of all K classes that have any, and p = 1
    (``inverse``), 1/2 (``root``) or 0 (``none``). The paper's weights are "proportional to the pixelwise class distributions"
    (§2.3); taken by the word this would favor the largest class, so the inverse is used, as is usual. Weights are at most 20;
    a class without any has weight 1.
    """
    n = np.asarray(counts, np.float64)
    known = n > 0
    balanced = np.where(known, n.sum() / (max(int(known.sum()), 1) * np.maximum(n, 1)), 1.0)
    return np.asarray(np.minimum(balanced ** POWERS[weighting], LARGEST_WEIGHT), np.float32)


def pixel_loss(logits: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    """Weighted cross-entropy of pixels.

    Parameters
    ----------
    logits : (n, classes, h, w)
    mask : (n, h, w)
        Class index of each pixel; 255 takes no part.
    weights : (classes,)
    """
    target = torch.where(mask == UNLABELED, -1, mask.long())
    total = (weights[target.clamp(min=0)] * (target >= 0)).sum()
    summed = functional.cross_entropy(logits, target, weights, ignore_index=-1, reduction="sum")
    return summed / total.clamp(min=1e-6)


def dice_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """1 - soft Dice, mean over the classes that the batch's masks hold. Shapes as in :func:`pixel_loss`."""
    known = (mask != UNLABELED)[:, None]
    classes = logits.shape[1]
    chance = torch.softmax(logits, 1) * known
    truth = functional.one_hot(torch.where(known[:, 0], mask.long(), 0), classes).permute(0, 3, 1, 2) * known
    both, either = (chance * truth).sum((0, 2, 3)), (chance + truth).sum((0, 2, 3))
    present = truth.sum((0, 2, 3)) > 0
    dice = (2 * both + 1) / (either + 1)
    return (1 - dice)[present].mean() if bool(present.any()) else logits.sum() * 0


def class_loss(maps: Tensor, label: Tensor, weights: Tensor, background: int | None) -> Tensor:
    """What a patch's class says about its pixels.

    For a patch of class c two things are asked. Where the network sees foreground, it is c:
    -Σ a log(p_c / Σ_foreground p) / Σ a over the pixels, with the attention a = Σ_foreground p, through which nothing is
    learned. And c is somewhere: -log of the power mean (exponent 4) of p_c over the pixels, at a quarter of the weight, so
    that a small place is enough. Neither says how much of a patch is background, which the classification module of the
    paper has to guess. A patch of the background class is background in every pixel, and without a background class all
    pixels are c.

    Of a patch with several classes, foreground is any of them, p_c being the sum of their probabilities, and each one is
    somewhere; where background is one of them, that is asked of it as well.

    Parameters
    ----------
    maps : (n, classes, h, w)
        Logits.
    label : (n,) or (n, k)
        Class indices; rows with fewer than k end in -1.
    weights : (classes,)
        A patch weighs as much as its classes do on average.
    background : int, optional
        Index of the background class; None where every pixel has a class.
    """
    label = label.reshape(len(label), -1)
    listed = label >= 0
    alone = listed.sum(1) == 1
    chance = functional.log_softmax(maps.float(), 1).flatten(2)
    single = chance[torch.arange(len(label))[:, None], label.clamp(min=0)]
    somewhere = -(torch.logsumexp(SHARPNESS * single, 2) - float(np.log(single.shape[2]))) / SHARPNESS
    present = PRESENCE_WEIGHT * (somewhere * listed).sum(1)
    everywhere = -_any_of(single, listed).mean(1)
    if background is None:
        loss = torch.where(alone, everywhere, everywhere + present)
    else:
        front = torch.logsumexp(chance[:, [i for i in range(maps.shape[1]) if i != background]], 1)
        attention = front.detach().exp()
        own = _any_of(single, listed & ((label != background) | alone[:, None]))
        right = (attention * (front - own)).sum(1) / attention.sum(1).clamp(min=1e-6)
        loss = torch.where(alone & (label[:, 0] == background), everywhere, right + present)
    weight = (weights[label.clamp(min=0)] * listed).sum(1) / listed.sum(1)
    return (loss * weight).sum() / weight.sum().clamp(min=1e-6)


def _any_of(single: Tensor, which: Tensor) -> Tensor:
    """Log probability (n, pixels) of any of the classes ``which`` (n, k), from those of each (n, k, pixels)."""
    return torch.logsumexp(single.masked_fill(~which[..., None], -torch.inf), 1)


def constant_mask_loss(maps: Tensor, label: Tensor, weights: Tensor) -> Tensor:
    """The pixel loss with the patch's class as the truth of every pixel, as in the authors' code."""
    mask = label[:, None, None].expand(-1, *maps.shape[2:])
    return pixel_loss(maps, mask, weights)


def presence(maps: Tensor) -> Tensor:
    """Presence of each class in a patch (n, classes), 0–1: the power mean of :func:`class_loss`, from logits (n, classes, h, w)."""
    return torch.softmax(maps.float(), 1).pow(SHARPNESS).mean((2, 3)).pow(1 / SHARPNESS)


def as_tensor(weights: Sequence[float] | NDArray[np.float32], like: Tensor) -> Tensor:
    """Class weights on the device of a tensor."""
    return torch.as_tensor(weights, dtype=torch.float32, device=like.device)
