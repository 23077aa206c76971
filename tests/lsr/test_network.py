"""The network of label super-resolution."""

from __future__ import annotations

import pytest
import torch

from napari_histoseg.methods.lsr.network import HALO_PX, STRIDE_PX, UNet


@pytest.mark.parametrize("classes", [2, 5])
def test_logits_have_the_resolution_of_the_picture(classes: int) -> None:
    assert UNet(classes, 8)(torch.rand(2, 3, 48, 64)).shape == (2, classes, 48, 64)


def test_a_pixel_depends_on_none_outside_the_halo() -> None:
    torch.manual_seed(0)
    network = UNet(2, 4).eval()
    for parameter in network.parameters():
        torch.nn.init.uniform_(parameter, 0.01, 0.1)  # nothing cancels, no ReLU is off
    side = 2 * HALO_PX + 2 * STRIDE_PX
    side += -side % STRIDE_PX
    reached = []
    for shift in range(STRIDE_PX):
        image = torch.rand(1, 3, side, 16).add(0.5).requires_grad_()
        network(image)[0, :, side // 2 + shift].sum().backward()
        rows = torch.nonzero(image.grad.abs().sum((0, 1, 3)))  # type: ignore[union-attr]
        reached.append(max(side // 2 + shift - int(rows.min()), int(rows.max()) - side // 2 - shift))
    assert HALO_PX - STRIDE_PX < max(reached) <= HALO_PX
    assert HALO_PX % STRIDE_PX == 0
