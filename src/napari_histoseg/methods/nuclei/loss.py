"""Losses of the two networks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def compact_loss(output: Tensor, nucleus: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
    """Binary cross-entropy + soft Dice of the nucleus map, and a weighted L1 of the offsets inside nuclei.

    Parameters
    ----------
    output : (n, 3, h, w)
        Nucleus logit and offset (dy, dx) in units of ``OFFSET_UNIT_PX``.
    nucleus : (n, h, w)
        1 nucleus, 0 background, negative where not annotated.
    offset : (n, 2, h, w)
        Target in the same unit.
    weight : (n, h, w)
        Weight of a nucleus pixel in the offset term; zero outside nuclei.
    """
    known = (nucleus >= 0).float()
    target = nucleus.clamp(min=0)
    logit = output[:, 0]
    entropy = functional.binary_cross_entropy_with_logits(logit, target, reduction="none")
    entropy = (entropy * known).sum() / known.sum().clamp(min=1)
    p = torch.sigmoid(logit) * known
    dice = 1 - (2 * (p * target).sum() + 1) / (p.sum() + target.sum() + 1)
    distance = functional.l1_loss(output[:, 1:], offset, reduction="none").sum(1)
    pull = (distance * weight).sum() / weight.sum().clamp(min=1)
    return entropy + dice + pull


def boundary_loss(output: Tensor, classes: Tensor, boundary_weight: float = 2.0) -> Tensor:
    """Cross-entropy over background, nucleus and boundary; the thin boundary counts more.

    Parameters
    ----------
    output : (n, 3, h, w)
        Logits.
    classes : (n, h, w)
        0, 1, 2, and -1 where not annotated.
    """
    weight = torch.tensor([1.0, 1.0, boundary_weight], device=output.device)
    return functional.cross_entropy(output, classes, weight=weight, ignore_index=-1)
