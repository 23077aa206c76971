"""What the networks learn from instance maps, and the losses they learn it by."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_histoseg.methods.nuclei.loss import boundary_loss, compact_loss
from napari_histoseg.methods.nuclei.network import build
from napari_histoseg.methods.nuclei.targets import (
    UNLABELED,
    boundary_classes,
    instance_weights,
    offsets,
)


@pytest.fixture
def two() -> np.ndarray:
    """A 5 × 5 square (id 7) that touches a 5 × 3 one (id 2), and a strip that nobody annotated."""
    instances = np.zeros((12, 16), np.int32)
    instances[2:7, 2:7] = 7
    instances[2:7, 7:10] = 2
    instances[:, 14:] = UNLABELED
    return instances


def test_offsets_lead_to_the_centroid(two: np.ndarray) -> None:
    rows, columns = np.mgrid[:12, :16]
    end = offsets(two) + np.stack([rows, columns])
    assert (end[:, two == 7] == np.array([[4], [4]])).all()
    assert (end[:, two == 2] == np.array([[4], [8]])).all()
    assert not offsets(two)[:, two <= 0].any()


def test_offsets_of_nothing_are_zero() -> None:
    assert not offsets(np.zeros((4, 5), np.int32)).any()


def test_the_boundary_lies_between_touching_nuclei_and_round_them(two: np.ndarray) -> None:
    classes = boundary_classes(two)
    assert (classes[3:6, 3:6] == 1).all()
    assert (classes[2:7, 6] == 2).all() and (classes[2:7, 7] == 2).all()
    assert (classes[3:6, 8] == 1).all()
    assert (classes[two == 0] == 0).all() and (classes[two == UNLABELED] == -1).all()


def test_small_nuclei_weigh_more_a_pixel(two: np.ndarray) -> None:
    weights = instance_weights(two)
    assert weights[3, 3] == pytest.approx(np.sqrt(20 / 25)) and weights[3, 8] == pytest.approx(np.sqrt(20 / 15))
    assert not weights[two <= 0].any()
    assert not instance_weights(np.full((3, 3), UNLABELED, np.int32)).any()


def _batch(two: np.ndarray) -> dict[str, torch.Tensor]:
    nucleus = np.where(two == UNLABELED, -1, two > 0).astype(np.float32)
    arrays = {"nucleus": nucleus, "offset": offsets(two) / 16, "weight": instance_weights(two)}
    return {k: torch.from_numpy(v)[None] for k, v in arrays.items()}


def test_a_perfect_answer_costs_almost_nothing(two: np.ndarray) -> None:
    batch = _batch(two)
    output = torch.cat([(batch["nucleus"][:, None] > 0).float() * 40 - 20, batch["offset"]], 1)
    assert float(compact_loss(output, **batch)) < 1e-3


def test_the_loss_in_closed_form_without_knowledge(two: np.ndarray) -> None:
    """Logit 0 and offset 0: log 2, the Dice of one half everywhere, and the weighted mean of |target|."""
    batch = _batch(two)
    known, n = float((batch["nucleus"] >= 0).sum()), 40.0
    dice = 1 - (2 * 0.5 * n + 1) / (0.5 * known + n + 1)
    pull = float((batch["offset"].abs().sum(1) * batch["weight"]).sum() / batch["weight"].sum())
    expected = np.log(2) + dice + pull
    assert float(compact_loss(torch.zeros(1, 3, 12, 16), **batch)) == pytest.approx(expected, rel=1e-5)


def test_unlabeled_pixels_cost_nothing_whatever_is_predicted(two: np.ndarray) -> None:
    batch, output = _batch(two), torch.zeros(1, 3, 12, 16)
    wild = output.clone()
    wild[..., 14:] = 50
    assert float(compact_loss(output, **batch)) == float(compact_loss(wild, **batch))
    classes = torch.from_numpy(boundary_classes(two))[None]
    assert float(boundary_loss(output, classes)) == pytest.approx(float(boundary_loss(wild, classes)))
    assert float(boundary_loss(output, classes)) == pytest.approx(np.log(3), rel=1e-5)


@pytest.mark.parametrize("architecture", ["compact", "unet"])
def test_networks_keep_the_size_and_learn_one_picture(architecture: str, two: np.ndarray) -> None:
    torch.manual_seed(0)
    network = build(architecture, 8)
    image = torch.rand(1, 3, 48, 64)
    assert network(image).shape == (1, 3, 48, 64)


def test_the_papers_network_has_the_papers_shape() -> None:
    """144 × 144 → 512 × 9 × 9 at the bottom (Yuan & Suh, §2.2)."""
    network = build("unet", 32)
    shapes: list[torch.Size] = []
    network.down[-1].register_forward_hook(lambda module, given, made: shapes.append(made.shape))
    with torch.inference_mode():
        out = network(torch.rand(1, 3, 144, 144))
    assert shapes == [(1, 512, 9, 9)] and out.shape == (1, 3, 144, 144)
