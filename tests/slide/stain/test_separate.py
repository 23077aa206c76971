"""Separation and augmentation: the parts add up to the whole, and glass has none."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_histoseg._testing import he_image
from napari_histoseg.errors import SettingsError
from napari_histoseg.slide.stain import StainProfile, jitter, load_profile, separate
from napari_histoseg.slide.stain.density import stain_matrix, to_density

UInt8 = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def image() -> UInt8:
    return he_image(128, 128, seed=5, glass=0.15)


@pytest.fixture(scope="module")
def profile() -> StainProfile:
    return load_profile("cmu-1")


def test_the_parts_add_up_to_the_density(image: UInt8, profile: StainProfile) -> None:
    parts = separate(image, profile)
    assert parts.shape == (3, 128, 128) and parts.dtype == np.float32
    whole = np.moveaxis(parts, 0, -1) @ stain_matrix(profile.macenko.vectors)
    np.testing.assert_allclose(whole, to_density(image, profile.white), atol=1e-4)


def test_the_amounts_that_were_mixed_are_found() -> None:
    amounts = np.random.default_rng(0).uniform(0, 0.6, (50, 40, 2))
    pixels = np.rint(255 * 10 ** -(amounts @ stain_matrix(((0.65, 0.70, 0.29), (0.07, 0.99, 0.11)))[:2])).astype(np.uint8)
    parts = separate(pixels)
    np.testing.assert_allclose(parts[:2], np.moveaxis(amounts, -1, 0), atol=0.02)
    assert np.abs(parts[2]).max() < 0.02


def test_vectors_alone_go_with_pure_white(image: UInt8, profile: StainProfile) -> None:
    white = np.full((2, 2, 3), 255, np.uint8)
    assert np.abs(separate(white, profile.macenko)).max() < 1e-6
    assert separate(image, profile.macenko).shape == (3, 128, 128)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), sigma1=st.floats(0, 0.5), sigma2=st.floats(0, 0.2))
def test_jitter_keeps_glass_and_stays_moderate(image: UInt8, profile: StainProfile, seed: int, sigma1: float, sigma2: float) -> None:
    after = jitter(np.random.default_rng(seed), image, profile, sigma1, sigma2)
    assert after.shape == image.shape and after.dtype == np.uint8
    assert np.abs(after[:15].astype(int) - image[:15]).mean() < 1
    allowed = sigma1 * to_density(image, profile.white).clip(0).max() + 2 * sigma2
    change = np.abs(to_density(after, profile.white) - to_density(image, profile.white))
    assert np.quantile(change, 0.95) < 2 * allowed + 0.1


def test_jitter_of_nothing_changes_nothing_and_the_seed_decides(image: UInt8, profile: StainProfile) -> None:
    same = jitter(np.random.default_rng(0), image, profile, 0.0, 0.0)
    assert np.abs(same.astype(int) - image).max() <= 1
    first, again, other = (jitter(np.random.default_rng(seed), image, profile) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()
    assert (first[40:-40, 40:-40] != image[40:-40, 40:-40]).any()


def test_only_rgb_is_taken(profile: StainProfile) -> None:
    with pytest.raises(SettingsError, match="8-bit RGB"):
        separate(np.zeros((4, 4), np.uint8), profile)
    with pytest.raises(SettingsError, match="8-bit RGB"):
        jitter(np.random.default_rng(0), np.zeros((4, 4, 3)), profile)
