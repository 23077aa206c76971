"""The smallest files that OpenSlide takes for those of MIRAX, Leica, Ventana and Hamamatsu scanners, for
tests.

Written after the format descriptions on openslide.org.
"""

from __future__ import annotations

import io
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histoseg._testing import halved

if TYPE_CHECKING:
    from numpy.typing import NDArray


def write_mirax(path: str | Path, image: NDArray[np.uint8], mpp: float = 0.25, tile: int = 128) -> Path:
    """A MIRAX slide of two levels with lossless tiles; the sides of the image are multiples of ``2 * tile``."""
    place = Path(path)
    folder = place.with_suffix("")
    folder.mkdir()
    place.write_bytes(_encoded(halved(image, 8), "JPEG"))
    across, down = image.shape[1] // tile, image.shape[0] // tile
    data, levels = bytearray(), []
    for factor in (1, 2):
        picture = image if factor == 1 else halved(image, factor)
        records = []
        for row in range(0, down, factor):
            for column in range(0, across, factor):
                y, x = row // factor * tile, column // factor * tile
                encoded = _encoded(picture[y : y + tile, x : x + tile], "PNG")
                records.append((row * across + column, len(data), len(encoded), 0))
                data += encoded
        levels.append(records)
    (folder / "Data0000.dat").write_bytes(data)
    (folder / "Index.dat").write_bytes(_mirax_index(levels))
    (folder / "Slidedat.ini").write_text(_mirax_ini(across, down, tile, mpp), encoding="utf-8")
    return place


def _encoded(pixels: NDArray[np.uint8], kind: str, **options: Any) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, kind, **options)
    return stream.getvalue()


SLIDE_ID = "0123456789ABCDEF0123456789ABCDEF"


def _mirax_index(levels: list[list[tuple[int, int, int, int]]]) -> bytes:
    """Index.dat: version, slide id, the two roots, and one page of tile records a level."""
    head = b"01.02" + SLIDE_ID.encode()
    table = len(head) + 8
    pages = table + 4 * len(levels)
    pointers, body = b"", b""
    for records in levels:
        start = pages + len(body)
        pointers += struct.pack("<i", start)
        body += struct.pack("<4i", 0, start + 8, len(records), 0)
        body += b"".join(struct.pack("<4i", *record) for record in records)
    return head + struct.pack("<2i", table, 0) + pointers + body


def _mirax_ini(across: int, down: int, tile: int, mpp: float) -> str:
    sections = "".join(
        f"[LEVEL_{i}]\nOVERLAP_X = 0\nOVERLAP_Y = 0\nMICROMETER_PER_PIXEL_X = {mpp * 2**i}\n"
        f"MICROMETER_PER_PIXEL_Y = {mpp * 2**i}\nIMAGE_FORMAT = PNG\nIMAGE_FILL_COLOR_BGR = 16777215\n"
        f"DIGITIZER_WIDTH = {tile}\nDIGITIZER_HEIGHT = {tile}\nIMAGE_CONCAT_FACTOR = {i}\n"
        for i in range(2)
    )
    return (
        f"[GENERAL]\nSLIDE_VERSION = 01.02\nSLIDE_ID = {SLIDE_ID}\nIMAGENUMBER_X = {across}\nIMAGENUMBER_Y "
        f"= {down}\n"
        "OBJECTIVE_MAGNIFICATION = 40\nCameraImageDivisionsPerSide = 1\n"
        "[HIERARCHICAL]\nINDEXFILE = Index.dat\nHIER_COUNT = 1\nNONHIER_COUNT = 0\nHIER_0_NAME = Slide "
        "zoom level\n"
        "HIER_0_COUNT = 2\nHIER_0_VAL_0_SECTION = LEVEL_0\nHIER_0_VAL_1_SECTION = LEVEL_1\n"
        f"[DATAFILE]\nFILE_COUNT = 1\nFILE_0 = Data0000.dat\n{sections}"
    )


def write_leica(path: str | Path, image: NDArray[np.uint8], mpp: float = 0.25, tile: int = 256) -> Path:
    """A Leica SCN file of two levels, lossless."""
    height, width = image.shape[:2]
    nm = round(width * mpp * 1000), round(height * mpp * 1000)
    small = halved(image)
    size = f'sizeX="{nm[0]}" sizeY="{nm[1]}"'
    description = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        f'<collection sizeX="{nm[0]}" sizeY="{nm[1] + 1}"><image><creationDate>2020-01-01</creationDate>'
        f'<pixels sizeX="{width}" sizeY="{height}"><dimension sizeX="{width}" sizeY="{height}" r="0" ifd="0"/>'
        f'<dimension sizeX="{small.shape[1]}" sizeY="{small.shape[0]}" r="1" ifd="1"/></pixels>'
        f'<view {size} offsetX="0" offsetY="0"/><scanSettings><objectiveSettings><objective>40</objective>'
        "</objectiveSettings><illuminationSettings><numericalAperture>0.65</numericalAperture>"
        "<illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings>"
        "</image></collection></scn>"
    )
    _write_pages(path, [image, small], [description, None], mpp, tile)
    return Path(path)


def write_ventana(path: str | Path, image: NDArray[np.uint8], mpp: float = 0.25, tile: int = 128) -> Path:
    """A Ventana BIF file of two levels, lossless; the sides of the image are multiples of ``2 * tile``."""
    down, across = image.shape[0] // tile, image.shape[1] // tile
    stitching = (
        f'<EncodeInfo Ver="2"><SlideStitchInfo><ImageInfo AOIScanned="1" AOIIndex="0" Width="{tile}" Height="{tile}" '
        f'NumRows="{down}" NumCols="{across}" Pos-X="0" Pos-Y="0">{_ventana_joints(across, down)}'
        '</ImageInfo></SlideStitchInfo><AoiOrigin><AOI0 OriginX="0" OriginY="0"/></AoiOrigin></EncodeInfo>'
    )
    scan = f'<iScan Magnification="40" ScanRes="{mpp}" UnitNumber="1"/>'
    pages = [halved(image, 4), image, halved(image)]
    descriptions: list[str | None] = ["Label Image", "level=0 mag=40 quality=90", "level=1 mag=20 quality=90"]
    _write_pages(path, pages, descriptions, mpp, tile, [scan, stitching, None])
    return Path(path)


def _ventana_joints(across: int, down: int) -> str:
    """How tiles, numbered from below in turns to the right and to the left, join without overlap."""

    def number(column: int, row: int) -> int:
        upwards = down - 1 - row
        return upwards * across + (across - 1 - column if upwards % 2 else column) + 1

    def joint(direction: str, one: int, other: int) -> str:
        return (
            f'<TileJointInfo FlagJoined="1" Confidence="100" Direction="{direction}" Tile1="{one}" Tile2="{other}" '
            'OverlapX="0" OverlapY="0"/>'
        )

    right = [joint("RIGHT", number(c, r), number(c + 1, r)) for r in range(down) for c in range(across - 1)]
    up = [joint("UP", number(c, r), number(c, r - 1)) for r in range(1, down) for c in range(across)]
    return "".join(right + up)


def _write_pages(
    path: str | Path,
    pages: list[NDArray[np.uint8]],
    descriptions: list[str | None],
    mpp: float,
    tile: int,
    packets: list[str | None] | None = None,
) -> None:
    import tifffile

    with tifffile.TiffWriter(path) as tif:
        for number, (page, description) in enumerate(zip(pages, descriptions, strict=True)):
            packet = packets[number] if packets else None
            data = packet.encode() if packet else b""
            tif.write(
                page,
                tile=(tile, tile),
                photometric="rgb",
                compression="deflate",
                description=description,
                metadata=None,
                software=False,
                resolution=(1e4 / mpp, 1e4 / mpp),
                resolutionunit="CENTIMETER",
                extratags=[(700, 7, len(data), data, True)] if data else [],
            )


def write_hamamatsu(path: str | Path, image: NDArray[np.uint8], mpp: float = 0.25) -> Path:
    """A Hamamatsu VMS slide: an index, and JPEG files with restart markers; the width is a multiple of 16."""
    place = Path(path)
    height, width = image.shape[:2]
    options = {"quality": 90, "subsampling": 0, "restart_marker_blocks": width // 8 // 2}
    (place.parent / "image.jpg").write_bytes(_encoded(image, "JPEG", **options))
    small = halved(image, 8)
    for name in ("map.jpg", "macro.jpg"):
        (place.parent / name).write_bytes(
            _encoded(small, "JPEG", quality=90, subsampling=0, restart_marker_rows=1)
        )
    place.write_text(
        "[Virtual Microscope Specimen]\nNoLayers=1\nNoJpegColumns=1\nNoJpegRows=1\nImageFile=image.jpg\n"
        f"MapFile=map.jpg\nMacroImage=macro.jpg\nPhysicalWidth={round(width * mpp * 1000)}\n"
        f"PhysicalHeight={round(height * mpp * 1000)}\nSourceLens=40\n"
    )
    return place


def write_ndpi(path: str | Path, image: NDArray[np.uint8], mpp: float = 0.25) -> Path:
    """A Hamamatsu NDPI slide of two levels, 1 and 4: one JPEG with restart markers each; the width is a multiple of 64.

    NDPI is classic TIFF with 8 bytes for the offsets of directories, and with the upper halves of all values behind each
    directory. What a directory refers to lies before it in the file.
    """
    data = bytearray(b"II\x2a\x00" + bytes(8))
    pointer = 4
    for factor in (1, 4):
        picture = halved(image, factor) if factor > 1 else image
        blocks = picture.shape[1] // 8 // 2  # between restart markers; two parts a row
        encoded = _encoded(picture, "JPEG", quality=90, subsampling=0, restart_marker_blocks=blocks)
        start = len(data)
        data += encoded
        tags = _ndpi_tags(picture.shape, start, encoded, mpp * factor)
        pointer = _ndpi_directory(data, pointer, tags)
    Path(path).write_bytes(data)
    return Path(path)


def _ndpi_tags(shape: tuple[int, ...], start: int, encoded: bytes, mpp: float) -> list[tuple[int, str, list[float]]]:
    """Number, type (a letter of `struct`; R is a ratio) and values; those from 65420 on are Hamamatsu's own."""
    per_cm = [round(1e4 / mpp * 1000), 1000]
    return [
        (256, "I", [shape[1]]),
        (257, "I", [shape[0]]),
        (258, "H", [8, 8, 8]),
        (259, "H", [7]),
        (262, "H", [6]),
        (273, "I", [start]),
        (277, "H", [3]),
        (278, "I", [shape[0]]),
        (279, "I", [len(encoded)]),
        (282, "R", [*per_cm]),
        (283, "R", [*per_cm]),
        (296, "H", [3]),
        (65420, "I", [1]),
        (65421, "f", [40]),
        (65424, "i", [0]),
        (65426, "I", [*_after_restart_markers(encoded)]),
    ]


def _after_restart_markers(encoded: bytes) -> list[int]:
    """Where each part of a JPEG begins: after the header, and after each restart marker."""
    place = 2
    while encoded[place + 1] != 0xDA:
        place += 2 + int.from_bytes(encoded[place + 2 : place + 4], "big")
    first = place + 2 + int.from_bytes(encoded[place + 2 : place + 4], "big")
    return [first, *(first + match.end() for match in re.finditer(rb"\xff[\xd0-\xd7]", encoded[first:]))]


def _ndpi_directory(data: bytearray, pointer: int, tags: list[tuple[int, str, list[float]]]) -> int:
    """Append a directory, enter its place at ``pointer``, and return where the next one's place is to be entered."""
    kinds = {"H": 3, "I": 4, "R": 5, "i": 9, "f": 11}
    entries = b""
    for number, kind, values in tags:
        packed = struct.pack(f"<{len(values)}{'I' if kind == 'R' else kind}", *values)
        if len(packed) > 4:
            data += packed
            packed = struct.pack("<I", len(data) - len(packed))
        entries += struct.pack("<HHI", number, kinds[kind], 1 if kind == "R" else len(values)) + packed.ljust(4, b"\0")
    struct.pack_into("<Q", data, pointer, len(data))
    data += struct.pack("<H", len(tags)) + entries
    following = len(data)
    data += bytes(8 + 4 * len(tags))  # the next directory, and the upper halves
    return following
