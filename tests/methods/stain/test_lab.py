"""L*a*b* and back: exact for what is sRGB, the same lightness for what is not."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.color import rgb2lab

from napari_histoseg.methods.stain.lab import to_lab, to_rgb


@pytest.fixture(scope="module")
def colors() -> np.ndarray:
    """Every sixth value of each channel, as a picture."""
    steps = np.unique(np.append(np.arange(0, 256, 6), 255)).astype(np.uint8)
    return np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, len(steps), 3)


def test_it_is_the_lab_of_scikit_image(colors: np.ndarray) -> None:
    lightness, ab = to_lab(colors)
    assert np.abs(np.dstack([lightness, ab]) - rgb2lab(colors)).max() < 0.02


def test_there_and_back_gives_the_same_pixels(colors: np.ndarray) -> None:
    assert np.array_equal(to_rgb(*to_lab(colors)), colors)


def test_colors_outside_srgb_keep_their_lightness(colors: np.ndarray) -> None:
    lightness, ab = to_lab(colors)
    after, pulled = to_lab(to_rgb(lightness, 3 * ab))
    # A gray level of blue next to black is a third of a unit of L*.
    assert np.abs(after - lightness).max() < 0.35
    assert (np.linalg.norm(pulled, axis=-1) <= 3 * np.linalg.norm(ab, axis=-1) + 3).all()
