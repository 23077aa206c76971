"""Reading, pixel sizes and records of a slide."""

from __future__ import annotations

import json
import math
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from napari_histoseg import _testing as make
from napari_histoseg.errors import PixelSizeError, RegionError
from napari_histoseg.slide import Box, Slide, open_slide

IMAGE = make.he_image(900, 700)
SLIDE = open_slide([IMAGE, make.halved(IMAGE), make.halved(IMAGE, 4)], mpp=0.25)


# -- boxes -----------------------------------------------------------------------------------------


def test_outside_the_slide_is_white() -> None:
    out = SLIDE.read(0, Box(-20, 690, 50, 30))
    assert (out[:, :20] == 255).all()
    assert (out[10:] == 255).all()
    np.testing.assert_array_equal(out[:10, 20:], IMAGE[690:, :30])
    assert (SLIDE.read(0, Box(5000, 5000, 9, 8)) == 255).all()


@pytest.mark.parametrize(
    ("level", "box"),
    [(0, Box(0, 0, 0, 5)), (0, Box(3, 3, 5, -1)), (3, Box(0, 0, 5, 5)), (-1, Box(0, 0, 5, 5))],
)
def test_empty_boxes_and_missing_levels_are_refused(level: int, box: Box) -> None:
    with pytest.raises(RegionError):
        SLIDE.read(level, box)


@pytest.mark.parametrize(("level", "mpp"), [(0, 0.25), (1, 0.5), (2, 1.0)])
def test_at_a_level_the_pixels_are_the_levels_own(level: int, mpp: float) -> None:
    box = Box(-5, 11, 120, 90)
    np.testing.assert_array_equal(SLIDE.read_at(mpp, box), SLIDE.read(level, box))
    assert SLIDE.native_level(mpp) == level
    assert SLIDE.native_level(mpp * 1.01) is None
    assert SLIDE.size_at(mpp) == (SLIDE.levels[level].width, SLIDE.levels[level].height)


@settings(max_examples=40, deadline=None)
@given(
    mpp=st.one_of(st.sampled_from([0.125, 0.3, 0.375, 0.499, 0.62, 0.75, 2.0, 7.7]), st.floats(0.1, 9)),
    x=st.integers(-60, 300),
    y=st.integers(-60, 300),
    width=st.integers(1, 300),
    height=st.integers(1, 300),
)
def test_the_value_of_a_pixel_does_not_depend_on_its_box(
    mpp: float, x: int, y: int, width: int, height: int
) -> None:
    whole = SLIDE.read_at(mpp, Box(-64, -64, 700, 700))
    part = SLIDE.read_at(mpp, Box(x, y, width, height))
    np.testing.assert_array_equal(part, whole[y + 64 : y + 64 + height, x + 64 : x + 64 + width])


@pytest.mark.parametrize("mpp", [0.3, 0.5, 0.62, 1.0, 1.7])
def test_resampled_content_stays_at_its_place(mpp: float) -> None:
    """A dark square of level 0 is found where the working frame says, to a tenth of a pixel."""
    picture = np.full((1200, 1200, 3), 255, np.uint8)
    picture[400:600, 700:900] = 0
    slide = open_slide(picture, mpp=0.25)
    dark = 1 - slide.read_at(mpp, Box(0, 0, *slide.size_at(mpp)))[..., 0] / 255
    factor = mpp / 0.25
    rows, columns = dark.sum(1), dark.sum(0)
    center = [float((v * (np.arange(v.size) + 0.5)).sum() / v.sum()) * factor for v in (rows, columns)]
    assert center == pytest.approx([500, 800], abs=0.1 * factor)
    assert dark.sum() * factor**2 == pytest.approx(200 * 200, rel=0.01)


def test_a_coarse_level_is_never_enlarged() -> None:
    assert [SLIDE.level_for(d) for d in (0.5, 1.0, 1.9, 2.0, 3.9, 4.0, 99)] == [0, 0, 0, 1, 1, 2, 2]


def test_many_threads_read_the_same_pixels(tmp_path: Path) -> None:
    slide = open_slide(make.write_svs(tmp_path / "a.svs", IMAGE, tile=128))
    boxes = [Box(37 * i % 600, 53 * i % 500, 200, 150) for i in range(60)]
    alone = [slide.read(0, box) for box in boxes]
    with ThreadPoolExecutor(8) as pool:
        for one, other in zip(alone, pool.map(lambda box: slide.read(0, box), boxes), strict=True):
            np.testing.assert_array_equal(one, other)


def test_pixels_that_were_read_belong_to_the_reader() -> None:
    picture = IMAGE.copy()
    open_slide(picture).read(0, Box(0, 0, 900, 700))[:] = 0
    np.testing.assert_array_equal(picture, IMAGE)


def test_importing_the_package_is_cheap() -> None:
    heavy = "dask, openslide, tifffile, imagecodecs, zarr, scipy, torch, qtpy"
    code = f"import napari_histoseg.slide, sys; print([m for m in '{heavy}'.split(', ') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# -- pixel size ------------------------------------------------------------------------------------


def test_the_pixel_size_is_never_guessed() -> None:
    slide = open_slide(IMAGE)
    assert slide.mpp is None
    assert slide.mpp_source is None
    with pytest.raises(
        PixelSizeError, match=r"has no pixel size .* Pass --mpp on the command line, mpp= in Python"
    ):
        slide.read_at(0.5, Box(0, 0, 5, 5))


def test_the_pixel_size_that_a_user_gives_wins(tmp_path: Path) -> None:
    path = make.write_svs(tmp_path / "a.svs", IMAGE)
    slide = open_slide(path, mpp=0.5)
    assert (slide.mpp, slide.mpp_source) == (0.5, "user")
    assert open_slide(path).with_mpp(0.7, "layer").mpp_source == "layer"
    assert open_slide(slide) is slide
    assert open_slide(slide, mpp=1).mpp == 1.0


@pytest.mark.parametrize("mpp", [0, -1, math.nan, math.inf, "a", None])
def test_impossible_pixel_sizes_are_refused(mpp: object) -> None:
    with pytest.raises(PixelSizeError, match="must be a positive number"):
        SLIDE.with_mpp(mpp)  # type: ignore[arg-type]


# a slide of 0.25 µm/px with levels at 0.25, 0.5 and 1; the last has 0.5 µm/px and one level
COARSE = open_slide(IMAGE, mpp=0.5)


@pytest.mark.parametrize(
    ("slide", "model", "expected"),
    [
        (SLIDE, 0.25, 0.25),
        (SLIDE, 0.27, 0.25),
        (SLIDE, 0.22, 0.25),
        (SLIDE, 0.5, 0.5),
        (SLIDE, 0.62, 0.62),
        (SLIDE, 0.125, 0.125),
        (SLIDE, 4.0, 4.0),
        (COARSE, 0.25, 0.25),
        (COARSE, 0.262, 0.25),
        (COARSE, 0.3, 0.3),
        (open_slide(IMAGE, mpp=0.499), 0.25, 0.2495),
    ],
)
def test_a_model_works_at_a_level_where_it_can(slide: Slide, model: float, expected: float) -> None:
    assert slide.working_mpp(model) == expected


def test_a_model_out_of_reach_is_refused_unless_forced() -> None:
    slide = open_slide(IMAGE, mpp=1.0)
    with pytest.raises(PixelSizeError, match=r"has 1 µm/px, the model was made for 0.25 µm/px"):
        slide.working_mpp(0.25)
    assert slide.working_mpp(0.25, force=True) == 0.25


# -- record ----------------------------------------------------------------------------------------


def test_a_fingerprint_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    first = make.write_svs(tmp_path / "a.svs", IMAGE)
    (tmp_path / "b.svs").write_bytes(first.read_bytes())
    other = make.write_svs(tmp_path / "c.svs", 255 - IMAGE)
    prints = [open_slide(p).fingerprint() for p in (first, tmp_path / "b.svs", other, first)]
    assert prints[0] == prints[1] == prints[3] != prints[2]
    assert prints[0].startswith("sha256:")


def test_fingerprints_of_arrays_and_zarr_are_stable(tmp_path: Path) -> None:
    changed = IMAGE.copy()
    changed[100, 100] ^= 1
    assert open_slide(IMAGE).fingerprint() == open_slide(IMAGE.copy()).fingerprint()
    assert open_slide(IMAGE).fingerprint() != open_slide(changed).fingerprint()
    one, two = (make.write_ome_zarr(tmp_path / n, i) for n, i in (("a.zarr", IMAGE), ("b.zarr", changed)))
    assert open_slide(one).fingerprint() == open_slide(one).fingerprint() != open_slide(two).fingerprint()


def test_a_description_is_json(tmp_path: Path) -> None:
    told = json.loads(json.dumps(open_slide(make.write_svs(tmp_path / "a.svs", IMAGE)).describe()))
    assert told["mpp"] == 0.25
    assert told["mpp_source"] == "file"
    assert told["levels"][1] == {"width": 225, "height": 175, "downsample": 4.0}
    assert told["vendor"] == "aperio"


def test_a_slide_travels_to_other_processes(tmp_path: Path) -> None:
    for slide in (open_slide(make.write_svs(tmp_path / "a.svs", IMAGE), mpp=0.4), SLIDE):
        other = pickle.loads(pickle.dumps(slide))
        assert (other.mpp, other.mpp_source) == (slide.mpp, "user")
        np.testing.assert_array_equal(other.read(1, Box(9, 9, 50, 40)), slide.read(1, Box(9, 9, 50, 40)))


# -- color -----------------------------------------------------------------------------------------


def swapped_profile() -> bytes:
    """sRGB with red and blue exchanged: its conversion to sRGB exchanges the channels."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return data.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")


def test_colors_are_converted_on_request_only(tmp_path: Path) -> None:
    Image.fromarray(IMAGE).save(tmp_path / "a.png", icc_profile=swapped_profile())
    slide = open_slide(tmp_path / "a.png")
    np.testing.assert_array_equal(slide.read(0, slide.bounds), IMAGE)
    converted = slide.with_icc()
    assert converted.converts
    out = converted.read(0, Box(-10, 0, 100, 100))
    assert (out[:, :10] == 255).all()
    np.testing.assert_allclose(out[:, 10:].astype(int), IMAGE[:100, :90, ::-1].astype(int), atol=3)


def test_the_profile_of_an_svs_is_found(tmp_path: Path) -> None:
    profile = swapped_profile()
    slide = open_slide(make.write_svs(tmp_path / "a.svs", IMAGE, icc_profile=profile))
    assert slide.icc_profile == profile
    assert slide.describe()["icc_profile"] is True


def test_without_a_profile_colors_stay() -> None:
    slide = SLIDE.with_icc()
    assert not slide.converts
    np.testing.assert_array_equal(slide.read(0, Box(0, 0, 50, 50)), IMAGE[:50, :50])
