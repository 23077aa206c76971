"""The losses of Zhao et al. 2020 (§2): shares of classes in blocks against what their coarse labels say."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from napari_histoseg.methods.lsr.config import Level, Matching

VARIANCE_FLOOR = 1e-4
"""Least variance σ² (of shares from 0 to 1) in a logarithm or a quotient: 1 % of spread. Without it the loss of a network whose
blocks all agree is −∞."""


def block_statistics(chance: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Share of each class in each block, and the mean variance of its pixels (equation 3).

    Parameters
    ----------
    chance : (n, classes, h, w)
        Class probabilities of pixels.
    counted : (n, h, w)
        1 where a pixel counts, 0 on glass and outside the block. A block without any has share and variance 0.

    Returns
    -------
    share, variance : (n, classes)
        μ_k = mean p and v_k = mean p (1 − p). As in the paper the mean is not divided by the number of pixels: so large
        blocks keep the pull to sure pixels.
    """
    weight = counted[:, None].to(chance.dtype)
    area = weight.sum((2, 3)).clamp(min=1)
    share = (chance * weight).sum((2, 3)) / area
    variance = (chance * (1 - chance) * weight).sum((2, 3)) / area
    return share, variance


def predicted(share: Tensor, variance: Tensor, level: Level) -> tuple[Tensor, Tensor]:
    """Mean μ and variance σ² of the network's share of each class.

    Parameters
    ----------
    share, variance : (groups, n, classes)
        Of blocks; those of a group have one coarse label.
    level : str
        ``intra``: each block for itself (equation 3); ``inter``: over the blocks of a group, whose shares are taken as sure
        (equation 8); ``intra+inter``: over them, with the doubt about each pixel (equation 11).

    Returns
    -------
    mean, variance : (groups, n, classes) for ``intra``, else (groups, classes)
    """
    if level == "intra":
        return share, variance
    mean = share.mean(1)
    spread = (share - mean[:, None]).square().mean(1)
    return mean, spread if level == "inter" else variance.mean(1) + spread


def match(mean: Tensor, variance: Tensor, eta: Tensor, rho: Tensor, matching: Matching) -> Tensor:
    """Distance of the network's Gaussian N(μ, σ²) from the stated one N(η, ρ²), elementwise.

    ``joint`` is equations 5 and 9, ½ σ² (η − μ)² / (ρ² + σ²)² + ½ log 2πσ²: −log of the network's Gaussian at the jointly
    most likely share. ``marginal`` is the other one of the literature (Malkin et al. 2019), ½ (η − μ)² / (ρ² + σ²)
    + ½ log 2π(ρ² + σ²): −log of the chance that both draw the same share. σ² is at least `VARIANCE_FLOOR`.
    """
    variance = variance.clamp(min=VARIANCE_FLOOR)
    both = variance + rho.square()
    off = (eta - mean).square()
    if matching == "joint":
        return 0.5 * variance * off / both.square() + 0.5 * torch.log(2 * math.pi * variance)
    return 0.5 * off / both + 0.5 * torch.log(2 * math.pi * both)


def block_loss(
    chance: Tensor, counted: Tensor, eta: Tensor, rho: Tensor, group: int, level: Level = "intra+inter", matching: Matching = "joint"
) -> Tensor:
    """Mean over blocks (``intra``) or groups of the distance, summed over the classes.

    Parameters
    ----------
    chance : (n, classes, h, w)
        Class probabilities; every ``group`` blocks in turn have one coarse label.
    counted : (n, h, w)
        1 where a pixel counts.
    eta, rho : (n, classes)
        Stated mean and standard deviation of each block's coarse label.
    group : int
        Blocks of a group.
    """
    share, variance = (v.reshape(-1, group, v.shape[1]) for v in block_statistics(chance, counted))
    mean, spread = predicted(share, variance, level)
    eta, rho = (v.reshape(-1, group, v.shape[1]) for v in (eta, rho))
    if level != "intra":
        eta, rho = eta[:, 0], rho[:, 0]
    return match(mean, spread, eta, rho, matching).sum(-1).mean()
