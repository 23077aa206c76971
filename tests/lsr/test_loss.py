"""The losses of label super-resolution, against numbers by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_histoseg.methods.lsr.loss import VARIANCE_FLOOR, block_loss, block_statistics, match, predicted

LEVELS = ("intra", "inter", "intra+inter")
MATCHINGS = ("joint", "marginal")


def blocks(*foreground: float, side: int = 4, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Class probabilities (n, 2, side, side); the foreground's is the same in all pixels of a block."""
    p = torch.tensor(foreground, dtype=dtype)[:, None, None].expand(-1, side, side)
    return torch.stack([1 - p, p], 1)


def everything(chance: torch.Tensor) -> torch.Tensor:
    return torch.ones(len(chance), *chance.shape[2:], dtype=torch.bool)


def test_shares_and_variances_by_hand() -> None:
    chance = blocks(0.2, 0.9)
    share, variance = block_statistics(chance, everything(chance))
    torch.testing.assert_close(share, torch.tensor([[0.8, 0.2], [0.1, 0.9]], dtype=torch.float64))
    # p (1 - p), and not over the number of pixels.
    torch.testing.assert_close(variance, torch.tensor([[0.16, 0.16], [0.09, 0.09]], dtype=torch.float64))


def test_pixels_that_do_not_count_change_nothing() -> None:
    chance = blocks(0.3, 0.6)
    counted = everything(chance)
    counted[:, :, 2:] = False
    other = chance.clone()
    other[:, :, :, 2:] = 0.5
    for a, b in zip(block_statistics(chance, counted), block_statistics(other, counted), strict=True):
        torch.testing.assert_close(a, b)
    empty = torch.zeros_like(counted)
    share, variance = block_statistics(chance, empty)
    assert not share.any() and not variance.any()


def test_levels_by_hand() -> None:
    share = torch.tensor([[[0.2], [0.6]]])
    variance = torch.tensor([[[0.16], [0.24]]])
    mean, spread = predicted(share, variance, "intra")
    assert mean is share and spread is variance
    mean, spread = predicted(share, variance, "inter")
    assert (float(mean), float(spread)) == (pytest.approx(0.4), pytest.approx(0.04))
    mean, spread = predicted(share, variance, "intra+inter")
    # Equation 11: mean v + mean μ² - (mean μ)² = 0.2 + (0.04 + 0.36) / 2 - 0.16
    assert (float(mean), float(spread)) == (pytest.approx(0.4), pytest.approx(0.2 + 0.2 - 0.16))


def test_matchings_by_hand() -> None:
    mean, variance, eta, rho = (torch.tensor(v, dtype=torch.float64) for v in (0.4, 0.1, 0.7, 0.2))
    joint = 0.5 * 0.1 * 0.09 / (0.04 + 0.1) ** 2 + 0.5 * math.log(2 * math.pi * 0.1)
    assert float(match(mean, variance, eta, rho, "joint")) == pytest.approx(joint, rel=1e-6)
    marginal = 0.5 * 0.09 / (0.04 + 0.1) + 0.5 * math.log(2 * math.pi * 0.14)
    assert float(match(mean, variance, eta, rho, "marginal")) == pytest.approx(marginal, rel=1e-6)


def test_the_joint_matching_is_the_networks_density_at_the_jointly_most_likely_share() -> None:
    mean, variance, eta, rho = 0.35, 0.02, 0.6, 0.1
    # The product of the two Gaussians is largest at the mean weighted by their precisions.
    best = (mean / variance + eta / rho**2) / (1 / variance + 1 / rho**2)
    density = math.exp(-0.5 * (best - mean) ** 2 / variance) / math.sqrt(2 * math.pi * variance)
    found = match(*(torch.tensor(v, dtype=torch.float64) for v in (mean, variance, eta, rho)), "joint")
    assert float(found) == pytest.approx(-math.log(density), rel=1e-9)


def test_the_marginal_matching_is_the_chance_that_both_draw_the_same_share() -> None:
    mean, variance, eta, rho = 0.35, 0.02, 0.6, 0.1
    x = np.linspace(-3, 4, 200_001)

    def gauss(m: float, v: float) -> np.ndarray:
        return np.exp(-0.5 * (x - m) ** 2 / v) / np.sqrt(2 * np.pi * v)

    both = float((gauss(mean, variance) * gauss(eta, rho**2)).sum() * (x[1] - x[0]))
    found = match(*(torch.tensor(v, dtype=torch.float64) for v in (mean, variance, eta, rho)), "marginal")
    assert float(found) == pytest.approx(-math.log(both), rel=1e-6)


def loss_of(chance: torch.Tensor, level: str, matching: str, eta: float = 0.5, rho: float = 0.1, group: int = 2) -> torch.Tensor:
    n = len(chance)
    etas = torch.tensor([[1 - eta, eta]], dtype=chance.dtype).expand(n, -1)
    rhos = torch.full((n, 2), rho, dtype=chance.dtype)
    return block_loss(chance, everything(chance), etas, rhos, group, level, matching)  # type: ignore[arg-type]


@pytest.mark.parametrize("matching", MATCHINGS)
def test_one_empty_and_one_full_block_are_wrong_one_by_one_and_right_on_average(matching: str) -> None:
    apart, even = blocks(0.05, 0.95), blocks(0.5, 0.5)
    # Each block for itself is far from one half, and loses; over both of them the mean is just one half.
    intra, inter, both = ([float(loss_of(c, level, matching, rho=0.02)) for c in (apart, even)] for level in LEVELS)
    assert intra[1] < intra[0]
    # inter sees a spread where there is none in even blocks; with the doubt about pixels the two come to the same variance:
    # 0.0475 + 0.2025 = 0.25 = p (1 - p) of one half.
    assert inter[1] < inter[0]
    assert both[0] == pytest.approx(both[1], rel=1e-9)
    apart_mean, apart_spread = predicted(*(v[None] for v in block_statistics(apart, everything(apart))), "inter")
    torch.testing.assert_close(apart_mean, torch.tensor([[0.5, 0.5]], dtype=torch.float64))
    torch.testing.assert_close(apart_spread, torch.tensor([[0.2025, 0.2025]], dtype=torch.float64))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("matching", MATCHINGS)
def test_gradients_agree_with_finite_differences(level: str, matching: str) -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    counted = torch.rand(4, 3, 3) > 0.2
    eta = torch.tensor([[0.2, 0.5, 0.3]] * 2 + [[0.6, 0.1, 0.3]] * 2, dtype=torch.float64)
    rho = torch.full((4, 3), 0.1, dtype=torch.float64)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return block_loss(torch.softmax(x, 1), counted, eta, rho, 2, level, matching)  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(loss, (logits,))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("matching", MATCHINGS)
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_blocks_that_all_agree_have_a_finite_loss_and_gradient(level: str, matching: str, p: float) -> None:
    chance = blocks(p, p).requires_grad_()
    loss = loss_of(chance, level, matching, eta=p, rho=0.001)
    loss.backward()  # type: ignore[no-untyped-call]
    loss = loss.detach()
    assert torch.isfinite(loss) and torch.isfinite(chance.grad).all()
    if matching == "joint":
        assert float(loss) == pytest.approx(2 * 0.5 * math.log(2 * math.pi * VARIANCE_FLOOR), rel=1e-3)


@given(st.permutations(range(6)), st.sampled_from(LEVELS), st.sampled_from(MATCHINGS))
def test_the_order_of_blocks_in_a_group_does_not_matter(order: list[int], level: str, matching: str) -> None:
    chance = blocks(0.1, 0.3, 0.35, 0.5, 0.8, 0.95)
    assert float(loss_of(chance[order], level, matching, group=6)) == pytest.approx(float(loss_of(chance, level, matching, group=6)), rel=1e-9)


@pytest.mark.parametrize("matching", MATCHINGS)
def test_any_number_of_classes(matching: str) -> None:
    chance = torch.softmax(torch.randn(4, 5, 4, 4, generator=torch.Generator().manual_seed(1)), 1)
    eta = chance.mean((0, 2, 3)).expand(4, -1)
    right = block_loss(chance, everything(chance), eta, torch.full((4, 5), 0.05), 4, "intra+inter", matching)  # type: ignore[arg-type]
    wrong = block_loss(chance, everything(chance), eta.flip(1), torch.full((4, 5), 0.05), 4, "intra+inter", matching)  # type: ignore[arg-type]
    assert right < wrong
