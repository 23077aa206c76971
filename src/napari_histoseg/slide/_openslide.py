"""Vendor formats and DICOM by OpenSlide."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import openslide

from napari_histoseg.errors import SlideError
from napari_histoseg.slide._array import tile_error
from napari_histoseg.slide._source import Source, file_identity, make_levels, on_white
from napari_histoseg.slide.geometry import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMATS = {"aperio": "svs", "generic-tiff": "tiff"}
DEFAULT_TILE = 512
#: Blocks on the fixed grid are whole tiles of at least this side.
BLOCK = 256


class OpenSlideSource(Source):
    """A file that OpenSlide reads.

    Level pixels are addressed in OpenSlide by level-0 coordinates. Where the downsample is no whole number, a
    place between two pixels comes back interpolated, and differently for every box; such levels are therefore
    read in blocks on a fixed grid, so that a pixel has one value.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self._lock = threading.Lock()
        self._handle = self._open()
        properties = dict(self._handle.properties)
        self.vendor = properties.get("openslide.vendor")
        self.format = FORMATS.get(self.vendor or "", self.vendor or "openslide")
        self.properties = properties
        self.objective = _number(properties.get("openslide.objective-power"))
        self.set_pixel_size(
            _number(properties.get("openslide.mpp-x")), _number(properties.get("openslide.mpp-y"))
        )
        self.levels = make_levels(list(self._handle.level_dimensions))
        self.tiles = tuple(self._tile_size(level) for level in range(len(self.levels)))
        self.icc_profile = self._icc()

    def _open(self) -> openslide.OpenSlide:
        assert self.path is not None
        try:
            return openslide.OpenSlide(self.path)
        except (openslide.OpenSlideError, OSError) as error:
            raise SlideError(f"{self.path} is not a slide or image that can be read ({error}).") from error

    def _tile_size(self, level: int) -> tuple[int, int]:
        size = self.levels[level]
        tile = [
            _number(self.properties.get(f"openslide.level[{level}].tile-{side}"))
            for side in ("width", "height")
        ]
        width, height = (int(t) if t else DEFAULT_TILE for t in tile)
        return min(width, size.width), min(height, size.height)

    def _icc(self) -> bytes | None:
        profile = self._handle.color_profile
        return None if profile is None else bytes(profile.tobytes())

    def read(self, level: int, box: Box) -> NDArray[np.uint8]:
        if self._handle.level_downsamples[level].is_integer():
            return self._region(level, box)
        out = np.empty((*box.shape, 3), np.uint8)
        for block in _blocks(box, *(side * -(-BLOCK // side) for side in self.tiles[level])):
            part = block.intersect(box)
            pixels = self._region(level, block.intersect(self.levels[level].bounds))
            out[part.relative_to(box).slices] = pixels[part.relative_to(block).slices]
        return out

    def _region(self, level: int, box: Box) -> NDArray[np.uint8]:
        handle = self._handle
        factor = handle.level_downsamples[level]
        place = round(box.x * factor), round(box.y * factor)
        try:
            image = handle.read_region(place, level, (box.width, box.height))
        except openslide.OpenSlideError as error:
            self._replace(handle)
            raise tile_error(str(self.path), level, box, error) from error
        return on_white(np.asarray(image))

    def _replace(self, failed: openslide.OpenSlide) -> None:
        """OpenSlide refuses every read after the first that failed: go on with a fresh handle."""
        with self._lock:
            if self._handle is failed:
                self._handle = self._open()

    def associated(self) -> dict[str, NDArray[np.uint8]]:
        images = self._handle.associated_images
        return {name: on_white(np.asarray(images[name])) for name in images}

    def identity(self) -> bytes:
        assert self.path is not None
        quickhash = self.properties.get("openslide.quickhash-1", "").encode()
        # A DICOM slide is many files, and any of them opens it.
        return quickhash if quickhash and self.format == "dicom" else quickhash + file_identity(self.path)

    def close(self) -> None:
        self._handle.close()


def _blocks(box: Box, width: int, height: int) -> list[Box]:
    """The blocks of a fixed grid that meet a box."""
    return [
        Box(x * width, y * height, width, height)
        for y in range(box.y // height, -(-box.bottom // height))
        for x in range(box.x // width, -(-box.right // width))
    ]


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None
