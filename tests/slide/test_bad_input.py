"""What is no slide, or a damaged one, says so in a plain sentence; odd images have a stated meaning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from napari_histoseg import _testing as make
from napari_histoseg.errors import SlideError, TileError
from napari_histoseg.slide import Box, open_slide

IMAGE = make.he_image(600, 400)


# -- no slide --------------------------------------------------------------------------------------


def test_a_file_that_is_no_slide(data_dir: Path) -> None:
    path = data_dir / "slides" / "broken.svs"
    with pytest.raises(SlideError, match=r"broken\.svs is not a slide or image that can be read \(.+\)\.$"):
        open_slide(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("noise.svs", bytes(range(256)) * 40),
        ("noise.xyz", b"hello"),
        ("noise.png", b"hello"),
        ("noise.npy", b"hello"),
        ("empty.svs", b""),
        ("cut.tif", b"II*\0\x08\0\0\0"),
        ("lost.tif", b"II*\0\xff\xff\xff\x0f"),
        ("noise.dcm", b"\0" * 128 + b"DICMxxxx"),
    ],
)
def test_files_that_cannot_be_read(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SlideError, match=r"is not a slide or image that can be read \(.+\)\."):
        open_slide(tmp_path / name)


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match=r"nothing\.svs does not exist\.$"):
        open_slide(tmp_path / "nothing.svs")
    with pytest.raises(OSError, match="does not exist"):
        open_slide(str(tmp_path / "nothing.svs"))


def test_a_folder_that_is_no_slide(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="neither an OME-Zarr image nor a DICOM slide"):
        open_slide(tmp_path)


@pytest.mark.parametrize("thing", [3, None, {"a": 1}, b"abc", ["a.svs"], []])
def test_things_that_are_neither_paths_nor_arrays(thing: Any) -> None:
    with pytest.raises(SlideError):
        open_slide(thing)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((50, 60), np.int32), "label image"),
        (np.zeros((50, 60), np.int64), "label image"),
        (np.zeros((50, 60), bool), "mask"),
        (np.zeros((50, 60, 2), np.uint8), "no H&E image"),
        (np.zeros((2, 50, 60), np.uint8), "no H&E image"),
        (np.zeros((5, 50, 60, 3), np.uint8), "no H&E image"),
        (np.zeros((60,), np.uint8), "no H&E image"),
        (np.zeros((0, 60), np.uint8), "no pixel"),
        (np.full((50, 60), 200.0), "from 200 to 200"),
        (np.linspace(-1, 1, 3000).reshape(50, 60), "from -1 to 1"),
        (np.zeros((50, 60), complex), "complex128"),
        ([np.zeros((50, 60), np.uint8), np.zeros((50, 60), np.uint8)], "no pyramid"),
        ([np.zeros((50, 60), np.uint8), np.zeros((25, 60), np.uint8)], "no pyramid"),
        ([np.zeros((50, 60), np.uint8), np.zeros((25, 30), np.uint16)], "differ in axes or type"),
    ],
)
def test_arrays_that_are_no_he_image(array: Any, words: str) -> None:
    with pytest.raises(SlideError, match=words):
        open_slide(array)


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        (
            np.zeros((3, 64, 64), np.uint8),
            {"photometric": "minisblack", "metadata": None},
            "3 pages of one size",
        ),
        (
            np.zeros((5, 64, 64), np.uint8),
            {"photometric": "minisblack", "ome": True, "metadata": {"axes": "ZYX"}},
            "5 z planes",
        ),
        (
            np.zeros((5, 64, 64), np.uint8),
            {"photometric": "minisblack", "ome": True, "metadata": {"axes": "CYX"}},
            "5 channels",
        ),
        (np.zeros((64, 64), np.int32), {}, "label image"),
    ],
)
def test_tiffs_that_are_no_he_image(data: Any, options: dict[str, Any], words: str, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", data, **options)
    with pytest.raises(SlideError, match=words):
        open_slide(tmp_path / "a.tif")


# -- zarr ------------------------------------------------------------------------------------------


def _ome(path: Path) -> Any:
    return json.loads((path / "zarr.json").read_text())["attributes"]["ome"]


def _with_ome(path: Path, ome: Any) -> Path:
    make.edit_json(path / "zarr.json", attributes={"ome": ome})
    return path


@pytest.mark.parametrize("name", ["../b.zarr/0", "/etc", "", "..", "missing"])
def test_zarr_levels_may_not_leave_their_folder(name: str, tmp_path: Path) -> None:
    make.write_ome_zarr(tmp_path / "b.zarr", IMAGE)
    path = make.write_ome_zarr(tmp_path / "a.zarr", IMAGE)
    ome = _ome(path)
    ome["multiscales"][0]["datasets"][0]["path"] = name
    with pytest.raises(SlideError, match=r"lies outside the folder|cannot be opened"):
        open_slide(_with_ome(path, ome))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"plate": {}}, "plate"),
        ({"image-label": {}}, "label image"),
        ({"multiscales": []}, "without OME-Zarr image metadata"),
        ({"multiscales": [{"axes": [], "datasets": []}]}, "no OME-Zarr image"),
    ],
)
def test_zarr_folders_that_are_no_image(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = make.write_ome_zarr(tmp_path / "a.zarr", IMAGE)
    with pytest.raises(SlideError, match=words):
        open_slide(_with_ome(path, _ome(path) | change))


def test_damaged_zarr_metadata(tmp_path: Path) -> None:
    path = make.write_ome_zarr(tmp_path / "a.zarr", IMAGE)
    (path / "zarr.json").write_text("{")
    with pytest.raises(SlideError, match="is not a slide or image that can be read"):
        open_slide(path)


# -- damaged slides --------------------------------------------------------------------------------


def _spoil_tile(path: Path, number: int, page: int = 0) -> None:
    """Overwrite one tile with zeros."""
    with tifffile.TiffFile(path) as tif:
        offset, count = tif.pages[page].dataoffsets[number], tif.pages[page].databytecounts[number]
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"\0" * count)


@pytest.mark.parametrize("kind", ["svs", "ome-tiff", "ome-zarr"])
def test_a_spoiled_tile_is_named_and_the_others_read_on(kind: str, tmp_path: Path) -> None:
    if kind == "svs":
        path = make.write_svs(tmp_path / "a.svs", IMAGE, tile=128)
        _spoil_tile(path, 6)  # 5 tiles a row: column 1, row 1
    elif kind == "ome-tiff":
        path = make.write_ome_tiff(tmp_path / "a.ome.tif", IMAGE, tile=128)
        _spoil_tile(path, 6)
    else:
        path = make.write_ome_zarr(tmp_path / "a.zarr", IMAGE, chunk=128)
        for chunk in (path / "0" / "c").glob("*/1/1"):
            chunk.write_bytes(b"spoiled")
    slide = open_slide(path)
    with pytest.raises(TileError, match=rf"{path.name}: level 0, x 100 to 200, y 130 to 200 cannot be read"):
        slide.read(0, Box(100, 130, 100, 70))
    good = slide.read(0, Box(256, 128, 200, 200))
    assert np.abs(good.astype(int) - IMAGE[128:328, 256:456]).mean() < 6
    assert (np.asarray(slide.pyramid()[0])[130:250, 130:250] == 255).all()


def test_openslide_reads_on_after_a_spoiled_tile(data_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    path.write_bytes((data_dir / "slides" / "tcga-cr-7395-01a-01-ts1.svs").read_bytes())
    _spoil_tile(path, 0)
    slide = open_slide(path)
    with pytest.raises(TileError, match=r"level 0, x 0 to 50, y 0 to 50"):
        slide.read(0, Box(0, 0, 50, 50))
    assert slide.read(0, Box(1000, 1000, 50, 50)).shape == (50, 50, 3)


@pytest.mark.parametrize("part", [0.2, 0.6, 0.9])
@pytest.mark.parametrize("kind", ["svs", "ome-tiff", "png"])
def test_a_truncated_slide_is_refused(kind: str, part: float, tmp_path: Path) -> None:
    if kind == "svs":
        path = make.write_svs(tmp_path / "a.svs", IMAGE, tile=128)
    elif kind == "ome-tiff":
        path = make.write_ome_tiff(tmp_path / "a.ome.tif", IMAGE, tile=128)
    else:
        path = tmp_path / "a.png"
        Image.fromarray(IMAGE).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(SlideError, match=f"{path.name} is not a slide or image that can be read"):
        open_slide(path)


def test_a_jpeg_tile_without_its_end_is_an_error(tmp_path: Path) -> None:
    path = make.write_svs(tmp_path / "a.svs", IMAGE, tile=128)
    with tifffile.TiffFile(path) as tif:
        offset, count = tif.pages[0].dataoffsets[0], tif.pages[0].databytecounts[0]
    with open(path, "r+b") as file:
        file.seek(offset + count // 2)
        file.write(b"\0" * (count - count // 2))
    with pytest.raises(TileError, match="has no end"):
        open_slide(path).read(0, Box(0, 0, 20, 20))


def test_sparse_tiles_are_white(tmp_path: Path) -> None:
    tiles = [IMAGE[:128, :128], None, None, None]
    tifffile.imwrite(
        tmp_path / "a.tif",
        iter(tiles),
        shape=(256, 256, 3),
        dtype=np.uint8,
        tile=(128, 128),
        photometric="rgb",
        compression="deflate",
    )
    pixels = open_slide(tmp_path / "a.tif").read(0, Box(0, 0, 256, 256))
    np.testing.assert_array_equal(pixels[:128, :128], IMAGE[:128, :128])
    assert (pixels[128:] == 255).all()


def test_a_missing_svs_tile_is_left_to_openslide(tmp_path: Path) -> None:
    path = make.write_svs(tmp_path / "a.svs", IMAGE, tile=128)
    with tifffile.TiffFile(path) as tif:
        tag = tif.pages[0].tags["TileByteCounts"]
        counts = list(tag.value)
        counts[6] = 0
        offset, code = tag.valueoffset, "<I" if tag.dtype == 4 else "<H"
    data = bytearray(path.read_bytes())
    data[offset : offset + len(counts) * np.dtype(code).itemsize] = np.array(counts, code).tobytes()
    path.write_bytes(data)
    slide = open_slide(path)
    assert not slide._source.direct  # type: ignore[attr-defined]
    with openslide.OpenSlide(path) as reference:
        region = reference.read_region((0, 0), 0, (300, 300))
    expected = np.asarray(
        Image.alpha_composite(Image.new("RGBA", region.size, "white"), region).convert("RGB")
    )
    np.testing.assert_array_equal(slide.read(0, Box(0, 0, 300, 300)), expected)


# -- odd images ------------------------------------------------------------------------------------

GREY = IMAGE[..., 0]
RGBA = np.dstack([IMAGE, np.full(GREY.shape, 128, np.uint8)])


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (GREY, np.dstack([GREY] * 3)),
        (GREY[..., None], np.dstack([GREY] * 3)),
        (IMAGE.astype(np.uint16), IMAGE),
        (IMAGE.astype(np.uint16) * 257, IMAGE),
        (IMAGE.astype(np.uint16) * 16, np.rint(np.minimum(IMAGE * (16 * 255 / 4095), 255)).astype(np.uint8)),
        (IMAGE / 255, IMAGE),
        ((IMAGE / 255).astype(np.float32), IMAGE),
        (np.moveaxis(RGBA, -1, 0), None),
        (RGBA, None),
    ],
    ids=[
        "gray",
        "gray, one channel",
        "8 in 16 bit",
        "16 bit",
        "12 in 16 bit",
        "float64",
        "float32",
        "RGBA first",
        "RGBA",
    ],
)
def test_other_types_become_8_bit_rgb(array: Any, expected: Any) -> None:
    slide = open_slide(array)
    assert (slide.width, slide.height) == (600, 400)
    pixels = slide.read(0, slide.bounds)
    if expected is None:
        expected = np.rint((IMAGE * 128.0 + 255 * 127) / 255)
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels.astype(int), expected.astype(int), atol=1)


def test_the_rule_for_16_bit_is_told_and_the_same_for_all_reads() -> None:
    slide = open_slide(IMAGE.astype(np.uint16) * 16)
    assert "divided by 4095" in slide.properties["histoseg.scaling"]
    np.testing.assert_array_equal(
        slide.read(0, slide.bounds)[50:60, 70:90], slide.read(0, Box(70, 50, 20, 10))
    )


def test_missing_values_are_black() -> None:
    array = np.full((40, 40), 0.5)
    array[3, 3] = np.nan
    pixels = open_slide(array).read(0, Box(0, 0, 40, 40))
    assert pixels[3, 3, 0] == 0
    assert pixels[9, 9, 0] == 128


@pytest.mark.parametrize(
    ("mode", "value"),
    [("P", 7), ("LA", (9, 255)), ("RGBA", (1, 2, 3, 0)), ("CMYK", (0, 0, 0, 0)), ("I;16", 4000)],
)
def test_png_and_jpeg_modes(mode: str, value: Any, tmp_path: Path) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new(mode, (30, 20), value).save(path)
    assert open_slide(path).read(0, Box(0, 0, 30, 20)).shape == (20, 30, 3)


def test_palette_tiffs_have_their_colors(tmp_path: Path) -> None:
    table = np.random.default_rng(0).integers(0, 65536, (3, 256), dtype=np.uint16)
    index = np.arange(200, dtype=np.uint8).reshape(10, 20)
    tifffile.imwrite(tmp_path / "a.tif", index, photometric="palette", colormap=table)
    expected = np.moveaxis(table[:, index] >> 8, 0, -1)
    np.testing.assert_array_equal(open_slide(tmp_path / "a.tif").read(0, Box(0, 0, 20, 10)), expected)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 1), (1, 100_000), (100_000, 1, 3)])
def test_the_smallest_and_the_longest_images_work(shape: tuple[int, ...], tmp_path: Path) -> None:
    array = np.full(shape, 200, np.uint8)
    slides = [open_slide(array, mpp=0.5)]
    if max(shape[:2]) < 65536:
        Image.fromarray(array).save(tmp_path / "a.png")
        slides.append(open_slide(tmp_path / "a.png", mpp=0.5))
    for slide in slides:
        assert (slide.height, slide.width) == shape[:2]
        assert slide.read(0, slide.bounds).shape == (*shape[:2], 3)
        assert slide.read_at(0.7, Box(0, 0, 3, 3)).shape == (3, 3, 3)
        assert max(slide.thumbnail(64).shape[:2]) == min(64, max(shape[:2]))
        assert all(np.asarray(level[:1, :1]).shape == (1, 1, 3) for level in slide.pyramid())
        assert slide.fingerprint()


def test_a_closed_slide_says_so(tmp_path: Path) -> None:
    slide = open_slide(make.write_ome_tiff(tmp_path / "a.ome.tif", IMAGE))
    slide.close()
    slide.close()
    with pytest.raises(TileError, match="the slide is closed"):
        slide.read(0, Box(0, 0, 9, 9))
