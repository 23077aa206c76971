"""The losses of classifier and refiner, against numbers by hand."""

from __future__ import annotations

from math import log

import pytest
import torch

from napari_histoseg.methods.tumour.loss import cwce, dice_loss


def logits(*chances: float) -> torch.Tensor:
    """Logits (n, 2) with the given probabilities of the second class."""
    p = torch.tensor(chances, dtype=torch.float64)
    return torch.stack([1 - p, p], 1).log()


def slow_cwce(output: torch.Tensor, label: torch.Tensor, cluster: torch.Tensor) -> float:
    """The definition, in loops."""
    chance = torch.softmax(output, 1)
    present = sorted(set(cluster.tolist()))
    total = 0.0
    for c in range(output.shape[1]):
        for k in present:
            cell = [i for i in range(len(label)) if label[i] == c and cluster[i] == k]
            if cell:
                total += sum(-log(chance[i, c]) for i in cell) / len(cell)
    return total / (len(present) * output.shape[1])


def test_cwce_of_a_batch_by_hand() -> None:
    output = logits(0.9, 0.8, 0.6, 0.3, 0.5)
    label, cluster = torch.tensor([1, 1, 1, 0, 0]), torch.tensor([4, 4, 7, 4, 4])
    # Tumour: cluster 4 has two patches, 7 has one. No tumour: cluster 4 has two, 7 has none.
    cells = [-(log(0.9) + log(0.8)) / 2, -log(0.6), -(log(0.7) + log(0.5)) / 2, 0]
    assert float(cwce(output, label, cluster)) == pytest.approx(sum(cells) / 4)


@pytest.mark.parametrize("seed", range(5))
def test_cwce_is_its_definition(seed: int) -> None:
    torch.manual_seed(seed)
    output = torch.randn(40, 2)
    label, cluster = torch.randint(2, (40,)), torch.randint(10, (40,))
    assert float(cwce(output, label, cluster)) == pytest.approx(slow_cwce(output, label, cluster), rel=1e-5)


def test_cwce_of_one_cluster_is_the_mean_over_the_classes() -> None:
    output, label = logits(0.9, 0.2, 0.2), torch.tensor([1, 0, 0])
    expected = (-log(0.9) - log(0.8)) / 2
    assert float(cwce(output, label, torch.zeros(3, dtype=torch.long))) == pytest.approx(expected)


def test_a_cluster_of_many_patches_does_not_outweigh_one_of_few() -> None:
    few = cwce(logits(0.9, 0.4), torch.tensor([1, 1]), torch.tensor([0, 1]))
    many = cwce(logits(*[0.9] * 50, 0.4), torch.ones(51, dtype=torch.long), torch.tensor([0] * 50 + [1]))
    torch.testing.assert_close(few, many)


def test_cwce_has_the_gradient_of_finite_differences() -> None:
    torch.manual_seed(0)
    output = torch.randn(6, 2, requires_grad=True)
    label, cluster = torch.tensor([0, 1, 1, 0, 1, 1]), torch.tensor([0, 0, 1, 2, 2, 2])
    cwce(output, label, cluster).backward()
    step = 1e-3
    for i in range(6):
        shift = torch.zeros(6, 2)
        shift[i, 1] = step
        with torch.no_grad():
            slope = (slow_cwce(output + shift, label, cluster) - slow_cwce(output - shift, label, cluster)) / (2 * step)
        assert float(output.grad[i, 1]) == pytest.approx(slope, abs=1e-4)


TRUTH = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
EVERYWHERE = torch.ones(1, 1, 2, 2, dtype=torch.bool)


def test_dice_loss_by_hand() -> None:
    chance = torch.tensor([[[[0.8, 0.5], [0.2, 0.1]]]])
    # 2 (0.8 + 0.5) + 1 over 0.64 + 0.25 + 0.04 + 0.01 + 2 + 1.
    assert float(dice_loss(chance.logit(), TRUTH, EVERYWHERE)) == pytest.approx(1 - 3.6 / 3.94)


def test_dice_loss_of_nothing_found_where_there_is_nothing_is_none() -> None:
    assert float(dice_loss(torch.full((1, 1, 2, 2), -50.0), torch.zeros(1, 1, 2, 2), EVERYWHERE)) == pytest.approx(0, abs=1e-6)


def test_an_unknown_pixel_does_not_count() -> None:
    known = torch.tensor([[[[True, True], [True, False]]]])
    one = torch.randn(1, 1, 2, 2)
    other = one.clone()
    other[..., 1, 1] = 7
    changed = TRUTH.clone()
    changed[..., 1, 1] = 1
    one.requires_grad_(True)
    loss = dice_loss(one, TRUTH, known)
    torch.testing.assert_close(loss, dice_loss(other, changed, known))
    loss.backward()
    assert float(one.grad[..., 1, 1]) == 0
    assert bool((one.grad[known] != 0).all())


def test_of_several_logits_the_mean_is_taken() -> None:
    one, other = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    truth, known = torch.randint(2, (2, 1, 4, 4)).float(), torch.ones(2, 1, 4, 4, dtype=torch.bool)
    losses = [dice_loss(x, truth, known) for x in (one, other)]
    torch.testing.assert_close(dice_loss([one, other], truth, known), sum(losses) / 2)


def test_dice_loss_has_the_gradient_of_finite_differences() -> None:
    torch.manual_seed(0)
    output = torch.randn(1, 1, 3, 3, dtype=torch.float32, requires_grad=True)
    truth, known = torch.randint(2, (1, 1, 3, 3)).float(), torch.rand(1, 1, 3, 3) > 0.2
    dice_loss(output, truth, known).backward()
    step = 1e-2
    for i in range(9):
        shift = torch.zeros(9)
        shift[i] = step
        with torch.no_grad():
            up, down = (dice_loss(output + s * shift.view(1, 1, 3, 3), truth, known) for s in (1, -1))
        assert float(output.grad.flatten()[i]) == pytest.approx(float(up - down) / (2 * step), abs=1e-4)


def test_losses_are_computed_in_full_precision() -> None:
    output = torch.randn(8, 2).bfloat16()
    label, cluster = torch.randint(2, (8,)), torch.randint(3, (8,))
    assert cwce(output, label, cluster).dtype == torch.float32
    assert dice_loss(output.view(1, 1, 4, 4), torch.ones(1, 1, 4, 4), torch.ones(1, 1, 4, 4, dtype=torch.bool)).dtype == torch.float32
