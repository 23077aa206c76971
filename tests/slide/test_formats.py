"""Every format opens with the right size, pixel size and pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import openslide
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from napari_histoseg import _testing as make
from napari_histoseg import _testing_vendors as vendors
from napari_histoseg.slide import Box, Slide, open_slide

IMAGE = make.he_image(700, 500)


def _png(folder: Path) -> Path:
    Image.fromarray(IMAGE).save(folder / "a.png")
    return folder / "a.png"


def _npy(folder: Path) -> Path:
    np.save(folder / "a.npy", IMAGE)
    return folder / "a.npy"


def _tiff(**options: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        tifffile.imwrite(folder / "a.tif", IMAGE, photometric="rgb", **options)
        return folder / "a.tif"

    return write


def _planar(folder: Path) -> Path:
    tifffile.imwrite(
        folder / "a.tif",
        np.moveaxis(IMAGE, -1, 0),
        photometric="rgb",
        planarconfig="separate",
        tile=(128, 128),
    )
    return folder / "a.tif"


def _imagej(folder: Path) -> Path:
    tifffile.imwrite(folder / "a.tif", IMAGE, imagej=True, resolution=(2, 2), metadata={"unit": "um"})
    return folder / "a.tif"


CM = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
LOSSLESS: dict[str, tuple[Callable[[Path], Any], str, float | None, int]] = {
    # what: (write, format, mpp, levels)
    "PNG": (_png, "image", None, 1),
    "NPY": (_npy, "array", None, 1),
    "NumPy": (lambda _: IMAGE, "array", None, 1),
    "NumPy, channels first": (lambda _: np.moveaxis(IMAGE, -1, 0), "array", None, 1),
    "NumPy, leading axes": (lambda _: IMAGE[None, None], "array", None, 1),
    "dask": (lambda _: dask.array.from_array(IMAGE, chunks=(200, 300, 3)), "array", None, 1),
    "pyramid of arrays": (lambda _: [IMAGE, IMAGE[::2, ::2], IMAGE[::4, ::4]], "array", None, 3),
    "TIFF in strips": (_tiff(rowsperstrip=17), "tiff", None, 1),
    "TIFF in one piece": (_tiff(), "tiff", None, 1),
    "TIFF in compressed strips": (_tiff(rowsperstrip=17, compression="lzw", predictor=True), "tiff", None, 1),
    "tiled TIFF": (_tiff(tile=(128, 128), compression="deflate", **CM), "tiff", 0.5, 1),
    "TIFF at a printer's 300 dpi": (_tiff(resolution=(300, 300), resolutionunit="INCH"), "tiff", None, 1),
    "planar TIFF": (_planar, "tiff", None, 1),
    "ImageJ TIFF": (_imagej, "tiff", 0.5, 1),
    "OME-TIFF with SubIFDs": (lambda d: make.write_ome_tiff(d / "a.ome.tif", IMAGE), "ome-tiff", 0.25, 3),
    "OME-TIFF, uncompressed": (
        lambda d: make.write_ome_tiff(d / "a.ome.tif", IMAGE, compression=None),
        "ome-tiff",
        0.25,
        3,
    ),
    "OME-TIFF, channel pages": (
        lambda d: make.write_ome_tiff(d / "a.ome.tif", np.moveaxis(IMAGE, -1, 0), axes="CYX"),
        "ome-tiff",
        0.25,
        3,
    ),
    "OME-TIFF without size": (
        lambda d: make.write_ome_tiff(d / "a.ome.tif", IMAGE, mpp=None),
        "ome-tiff",
        None,
        3,
    ),
    "OME-Zarr 0.5": (lambda d: make.write_ome_zarr(d / "a.zarr", IMAGE), "ome-zarr", 0.25, 3),
    "OME-Zarr 0.4": (lambda d: make.write_ome_zarr(d / "a.zarr", IMAGE, version="0.4"), "ome-zarr", 0.25, 3),
    "OME-Zarr, five axes": (
        lambda d: make.write_ome_zarr(d / "a.zarr", IMAGE, axes="tczyx"),
        "ome-zarr",
        0.25,
        3,
    ),
    "OME-Zarr, channels last": (
        lambda d: make.write_ome_zarr(d / "a.zarr", IMAGE, axes="yxc"),
        "ome-zarr",
        0.25,
        3,
    ),
    "OME-Zarr in nm": (
        lambda d: make.write_ome_zarr(d / "a.zarr", IMAGE, unit="nanometer", per_um=1000),
        "ome-zarr",
        0.25,
        3,
    ),
    "OME-Zarr without unit": (
        lambda d: make.write_ome_zarr(d / "a.zarr", IMAGE, mpp=None),
        "ome-zarr",
        None,
        3,
    ),
}


@pytest.mark.parametrize("what", LOSSLESS)
def test_lossless_formats_give_back_every_pixel(what: str, tmp_path: Path) -> None:
    write, name, mpp, levels = LOSSLESS[what]
    with open_slide(write(tmp_path)) as slide:
        assert (slide.format, len(slide.levels)) == (name, levels)
        assert (slide.width, slide.height) == (700, 500)
        assert slide.mpp == (None if mpp is None else pytest.approx(mpp))
        assert slide.mpp_source == (None if mpp is None else "file")
        np.testing.assert_array_equal(slide.read(0, slide.bounds), IMAGE)
        np.testing.assert_array_equal(slide.read(0, Box(130, 90, 300, 200)), IMAGE[90:290, 130:430])


JPEG = [("RGB", "444"), ("YCBCR", "444"), ("YCBCR", "422"), ("YCBCR", "420")]


VENDORS = {
    # file: (write, vendor, largest difference)
    "a.mrxs": (vendors.write_mirax, "mirax", 0),
    "a.scn": (vendors.write_leica, "leica", 0),
    "a.bif": (vendors.write_ventana, "ventana", 0),
    "a.vms": (vendors.write_hamamatsu, "hamamatsu", 60),
    "a.ndpi": (vendors.write_ndpi, "hamamatsu", 60),
}


@pytest.mark.parametrize("name", VENDORS)
def test_vendor_formats_open(name: str, tmp_path: Path) -> None:
    write, vendor, atol = VENDORS[name]
    image = make.he_image(1024, 768)
    with open_slide(write(tmp_path / name, image)) as slide:
        assert (slide.vendor, slide.format, slide.objective) == (vendor, vendor, 40)
        assert (slide.mpp, slide.mpp_source) == (pytest.approx(0.25), "file")
        assert slide.width == 1024
        assert slide.levels[1].width == 512
        pixels = slide.read(0, Box(0, 0, 1024, 768))
        np.testing.assert_allclose(pixels.astype(int), image.astype(int), atol=atol)
        assert np.abs(slide.read(1, Box(0, 0, 512, 384)).astype(int) - make.halved(image)).mean() < 10
        np.testing.assert_array_equal(
            slide.read(1, Box(51, 33, 99, 70)), slide.read(1, Box(0, 0, 512, 384))[33:103, 51:150]
        )


def _openslide_level(path: Path, level: int) -> NDArray[np.uint8]:
    with openslide.OpenSlide(path) as reference:
        size = reference.level_dimensions[level]
        return np.asarray(reference.read_region((0, 0), level, size).convert("RGB"))


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<f4", "u1"])
@pytest.mark.parametrize("planar", [False, True], ids=["interleaved", "planar"])
def test_a_large_uncompressed_image_is_read_in_rows(dtype: str, planar: bool, tmp_path: Path) -> None:
    image = np.tile(IMAGE, (2, 2, 1)).astype(dtype)
    image = image / np.float32(255) if dtype == "<f4" else image
    data, config = (np.moveaxis(image, -1, 0), "separate") if planar else (image, "contig")
    tifffile.imwrite(
        tmp_path / "a.tif",
        data,
        photometric="rgb",
        planarconfig=config,
        byteorder=dtype[0] if dtype != "u1" else None,
    )
    slide = open_slide(tmp_path / "a.tif")
    assert slide.tiles[0][1] < 1000
    np.testing.assert_array_equal(
        slide.read(0, Box(650, 450, 100, 100)), np.tile(IMAGE, (2, 2, 1))[450:550, 650:750]
    )


@pytest.mark.parametrize("aperio", [True, False], ids=["Aperio", "generic"])
@pytest.mark.parametrize(("space", "subsampling"), JPEG)
def test_jpeg_tiles_equal_openslide_bit_for_bit(
    space: Any, subsampling: Any, aperio: bool, tmp_path: Path
) -> None:
    path = make.write_svs(
        tmp_path / "a.svs",
        IMAGE,
        space=space,
        subsampling=subsampling,
        aperio=aperio,
        tile=128,
        levels=(1, 2),
    )
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(0.25)
        assert len(slide.levels) == 2
        for number, level in enumerate(slide.levels):
            np.testing.assert_array_equal(slide.read(number, level.bounds), _openslide_level(path, number))


def test_an_aperio_slide_tells_its_facts(tmp_path: Path) -> None:
    with open_slide(make.write_svs(tmp_path / "a.svs", IMAGE)) as slide:
        assert (slide.format, slide.vendor, slide.objective, slide.name) == ("svs", "aperio", 40, "a.svs")
        assert slide._source.direct  # type: ignore[attr-defined]
        assert slide.associated["thumbnail"].shape[2] == 3


REAL: dict[str, tuple[str, str, tuple[int, int], float | None, int]] = {
    "Aperio SVS": ("slides/CMU-1-Small-Region.svs", "svs", (2220, 2967), 0.499, 1),
    "Aperio SVS, JPEG 2000, no pixel size": (
        "slides/tcga-cr-7395-01a-01-ts1.svs",
        "svs",
        (4443, 3567),
        None,
        2,
    ),
    "DICOM file": (
        "slides/dicom_cmu-1-small-region/level-3-frames-0-1.dcm",
        "dicom",
        (2220, 2967),
        0.499,
        12,
    ),
    "DICOM folder": ("slides/dicom_cmu-1-small-region", "dicom", (2220, 2967), 0.499, 12),
    "OME-TIFF": ("slides/OS-1-detail.ome.tif", "ome-tiff", (1101, 1101), 0.2271, 1),
}


@pytest.mark.parametrize("what", REAL)
def test_real_slides_open(what: str, data_dir: Path) -> None:
    name, kind, size, mpp, levels = REAL[what]
    with open_slide(data_dir / name) as slide:
        assert (slide.format, (slide.width, slide.height), len(slide.levels)) == (kind, size, levels)
        assert slide.mpp == (None if mpp is None else pytest.approx(mpp, abs=1e-4))
        assert slide.thumbnail(300).std() > 5


def test_a_real_svs_equals_openslide_bit_for_bit(data_dir: Path) -> None:
    path = data_dir / "slides" / "CMU-1-Small-Region.svs"
    with open_slide(path) as slide:
        assert slide._source.direct  # type: ignore[attr-defined]
        np.testing.assert_array_equal(slide.read(0, slide.bounds), _openslide_level(path, 0))
        assert set(slide.associated) == {"label", "macro", "thumbnail"}


def test_a_pixel_of_an_uneven_level_does_not_depend_on_the_box(data_dir: Path) -> None:
    with open_slide(data_dir / "slides/dicom_cmu-1-small-region") as slide:
        whole = slide.read(2, slide.levels[2].bounds)
        np.testing.assert_array_equal(slide.read(2, Box(201, 99, 150, 170)), whole[99:269, 201:351])


def test_files_of_one_dicom_slide_have_one_fingerprint(data_dir: Path) -> None:
    folder = data_dir / "slides/dicom_cmu-1-small-region"
    prints = {open_slide(path).fingerprint() for path in sorted(folder.glob("*.dcm"))[:3]}
    assert len(prints) == 1


def test_downsamples_are_not_rounded(tmp_path: Path) -> None:
    slide: Slide = open_slide(make.write_svs(tmp_path / "a.svs", IMAGE[:, :690], levels=(1, 4)))
    assert slide.levels[1].downsample == (690 / 172 + 500 / 125) / 2
    assert slide.level_mpp(1) == 0.25 * slide.levels[1].downsample


def test_pixels_that_are_not_square_are_noted(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", IMAGE, photometric="rgb", resolution=(20000, 18000), resolutionunit="CENTIMETER"
    )
    slide = open_slide(tmp_path / "a.tif")
    assert slide.mpp == pytest.approx((0.5 + 10 / 18) / 2)
    assert "not square" in slide.properties["histoseg.pixel-size"]
