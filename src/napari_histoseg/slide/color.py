"""ICC profiles."""

from __future__ import annotations

import functools
import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageCms

from napari_histoseg.errors import SlideError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes) -> ImageCms.ImageCmsTransform:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), "RGB", "RGB")
    except (OSError, ImageCms.PyCMSError) as error:
        raise SlideError(
            f"The slide's color profile cannot be used ({error}). Read the slide without it."
        ) from error


def to_srgb(pixels: NDArray[np.uint8], profile: bytes) -> NDArray[np.uint8]:
    """Convert ``(h, w, 3)`` from the profile's colors to sRGB (perceptual intent)."""
    image = ImageCms.applyTransform(Image.fromarray(np.ascontiguousarray(pixels)), _transform(profile))
    return np.array(image)
