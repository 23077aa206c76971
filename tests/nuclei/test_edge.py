"""Nuclei that the edge of the picture cuts are found, once, and measured as they are seen."""

from __future__ import annotations

import numpy as np
import pytest

import napari_histoseg as hs

MPP, SIDE, RADIUS = 0.25, 300, 14
EDGE = [(0, 60), (0, 200), (SIDE - 1, 90), (SIDE - 1, 240), (100, 0), (220, 0), (50, SIDE - 1), (170, SIDE - 1)]
"""Centers (row, column) on the four edges: half of each nucleus is seen."""
INSIDE = [(100, 100), (150, 220), (220, 150)]


def picture() -> np.ndarray:
    """Dark round nuclei on pink tissue with a little grain."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    image = np.full((SIDE, SIDE, 3), (226, 170, 205), np.float32)
    for row, column in EDGE + INSIDE:
        distance = np.hypot(rows - row, columns - column)
        amount = 1 / (1 + np.exp(np.clip(distance - RADIUS, -30, 30)))
        image += amount[..., None] * (np.array((82, 52, 128)) - image)
    return np.clip(image + np.random.default_rng(0).normal(0, 4, image.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("tile_px", [128, 1024])
@pytest.mark.parametrize("model", ["compact", "log"])
def test_nuclei_cut_by_the_edge_are_there(model: str, tile_px: int) -> None:
    result = hs.run("nuclei", hs.open_slide(picture(), mpp=MPP), model=model, tile_px=tile_px)
    assert len(result.objects) == len(EDGE + INSIDE)
    assert result.objects["centroid_x_um"].between(0, SIDE * MPP).all()
    assert result.objects["centroid_y_um"].between(0, SIDE * MPP).all()
    labels = np.asarray(result.labels)
    areas = result.objects.set_index("id")["area_um2"]
    whole = np.pi * (RADIUS * MPP) ** 2
    for place in EDGE:
        row, column = np.clip(place, 3, SIDE - 4) * MPP // result.mpp
        assert 0.3 * whole < areas[labels[int(row), int(column)]] < 0.75 * whole
    for place in INSIDE:
        row, column = np.array(place) * MPP // result.mpp
        assert 0.7 * whole < areas[labels[int(row), int(column)]] < 1.5 * whole
