"""From a path, an array or a list of arrays to a slide."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_histoseg.errors import SlideError
from napari_histoseg.slide._source import Source
from napari_histoseg.slide.slide import Slide, check_mpp

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif"}
#: Pillow-read images are decoded whole; more than this many pixels are refused.
IMAGE_LIMIT = 500_000_000


def open_slide(source: Any, mpp: float | None = None) -> Slide:
    """Open anything that holds an H&E image.

    Parameters
    ----------
    source : path, array, sequence of arrays, or Slide
        A slide file (SVS, TIFF, OME-TIFF, DICOM, MRXS, NDPI, SCN, BIF ...), an OME-Zarr folder, an image file, a NumPy or
        dask array ``(H, W)``, ``(H, W, 3 | 4)`` or ``(3 | 4, H, W)``, or a list of such arrays from fine to coarse.
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
    if not place.is_dir() and place.stat().st_size == 0:
        raise SlideError(f"{path} is not a slide or image that can be read (the file is empty).")
    if place.suffix.lower() in IMAGE_SUFFIXES:
        return _open_image(path)
    from napari_histoseg.slide._openslide import OpenSlideSource

    return OpenSlideSource(path)


def _open_image(path: str) -> Source:
    """An image that Pillow decodes at once."""
    from PIL import Image

    from napari_histoseg.slide._array import ArraySource

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image)
    except (OSError, ValueError) as error:
        raise SlideError(f"{path} is not a slide or image that can be read ({error}).") from error
    return ArraySource([pixels], Path(path).name, "image", path)
