"""The baselines find colors, say the same in every tile and every time, come back from their arrays, and bear bad pictures."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pytest
from safetensors.numpy import load, save
from threadpoolctl import threadpool_limits

from napari_histoseg._testing import he_image
from napari_histoseg.errors import SettingsError
from napari_histoseg.methods.tissue.baselines import BASELINES
from napari_histoseg.methods.tissue.fuzzy import cmeans, memberships
from napari_histoseg.methods.tissue.graph import partition
from napari_histoseg.methods.tissue.segments import cut

MPP = 0.5
PINK, BLUE, GLASS = (220, 150, 190), (90, 60, 150), (241, 240, 243)
PIXELWISE, SEGMENTED = ("kmeans", "mean_shift"), ("normalized_cut", "fuzzy_cmeans")

every = pytest.mark.parametrize("name", BASELINES)


@dataclass(frozen=True)
class Settings:
    """Those that the baselines read."""

    n_classes: int = 4
    seed: int = 0
    smooth_um: float = 1.0
    superpixel_um: float = 4.0
    fuzziness: float = 2.0


def fitted(name, pictures, settings=Settings(), mpp=MPP):
    """What was learned, and the sentences and progress on the way."""
    *said, found = BASELINES[name].fit(pictures, settings, mpp)
    return found, [s for s in said if isinstance(s, str)], [s for s in said if not isinstance(s, str)]


def classes(found, image):
    return found.see(image).probability.argmax(0)


def flat(color, height=64, width=64):
    return np.full((height, width, 3), color, np.uint8)


def halves():
    image = flat(PINK)
    image[:, 32:] = BLUE
    return image


@pytest.fixture(scope="module")
def tissue():
    """Glass, pale tissue and nuclei."""
    return [he_image(192, 160, seed=seed, glass=0.2) for seed in range(3)]


# -- what is found ------------------------------------------------------------------------------------------------------


@every
def test_two_colored_halves_are_found_exactly(name):
    found, _, _ = fitted(name, [halves()], Settings(n_classes=2, smooth_um=0))
    right = classes(found, halves())[:, 32:]
    assert found.n_fine == 2
    assert np.array_equal(np.unique(right), [right[0, 0]])
    assert np.array_equal(classes(found, halves())[:, :32], np.full((64, 32), 1 - right[0, 0]))


@every
def test_probabilities_sum_to_1_and_places_are_described(name, tissue):
    found, _, _ = fitted(name, tissue)
    image = tissue[0][:101, :90]
    seen = found.see(image)
    places = tuple(-(-n // found.stride_px) for n in image.shape[:2])
    assert seen.probability.shape == (found.n_fine, 101, 90) and seen.probability.dtype == np.float32
    assert seen.probability.flags.c_contiguous
    assert np.allclose(seen.probability.sum(0), 1, atol=1e-5) and seen.probability.min() >= 0
    assert seen.features.shape == (6, *places) and seen.features.dtype == np.float32
    assert seen.surprise.shape == places and seen.surprise.dtype == np.float32
    assert np.isfinite(seen.features).all() and np.isfinite(seen.surprise).all()


@every
def test_classes_are_numbered_by_size(name, tissue):
    found, _, _ = fitted(name, tissue, Settings(smooth_um=0))
    count = sum(np.bincount(classes(found, t).ravel(), minlength=found.n_fine) for t in tissue)
    assert found.n_fine >= 2 and found.centers.shape == (found.n_fine, 3)
    # Learned from a sample, so like sizes may change places.
    assert (count[1:] <= 1.1 * count[:-1]).all()


@every
def test_what_is_unlike_all_that_was_learned_surprises(name, tissue):
    found, _, _ = fitted(name, tissue)
    assert np.mean(found.see(tissue[0]).surprise <= 1) > 0.9
    assert found.see(flat((0, 200, 0))).surprise.min() > 1.3


@every
def test_classes_hold_for_all_pictures(name):
    pictures = [flat(PINK), flat(BLUE), halves()]
    found, _, _ = fitted(name, pictures, Settings(n_classes=2, smooth_um=0))
    pink, blue = (np.unique(classes(found, p)) for p in pictures[:2])
    assert len(pink) == len(blue) == 1 and pink[0] != blue[0]


def test_mean_shift_keeps_the_most_frequent_of_more_kinds_than_asked_for():
    image = flat(PINK, 60, 60)
    image[:20], image[:4] = BLUE, GLASS
    found, said, _ = fitted("mean_shift", [image], Settings(n_classes=2, smooth_um=0))
    assert found.n_fine == 2 and "found 3 kinds of color" in said[0] and "2 most frequent" in said[0]
    assert [classes(found, flat(c))[0, 0] for c in (PINK, BLUE)] == [0, 1]


def test_memberships_are_those_of_bezdek():
    apart = np.array([[1.0, 4.0], [0.0, 9.0]])
    assert np.allclose(memberships(apart, 2.0), [[0.8, 0.2], [1, 0]])
    assert np.allclose(memberships(apart, 3.0)[0], [2 / 3, 1 / 3])


def test_superpixels_count_by_their_size_in_fuzzy_cmeans():
    rows = np.array([[0.0], [1.0], [10.0], [11.0]])
    light = np.sort(cmeans(rows, np.array([1.0, 1, 1, 1]), 2, 2.0, 0), axis=0)
    heavy = np.sort(cmeans(rows, np.array([1.0, 9, 1, 1]), 2, 2.0, 0), axis=0)
    assert light.ravel() == pytest.approx([0.5, 10.5], abs=0.05) and heavy[0, 0] == pytest.approx(0.9, abs=0.05)


@pytest.mark.parametrize("half", [20, 300])
def test_a_cut_goes_where_a_graph_hangs_together_least(half):
    from scipy import sparse

    rng = np.random.default_rng(0)
    likeness = np.kron(np.eye(2), rng.uniform(0.5, 1, (half, half))) + 1e-4
    found = partition(sparse.csr_matrix((likeness + likeness.T) / 2), 2, seed=0)
    assert np.array_equal(found == found[0], np.arange(2 * half) < half)


# -- tiles, threads, seeds, files ---------------------------------------------------------------------------------------


def tile_of(image, found, top, left, side):
    """What is seen of a tile with its margin, without it; the tile begins at multiples of the stride."""
    m = found.margin_px
    y, x = max(0, top - m), max(0, left - m)
    seen = found.see(np.ascontiguousarray(image[y : top + side + m, x : left + side + m]))
    s = found.stride_px
    inside = (slice(None), slice(top - y, top - y + side), slice(left - x, left - x + side))
    places = tuple(slice(v.start // s, v.stop // s) for v in inside[1:])
    return seen.probability[inside], seen.features[:, places[0], places[1]]


@pytest.mark.parametrize("name", PIXELWISE)
@pytest.mark.parametrize("smooth_um", [0.0, 3.0])
def test_tiles_equal_the_whole_bit_by_bit(name, smooth_um, tissue):
    found, _, _ = fitted(name, tissue, Settings(smooth_um=smooth_um))
    image = he_image(300, 260, seed=9)
    whole = found.see(image)
    for top, left in ((0, 0), (100, 120), (60, 236)):
        probability, features = tile_of(image, found, top, left, 64)
        assert np.array_equal(probability, whole.probability[:, top : top + 64, left : left + 64])
        assert np.array_equal(features, whole.features[:, top // 4 : top // 4 + 16, left // 4 : left // 4 + 16])


@pytest.mark.parametrize("name", SEGMENTED)
@pytest.mark.parametrize("superpixel_um", [2.0, 5.0])
def test_tiles_of_superpixels_agree(name, superpixel_um, tissue):
    found, _, _ = fitted(name, tissue, Settings(superpixel_um=superpixel_um))
    image = he_image(500, 450, seed=9)
    whole, side = classes(found, image), 20 * found.stride_px // 2
    for top, left in ((0, 0), (10 * found.stride_px, 12 * found.stride_px)):
        probability, _ = tile_of(image, found, top, left, side)
        agree = probability.argmax(0) == whole[top : top + side, left : left + side]
        assert agree.mean() >= 0.98


@every
def test_one_seed_gives_one_result_whatever_the_threads(name, tissue):
    with threadpool_limits(1):
        one, _, _ = fitted(name, tissue)
    with threadpool_limits(4):
        other, _, _ = fitted(name, tissue)
    for key, array in one.arrays().items():
        assert np.array_equal(array, other.arrays()[key]), key


@every
def test_several_threads_see_the_same(name, tissue):
    found, _, _ = fitted(name, tissue)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(found.see, tissue * 2))
    for image, seen in zip(tissue * 2, together, strict=True):
        assert np.array_equal(found.see(image).probability, seen.probability)


@every
def test_what_was_learned_comes_back_from_a_weights_file(name, tissue):
    found, _, _ = fitted(name, tissue)
    again = BASELINES[name].from_arrays(load(save(dict(found.arrays()))))
    before, after = found.see(tissue[1]), again.see(tissue[1])
    for key in ("probability", "features", "surprise"):
        assert np.array_equal(getattr(before, key), getattr(after, key))
    assert (again.n_fine, again.margin_px, again.stride_px) == (found.n_fine, found.margin_px, found.stride_px)
    assert np.array_equal(again.centers, found.centers)


@every
def test_progress_rises_to_just_before_the_end(name, tissue):
    _, _, progress = fitted(name, tissue)
    assert progress == [(1, 4), (2, 4), (3, 4)]


def test_lengths_follow_the_pixel_size(tissue):
    fine, coarse = (fitted("kmeans", tissue, Settings(smooth_um=8), mpp)[0] for mpp in (0.5, 2.0))
    assert fine.smooth_px == 16 and coarse.smooth_px == 4 and fine.margin_px >= 4 * 16
    assert [fitted("fuzzy_cmeans", tissue, Settings(superpixel_um=8), mpp)[0].side_px for mpp in (0.5, 2.0)] == [16, 4]


def test_superpixels_are_numbered_without_gaps_where_the_grid_reaches_beyond_the_picture():
    image = he_image(61, 47, seed=2)
    labels = cut(image, 10)
    assert labels.shape == (47, 61)
    assert np.array_equal(np.unique(labels), np.arange(labels.max() + 1))


# -- bad input ----------------------------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("color", [PINK, GLASS])
def test_one_flat_picture_is_one_class_and_says_so(name, color):
    found, said, _ = fitted(name, [flat(color)])
    assert found.n_fine == 1 and len(said) == 1
    assert "1 class was found, because" in said[0] or "found 1 kind of color" in said[0]
    assert (found.see(flat(BLUE)).probability == 1).all()


@pytest.mark.parametrize("name", ["kmeans", *SEGMENTED])
def test_fewer_colors_than_classes_are_said(name):
    found, said, _ = fitted(name, [halves()], Settings(n_classes=6, smooth_um=0))
    assert found.n_fine == 2
    assert said == ["Only 2 classes were found, because no more than 2 different colors were seen. Choose a place with more of them."]


@every
def test_glass_with_noise_is_clustered_without_complaint(name):
    noise = np.random.default_rng(0).normal(0, 1.5, (96, 96, 1))
    image = (np.array(GLASS) + noise).clip(0, 255).astype(np.uint8)
    found, _, _ = fitted(name, [image])
    assert 1 <= found.n_fine <= 4 and np.isfinite(found.see(image).probability).all()


@every
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (1, 40)])
def test_a_picture_smaller_than_a_superpixel_is_seen_and_learned_from(name, shape, tissue):
    small = tissue[0][80 : 80 + shape[0], 80 : 80 + shape[1]]
    learned, _, _ = fitted(name, tissue)
    assert classes(learned, small).shape == shape
    found, _, _ = fitted(name, [small], Settings(superpixel_um=40))
    assert classes(found, small).shape == shape and found.n_fine >= 1


@pytest.mark.parametrize("name", SEGMENTED)
def test_a_single_superpixel_is_one_class(name):
    found, said, _ = fitted(name, [halves()[-12:, -12:]], Settings(superpixel_um=100))
    assert found.n_fine == 1 and "Only 1 class was found" in said[0]


@every
def test_without_pictures_nothing_is_learned(name):
    with pytest.raises(SettingsError, match=r"no picture to learn from\. Give at least one"):
        fitted(name, [])


@every
@pytest.mark.parametrize("picture", [flat(PINK)[..., 0], flat(PINK).astype(np.float32), np.zeros((0, 5, 3), np.uint8), "file.png"])
def test_what_is_no_picture_is_named(name, picture):
    with pytest.raises(SettingsError, match=r"8-bit RGB.*Picture 2 is"):
        fitted(name, [halves(), picture])


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("fuzzy_cmeans", {"fuzziness": 1.0}), ("fuzzy_cmeans", {"superpixel_um": 0.0}), ("normalized_cut", {"superpixel_um": float("nan")})],
)
def test_settings_out_of_range_are_refused(name, wrong):
    with pytest.raises(SettingsError, match=r"above .* is usual"):
        fitted(name, [halves()], replace(Settings(), **wrong))
