"""Which pages of a TIFF are its levels, and what the file says about the pixel size."""

from __future__ import annotations

import struct
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tifffile

from napari_histoseg.errors import SlideError
from napari_histoseg.slide.units import to_um

#: Resolution tags are often a screen's or a printer's: only µm/px in this range are a microscope's.
PLAUSIBLE_UM = (0.02, 20.0)
ICC_TAG = 34675
OTHER_LIMIT = 4096 * 4096


@dataclass
class PixelFacts:
    """Levels (each a list of pages, more than one for separate color pages) and facts of a TIFF."""

    format: str
    levels: list[list[Any]]
    channels: int
    dtype: np.dtype[Any]
    palette: bool
    compressed: bool
    mpp: tuple[float | None, float | None]
    objective: float | None = None
    icc_profile: bytes | None = None
    others: dict[str, list[Any]] = field(default_factory=dict)
    properties: dict[str, str] = field(default_factory=dict)


def image_facts(tif: tifffile.TiffFile, path: str) -> PixelFacts:
    """The largest image of the file, its levels and its facts.

    Raises
    ------
    SlideError
        For stacks (z, time, several pages of one size) and numbers of channels that are no H&E image.
    """
    series = max(tif.series, key=lambda s: _area(s))
    sizes = _axes(series, path)
    levels = [_pages(level) for level in series.levels]
    if len(levels) == 1 and not tif.is_ome:
        levels += _later_pages(tif, levels[0][0])
    page = levels[0][0]
    channels = sizes.get("C", 1) * sizes.get("S", 1)
    ome = _OmeImage(tif, series) if tif.is_ome else None
    profile = page.tags.get(ICC_TAG)
    return PixelFacts(
        format="ome-tiff" if ome else "tiff",
        levels=levels,
        channels=channels,
        dtype=np.dtype(page.dtype),
        palette=int(page.photometric) == 3,
        compressed=int(page.compression) != 1,
        mpp=ome.mpp if ome else _tag_mpp(tif, page),
        objective=ome.objective if ome else None,
        icc_profile=bytes(profile.value) if profile is not None else None,
        others=_others(tif, series),
    )


def check_complete(tif: tifffile.TiffFile, path: str) -> None:
    """Refuse a file that ends before its pages or its tiles do, as after an interrupted copy."""
    size = int(tif.filehandle.size)
    needed = _last_page_offset(tif, size)
    lower = [
        page
        for series in tif.series
        for level in series.levels[1:]
        for page in level.pages
        if page is not None
    ]
    for page in [*tif.pages, *lower]:
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
            needed = max(needed, offset + count)
    if needed > size:
        raise SlideError(
            f"{path} is not a slide or image that can be read (it is cut off: it has {size} bytes and "
            f"needs {needed} or "
            "more). Copy or download it again."
        )


def _last_page_offset(tif: tifffile.TiffFile, size: int) -> int:
    """Where the chain of pages ends or leaves the file."""
    file, kind = tif.filehandle, tif.tiff
    file.seek(8 if kind.is_bigtiff else 4)
    offset = seen = 0
    while True:
        (following,) = struct.unpack(kind.offsetformat, file.read(kind.offsetsize))
        if not following or following <= seen:
            return int(offset)
        offset = seen = following
        if offset + kind.tagnosize > size:
            return int(offset) + 1
        file.seek(offset)
        (count,) = struct.unpack(kind.tagnoformat, file.read(kind.tagnosize))
        end = offset + kind.tagnosize + count * kind.tagsize
        if end + kind.offsetsize > size:
            return int(end + kind.offsetsize)
        file.seek(end)


def _area(series: Any) -> int:
    page = series.keyframe
    return int(page.imagewidth) * int(page.imagelength)


def _axes(series: Any, path: str) -> dict[str, int]:
    sizes = dict(zip(series.axes, series.shape, strict=True))
    stacked = {axis: n for axis, n in sizes.items() if axis not in "YXSC" and n > 1}
    if stacked:
        names = {"Z": "z planes", "T": "time points", "I": "pages of one size", "Q": "pages of one size"}
        text = ", ".join(f"{n} {names.get(axis, 'planes along ' + axis)}" for axis, n in stacked.items())
        raise SlideError(f"{path} holds {text}. Save the one plane that is to be analyzed as its own image.")
    if sizes.get("C", 1) > 1 and sizes.get("S", 1) > 1:
        raise SlideError(f"{path} has {sizes['C']} channels of {sizes['S']} samples, which is no H&E image.")
    return sizes


def _pages(level: Any) -> list[Any]:
    return [page.aspage() for page in level.pages if page is not None]


def _later_pages(tif: tifffile.TiffFile, first: Any) -> list[list[Any]]:
    """Following pages that are the first one, smaller: a pyramid in the manner of vips and OpenSlide."""
    found: list[list[Any]] = []
    finer = first
    for page in list(tif.pages)[first.index + 1 :]:
        page = page.aspage()
        w, h, fw, fh = page.imagewidth, page.imagelength, first.imagewidth, first.imagelength
        same = page.is_tiled and page.dtype == first.dtype and page.samplesperpixel == first.samplesperpixel
        if same and w < finer.imagewidth and h <= finer.imagelength and abs(w * fh - h * fw) <= 2 * (fw + fh):
            found.append([page])
            finer = page
    return found


def _others(tif: tifffile.TiffFile, main: Any) -> dict[str, list[Any]]:
    """Small color images beside the main one (label, macro) of an OME-TIFF."""
    if not tif.is_ome:
        return {}
    found = {}
    for number, series in enumerate(tif.series):
        page = series.keyframe
        if (
            series is main
            or _area(series) > OTHER_LIMIT
            or page.samplesperpixel != 3
            or page.dtype != np.uint8
        ):
            continue
        found[series.name or f"image {number}"] = _pages(series)[:1]
    return found


def _tag_mpp(tif: tifffile.TiffFile, page: Any) -> tuple[float | None, float | None]:
    """µm/px from ImageJ's unit or from the resolution tags, where they are a microscope's."""
    x, y = (_ratio(page.tags.get(name)) for name in ("XResolution", "YResolution"))
    if not x or not y:
        return None, None
    unit = str((tif.imagej_metadata or {}).get("unit", "")).replace("\\u00B5", "µ")
    if unit:
        scale = to_um(unit)
    else:
        tag = page.tags.get("ResolutionUnit")
        scale = {2: 25400.0, 3: 10000.0}.get(int(tag.value) if tag is not None else 2)
    if scale is None or not all(PLAUSIBLE_UM[0] <= scale / v <= PLAUSIBLE_UM[1] for v in (x, y)):
        return None, None
    return scale / x, scale / y


def _ratio(tag: Any) -> float | None:
    try:
        above, below = tag.value
        return float(above) / float(below)
    except (AttributeError, TypeError, ValueError, ZeroDivisionError):
        return None


class _OmeImage:
    """What the OME-XML says of one series."""

    def __init__(self, tif: tifffile.TiffFile, series: Any) -> None:
        self.mpp: tuple[float | None, float | None] = (None, None)
        self.objective: float | None = None
        try:
            root = ET.fromstring(tif.ome_metadata or "")
        except ET.ParseError:
            return
        page = series.keyframe
        size = (str(page.imagewidth), str(page.imagelength))
        for image in root.findall("{*}Image"):
            pixels = image.find("{*}Pixels")
            if pixels is None or (pixels.get("SizeX"), pixels.get("SizeY")) != size:
                continue
            self.mpp = _length(pixels, "PhysicalSizeX"), _length(pixels, "PhysicalSizeY")
            self.objective = _magnification(root, image)
            return


def _length(pixels: ET.Element, name: str) -> float | None:
    scale = to_um(pixels.get(name + "Unit", "µm"))
    try:
        return float(pixels.get(name, "")) * scale if scale else None
    except ValueError:
        return None


def _magnification(root: ET.Element, image: ET.Element) -> float | None:
    settings = image.find("{*}ObjectiveSettings")
    wanted = settings.get("ID") if settings is not None else None
    for objective in root.iterfind("{*}Instrument/{*}Objective"):
        if wanted is not None and objective.get("ID") == wanted:
            try:
                return float(objective.get("NominalMagnification", ""))
            except ValueError:
                return None
    return None
