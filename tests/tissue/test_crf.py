"""The CRF does what its definition says, cleans maps along edges, and finds the same in tiles as in the whole."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from napari_histoseg._testing import he_image
from napari_histoseg.errors import SettingsError
from napari_histoseg.methods.tissue.crf import CrfSettings, dense_crf, reach_px
from napari_histoseg.methods.tissue.lattice import Lattice

SMOOTH = {"smooth_px": 1.5, "smooth_weight": 2.0, "color_weight": 0.0}
COLOR = {"smooth_weight": 0.0, "color_px": 4.0, "color_sd": 60.0, "color_weight": 4.0}


def crf(probability, image, origin=(0, 0), **given):
    return dense_crf(probability, image, CrfSettings.parse(given), origin)


def by_all_pairs(probability, image, settings):
    """Mean field with the kernels written out as matrices of all pairs of pixels."""
    classes, height, width = probability.shape
    place = np.stack(np.mgrid[:height, :width], -1).reshape(-1, 2).astype(float)
    color = image.reshape(-1, 3).astype(float)

    def squared(points):
        return ((points[:, None] - points[None]) ** 2).sum(-1)

    kernels = [
        settings.smooth_weight * normalized(np.exp(-0.5 * squared(place / settings.smooth_px))),
        settings.color_weight * normalized(np.exp(-0.5 * (squared(place / settings.color_px) + squared(color / settings.color_sd)))),
    ]
    unary = np.log(probability.reshape(classes, -1).T)
    found = softmax(unary)
    for _ in range(settings.rounds):
        found = softmax(unary + sum(kernel @ found for kernel in kernels))
    return found.T.reshape(probability.shape)


def normalized(kernel):
    scale = 1 / np.sqrt(kernel.sum(1))
    return scale[:, None] * kernel * scale[None]


def softmax(energy):
    high = np.exp(energy - energy.max(1, keepdims=True))
    return high / high.sum(1, keepdims=True)


def random_case(classes, height, width, seed=0):
    """Probabilities that little is known from, and an image of blurred colors."""
    rng = np.random.default_rng(seed)
    image = cv2.GaussianBlur(rng.normal(128, 160, (height, width, 3)), (0, 0), 2).clip(0, 255).astype(np.uint8)
    energy = rng.normal(0, 1, (height, width, classes))
    return np.moveaxis(softmax(energy.reshape(-1, classes)).reshape(energy.shape), -1, 0).astype(np.float32), image


def two_regions(size=96, wrong=0.3, seed=0):
    """A disc on glass, its truth, and probabilities of which a part says the opposite."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    disc = (y - size / 2) ** 2 + (x - size / 2) ** 2 < (size / 3) ** 2
    image = np.where(disc[..., None], (150, 80, 160), (230, 225, 235)) + rng.normal(0, 6, (size, size, 3))
    said = disc ^ (rng.random(disc.shape) < wrong)
    one = np.where(said, 0.7, 0.3).astype(np.float32)
    return np.stack([1 - one, one]), image.clip(0, 255).astype(np.uint8), disc


# -- the definition -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_gaussian_in_place_is_that_of_all_pairs(seed):
    probability, image = random_case(3, 12, 12, seed)
    found = crf(probability, image, **SMOOTH)
    assert found == pytest.approx(by_all_pairs(probability, image, CrfSettings.parse(SMOOTH)), abs=2e-3)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("given", [COLOR, {**COLOR, "smooth_px": 1.5, "smooth_weight": 1.0}], ids=["color", "both"])
def test_the_lattice_comes_near_all_pairs(given, seed):
    probability, image = random_case(3, 12, 12, seed)
    found = crf(probability, image, **given)
    exact = by_all_pairs(probability, image, CrfSettings.parse(given))
    off, moved = np.abs(found - exact).mean(), np.abs(probability - exact).mean()
    assert off < min(0.02, moved / 4)
    second, first = np.sort(exact, 0)[-2:]
    clear = first - second > 0.15
    assert clear.mean() > 0.6
    assert (found.argmax(0) == exact.argmax(0))[clear].mean() >= 0.99


def test_without_weights_the_probabilities_stay():
    probability, image = random_case(4, 10, 14)
    assert crf(probability, image, smooth_weight=0, color_weight=0) == pytest.approx(probability, abs=1e-6)


def test_what_comes_out_adds_up_to_one():
    probability, image = random_case(5, 20, 17)
    found = dense_crf(probability, image)
    assert found.shape == probability.shape and found.dtype == np.float32
    assert found.sum(0) == pytest.approx(1, abs=1e-5)


def test_equal_probabilities_stay_equal():
    image = random_case(2, 16, 16)[1]
    assert dense_crf(np.full((4, 16, 16), 0.25, np.float32), image) == pytest.approx(0.25, abs=1e-5)


def test_a_class_that_leads_everywhere_leads_everywhere_after():
    image = random_case(2, 16, 16)[1]
    probability = np.stack([np.full((16, 16), share, np.float32) for share in (0.2, 0.5, 0.3)])
    found = dense_crf(probability, image)
    assert (found.argmax(0) == 1).all() and (found[1] > 0.9).all()


def test_the_order_of_the_classes_does_not_matter():
    probability, image = random_case(4, 24, 24)
    order = [2, 0, 3, 1]
    assert dense_crf(probability[order], image) == pytest.approx(dense_crf(probability, image)[order], abs=1e-4)


def test_the_gaussian_in_place_has_no_direction():
    probability, image = random_case(3, 20, 26)
    found = crf(probability, image, **SMOOTH)
    assert crf(probability[:, ::-1], image[::-1], **SMOOTH)[:, ::-1] == pytest.approx(found, abs=1e-4)
    assert crf(probability[:, :, ::-1], image[:, ::-1], **SMOOTH)[:, :, ::-1] == pytest.approx(found, abs=1e-4)
    assert crf(probability.transpose(0, 2, 1), image.transpose(1, 0, 2), **SMOOTH).transpose(0, 2, 1) == pytest.approx(found, abs=1e-4)


def test_only_the_proportions_of_probabilities_count():
    probability, image = random_case(3, 16, 16)
    assert dense_crf(3 * probability, image) == pytest.approx(dense_crf(probability, image), abs=1e-4)


# -- what it is for -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{**SMOOTH, "smooth_weight": 8.0}, COLOR, {}], ids=["smooth", "color", "usual"])
def test_noise_is_cleaned(given):
    probability, image, disc = two_regions()

    def iou(labels):
        return (disc & labels).sum() / (disc | labels).sum()

    before, after = iou(probability.argmax(0) == 1), iou(crf(probability, image, **given).argmax(0) == 1)
    assert before < 0.65
    assert after > 0.85


def test_labels_stop_where_the_color_does():
    probability, image, disc = two_regions()
    rim = cv2.dilate(disc.astype(np.uint8), np.ones((5, 5))) != cv2.erode(disc.astype(np.uint8), np.ones((5, 5)))
    smooth = crf(probability, image, **{**SMOOTH, "smooth_px": 3.0}).argmax(0)
    color = dense_crf(probability, image).argmax(0)
    assert (color == disc)[rim].mean() > 0.99 > (smooth == disc)[rim].mean()


# -- tiles --------------------------------------------------------------------------------------------------------------

TILED = {"color_px": 10.0}


def tiled(probability, image, keep, start, margin):
    """Labels made tile by tile, each read with a margin; pixels before ``start`` come from smaller tiles."""
    height, width = image.shape[:2]
    labels = np.empty((height, width), np.int64)
    for y in range(start - keep, height, keep):
        for x in range(start - keep, width, keep):
            top, left, bottom, right = max(y, 0), max(x, 0), min(y + keep, height), min(x + keep, width)
            rows = slice(max(top - margin, 0), min(bottom + margin, height))
            columns = slice(max(left - margin, 0), min(right + margin, width))
            part = crf(probability[:, rows, columns], image[rows, columns], (columns.start, rows.start), **TILED).argmax(0)
            labels[top:bottom, left:right] = part[top - rows.start :, left - columns.start :][: bottom - top, : right - left]
    return labels


@pytest.fixture(scope="module")
def scene():
    """An H&E picture, with probabilities by color that noise disturbs."""
    image = he_image(288, 288, seed=4)
    color = cv2.GaussianBlur(image, (0, 0), 2).astype(np.float32)
    rng = np.random.default_rng(0)
    centers = color.reshape(-1, 3)[rng.choice(288 * 288, 5, replace=False)]
    energy = -((color[:, :, None] - centers) ** 2).sum(-1) / 400 + rng.normal(0, 0.7, (288, 288, 5))
    return np.moveaxis(softmax(energy.reshape(-1, 5)).reshape(energy.shape), -1, 0).astype(np.float32), image


def test_tiles_that_read_the_reach_agree_wherever_the_grid_lies(scene):
    probability, image = scene
    keep = 96
    margin = reach_px(CrfSettings.parse(TILED))
    one, other = tiled(probability, image, keep, keep, margin), tiled(probability, image, keep, keep // 2, margin)
    whole = crf(probability, image, **TILED).argmax(0)
    assert (one != probability.argmax(0)).mean() > 0.05
    assert (one == other).mean() >= 0.999
    assert (one == whole).mean() >= 0.999


def test_tiles_without_margins_do_not_agree(scene):
    assert (tiled(*scene, 96, 96, 0) == tiled(*scene, 96, 48, 0)).mean() < 0.995


@pytest.mark.parametrize(("x", "y"), [(0, 0), (100_000, 70_001), (3_000_000, 12), (-17, -40)])
def test_a_pixel_lies_in_the_lattice_where_the_slide_says(x, y):
    image = he_image(64, 48, seed=1)
    whole = Lattice.build(image, 40.0, 13.0, (x, y))
    part = Lattice.build(np.ascontiguousarray(image[11:, 23:]), 40.0, 13.0, (x + 23, y + 11))
    weights = whole.weights.reshape(48, 64, 6)[11:, 23:].reshape(-1, 6)
    assert part.weights == pytest.approx(weights, abs=1e-4)


def test_the_corners_of_a_pixel_share_it_out():
    lattice = Lattice.build(he_image(64, 48, seed=1), 7.0, 20.0, (1000, 2000))
    assert lattice.weights.min() > -1e-5
    assert lattice.weights.sum(1) == pytest.approx(1, abs=1e-5)
    assert lattice.corners.min() == 0 and lattice.corners.max() == lattice.size - 1
    assert all(len(set(row)) == 6 for row in lattice.corners.tolist())


def test_a_neighbor_s_neighbor_back_is_oneself():
    lattice = Lattice.build(he_image(64, 64, seed=1), 7.0, 20.0)
    for direction in lattice.neighbors:
        forward, back = direction.T
        there = forward < lattice.size
        assert there.any()
        assert np.array_equal(back[forward[there]], np.flatnonzero(there))


def test_the_reach_is_that_of_what_is_switched_on():
    assert reach_px(CrfSettings.parse({"color_px": 30})) == 120
    assert reach_px(CrfSettings.parse({"color_px": 30, "color_weight": 0, "smooth_px": 2.5})) == 10
    assert reach_px(CrfSettings.parse({"color_weight": 0, "smooth_weight": 0})) == 0


# -- edges of what is possible ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (2, 3)])
def test_the_smallest_images_work(shape):
    probability, image = random_case(3, *shape)
    assert dense_crf(probability, image).sum(0) == pytest.approx(1, abs=1e-5)


def test_one_class_is_certain():
    assert (dense_crf(np.full((1, 8, 9), 0.2, np.float32), random_case(1, 8, 9)[1]) == 1).all()


def test_on_an_image_of_one_color_the_place_decides():
    probability, _, disc = two_regions()
    flat = np.full((*disc.shape, 3), 255, np.uint8)
    found = crf(probability, flat, color_px=4).argmax(0)
    assert (found == disc).mean() > 0.95


def test_certain_and_impossible_classes_stay_finite():
    image = random_case(2, 8, 8)[1]
    probability = np.stack([np.ones((8, 8)), np.zeros((8, 8))])
    found = dense_crf(probability, image)
    assert np.isfinite(found).all() and (found[0] > 0.99).all()


def test_inputs_are_left_as_they_were_and_views_do():
    probability, image = random_case(3, 30, 30)
    before = probability.copy(), image.copy()
    view = dense_crf(probability[:, 5:25:2, ::-1], image[5:25:2, ::-1])
    assert np.array_equal(probability, before[0]) and np.array_equal(image, before[1])
    assert np.array_equal(view, dense_crf(probability[:, 5:25:2, ::-1].copy(), image[5:25:2, ::-1].copy()))


def test_threads_at_once_find_the_same_as_one_after_another():
    cases = [random_case(3, 40, 50, seed) for seed in range(6)]
    alone = [dense_crf(*case) for case in cases]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda case: dense_crf(*case), cases))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


P, I = np.full((2, 4, 5), 0.5, np.float32), np.zeros((4, 5, 3), np.uint8)  # noqa: E741


@pytest.mark.parametrize(
    ("probability", "image", "said"),
    [
        (P, I[..., 0], r"8-bit RGB pixels of the shape \(h, w, 3\). Got uint8 \(4, 5\) instead; convert them first"),
        (P, I.astype(np.float32), r"Got float32 \(4, 5, 3\) instead"),
        (P, None, "Got NoneType instead"),
        (P[0], I, r"probabilities of the shape \(c, h, w\). Got float32 \(4, 5\) instead; give one plane a class"),
        (P[:0], I, r"Got float32 \(0, 4, 5\) instead"),
        (P.astype(int), I, r"Got int64 \(2, 4, 5\) instead"),
        (P[:, :3], I, r"are of \(3, 5\) pixels and the image has \(4, 5\). Give both of the same pixels"),
        (P - 1, I, "finite and 0 or more. Some are not; give the network's output after its softmax"),
        (P * np.nan, I, "finite and 0 or more"),
        (P * np.inf, I, "finite and 0 or more"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_rule(probability, image, said):
    with pytest.raises(SettingsError, match=said):
        dense_crf(probability, image)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"smooth_px": 0}, "'smooth_px' is wrong.*greater than or equal to 0.5. Got 0 "),
        ({"color_px": 0.5}, "'color_px' is wrong.*greater than or equal to 1. Got 0.5 "),
        ({"color_sd": float("nan")}, "'color_sd' is wrong.*Got nan"),
        ({"color_weight": -1}, "'color_weight' is wrong.*Got -1 "),
        ({"rounds": 0}, "'rounds' is wrong.*Got 0 "),
        ({"sigma": 3}, "no setting 'sigma'. The settings are: color_px, color_sd, color_weight, rounds, smooth_px, smooth_weight"),
    ],
)
def test_impossible_settings_are_refused(given, said):
    with pytest.raises(SettingsError, match=said):
        CrfSettings.parse(given)


def test_a_lattice_that_is_too_fine_is_refused():
    wide = np.zeros((1, 100_000, 3), np.uint8)
    wide[0, ::2] = 255
    with pytest.raises(SettingsError, match=r"more than can be numbered\. Raise color_px or color_sd, or give smaller tiles"):
        Lattice.build(wide, 1.0, 1.0)
