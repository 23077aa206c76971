"""Sample images: a region of a real slide, and one that needs no network."""

from __future__ import annotations

import hashlib
import os
import uuid
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import Request, urlopen

import numpy as np

from napari_histoseg.errors import SlideError
from napari_histoseg.slide.cache import cache_root

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_histoseg.slide import Slide

CMU_NAME = "CMU-1-Small-Region.svs"
CMU_URL = f"https://openslide.cs.cmu.edu/download/openslide-testdata/Aperio/{CMU_NAME}"
CMU_SHA256 = "ed92d5a9f2e86df67640d6f92ce3e231419ce127131697fbbce42ad5e002c8a7"
CMU_BYTES = 1_938_955
TISSUE_MPP = 0.5
"""µm/px assumed for :func:`tissue_image`, whose own pixel size is not recorded."""
TIMEOUT_S = 15


def cmu_path(download: bool = True) -> Path:
    """Path of CMU-1's small region: an H&E slide of 2220 × 2967 px at 0.499 µm/px (CC0, from the OpenSlide project).

    Taken from ``HISTOSEG_DATA/slides`` or the cache folder; otherwise downloaded there, checked against its
    SHA-256 and kept.

    Raises
    ------
    SlideError
        It is not there and was not, or could not be, downloaded.
    """
    kept = cache_root() / "samples" / CMU_NAME
    named = os.environ.get("HISTOSEG_DATA")
    places = [*([Path(named) / "slides" / CMU_NAME] if named else []), kept]
    for place in places:
        if place.is_file():
            return place
    if not download:
        raise SlideError(f"The sample {CMU_NAME} is not on this machine. It can be downloaded from {CMU_URL}.")
    _download(kept)
    return kept


def _download(target: Path) -> None:
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        request = Request(CMU_URL, headers={"User-Agent": "napari-histoseg"})
        with urlopen(request, timeout=TIMEOUT_S) as answer:
            content = answer.read(2 * CMU_BYTES)
        if hashlib.sha256(content).hexdigest() != CMU_SHA256:
            raise SlideError(
                f"{CMU_URL} sent {len(content)} bytes that are not the sample slide (its SHA-256 differs). "
                "Nothing was kept; try again later."
            )
        partial.write_bytes(content)
        partial.replace(target)
    except SlideError:
        raise
    except (OSError, HTTPException) as error:
        raise SlideError(
            f"The sample slide could not be downloaded from {CMU_URL} ({error}). Check the network, or put the "
            f"file into the folder 'slides' of a folder that HISTOSEG_DATA names."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def tissue_image() -> NDArray[np.uint8]:
    """Stained colon tissue, ``(512, 512, 3)`` uint8, that comes with scikit-image.

    It is immunohistochemistry (DAB and hematoxylin), not H&E.
    """
    from skimage import data

    return np.asarray(data.immunohistochemistry(), dtype=np.uint8)  # type: ignore[no-untyped-call]


def sample_slide(download: bool = True) -> Slide:
    """The sample for a first look: CMU-1's small region, or, where it cannot be had, scikit-image's tissue.

    The tissue's µm/px is :data:`TISSUE_MPP`, an assumption, and so marked as given by the user.
    """
    from napari_histoseg.slide import Slide, open_slide
    from napari_histoseg.slide._array import ArraySource

    try:
        return open_slide(cmu_path(download))
    except SlideError:
        return Slide(ArraySource([tissue_image()], "scikit-image stained tissue"), TISSUE_MPP)
