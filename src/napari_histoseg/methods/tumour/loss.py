"""Losses of the patch classifier and of the refiner."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

SMOOTH = 1.0


def cwce(logits: Tensor, label: Tensor, cluster: Tensor) -> Tensor:
    """Cluster-weighted cross-entropy (H2G-Net §2.4), where every tissue type weighs as much in every class.

    The loss of a batch is 1 / (C K_b) Σ_c Σ_k 1 / n_ck Σ_i -log p_ic, with i over the n_ck samples of class c in cluster k,
    K_b the clusters that the batch holds, of either class, and C the classes. A cell without samples adds nothing and is
    counted, in C K_b, so that all samples of a full cell weigh the same together in every batch with as many clusters.

    The paper's equation 1 is 1 / K_b Σ_k Σ_c Σ_i -log p_ic: it lacks the mean over n_ck, with which alone a cluster of many
    samples does not outweigh one of few, and is thereby the plain sum of cross-entropies but for a factor. The released code
    divides by n_ck, and so does this.

    Parameters
    ----------
    logits : (n, classes)
    label : (n,)
        Class index.
    cluster : (n,)
        Cluster index, any number from 0.
    """
    each = functional.cross_entropy(logits.float(), label, reduction="none")
    classes = logits.shape[1]
    counts = torch.bincount(cluster * classes + label)
    return (each / counts[cluster * classes + label]).sum() / (classes * len(torch.unique(cluster)))


def dice_loss(logits: Tensor | Sequence[Tensor], truth: Tensor, known: Tensor) -> Tensor:
    """1 - Dice of the foreground, with a squared denominator and smooth 1, over all pixels of a batch together.

    Dice is (2 Σ p t + 1) / (Σ p² + Σ t² + 1), with p the probability and t the truth.

    Parameters
    ----------
    logits : (n, 1, h, w), or several of them
        Of several (deep supervision), the mean of their losses.
    truth : (n, 1, h, w)
        Tumour, 0 to 1.
    known : (n, 1, h, w)
        Whether a pixel takes part.
    """
    several = [logits] if isinstance(logits, Tensor) else list(logits)
    target = truth.float() * known
    return torch.stack([1 - _dice(torch.sigmoid(each.float()) * known, target) for each in several]).mean()


def _dice(chance: Tensor, target: Tensor) -> Tensor:
    return (2 * (chance * target).sum() + SMOOTH) / (chance.square().sum() + target.square().sum() + SMOOTH)
