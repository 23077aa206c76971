"""Losses of the cell classifier, and the views of a crop that have the same class."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

PENALTY = 10.0
"""Weight of the gradient penalty (Gulrajani et al. 2017)."""
TINY = 1e-8


def critic_loss(judge: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor, penalty: float = PENALTY) -> tuple[Tensor, Tensor]:
    """The critic's loss and the distance that it measures.

    The paper's equation 2 lost its square and equation 3 names D_Q where the critic D_D is meant; this is E[D_D(fake)] −
    E[D_D(real)] + λ·E[(‖∇D_D‖₂ − 1)²] of Gulrajani et al. 2017.

    Parameters
    ----------
    judge : callable
        Crops (n, 3, h, w) to values (n,).
    real, fake : (n, 3, h, w)
    mix : (n,)
        Share of the real crop in each interpolate.
    penalty : float
        λ.

    Returns
    -------
    loss : scalar
    distance : scalar
        E[D_D(real)] − E[D_D(fake)], the approximate Wasserstein distance (paper, equation 3).
    """
    values = judge(torch.cat([real, fake]))
    distance = values[: len(real)].mean() - values[len(real) :].mean()
    return penalty * gradient_penalty(judge, real, fake, mix) - distance, distance.detach()


def gradient_penalty(judge: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """E[(‖∇D_D‖₂ − 1)²] on interpolates between real and generated crops."""
    share = mix[:, None, None, None]
    between = (share * real + (1 - share) * fake).detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(judge(between).sum(), between, create_graph=True)
    excess: Tensor = gradient.flatten(1).norm(dim=1) - 1
    return (excess**2).mean()


def class_information(logits: Tensor, category: Tensor) -> Tensor:
    """−E[log D_Q(c | G(z, c))] (paper, equation 1): with log K added to its negative, a lower bound of I(c; G(z, c))."""
    return functional.cross_entropy(logits, category)


def shared_information(first: Tensor, second: Tensor) -> Tensor:
    """The information in nats that two views' classes have of each other: high when classes are even, sure, and the same.

    Parameters
    ----------
    first, second : (n, K)
        Class probabilities of two views of the same crops (Ji et al. 2019, invariant information clustering).
    """
    joint = first.t() @ second / len(first)
    joint = ((joint + joint.t()) / 2).clamp_min(TINY)
    own = joint.sum(1, keepdim=True)
    return (joint * (joint.log() - own.log() - own.t().log())).sum()


def turned(crops: Tensor, angle: Tensor, flip: Tensor) -> Tensor:
    """Crops (n, 3, h, w) turned about their middles by angles (n,) in radians and mirrored where ``flip`` (n,) is −1; what lies outside is mirrored."""
    matrix = crops.new_zeros(len(crops), 2, 3)
    matrix[:, 0, 0], matrix[:, 0, 1] = angle.cos() * flip, -angle.sin()
    matrix[:, 1, 0], matrix[:, 1, 1] = angle.sin() * flip, angle.cos()
    grid = functional.affine_grid(matrix, list(crops.shape), align_corners=False)
    return functional.grid_sample(crops, grid, padding_mode="reflection", align_corners=False)


def restained(crops: Tensor, amount: Tensor) -> Tensor:
    """Crops (n, 3, h, w) in −1…1 with each color's optical density times ``amount`` (n, 3): another batch of stain."""
    light = ((crops + 1) / 2).clamp(1 / 256, 1)
    restored: Tensor = light ** amount[:, :, None, None] * 2 - 1
    return restored
