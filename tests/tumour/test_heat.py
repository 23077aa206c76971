"""The heatmap of a picture: which patches are looked at, and what overlapping ones give together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_histoseg._testing import he_image
from napari_histoseg.methods.tumour import heat
from napari_histoseg.methods.tumour.heat import HeatNetwork
from napari_histoseg.methods.tumour.network import Classifier

CPU = torch.device("cpu")
SIDE, SCALE = 32, 2


class Brightness(nn.Module):
    """Takes dark patches for tumour; remembers how many it was shown at once."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, image: Tensor) -> Tensor:
        self.seen.append(len(image))
        dark = 10 * (0.75 - image.mean((1, 2, 3)))
        return torch.stack([torch.zeros_like(dark), dark], 1)


class Always(nn.Module):
    """Takes everything for tumour."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.tensor([[-50.0, 50.0]]).expand(len(image), 2)


def made(network: nn.Module, **how: Any) -> HeatNetwork:
    return HeatNetwork(network, CPU, torch.float32, SIDE, SCALE, **how)


def slide(rows: int = 4, columns: int = 5) -> NDArray[np.uint8]:
    """A picture in whole patches, with places of glass of any size."""
    image = he_image(columns * SIDE, rows * SIDE, seed=1, mpp=1.0)
    image[:, : SIDE // 2] = 243
    image[SIDE + 5 : 2 * SIDE - 3, SIDE + 3 : 3 * SIDE] = 243
    image[2 * SIDE :, 3 * SIDE :] = 243
    return image


def brute(image: NDArray[np.uint8], overlap: float, least: float) -> NDArray[np.float64]:
    """Every patch by itself, every square the mean of all patches with tissue that cover it."""
    step = round(SIDE * (1 - overlap))
    total, count = np.zeros(image.shape[:2]), np.zeros(image.shape[:2])
    for y in range(0, image.shape[0] - SIDE + 1, step):
        for x in range(0, image.shape[1] - SIDE + 1, step):
            patch = image[y : y + SIDE, x : x + SIDE]
            share = heat.stained(patch.reshape(SIDE // 2, 2, SIDE // 2, 2, 3).mean((1, 3)).round().astype(np.uint8)).mean()
            if share >= least and share > 0:
                total[y : y + SIDE, x : x + SIDE] += 1 / (1 + np.exp(-10 * (0.75 - patch.mean() / 255)))
                count[y : y + SIDE, x : x + SIDE] += 1
    return np.divide(total, count, out=np.zeros_like(total), where=count > 0)


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.75])
@pytest.mark.parametrize("least", [0.0, 0.25, 0.9])
def test_a_square_has_the_mean_of_the_patches_with_tissue_that_cover_it(overlap: float, least: float) -> None:
    image, network = slide(), made(Brightness(), overlap=overlap, least_tissue=least)
    found = network(image)
    step = network.step_px
    assert found.shape == (image.shape[0] // step, image.shape[1] // step)
    expected = brute(image, overlap, least)
    np.testing.assert_allclose(found.repeat(step, 0).repeat(step, 1), expected, atol=2e-6)
    assert len(np.unique(expected.round(5))) > 10 and (expected == 0).any()


def test_only_patches_with_tissue_are_looked_at() -> None:
    network = Brightness()
    found = made(network)(slide())
    assert sum(network.seen) == (found > 0).sum() < found.size


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.75])
@pytest.mark.parametrize("least", [0.0, 0.25])
def test_glass_is_no_tumour_whatever_the_network_says(overlap: float, least: float) -> None:
    image = np.full((4 * SIDE, 5 * SIDE, 3), 243, np.uint8)
    image[:, 4 * SIDE :] = he_image(SIDE, 4 * SIDE, seed=0, mpp=1.0)
    network = made(Always(), overlap=overlap, least_tissue=least)
    found = network(image)
    reach = SIDE // network.step_px
    # As far as the last patch reaches that has tissue.
    glass = found[:, : 4 * reach if reach == 1 else 3 * reach]
    assert not glass.any()
    assert found[:, 4 * reach :].min() == pytest.approx(1)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_patches_side_by_side_are_what_each_is_by_itself(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    torch.manual_seed(0)
    network = Classifier().eval()
    image = slide()
    found = made(network)(image)
    monkeypatch.setattr(heat, "CHUNK", chunk)
    np.testing.assert_allclose(made(network)(image), found, atol=1e-6)
    spied = Brightness()
    made(spied)(image)
    assert max(spied.seen) <= chunk and sum(spied.seen) == (found > 0).sum()


@pytest.mark.parametrize(("overlap", "step", "halo"), [(0.0, 32, 0), (0.5, 16, 16), (0.75, 8, 16)])
def test_tiles_reach_as_far_as_patches_that_overlap_them(overlap: float, step: int, halo: int) -> None:
    network = made(Always(), overlap=overlap)
    assert (network.step_px, network.halo_px) == (step, halo)


@pytest.mark.parametrize("overlap", [0.5, 0.75])
def test_a_margin_of_a_patch_is_all_that_a_tile_needs(overlap: float) -> None:
    network = made(Brightness(), overlap=overlap)
    image = slide(6, 6)
    whole, tile = network(image), network(image[SIDE:-SIDE, SIDE:-SIDE])
    reach = SIDE // network.step_px
    np.testing.assert_allclose(tile[reach:-reach, reach:-reach], whole[2 * reach : -2 * reach, 2 * reach : -2 * reach], atol=1e-6)
