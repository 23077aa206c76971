"""The losses of joint training, against numbers by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_histoseg.methods.joint.loss import (
    class_loss,
    constant_mask_loss,
    dice_loss,
    frequency_weights,
    pixel_loss,
    presence,
)

EVEN = torch.ones(3)


def logits(*chances: tuple[float, ...], side: int = 4) -> torch.Tensor:
    """Logits (1, classes, side, side), the columns of the picture shared evenly by the given probabilities."""
    columns = torch.tensor(chances).log().T.repeat_interleave(side // len(chances), 1)
    return columns[None, :, None].expand(-1, -1, side, -1).contiguous()


def test_weights_follow_the_class_frequencies() -> None:
    # N / (K n): 100 / (2 · 90) and 100 / (2 · 10); the class without pixels takes no part.
    np.testing.assert_allclose(frequency_weights([90, 10, 0]), [100 / 180, 5, 1], rtol=1e-6)
    np.testing.assert_allclose(frequency_weights([90, 10, 0], "root"), [(100 / 180) ** 0.5, 5**0.5, 1], rtol=1e-6)
    np.testing.assert_allclose(frequency_weights([90, 10, 0], "none"), [1, 1, 1])
    assert frequency_weights([10**6, 1])[1] == 20
    weights = frequency_weights([30, 60, 10])
    assert np.dot(weights, [30, 60, 10]) == pytest.approx(100)


def test_the_pixel_loss_is_the_weighted_mean_without_unlabeled_pixels() -> None:
    output = logits((0.5, 0.25, 0.25), (0.1, 0.8, 0.1))
    mask = torch.tensor([[[0, 0, 1, 255]] * 4])
    weights = torch.tensor([1.0, 3.0, 7.0])
    expected = (2 * 1 * -np.log(0.5) + 3 * -np.log(0.8)) / (2 + 3)
    assert float(pixel_loss(output, mask, weights)) == pytest.approx(expected, rel=1e-5)
    nothing = pixel_loss(output.requires_grad_(), torch.full((1, 4, 4), 255), weights)
    assert nothing.item() == 0
    nothing.backward()


def test_dice_counts_the_classes_that_are_there() -> None:
    mask = torch.tensor([[[0, 0, 1, 1]] * 4])
    assert float(dice_loss(logits((0.998, 0.001, 0.001), (0.001, 0.998, 0.001)), mask)) == pytest.approx(0, abs=0.01)
    assert float(dice_loss(logits((0.001, 0.998, 0.001), (0.998, 0.001, 0.001)), mask)) > 0.9
    assert float(dice_loss(logits((0.5, 0.4, 0.1)), torch.full((1, 4, 4), 255))) == 0


def test_presence_by_hand() -> None:
    maps = logits((0.9, 0.05, 0.05), (0.2, 0.6, 0.2))
    expected = ((0.05**4 + 0.6**4) / 2) ** 0.25
    assert float(presence(maps)[0, 1]) == pytest.approx(expected, rel=1e-5)
    loss = float(class_loss(maps, torch.tensor([1]), EVEN, 0))
    # Attention is 1 - p_background: 0.1 in the left half, 0.8 in the right one.
    right = -(0.1 * np.log(0.05 / 0.1) + 0.8 * np.log(0.6 / 0.8)) / 0.9
    assert loss == pytest.approx(right - 0.25 * np.log(expected), rel=1e-4)
    without = float(class_loss(maps, torch.tensor([1]), EVEN, None))
    assert without == pytest.approx(-(np.log(0.05) + np.log(0.6)) / 2, rel=1e-4)


def test_how_much_is_background_is_left_open() -> None:
    little, much = (logits(*[(0.98, 0.01, 0.01)] * (8 - n), *[(0.01, 0.98, 0.01)] * n, side=8) for n in (2, 6))
    other = logits(*[(0.98, 0.01, 0.01)] * 6, *[(0.01, 0.01, 0.98)] * 2, side=8)
    losses = [float(class_loss(maps, torch.tensor([1]), EVEN, 0)) for maps in (little, much, other)]
    assert losses[0] < 0.3 and losses[1] < 0.3 and losses[2] > 2


def test_a_class_moves_no_border_between_foreground_and_background() -> None:
    maps = torch.zeros(1, 3, 4, 4)
    maps[:, 1:, :, 2:] = 3
    maps.requires_grad_()
    loss = class_loss(maps, torch.tensor([1]), EVEN, 0)
    loss.backward()
    gradient = maps.grad
    assert gradient is not None
    # What the right class gains, the wrong one loses: all but the small part that asks for presence.
    assert float(gradient[:, 0].abs().sum()) < 0.2 * float(gradient[:, 2].abs().sum())


def test_a_background_patch_is_all_background() -> None:
    clean, dirty = logits((0.98, 0.01, 0.01)), logits((0.98, 0.01, 0.01), (0.01, 0.98, 0.01))
    losses = [float(class_loss(maps, torch.tensor([0]), EVEN, 0)) for maps in (clean, dirty)]
    assert losses[0] < 0.1 and losses[1] > 1


def test_several_classes_share_the_foreground_and_are_each_somewhere() -> None:
    left, right = (0.10, 0.60, 0.25, 0.05), (0.05, 0.15, 0.70, 0.10)
    maps = logits(left, right)
    loss = float(class_loss(maps, torch.tensor([[1, 2]]), torch.ones(4), 0))
    # Attention is 1 - p_background; what the two have of it is 0.85 of 0.90, and 0.85 of 0.95.
    share = -(0.9 * np.log(0.85 / 0.9) + 0.95 * np.log(0.85 / 0.95)) / 1.85
    somewhere = [-np.log(((a**4 + b**4) / 2) ** 0.25) for a, b in zip(left, right, strict=True)]
    assert loss == pytest.approx(share + 0.25 * (somewhere[1] + somewhere[2]), rel=1e-4)
    with_background = float(class_loss(maps, torch.tensor([[1, 0, 2]]), torch.ones(4), 0))
    assert with_background == pytest.approx(loss + 0.25 * somewhere[0], rel=1e-4)
    everywhere = float(class_loss(maps, torch.tensor([[1, 2]]), torch.ones(4), None))
    assert everywhere == pytest.approx(-np.log(0.85) + 0.25 * (somewhere[1] + somewhere[2]), rel=1e-4)
    weighted = float(class_loss(maps.repeat(2, 1, 1, 1), torch.tensor([[1, 2], [3, -1]]), torch.tensor([9.0, 1.0, 3.0, 6.0]), 0))
    alone = float(class_loss(maps, torch.tensor([3]), torch.ones(4), 0))
    assert weighted == pytest.approx((2 * loss + 6 * alone) / 8, rel=1e-4)


def test_a_missing_class_costs_where_it_is_said_to_be_present() -> None:
    one, both = logits((0.02, 0.96, 0.01, 0.01)), logits((0.02, 0.96, 0.01, 0.01), (0.02, 0.01, 0.96, 0.01))
    other = logits((0.02, 0.96, 0.01, 0.01), (0.02, 0.01, 0.01, 0.96))
    losses = [float(class_loss(maps, torch.tensor([[1, 2]]), torch.ones(4), 0)) for maps in (both, one, other)]
    assert losses[0] < 0.2 < 0.9 < losses[1] < losses[2]


@pytest.mark.parametrize("background", [0, None])
def test_patches_of_one_class_cost_the_same_bits_beside_others(background: int | None) -> None:
    generator = torch.Generator().manual_seed(1)
    start, weights = torch.randn(6, 4, 16, 16, generator=generator), torch.tensor([1.0, 0.7, 2.3, 1.1])
    label = torch.tensor([0, 1, 2, 3, 1, 0])
    padded = torch.stack([label, torch.full((6,), -1)], 1)
    found = []
    for given in (label, padded):
        maps = start.clone().requires_grad_()
        loss = class_loss(maps, given, weights, background)
        loss.backward()
        found.append((loss.detach(), maps.grad))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


def test_the_authors_constant_mask_is_the_class_everywhere() -> None:
    maps = logits((0.5, 0.25, 0.25))
    assert float(constant_mask_loss(maps, torch.tensor([2]), EVEN)) == pytest.approx(-np.log(0.25), rel=1e-5)
