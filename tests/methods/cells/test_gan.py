"""The networks and losses of the cell classifier: shapes, who sees whom, what a loss is at known places."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_histoseg.methods.cells import ganloss
from napari_histoseg.methods.cells.gan import CROP_PX, Generator, InfoGan


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("own_trunk", [False, True])
def test_shapes(classes: int, own_trunk: bool) -> None:
    network = InfoGan(classes, z_dim=7, width=4, own_trunk=own_trunk).eval()
    crops = network.generator(torch.randn(6, 7), torch.arange(6) % classes)
    assert crops.shape == (6, 3, CROP_PX, CROP_PX)
    assert crops.abs().max() <= 1
    assert network.judge(crops).shape == (6,)
    probability, features = network((crops + 1) / 2)
    assert probability.shape == (6, classes)
    assert features.shape == (6, 32)
    assert torch.allclose(probability.sum(1), torch.ones(6), atol=1e-5)
    assert network.classes == classes


def test_the_class_changes_what_is_generated_and_the_noise_does_too() -> None:
    generator = Generator(3, 16, 4).eval()
    noise = torch.randn(1, 16)
    first, second = generator(noise.expand(2, -1), torch.tensor([0, 1]))
    assert not torch.allclose(first, second)
    first, second = generator(torch.randn(2, 16), torch.tensor([1, 1]))
    assert not torch.allclose(first, second)


def test_the_critic_judges_each_crop_alone() -> None:
    network = InfoGan(3, width=4).train()
    crops = torch.rand(5, 3, CROP_PX, CROP_PX) * 2 - 1
    assert torch.allclose(network.judge(crops)[:1], network.judge(crops[:1]), atol=1e-5)
    assert torch.allclose(network.classify(crops)[:1], network.classify(crops[:1]), atol=1e-5)


def test_heads_share_the_trunk_in_the_paper_only() -> None:
    shared, own = InfoGan(3, width=4), InfoGan(3, width=4, own_trunk=True)
    assert {id(p) for p in shared.trunk.parameters()} <= {id(p) for p in shared.class_parameters()}
    assert not {id(p) for p in own.critic_parameters()} & {id(p) for p in own.class_parameters()}
    for network in (shared, own):
        counted = {id(p) for p in [*network.generator.parameters(), *network.critic_parameters(), *network.class_parameters()]}
        assert counted == {id(p) for p in network.parameters()}


def _linear(slope: float):  # type: ignore[no-untyped-def]
    def judge(crops: torch.Tensor) -> torch.Tensor:
        return slope * crops.flatten(1).sum(1) / crops[0].numel() ** 0.5

    return judge


@pytest.mark.parametrize(("slope", "expected"), [(1.0, 0.0), (3.0, 4.0), (0.0, 1.0)])
def test_the_penalty_is_the_squared_distance_of_the_slope_from_one(slope: float, expected: float) -> None:
    real, fake, mix = torch.ones(4, 3, 5, 5), torch.zeros(4, 3, 5, 5), torch.rand(4)
    assert float(ganloss.gradient_penalty(_linear(slope), real, fake, mix)) == pytest.approx(expected, abs=1e-5)


def test_the_critic_s_loss_is_the_penalty_less_the_distance() -> None:
    real, fake, mix = torch.ones(4, 3, 5, 5), torch.zeros(4, 3, 5, 5), torch.rand(4)
    loss, distance = ganloss.critic_loss(_linear(2.0), real, fake, mix, penalty=10.0)
    assert float(distance) == pytest.approx(2 * 75**0.5, rel=1e-5)
    assert float(loss) == pytest.approx(10 - 2 * 75**0.5, rel=1e-4)


def test_the_gradient_of_the_penalty_reaches_the_critic() -> None:
    network = InfoGan(3, width=4)
    crops = torch.rand(4, 3, CROP_PX, CROP_PX)
    penalty = ganloss.gradient_penalty(network.judge, crops, -crops, torch.rand(4))
    slopes = torch.autograd.grad(penalty, network.critic.weight)
    assert float(slopes[0].abs().sum()) > 0


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_shared_information_is_log_k_when_even_and_sure_and_nothing_when_collapsed(classes: int) -> None:
    even = torch.eye(classes).repeat(4, 1)
    collapsed = torch.eye(classes)[torch.zeros(8, dtype=torch.long)]
    assert float(ganloss.shared_information(even, even)) == pytest.approx(np.log(classes), abs=1e-4)
    assert float(ganloss.shared_information(collapsed, collapsed)) == pytest.approx(0, abs=1e-4)
    unsure = torch.full((8, classes), 1 / classes)
    assert float(ganloss.shared_information(unsure, unsure)) == pytest.approx(0, abs=1e-4)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), classes=st.integers(2, 6))
def test_shared_information_is_the_same_either_way_round_and_for_any_names(seed: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(30, classes, generator=generator).softmax(1) for _ in range(2))
    value = float(ganloss.shared_information(first, second))
    assert -1e-5 <= value <= np.log(classes) + 1e-5
    assert float(ganloss.shared_information(second, first)) == pytest.approx(value, abs=1e-5)
    other = torch.randperm(classes, generator=generator)
    assert float(ganloss.shared_information(first[:, other], second[:, other])) == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("quarter", range(4))
@pytest.mark.parametrize("flip", [1.0, -1.0])
def test_a_quarter_turn_moves_every_pixel(quarter: int, flip: float) -> None:
    crops = torch.rand(2, 3, 8, 8)
    out = ganloss.turned(crops, torch.full((2,), quarter * np.pi / 2, dtype=torch.float32), torch.full((2,), flip))
    mirrored = crops if flip > 0 else crops.flip(3)
    assert any(torch.allclose(out, torch.rot90(mirrored, k, (2, 3)), atol=1e-4) for k in (quarter, -quarter))


def test_turning_invents_no_color() -> None:
    crops = torch.full((3, 3, 9, 9), 0.3)
    assert torch.allclose(ganloss.turned(crops, torch.rand(3) * 6, torch.ones(3)), crops, atol=1e-5)


def test_restaining_keeps_glass_and_deepens_stain() -> None:
    glass, stained = torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    more = torch.full((1, 3), 2.0)
    assert torch.allclose(ganloss.restained(glass, more), glass)
    assert torch.allclose(ganloss.restained(stained, more), torch.full_like(stained, 2 * 0.25 - 1))
    assert torch.allclose(ganloss.restained(stained, torch.ones(1, 3)), stained)
