"""Normalizing: a fixed map of colors that reaches the reference and leaves glass, ink and what it cannot judge alone."""

from __future__ import annotations

import json
import pickle
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from napari_histoseg._testing import he_image
from napari_histoseg.errors import SettingsError
from napari_histoseg.slide.stain import (
    METHODS,
    StainMethod,
    StainNormalizer,
    StainProfile,
    load_profile,
    measure,
    table,
)
from napari_histoseg.slide.stain.density import to_density

UInt8 = npt.NDArray[np.uint8]
every_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(scope="module")
def image() -> UInt8:
    """H&E-looking pixels with a border of glass."""
    return he_image(384, 384, seed=3, glass=0.1)


@pytest.fixture(scope="module")
def own(image: UInt8) -> StainProfile:
    return measure(image, name="own")


@pytest.fixture(scope="module")
def colon() -> StainProfile:
    return load_profile("colon-consep")


def changed(profile: StainProfile, **stains: object) -> StainProfile:
    """A profile with other Macenko values."""
    return profile.model_copy(update={"macenko": profile.macenko.model_copy(update=stains)})


# -- what it does -------------------------------------------------------------------------------------------------------


@every_method
def test_the_picture_takes_the_colors_of_the_reference(image: UInt8, own: StainProfile, colon: StainProfile, method: StainMethod) -> None:
    normalizer = StainNormalizer(own, colon, method)
    assert normalizer.method == method and normalizer.quality.light == "good" and normalizer.quality.reason == ""
    after = measure(normalizer.apply(image))
    before_gap = np.abs(np.subtract(own.lab_mean, colon.lab_mean)).sum()
    assert np.abs(np.subtract(after.lab_mean, colon.lab_mean)).sum() < 0.75 * before_gap


@every_method
def test_the_own_stain_as_the_reference_changes_nothing(image: UInt8, own: StainProfile, method: StainMethod) -> None:
    change = np.abs(StainNormalizer(own, own, method).apply(image).astype(int) - image)
    assert change.max() <= 1 and change.mean() < 0.02


@every_method
def test_normalizing_again_changes_little(image: UInt8, own: StainProfile, colon: StainProfile, method: StainMethod) -> None:
    once = StainNormalizer(own, colon, method).apply(image)
    twice = StainNormalizer(measure(once), colon, method).apply(once)
    first = np.abs(once.astype(int) - image).mean()
    assert np.abs(twice.astype(int) - once).mean() < 0.35 * first


@every_method
@settings(max_examples=20, deadline=None)
@given(cut_y=st.integers(1, 383), cut_x=st.integers(1, 383))
def test_tile_by_tile_equals_whole(
    image: UInt8, own: StainProfile, colon: StainProfile, method: StainMethod, cut_y: int, cut_x: int
) -> None:
    normalizer = StainNormalizer(own, colon, method)
    rows = [np.hstack([normalizer.apply(part[:, :cut_x]), normalizer.apply(part[:, cut_x:])]) for part in (image[:cut_y], image[cut_y:])]
    np.testing.assert_array_equal(np.vstack(rows), normalizer.apply(image))


@every_method
def test_what_was_seen_before_does_not_matter(own: StainProfile, colon: StainProfile, method: StainMethod) -> None:
    normalizer = StainNormalizer(own, colon, method)
    colors = np.random.default_rng(0).integers(0, 256, (5000, 3)).astype(np.uint8)
    table.clear()
    fresh = normalizer.apply(colors)
    np.testing.assert_array_equal(normalizer.apply(colors[::-1])[::-1], fresh)
    table.clear()
    np.testing.assert_array_equal(normalizer.apply(colors[::-1])[::-1], fresh)


def test_macenko_is_the_linear_map_of_density_that_the_paper_says(own: StainProfile, colon: StainProfile) -> None:
    normalizer = StainNormalizer(own, colon)
    amounts = np.random.default_rng(0).uniform(0.2, 0.6, (200, 2))
    source, target = np.array(own.macenko.vectors), np.array(colon.macenko.vectors)
    pixels = np.rint(np.array(own.white) * 10 ** -(amounts @ source)).astype(np.uint8)
    gain = np.divide(colon.macenko.concentrations, own.macenko.concentrations)
    wanted = np.array(colon.white) * 10 ** -((amounts * gain) @ target)
    fits = wanted.max(1) < 250
    assert np.abs(normalizer.apply(pixels)[fits] - wanted[fits]).mean() < 2


def test_hematoxylin_stays_hematoxylin(own: StainProfile, colon: StainProfile) -> None:
    amounts = np.linspace(0.3, 0.8, 20)[:, None]
    pure = [np.rint(np.array(own.white) * 10 ** -(amounts * np.array(v))).astype(np.uint8) for v in own.macenko.vectors]
    blue, pink = (StainNormalizer(own, colon).apply(p) for p in pure)
    red_share = [(d := to_density(p, colon.white))[:, 0] / d.sum(1) for p in (blue, pink)]
    assert (red_share[0] > red_share[1] + 0.1).all()


@every_method
def test_the_map_has_no_steps(own: StainProfile, colon: StainProfile, method: StainMethod) -> None:
    """Colors next to each other stay near each other, so that no edge appears at the end of the glass."""
    normalizer = StainNormalizer(own, colon, method)
    for start, end in (((246, 246, 246), (200, 120, 190)), ((246, 246, 246), (90, 60, 140)), ((230, 30, 40), (200, 120, 190))):
        line = np.rint(np.linspace(start, end, 400)).astype(np.uint8)
        steps = np.abs(np.diff(normalizer.apply(line).astype(int), axis=0)).max()
        assert steps <= 8


# -- what it leaves alone -----------------------------------------------------------------------------------------------


@every_method
def test_glass_and_white_borders_stay(image: UInt8, own: StainProfile, colon: StainProfile, method: StainMethod) -> None:
    framed = np.pad(image, ((20, 20), (20, 20), (0, 0)), constant_values=255)
    change = np.abs(StainNormalizer(own, colon, method).apply(framed).astype(int) - framed)
    assert change[:20].max() == 0
    assert change[22:50, 60:-60].mean() < 0.2


@every_method
@pytest.mark.parametrize("ink", [(10, 10, 12), (128, 128, 130), (20, 120, 80), (20, 60, 190), (215, 10, 20), (250, 240, 40)])
def test_ink_and_gray_stay(ink: tuple[int, int, int], own: StainProfile, colon: StainProfile, method: StainMethod) -> None:
    pixels = np.full((8, 8, 3), ink, np.uint8)
    np.testing.assert_array_equal(StainNormalizer(own, colon, method).apply(pixels), pixels)


@every_method
@pytest.mark.parametrize(
    "file", ["almost-white-1", "almost-white-2", "high-nuclei-score-level2", "low-nuclei-score-level0", "low-nuclei-score-level1", "wsi-blue-pen", "no-tissue"]
)
def test_real_glass_changes_by_less_than_a_gray_level(file: str, data_dir: Path, colon: StainProfile, method: StainMethod) -> None:
    from scipy import ndimage

    from napari_histoseg.slide.tissue import find_ink, find_tissue, optical_density

    image = np.asarray(Image.open(data_dir / "background" / f"{file}.png").convert("RGB"))
    stained = find_tissue(image) | find_ink(optical_density(image))
    glass = ~ndimage.binary_dilation(stained, iterations=6) & (image.min(-1) > 190)
    change = np.abs(StainNormalizer(measure(image), colon, method).apply(image).astype(int) - image)
    assert change[glass].mean() < 1


# -- what it cannot judge -----------------------------------------------------------------------------------------------


@every_method
def test_without_tissue_the_pixels_are_left_as_they_are(colon: StainProfile, method: StainMethod) -> None:
    blank = np.full((64, 64, 3), 243, np.uint8)
    normalizer = StainNormalizer(measure(blank), colon, method)
    assert normalizer.method is None and normalizer.quality.light == "refused"
    assert normalizer.quality.reason == (
        "There is nearly no stained tissue in the slide: 0 pixels, at least 2000 are needed. The colors are left as they are."
    )
    colors = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    after = normalizer.apply(colors)
    np.testing.assert_array_equal(after, colors)
    assert after is not colors


def test_a_reference_without_tissue_is_refused(own: StainProfile) -> None:
    normalizer = StainNormalizer(own, measure(np.full((64, 64, 3), 243, np.uint8)))
    assert normalizer.quality.light == "refused"
    assert normalizer.quality.reason.startswith("There is nearly no stained tissue in the reference: 0 pixels")


@pytest.mark.parametrize(
    ("stains", "reason"),
    [
        (
            {"vectors": ((0.65, 0.70, 0.2957), (0.62, 0.72, 0.3118))},
            "Macenko cannot tell hematoxylin and eosin apart in the slide: their colors are 2.3° apart, at least 6° are needed. "
            "Reinhard's method is used instead.",
        ),
        (
            {"vectors": ((0.27, 0.57, 0.776), (0.07, 0.99, 0.12))},
            "What Macenko takes for hematoxylin in the slide is 29° from the usual color: this may be another stain. "
            "Reinhard's method is used instead.",
        ),
        (
            {"concentrations": (0.05, 0.5)},
            "There is hardly any hematoxylin in the slide: its 99th percentile is 0.05, at least 0.12 is needed. "
            "Reinhard's method is used instead.",
        ),
        (
            {"concentrations": (0.5, 7.0)},
            "The amount of eosin in the slide is implausible: its 99th percentile is 7.00, at most 4 is. "
            "Reinhard's method is used instead.",
        ),
        (
            {"concentrations": (0.5, 3.9)},
            "Eosin would have to become 0.077 times as strong; 0.125 to 4 times is plausible. Reinhard's method is used instead.",
        ),
        (
            {"concentrations": (0.4, 1.2)},
            "Hematoxylin would have to gain 7.6 times on eosin; up to 3.2 times is plausible between H&E slides, "
            "so one of the two may be missing here. Reinhard's method is used instead.",
        ),
    ],
    ids=["collinear", "other stain", "weak", "strong", "ratio", "balance"],
)
def test_a_doubtful_measurement_falls_back_to_reinhard(own: StainProfile, colon: StainProfile, stains: dict[str, object], reason: str) -> None:
    normalizer = StainNormalizer(changed(own, **stains), colon)
    assert (normalizer.asked, normalizer.method) == ("macenko", "reinhard")
    assert normalizer.quality.light == "doubtful"
    assert normalizer.quality.reason == reason


def test_pictures_without_eosin_are_doubted_and_h_and_e_is_not(data_dir: Path, colon: StainProfile) -> None:
    index = pd.read_csv(data_dir / "nuclei" / "dsb2018" / "index.csv")
    purple = index[index.stain_group == "haematoxylin_like"].name
    sets = {
        "purple": [data_dir / "nuclei" / "dsb2018" / "images" / f"{name}.png" for name in purple],
        "h&e": sorted((data_dir / "nuclei" / "consep" / "images").iterdir()),
    }
    good = {
        name: np.mean([StainNormalizer(measure(np.asarray(Image.open(file).convert("RGB"))), colon).quality.light == "good" for file in files])
        for name, files in sets.items()
    }
    assert good["purple"] < 0.05
    assert good["h&e"] > 0.85


@every_method
@pytest.mark.parametrize("strength", [0.5, 0.3, 0.15, 0.07])
def test_weak_stain_does_not_explode(image: UInt8, colon: StainProfile, method: StainMethod, strength: float) -> None:
    weak = np.clip(245 * (np.maximum(image, 1) / 245.0) ** strength, 0, 255).astype(np.uint8)
    normalizer = StainNormalizer(measure(weak), colon, method)
    after = normalizer.apply(weak)
    spread, wanted = to_density(after, (245, 245, 245)).std((0, 1)), to_density(image, (245, 245, 245)).std((0, 1))
    assert (spread < 2 * wanted).all()
    assert (after.min(-1) == 0).mean() < 0.01


@every_method
@pytest.mark.parametrize("file", ["tcga-red-pen", "no-tissue-red-pen", "very-low-nuclei-score-level0", "almost-white-ihc", "kidney-ihc-level0-310-500-360-530"])
def test_odd_pictures_do_not_fail(file: str, data_dir: Path, colon: StainProfile, method: StainMethod) -> None:
    image = np.asarray(Image.open(data_dir / "background" / f"{file}.png").convert("RGB"))
    normalizer = StainNormalizer(measure(image), colon, method)
    assert normalizer.apply(image).shape == image.shape
    assert (normalizer.quality.light == "good") == (normalizer.quality.reason == "")


def test_unknown_methods_are_refused(own: StainProfile) -> None:
    with pytest.raises(SettingsError) as error:
        StainNormalizer(own, own, "svd")  # type: ignore[arg-type]
    assert str(error.value) == "There is no stain method 'svd'. Choose one of: macenko, vahadane, reinhard."


def test_only_rgb_is_normalized(own: StainProfile, colon: StainProfile) -> None:
    with pytest.raises(SettingsError, match=r"Got float64 \(2, 2, 3\) instead"):
        StainNormalizer(own, colon).apply(np.zeros((2, 2, 3)))


# -- how it behaves as an object ----------------------------------------------------------------------------------------


def test_views_and_other_shapes_are_taken(image: UInt8, own: StainProfile, colon: StainProfile) -> None:
    normalizer = StainNormalizer(own, colon)
    whole = normalizer.apply(image)
    np.testing.assert_array_equal(normalizer.apply(image[::2, ::-3]), whole[::2, ::-3])
    np.testing.assert_array_equal(normalizer.apply(image[None, None]), whole[None, None])
    assert normalizer.apply(image[:0]).shape == (0, 384, 3)


def test_pickled_it_is_small_and_does_the_same(image: UInt8, own: StainProfile, colon: StainProfile) -> None:
    normalizer = StainNormalizer(own, colon, "vahadane")
    wanted = normalizer.apply(image)
    text = pickle.dumps(normalizer)
    assert len(text) < 10_000
    again = pickle.loads(text)
    assert again.key() == normalizer.key()
    np.testing.assert_array_equal(again.apply(image), wanted)


def test_the_key_says_what_it_does_and_not_what_it_is_called(own: StainProfile, colon: StainProfile) -> None:
    key = StainNormalizer(own, colon).key()
    assert key.startswith("sha256:")
    assert key == StainNormalizer(own.renamed("a"), colon.renamed("b", note="c")).key()
    others = [StainNormalizer(own, colon, "reinhard"), StainNormalizer(own, colon, "vahadane"), StainNormalizer(colon, own)]
    assert len({key, *(other.key() for other in others)}) == 4


def test_the_description_is_json_and_holds_the_reason(own: StainProfile, colon: StainProfile) -> None:
    normalizer = StainNormalizer(changed(own, concentrations=(0.01, 0.5)), colon)
    record = json.loads(json.dumps(normalizer.describe()))
    assert (record["method"], record["asked"]) == ("reinhard", "macenko")
    assert record["quality"] == {"light": "doubtful", "reason": normalizer.quality.reason}
    assert StainProfile.model_validate(record["target"]) == colon


def test_many_threads_share_one_table(image: UInt8, own: StainProfile, colon: StainProfile) -> None:
    wanted = StainNormalizer(own, colon).apply(image)
    table.clear()
    results: list[UInt8] = []
    threads = [threading.Thread(target=lambda: results.append(StainNormalizer(own, colon).apply(image))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(table._tables) == 1 and len(results) == 6
    assert all((result == wanted).all() for result in results)


def test_only_a_few_tables_are_kept() -> None:
    table.clear()
    first = table.table_for("key 0")
    for i in range(1, table.KEPT):
        table.table_for(f"key {i}")
    assert table.table_for("key 0") is first
    table.table_for("one more")
    assert len(table._tables) == table.KEPT
    assert table.table_for("key 0") is first
    table.clear()
