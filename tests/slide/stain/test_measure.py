"""Measuring: the stains that a picture was painted with are found again, and unusable pictures are told so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from napari_histoseg._testing import he_image
from napari_histoseg.errors import SettingsError
from napari_histoseg.slide import Box, TissueMask, open_slide
from napari_histoseg.slide.stain import StainProfile, measure, measure_slide
from napari_histoseg.slide.stain.density import angle_deg, percentile, stain_matrix, to_lab
from napari_histoseg.slide.stain.sample import PATCHES, spread_boxes

UInt8 = npt.NDArray[np.uint8]
H, E = (0.65, 0.70, 0.29), (0.15, 0.88, 0.45)


def painted(
    hematoxylin: tuple[float, float, float] = H,
    eosin: tuple[float, float, float] = E,
    strength: float = 1.0,
    white: float = 245.0,
    seed: int = 0,
) -> UInt8:
    """256² pixels of nuclei (H), stroma (E), mixtures and a quarter of glass."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 4, (256, 256))
    amount = rng.uniform(0.3, 1.0, (256, 256, 1)) * strength
    h, e = np.asarray(hematoxylin) / np.linalg.norm(hematoxylin), np.asarray(eosin) / np.linalg.norm(eosin)
    share = np.select([kind == 0, kind == 1], [1.0, 0.0], rng.uniform(0, 1, kind.shape))[..., None]
    density = amount * (share * h + (1 - share) * e) * (kind < 3)[..., None]
    return np.clip(np.rint(white * 10**-density), 0, 255).astype(np.uint8)


def off(vectors: npt.ArrayLike, true: npt.ArrayLike) -> float:
    """Largest angle between a found and a true vector, in degrees."""
    return max(angle_deg((a, b)) for a, b in zip(np.asarray(vectors), np.asarray(true), strict=True))


@pytest.mark.parametrize("method", ["macenko", "vahadane"])
def test_the_stains_of_a_painted_picture_are_found(method: str) -> None:
    profile = measure(painted(), name="painted")
    assert profile.name == "painted" and profile.problems == ()
    # Sparsity pulls Vahadane's vectors into the fan.
    assert off(getattr(profile, method).vectors, (H, E)) < (3 if method == "macenko" else 8)
    assert profile.macenko.concentrations == pytest.approx((1.0, 1.0), abs=0.05)
    assert profile.white == pytest.approx((245, 245, 245), abs=1)
    assert profile.tissue_pixels == pytest.approx(0.75 * 256**2, rel=0.05)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.55, 0.8), st.floats(0.0, 0.25), st.floats(0.35, 1.2), st.integers(220, 255))
def test_hematoxylin_comes_first_whatever_the_stain(red_h: float, red_e: float, strength: float, white: int) -> None:
    hematoxylin, eosin = (red_h, 0.7, 0.29), (red_e, 0.88, 0.4)
    profile = measure(painted(hematoxylin, eosin, strength, white))
    for stains in (profile.macenko, profile.vahadane):
        assert stains.vectors[0][0] > stains.vectors[1][0]
    assert off(profile.macenko.vectors, (hematoxylin, eosin)) < 6


def test_lab_statistics_are_those_of_the_tissue_only() -> None:
    image = painted(strength=0.8)
    tissue = image.reshape(-1, 3)[image.reshape(-1, 3).min(1) < 215]
    profile = measure(image)
    assert profile.lab_mean == pytest.approx(tuple(to_lab(tissue).mean(0)), abs=0.7)
    assert profile.lab_sd == pytest.approx(tuple(to_lab(tissue).std(0)), abs=0.7)


def test_lab_of_known_colors() -> None:
    lab = to_lab([[255, 255, 255], [0, 0, 0], [255, 0, 0]])
    np.testing.assert_allclose(lab, [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20]], atol=0.02)


def test_several_pictures_are_measured_as_one() -> None:
    top, bottom = he_image(256, 256, seed=1), he_image(256, 256, seed=2)
    assert measure([top, bottom]) == measure(np.vstack([top, bottom]))


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        (np.full((100, 100, 3), 255, np.uint8), "There is nearly no stained tissue in the picture: 0 pixels, at least 2000 are needed."),
        (np.zeros((100, 100, 3), np.uint8), "There is nearly no stained tissue in the picture: 0 pixels, at least 2000 are needed."),
        (np.zeros((0, 0, 3), np.uint8), "There is nearly no stained tissue in the picture: 0 pixels, at least 2000 are needed."),
        (
            np.full((100, 100, 3), (180, 120, 170), np.uint8),
            "All tissue in the picture has the same color, so no stain can be measured.",
        ),
    ],
    ids=["white", "black", "empty", "flat"],
)
def test_a_picture_without_stain_is_told_so(image: UInt8, problem: str) -> None:
    assert measure(image).problems == (problem,)


def test_vectors_that_cannot_be_told_apart_are_told_so() -> None:
    problems = measure(painted(H, (0.64, 0.71, 0.30))).problems
    assert problems[0].startswith("Macenko cannot tell hematoxylin and eosin apart in the picture: their colors are ")
    assert problems[0].endswith("° apart, at least 6° are needed.")


def test_another_stain_is_told_so() -> None:
    problems = measure(painted((0.45, 0.6, 0.66), (0.1, 0.4, 0.9))).problems
    assert any("this may be another stain" in problem for problem in problems)


@pytest.mark.parametrize(
    ("given", "got"),
    [(np.zeros((4, 4, 3)), "float64 (4, 4, 3)"), (np.zeros((4, 4), np.uint8), "uint8 (4, 4)"), (np.zeros((4, 4, 4), np.uint8), "uint8 (4, 4, 4)")],
)
def test_only_rgb_is_measured(given: UInt8, got: str) -> None:
    with pytest.raises(SettingsError) as error:
        measure(given)
    assert str(error.value) == (
        f"Stain works on 8-bit RGB pixels of the shape (..., 3). Got {got} instead; open the image with open_slide, which converts it."
    )


def test_weighted_percentile() -> None:
    values, weights = np.array([3.0, 1.0, 2.0]), np.array([1.0, 98.0, 1.0])
    assert [percentile(values, weights, p) for p in (1, 50, 98, 99, 100)] == [1, 1, 1, 2, 3]


def test_a_stain_matrix_of_one_direction_can_still_be_inverted() -> None:
    assert np.isfinite(stain_matrix((H, H))).all()


# -- slides -------------------------------------------------------------------------------------------------------------


def test_a_slide_is_sampled_all_over() -> None:
    mask = np.zeros((40, 60), bool)
    mask[5:35, 2:20] = mask[5:35, 40:58] = True
    boxes = list(spread_boxes(TissueMask(mask, 256.0), Box(0, 0, 60 * 256, 40 * 256), 1.0, np.random.default_rng(0)))
    assert len(boxes) == len(set(boxes)) == PATCHES
    assert all(mask[box.y // 256, box.x // 256] for box in boxes)
    assert {box.x // 256 < 30 for box in boxes} == {True, False}
    assert min(box.y for box in boxes) < 10 * 256 and max(box.y for box in boxes) > 30 * 256


def _two_halves() -> UInt8:
    """A slide of 2600 x 1300 whose left half is stained unlike its right half."""
    left, right = he_image(1300, 1300, seed=1), painted(seed=2)
    return np.concatenate([left, np.tile(right, (6, 6, 1))[:1300, :1300]], axis=1)


def test_the_same_seed_gives_the_same_profile_and_another_nearly_the_same() -> None:
    slide = open_slide(np.tile(_two_halves(), (2, 1, 1)), mpp=0.5)
    first, again, other = (measure_slide(slide, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert off(first.macenko.vectors, other.macenko.vectors) < 3


def test_a_slide_and_its_picture_measure_alike() -> None:
    image = painted()
    slide = measure_slide(open_slide(image, mpp=0.5), name="x")
    assert off(slide.macenko.vectors, measure(image).macenko.vectors) < 1


def test_a_slide_measured_by_a_mask_sees_only_what_is_in_it() -> None:
    slide = open_slide(np.tile(_two_halves(), (2, 1, 1)), mpp=0.5)
    mask = np.zeros((20, 20), bool)
    mask[:, 10:] = True
    profile = measure_slide(slide, tissue=TissueMask.from_array(mask, slide))
    assert off(profile.macenko.vectors, (H, E)) < 3


def test_a_blank_slide_is_told_so() -> None:
    profile = measure_slide(open_slide(np.full((2500, 2500, 3), 240, np.uint8), mpp=0.5), name="blank")
    assert profile.problems == ("There is nearly no stained tissue in the picture: 0 pixels, at least 2000 are needed.",)


@pytest.mark.parametrize("file", ["no-tissue-red-pen", "no-tissue-green-pen", "no-tissue-line", "no-tissue", "almost-white-1"])
def test_ink_and_glass_are_not_tissue(file: str, data_dir: Path) -> None:
    image = np.asarray(Image.open(data_dir / "background" / f"{file}.png").convert("RGB"))
    assert measure(image).problems[0].startswith("There is nearly no stained tissue")


def test_a_pen_does_not_change_what_is_measured(data_dir: Path) -> None:
    image = np.asarray(Image.open(data_dir / "nuclei/tnbc/images/1014.png").convert("RGB"))
    other = np.asarray(Image.open(data_dir / "nuclei/tnbc/images/hflipped_1026.png").convert("RGB"))
    marked = other.copy()
    for place, ink in ((30, (20, 110, 80)), (130, (200, 20, 30)), (230, (30, 60, 170)), (330, (15, 15, 18))):
        marked[place : place + 40] = ink
    clean, dirty = measure([image, other]), measure([image, marked])
    assert isinstance(dirty, StainProfile)
    assert off(dirty.macenko.vectors, clean.macenko.vectors) < 5
    assert dirty.lab_mean == pytest.approx(clean.lab_mean, abs=2)


@pytest.mark.parametrize(
    ("glass", "border", "white"),
    [((243, 241, 244), 0, (243, 241, 244)), ((243, 241, 244), 40, (243, 241, 244)), ((255, 255, 255), 40, (255, 255, 255))],
    ids=["glass", "glass in a white frame", "white glass"],
)
def test_the_white_point_is_that_of_the_glass(glass: tuple[int, int, int], border: int, white: tuple[int, int, int]) -> None:
    image = he_image(300, 300, seed=4)
    image[:80] = np.clip(np.random.default_rng(0).normal(glass, 1, (80, 300, 3)).round(), 0, 255 if max(glass) == 255 else 250)
    framed = np.pad(image, ((border, border), (border, border), (0, 0)), constant_values=255)
    assert measure(framed).white == pytest.approx(white, abs=1.5)
