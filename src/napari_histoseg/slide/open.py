"""From a path, an array or a list of arrays to a slide."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_histoseg.errors import SlideError
from napari_histoseg.slide._source import Source
from napari_histoseg.slide.slide import Slide, check_mpp

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif"}


def open_slide(source: Any, mpp: float | None = None) -> Slide:
    """Open anything that holds an H&E image.

    Parameters
    ----------
    source : path, array, sequence of arrays, or Slide
        A slide file (SVS, TIFF, OME-TIFF, DICOM, MRXS, NDPI, SCN, BIF ...), an OME-Zarr folder, an image
        file, a NumPy or dask array ``(H, W)``, ``(H, W, 3 | 4)`` or ``(3 | 4, H, W)``, or a list of such
        arrays from fine to coarse.
    mpp : float, optional
        µm per pixel of level 0; overrides what the file says.

    Returns
    -------
    Slide

    Raises
    ------
    SlideError
        When the source does not exist or is no image.
    PixelSizeError
        When ``mpp`` is no positive number.
    """
    if mpp is not None:
        check_mpp(mpp)
    if isinstance(source, Slide):
        return source if mpp is None else source.with_mpp(mpp)
    return Slide(open_source(source), mpp)


def open_source(source: Any) -> Source:
    """The backend for a path or for arrays."""
    if isinstance(source, (str, os.PathLike)):
        return _open_path(os.fspath(source))
    from napari_histoseg.slide._array import ArraySource

    if isinstance(source, Sequence) and not isinstance(source, (bytes, bytearray)):
        return ArraySource([_as_array(item) for item in source])
    return ArraySource([_as_array(source)])


def _as_array(item: Any) -> Any:
    if all(hasattr(item, a) for a in ("shape", "dtype", "__getitem__")):
        return item
    raise SlideError(
        f"A {type(item).__name__} is neither a path nor an image array. "
        "Give a path, an array, or a list of arrays from fine to coarse."
    )


def _open_path(path: str) -> Source:
    place = Path(path)
    if not place.exists():
        raise SlideError(f"{path} does not exist.")
    if place.is_dir():
        return _open_folder(place)
    if place.stat().st_size == 0:
        raise SlideError(f"{path} is not a slide or image that can be read (the file is empty).")
    if place.suffix.lower() in IMAGE_SUFFIXES:
        return _open_image(path)
    if place.suffix.lower() == ".npy":
        return _open_npy(path)
    return _open_file(path)


def _open_file(path: str) -> Source:
    """A slide or TIFF: OpenSlide for the vendors' formats, tifffile for the rest."""
    from napari_histoseg.slide._openslide import OpenSlideSource
    from napari_histoseg.slide._tiff import JpegTiffSource, TiffSource, is_tiff, vendor_of

    vendor = vendor_of(path)
    if vendor == "aperio":
        return JpegTiffSource(path)
    if vendor in (None, "generic-tiff") and is_tiff(path):
        return TiffSource(path)
    return OpenSlideSource(path)


def _open_folder(place: Path) -> Source:
    """An OME-Zarr image, or the files of one DICOM slide."""
    from napari_histoseg.slide._zarr import ZarrSource, is_zarr

    if is_zarr(place):
        return ZarrSource(str(place))
    dicom = sorted(place.glob("*.dcm"))
    if dicom:
        return _open_file(str(dicom[0]))
    raise SlideError(
        f"{place} is a folder, but neither an OME-Zarr image nor a DICOM slide. Give a slide file."
    )


def _open_npy(path: str) -> Source:
    """A NumPy file, mapped and not loaded."""
    from napari_histoseg.slide._array import ArraySource

    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise SlideError(f"{path} is not a slide or image that can be read ({error}).") from error
    return ArraySource([array], Path(path).name, "array", path)


def _open_image(path: str) -> Source:
    """An image that Pillow decodes at once."""
    from PIL import Image

    from napari_histoseg.slide._array import ArraySource

    try:
        with warnings.catch_warnings():
            # Pillow warns from 89 million pixels on and refuses twice as many.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(path)
        with image:
            profile = image.info.get("icc_profile")
            mode = image.mode
            if mode in ("P", "PA", "LA", "La", "RGBa"):
                image = image.convert("RGBA" if mode != "P" or "transparency" in image.info else "RGB")
            elif mode in ("CMYK", "YCbCr", "LAB", "HSV"):
                image, profile = image.convert("RGB"), None
            pixels = np.asarray(image)
    except Image.DecompressionBombError as error:
        raise SlideError(
            f"{path} is too large to be decoded at once. Convert it to a tiled TIFF "
            "(for example: vips tiffsave in.png out.tif --tile --pyramid --compression jpeg)."
        ) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise SlideError(f"{path} is not a slide or image that can be read ({error}).") from error
    source = ArraySource([pixels], Path(path).name, "image", path)
    source.icc_profile = profile
    return source
