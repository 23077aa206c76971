"""TIFF without OpenSlide: OME-TIFF with SubIFDs, plain TIFF, and the direct path for JPEG tiles.

A segment (tile or strip) is fetched with one positioned read and decoded on its own, so that reads need no
lock. JPEG segments go straight to libjpeg-turbo, which is several times cheaper than OpenSlide and gives the
same pixels.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import tifffile

from napari_histoseg.errors import SlideError
from napari_histoseg.slide._array import tile_error
from napari_histoseg.slide._openslide import OpenSlideSource
from napari_histoseg.slide._source import Source, file_identity, make_levels
from napari_histoseg.slide._tiff_meta import PixelFacts, check_complete, image_facts
from napari_histoseg.slide.geometry import Box
from napari_histoseg.slide.normalize import find_scaling, sample_boxes

if TYPE_CHECKING:
    from numpy.typing import NDArray

JPEG = 7
#: A compressed segment that decodes to more than this cannot be read in parts.
SEGMENT_LIMIT = 1 << 30
#: Read at once from uncompressed images.
RAW_BYTES = 1 << 20
ASSOCIATED_LIMIT = 4096 * 4096


class Bytes:
    """Positioned reads of one file from many threads; closed with the last slide that uses it."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()
        self._closer = weakref.finalize(self, os.close, self._file)

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``, or an OSError where the file ends before."""
        if not self._closer.alive:
            raise OSError("the slide is closed")
        if hasattr(os, "pread"):
            data = os.pread(self._file, size, offset)
        else:  # Windows
            with self._lock:
                os.lseek(self._file, offset, os.SEEK_SET)
                data = os.read(self._file, size)
        if len(data) < size:
            raise OSError("the file ends before this tile")
        return data

    def close(self) -> None:
        """Release the file."""
        self._closer()


class Plane:
    """The segments of one page, or of one color plane of it."""

    def __init__(self, file: Bytes, page: Any, part: int = 0) -> None:
        self.width, self.height = int(page.imagewidth), int(page.imagelength)
        self.samples = int(page.samplesperpixel) if int(page.planarconfig) == 1 else 1
        self.dtype = np.dtype(page.dtype)
        self._file, self._inverted = file, int(page.photometric) == 0
        if _is_raw(page):
            self._take_rows(page, part)
            return
        strip = self.width, min(int(page.rowsperstrip), self.height)
        self.tile = (int(page.tilewidth), int(page.tilelength)) if page.is_tiled else strip
        self._across = -(-self.width // self.tile[0])
        self._first = part * self._across * -(-self.height // self.tile[1])
        self._offsets, self._counts = page.dataoffsets, page.databytecounts
        self._decode = _decoder(page)

    def _take_rows(self, page: Any, part: int) -> None:
        """Read an uncompressed image in runs of rows, whatever its strips: often all of it is a single one."""
        row_bytes = self.width * self.samples * self.dtype.itemsize
        rows = max(1, min(self.height, RAW_BYTES // row_bytes))
        start = int(page.dataoffsets[0]) + part * self.height * row_bytes
        tops = range(0, self.height, rows)
        self.tile, self._across, self._first = (self.width, rows), 1, 0
        self._offsets = [start + top * row_bytes for top in tops]
        self._counts = [min(rows, self.height - top) * row_bytes for top in tops]
        stored, shape = self.dtype.newbyteorder(page.parent.byteorder), (-1, self.width, self.samples)
        self._decode = lambda data, _: np.frombuffer(data, stored).reshape(shape).astype(self.dtype)

    def read(self, box: Box) -> NDArray[Any]:
        """Raw values ``(height, width, samples)`` of a box inside the plane; missing segments are white."""
        width, height = self.tile
        out: NDArray[Any] | None = None
        for row in range(box.y // height, -(-box.bottom // height)):
            for column in range(box.x // width, -(-box.right // width)):
                segment = self._segment(row * self._across + column)
                place = Box(column * width, row * height, width, height)
                part = place.intersect(box)
                if segment is not None and part == box:
                    return segment[part.relative_to(place).slices]
                if out is None:
                    out = np.full((*box.shape, self.samples), _white(self.dtype), self.dtype)
                if segment is not None:
                    out[part.relative_to(box).slices] = segment[part.relative_to(place).slices]
        assert out is not None
        return out

    def _segment(self, number: int) -> NDArray[Any] | None:
        index = self._first + number
        count = int(self._counts[index])
        if count == 0:
            return None
        segment = self._decode(self._file.read(int(self._offsets[index]), count), index)
        if self._inverted:
            segment = np.asarray(_white(self.dtype) - segment)
        return segment


def _is_raw(page: Any) -> bool:
    """Whether the values lie in the file as they are, row after row."""
    return bool(
        not page.is_tiled
        and int(page.compression) == 1
        and int(page.photometric) in (0, 1, 2)
        and page.is_contiguous
        and page.dtype is not None
        and page.bitspersample == np.dtype(page.dtype).itemsize * 8
    )


def _white(dtype: np.dtype[Any]) -> Any:
    return (
        dtype.type(1)
        if dtype.kind == "f"
        else dtype.type(np.iinfo(dtype).max)
        if dtype.kind in "ui"
        else dtype.type(1)
    )


def is_plain_jpeg(page: Any) -> bool:
    """Whether a page is tiled 8-bit RGB in JPEG, stored as RGB or YCbCr, with no tile missing."""
    return bool(
        page.is_tiled
        and int(page.compression) == JPEG
        and int(page.photometric) in (2, 6)
        and int(page.planarconfig) == 1
        and page.samplesperpixel == 3
        and page.bitspersample == 8
        and min(page.databytecounts) > 0
    )


def _decoder(page: Any) -> Callable[[bytes, int], NDArray[Any]]:
    """From the bytes of a segment to ``(height, width, samples)``."""
    tables = page.jpegtables
    if page.is_tiled and min(page.databytecounts) > 0 and is_plain_jpeg(page):
        space = "RGB" if int(page.photometric) == 2 else "YCBCR"
        shape = (int(page.tilelength), int(page.tilewidth), 3)

        def jpeg(data: bytes, index: int) -> NDArray[Any]:
            if b"\xff\xd9" not in data[-16:]:
                # libjpeg only warns, and fills up with gray.
                raise ValueError("the JPEG tile has no end")
            pixels = imagecodecs.jpeg8_decode(data, tables=tables, colorspace=space, outcolorspace="RGB")
            if pixels.shape != shape:
                raise ValueError(f"the tile decodes to {pixels.shape}, not to {shape}")
            return np.asarray(pixels)

        return jpeg
    decode, palette = page.decode, page.colormap if int(page.photometric) == 3 else None

    def general(data: bytes, index: int) -> NDArray[Any]:
        pixels: NDArray[Any] = np.asarray(decode(data, index, jpegtables=tables)[0])[0]
        if palette is None:
            return pixels
        return np.asarray(np.moveaxis(palette[:, pixels[..., 0]] >> 8, 0, -1), dtype=np.uint8)

    return general


class Pages:
    """One level: one plane with all samples, or one plane a color."""

    def __init__(self, file: Bytes, pages: list[Any]) -> None:
        page = pages[0]
        if len(pages) > 1:
            self.planes = [Plane(file, p) for p in pages]
        elif int(page.planarconfig) == 2 and page.samplesperpixel > 1:
            self.planes = [Plane(file, page, part) for part in range(page.samplesperpixel)]
        else:
            self.planes = [Plane(file, page)]
        self.tile = self.planes[0].tile
        self.size = self.planes[0].width, self.planes[0].height

    def read(self, box: Box) -> NDArray[Any]:
        parts = [plane.read(box) for plane in self.planes]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


class TiffSource(Source):
    """A TIFF that tifffile understands."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        try:
            with tifffile.TiffFile(path) as tif:
                check_complete(tif, path)
                facts = image_facts(tif, path)
                self._file = Bytes(path)
                self._levels = [Pages(self._file, pages) for pages in facts.levels]
                self._others = {name: Pages(self._file, pages) for name, pages in facts.others.items()}
        except SlideError:
            raise
        except Exception as error:  # tifffile raises many kinds for damaged files
            raise SlideError(f"{path} is not a slide or image that can be read ({error}).") from error
        self._take(facts)
        self.levels = make_levels([level.size for level in self._levels])
        self.tiles = tuple(level.tile for level in self._levels)
        self._check_segments(facts)
        channels = 3 if facts.palette else facts.channels
        self.scaling = find_scaling(
            np.dtype(np.uint8) if facts.palette else facts.dtype, channels, self._sample, path
        )
        if self.scaling.note:
            self.properties["histoseg.scaling"] = self.scaling.note

    def _take(self, facts: PixelFacts) -> None:
        self.format, self.icc_profile, self.objective = facts.format, facts.icc_profile, facts.objective
        self.properties.update(facts.properties)
        self.set_pixel_size(*facts.mpp)

    def _check_segments(self, facts: PixelFacts) -> None:
        for width, height in self.tiles:
            if width * height * facts.dtype.itemsize * facts.channels > SEGMENT_LIMIT and facts.compressed:
                raise SlideError(
                    f"{self.path} is stored in compressed pieces of {width} x {height} px, too large to be "
                    "read in parts. "
                    "Convert it to a tiled TIFF (for example: vips tiffsave in.tif out.tif --tile "
                    "--pyramid --compression jpeg)."
                )

    def _sample(self) -> NDArray[Any]:
        level = self.levels[-1]
        return np.concatenate(
            [self._levels[-1].read(box).ravel() for box in sample_boxes(level.width, level.height)]
        )

    def read(self, level: int, box: Box) -> NDArray[np.uint8]:
        try:
            raw = self._levels[level].read(box)
        except Exception as error:  # every codec raises its own kind
            raise tile_error(str(self.path), level, box, error) from error
        return self.scaling.rgb(raw)

    def associated(self) -> dict[str, NDArray[np.uint8]]:
        return {
            name: self.scaling.rgb(pages.read(Box(0, 0, *pages.size))) for name, pages in self._others.items()
        }

    def identity(self) -> bytes:
        assert self.path is not None
        return file_identity(self.path)

    def close(self) -> None:
        self._file.close()


class JpegTiffSource(OpenSlideSource):
    """A slide that OpenSlide knows and whose tiles are plain JPEG: facts by OpenSlide, pixels by the direct path."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._direct = direct_levels(path, [(level.width, level.height) for level in self.levels])

    @property
    def direct(self) -> bool:
        """Whether the direct path is taken."""
        return bool(self._direct)

    def read(self, level: int, box: Box) -> NDArray[np.uint8]:
        if not self._direct:
            return super().read(level, box)
        try:
            return np.ascontiguousarray(self._direct[level].read(box))
        except Exception as error:  # libjpeg's errors and the file's
            raise tile_error(str(self.path), level, box, error) from error

    def close(self) -> None:
        super().close()
        if self._direct:
            self._direct[0]._file.close()


def direct_levels(path: str, sizes: list[tuple[int, int]]) -> list[Plane]:
    """One plane for each level, or none at all where a level is not plain JPEG tiles."""
    try:
        with tifffile.TiffFile(path) as tif:
            check_complete(tif, path)
            every: list[Any] = [page.aspage() for page in tif.pages]
            pages = {(p.imagewidth, p.imagelength): p for p in reversed(every) if is_plain_jpeg(p)}
            if any(size not in pages for size in sizes):
                return []
            file = Bytes(path)
            return [Plane(file, pages[size]) for size in sizes]
    except SlideError:
        raise
    except (tifffile.TiffFileError, OSError, ValueError, AttributeError):
        return []  # OpenSlide, which reads the file, stays the reader


def is_tiff(path: str) -> bool:
    """Whether a file starts like a TIFF or BigTIFF."""
    with open(path, "rb") as file:
        return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def vendor_of(path: str) -> str | None:
    """OpenSlide's name for the format; None where it knows none."""
    import openslide

    return openslide.OpenSlide.detect_format(Path(path))
