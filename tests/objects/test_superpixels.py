"""Superpixels are connected, follow colors, come out alike every time, and carry labels and values."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from napari_histoseg._testing import he_image, he_tissue
from napari_histoseg.errors import SettingsError
from napari_histoseg.objects.superpixels import SIDE_PX, majority, mean_of, side_of, spread, superpixels

any_image = hnp.arrays(np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24), st.just(3)))


def flat_image(height, width, value=200):
    return np.full((height, width, 3), value, np.uint8)


def noisy_image(spread):
    return np.random.default_rng(0).normal(128, spread, (64, 64, 3)).clip(0, 255).astype(np.uint8)


def pieces(labels):
    """Number of 4-connected pieces of each superpixel."""
    return [ndimage.label(labels == number)[1] for number in np.unique(labels)]


# -- the partition ------------------------------------------------------------------------------------------------------


@given(any_image, st.sampled_from([1.0, 2.5, 5.0, 40.0]), st.sampled_from([0.1, 10.0, 1000.0]))
@settings(deadline=None, max_examples=60)
def test_superpixels_are_connected_and_numbered_by_their_first_pixel(image, side_px, compactness):
    found = superpixels(image, side_px, compactness)
    assert found.shape == image.shape[:2] and found.dtype == np.int32
    assert set(pieces(found)) == {1}
    numbers, first = np.unique(found, return_index=True)
    assert np.array_equal(numbers, np.arange(len(numbers)))
    assert np.array_equal(np.argsort(first), numbers)


def test_as_many_are_found_as_were_asked():
    image = he_image(256, 256, seed=3)
    found = superpixels(image, side_of(1250, 256, 256))
    assert found.max() + 1 == pytest.approx(1250, rel=0.06)


def test_the_usual_side_is_that_of_5000_on_512():
    assert side_of(5000, 512, 512) == SIDE_PX == pytest.approx(7.2408, abs=1e-4)


def test_of_one_color_they_are_a_grid_of_squares():
    found = superpixels(flat_image(60, 80), side_px=10)
    assert found.max() + 1 == 48
    assert set(np.bincount(found.ravel())) == {100}


def test_they_do_not_cross_an_edge_between_colors():
    image = flat_image(64, 64)
    y, x = np.mgrid[:64, :64]
    disc = (y - 30) ** 2 + (x - 35) ** 2 < 300
    image[disc] = (90, 40, 120)
    found = superpixels(image, side_px=8)
    inside = mean_of(disc[None].astype(np.float32), found)
    assert set(np.unique(inside)) == {0.0, 1.0}


def test_nuclei_are_covered_as_well_as_by_the_usual_program():
    from skimage.segmentation import slic

    image, nuclei = he_tissue(256, 256, seed=1)
    count = 1250

    def leaked(labels):
        """Part of the pixels that lie in a superpixel whose majority says otherwise."""
        own = majority((nuclei > 0).astype(np.int32), labels.astype(np.int32), 2)
        return np.mean(own != (nuclei > 0))

    ours = superpixels(image, side_of(count, 256, 256))
    theirs = slic(image, count, compactness=10, start_label=0)
    assert leaked(ours) < 1.1 * leaked(theirs)


@pytest.mark.parametrize("spread", [5, 20, 60])
def test_noise_does_not_make_them_run_together(spread):
    sizes = np.bincount(superpixels(noisy_image(spread), side_px=8, compactness=10).ravel())
    assert 58 <= len(sizes) <= 70


def test_specks_join_what_is_around_them():
    image = flat_image(64, 64)
    image[4::8, 4::8] = 0
    found = superpixels(image, side_px=8, compactness=1)
    assert np.bincount(found.ravel()).min() >= 32


def test_a_higher_compactness_makes_them_squarer():
    def border(compactness):
        labels = superpixels(noisy_image(10), 8, compactness)
        return ((labels[1:] != labels[:-1]).sum() + (labels[:, 1:] != labels[:, :-1]).sum()) / labels.max()

    assert border(1000) < border(40) < border(10)


def test_threads_at_once_find_the_same_as_one_after_another():
    images = [he_image(128, 96, seed=seed) for seed in range(6)]
    alone = [superpixels(image, 6) for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda image: superpixels(image, 6), images))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize(
    ("shape", "side_px", "count"), [((1, 1), SIDE_PX, 1), ((30, 20), 30, 1), ((30, 20), 1e6, 1), ((1, 50), 5, 10), ((3, 40), 20, 2)]
)
def test_small_images_have_few(shape, side_px, count):
    assert superpixels(flat_image(*shape), side_px).max() + 1 == count


def test_a_view_of_a_larger_image_is_as_good_as_a_copy():
    image = he_image(120, 100, seed=5)
    view = image[10:90:2, 100:5:-1]
    assert np.array_equal(superpixels(view), superpixels(view.copy()))


# -- what is said of them -----------------------------------------------------------------------------------------------


def two_by_two():
    return np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]], np.int32)


def test_every_pixel_gets_the_most_frequent_label_and_the_least_of_equals():
    labels = np.array([[2, 2, 1, 0], [2, 0, 0, 1], [3, 1, 2, 2], [1, 3, 2, 2]])
    assert np.array_equal(majority(labels, two_by_two(), 4)[::2, ::2], [[2, 0], [1, 2]])


@given(hnp.arrays(np.int64, (9, 7), elements=st.integers(0, 4)), hnp.arrays(np.int32, (9, 7), elements=st.integers(0, 6)))
def test_the_majority_is_that_of_counting(labels, cut):
    found = majority(labels, cut, 5)
    for number in np.unique(cut):
        assert set(found[cut == number]) == {np.bincount(labels[cut == number]).argmax()}


def test_the_majority_of_a_majority_is_itself():
    cut = superpixels(he_image(96, 96, seed=2), 6)
    once = majority(np.random.default_rng(0).integers(0, 5, cut.shape), cut, 5)
    assert np.array_equal(majority(once, cut, 5), once)


def test_means_are_those_of_the_pixels_and_go_back_to_them():
    cut = superpixels(he_image(80, 70, seed=2), 6)
    values = np.random.default_rng(0).normal(5, 1, (3, *cut.shape)).astype(np.float32)
    means = mean_of(values, cut)
    assert means.shape == (cut.max() + 1, 3) and means.dtype == np.float32
    for number in (0, 17, cut.max()):
        assert means[number] == pytest.approx(values[:, cut == number].mean(1), rel=1e-5)
    assert np.array_equal(spread(means, cut)[cut == 17], np.repeat(means[[17]], (cut == 17).sum(), 0))


def test_means_of_a_large_superpixel_keep_their_digits():
    values = np.full((1, 1024, 1024), 0.1, np.float32)
    assert mean_of(values, np.zeros((1024, 1024), np.int32))[0, 0] == np.float32(0.1)


def test_a_number_without_pixels_has_no_mean():
    means = mean_of(np.ones((2, 1, 2), np.float32), np.array([[0, 2]], np.int32))
    assert np.isnan(means[1]).all() and (means[[0, 2]] == 1).all()


# -- what is refused ----------------------------------------------------------------------------------------------------

CUT = np.zeros((4, 4), np.int32)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: superpixels(np.zeros((4, 4), np.uint8)), r"8-bit RGB pixels of the shape \(h, w, 3\). Got uint8 \(4, 4\)"),
        (lambda: superpixels(np.zeros((4, 4, 3), np.float32)), r"Got float32 \(4, 4, 3\) instead; convert it first"),
        (lambda: superpixels(np.zeros((0, 4, 3), np.uint8)), r"Got uint8 \(0, 4, 3\)"),
        (lambda: superpixels([[1]]), "Got list"),
        (lambda: superpixels(flat_image(4, 4), side_px=0.5), "1 pixel or more. Got 0.5 instead; give a larger one"),
        (lambda: superpixels(flat_image(4, 4), side_px=float("nan")), "Got nan"),
        (lambda: superpixels(flat_image(4, 4), compactness=0), "compactness of superpixels is above 0. Got 0 "),
        (lambda: superpixels(flat_image(4, 4), rounds=0), "1 round or more. Got 0 "),
        (lambda: side_of(0, 4, 4), "0 superpixels of 4 × 4 pixels are impossible"),
        (lambda: majority(np.full((4, 4), 5), CUT, 5), "from 0 to 4. Got .* with values from 5 to 5"),
        (lambda: majority(np.full((4, 4), -1), CUT, 5), "with values from -1 to -1"),
        (lambda: majority(np.zeros((4, 4)), CUT, 5), r"whole numbers from 0 to 4. Got float64"),
        (lambda: majority(CUT, CUT, 0), "There are 0 classes. Give one or more"),
        (lambda: majority(CUT[:3], CUT, 5), r"Superpixels of pixels \(3, 4\) are int32 of that shape. Got int32 \(4, 4\)"),
        (lambda: majority(CUT, CUT.astype(np.int64), 5), "are int32 of that shape. Got int64"),
        (lambda: majority(CUT, CUT - 1, 5), "numbered from 0. Got -1; give what superpixels"),
        (lambda: mean_of(CUT.astype(np.float32), CUT), r"of the shape \(c, h, w\). Got float32 \(4, 4\)"),
        (lambda: spread(np.zeros(2), CUT + 2), "There are 3 superpixels and 2 values. Give one for each"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_rule(call, said):
    with pytest.raises(SettingsError, match=said):
        call()
