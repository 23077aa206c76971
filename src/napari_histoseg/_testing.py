"""Synthetic H&E images and slide files for tests, benchmarks and documentation. Everything is seeded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Optical densities (R, G, B) of hematoxylin and eosin.
HEMATOXYLIN, EOSIN = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11)


def he_image(
    width: int = 512, height: int = 512, seed: int = 0, mpp: float = 0.5, glass: float = 0.0
) -> NDArray[np.uint8]:
    """An H&E-looking image ``(height, width, 3)``; see :func:`he_tissue`."""
    return he_tissue(width, height, seed, mpp, glass)[0]


def he_tissue(
    width: int = 512, height: int = 512, seed: int = 0, mpp: float = 0.5, glass: float = 0.0
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """An H&E-looking image and the labels of its nuclei.

    Parameters
    ----------
    width, height : int
        Pixels.
    seed : int
    mpp : float
        µm/px; nuclei are 7 to 11 µm long, about one in 180 µm².
    glass : float
        Width of the empty border as a part of the shorter side.

    Returns
    -------
    image : ndarray (height, width, 3), uint8
    labels : ndarray (height, width), int32
        1 to n, the nuclei; 0 elsewhere. Nuclei do not overlap.
    """
    rng = np.random.default_rng(seed)
    border = round(glass * min(width, height))
    labels = _nuclei(rng, width, height, border, mpp)
    eosin = 0.25 + 0.15 * _smooth_noise(rng, width, height, 24)
    nucleus = labels > 0
    tint = rng.uniform(0.5, 0.9, int(labels.max(initial=0)) + 1)
    hematoxylin = np.where(nucleus, tint[labels] + 0.12 * _smooth_noise(rng, width, height, 4), 0.06)
    eosin = np.where(nucleus, 0.4 * eosin, eosin)
    inside = np.zeros((height, width), bool)
    inside[border : height - border or None, border : width - border or None] = True
    density = (hematoxylin[..., None] * np.array(HEMATOXYLIN) + eosin[..., None] * np.array(EOSIN)) * inside[
        ..., None
    ]
    intensity = 245 * 10**-density + rng.normal(0, 1, (height, width, 1))
    return np.clip(intensity, 0, 255).astype(np.uint8), labels


def _smooth_noise(rng: np.random.Generator, width: int, height: int, px: int) -> NDArray[np.float64]:
    """Bilinear noise between -1 and 1 with a grain of ``px``."""
    from PIL import Image

    coarse = rng.uniform(-1, 1, (-(-height // px) + 1, -(-width // px) + 1)).astype(np.float32)
    fine = Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(fine, dtype=np.float64)


def _nuclei(rng: np.random.Generator, width: int, height: int, border: int, mpp: float) -> NDArray[np.int32]:
    """Ellipses on a jittered grid, which keeps them apart."""
    labels = np.zeros((height, width), np.int32)
    step = max(3.0, 13.5 / mpp)
    number = 0
    for row in np.arange(border + step / 2, height - border - step / 3, step):
        for column in np.arange(border + step / 2, width - border - step / 3, step):
            number += 1
            y, x = (row, column) + rng.uniform(-0.1, 0.1, 2) * step
            a, b = rng.uniform(3.5, 5.2) / mpp, rng.uniform(2.6, 3.6) / mpp
            _ellipse(labels, y, x, a, b, rng.uniform(0, np.pi), number)
    return labels


def _ellipse(
    labels: NDArray[np.int32], y: float, x: float, a: float, b: float, angle: float, number: int
) -> None:
    top, left = max(int(y - a), 0), max(int(x - a), 0)
    part = labels[top : int(y + a) + 2, left : int(x + a) + 2]
    rows, columns = np.mgrid[top : top + part.shape[0], left : left + part.shape[1]]
    u = (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle)
    v = (rows - y) * np.cos(angle) - (columns - x) * np.sin(angle)
    part[((u / a) ** 2 + (v / b) ** 2 <= 1) & (part == 0)] = number


def halved(image: NDArray[np.uint8], factor: int = 2) -> NDArray[np.uint8]:
    """The image reduced by area means, its size rounded down."""
    from PIL import Image

    height, width = (max(1, n // factor) for n in image.shape[:2])
    crop = image[: height * factor, : width * factor]
    return np.asarray(Image.fromarray(crop).resize((width, height), Image.Resampling.BOX))


# -- TIFF ------------------------------------------------------------------------------------------


def write_svs(
    path: str | Path,
    image: NDArray[np.uint8],
    mpp: float | None = 0.25,
    levels: tuple[int, ...] = (1, 4),
    tile: int = 256,
    space: Literal["RGB", "YCBCR"] = "RGB",
    subsampling: Literal["444", "422", "420"] = "444",
    size: tuple[int, int] | None = None,
    aperio: bool = True,
    quality: int = 75,
    objective: int = 40,
    icc_profile: bytes | None = None,
    tissue: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
) -> Path:
    """A pyramid of JPEG tiles with shared tables, as Aperio scanners write them (or a generic tiled TIFF).

    Parameters
    ----------
    image : ndarray (h, w, 3), uint8
    mpp : float, optional
        Written into the description of an Aperio file, or the resolution tags of a generic one.
    levels : tuple of int
        Downsample factors, the first 1.
    space, subsampling
        How the JPEG tiles store color.
    size : (width, height), optional
        Repeat the image up to this size, tile by tile: gigapixel slides without gigapixels of memory. Fast
        when the image's sides are multiples of ``tile`` times the last factor.
    aperio : bool
        Write ``.svs`` descriptions; without them OpenSlide calls the file generic-tiff.
    tissue : (left, top, right, bottom)
        Shares of width and height; tiles outside are glass.
    """
    import tifffile

    width, height = size or (image.shape[1], image.shape[0])
    photometric = "rgb" if space == "RGB" else "ycbcr"
    with tifffile.TiffWriter(path, bigtiff=width * height > 1 << 30) as tif:
        for factor in levels:
            picture = image if factor == 1 else halved(image, factor)
            w, h = max(1, width // factor), max(1, height // factor)
            tiles = JpegTiles(picture, w, h, tile, space, subsampling, quality, tissue)
            tif.write(
                iter(tiles),
                shape=(h, w, 3),
                dtype=np.uint8,
                tile=(tile, tile),
                photometric=photometric,
                compression="jpeg",
                compressionargs={"outcolorspace": "rgb"} if space == "RGB" else None,
                subsampling={"444": (1, 1), "422": (2, 1), "420": (2, 2)}[subsampling],
                description=_aperio(w, h, tile, mpp, factor, objective) if aperio else None,
                resolution=None if mpp is None or aperio else (1e4 / (mpp * factor),) * 2,
                resolutionunit=None if mpp is None or aperio else "CENTIMETER",
                metadata=None,
                software=False,
                subfiletype=0 if factor == 1 or aperio else 1,
                extratags=[(347, 7, len(tiles.tables), tiles.tables, True)],
                iccprofile=icc_profile if factor == 1 else None,
            )
            if factor == 1 and aperio:
                small = halved(picture, max(1, max(picture.shape[:2]) // 256))
                tif.write(
                    small, photometric="rgb", compression=None, description="Aperio thumbnail", metadata=None
                )
    return Path(path)


def _aperio(width: int, height: int, tile: int, mpp: float | None, factor: int, objective: int) -> str:
    text = f"Aperio Image Library v12.0.15\r\n{width}x{height} ({tile}x{tile}) JPEG/RGB Q=75"
    if factor == 1:
        text += f"|AppMag = {objective}"
        text += "" if mpp is None else f"|MPP = {mpp}"
    return text


class JpegTiles:
    """Encoded tiles of an image repeated to ``width`` x ``height``; equal tiles are encoded once."""

    def __init__(
        self,
        image: NDArray[np.uint8],
        width: int,
        height: int,
        tile: int,
        space: str,
        subsampling: str,
        quality: int,
        tissue: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
    ) -> None:
        self.image, self.width, self.height, self.tile, self.tissue = image, width, height, tile, tissue
        self.options: dict[str, Any] = {
            "level": quality,
            "colorspace": "RGB",
            "outcolorspace": space,
            "subsampling": subsampling,
        }
        self.done: dict[tuple[int, int], bytes] = {}
        self.tables, _ = split_jpeg(self._encode(0, 0))
        self.glass = split_jpeg(self._compressed(np.full((tile, tile, 3), 244, np.uint8)))[1]

    def _encode(self, y: int, x: int) -> bytes:
        height, width = self.image.shape[:2]
        rows, columns = (np.arange(y, y + self.tile) % height, np.arange(x, x + self.tile) % width)
        return self._compressed(self.image[np.ix_(rows, columns)])

    def _compressed(self, pixels: NDArray[np.uint8]) -> bytes:
        import imagecodecs

        return bytes(imagecodecs.jpeg8_encode(pixels, **self.options))

    def _bare(self, y: int, x: int) -> bool:
        """Whether the middle of a tile lies outside the tissue."""
        left, top, right, bottom = self.tissue
        across, down = (x + self.tile / 2) / self.width, (y + self.tile / 2) / self.height
        return self.tissue != (0.0, 0.0, 1.0, 1.0) and not (left <= across < right and top <= down < bottom)

    def __iter__(self) -> Iterator[bytes]:
        for y in range(0, self.height, self.tile):
            for x in range(0, self.width, self.tile):
                if self._bare(y, x):
                    yield self.glass
                    continue
                key = y % self.image.shape[0], x % self.image.shape[1]
                if key not in self.done:
                    self.done[key] = split_jpeg(self._encode(*key))[1]
                yield self.done[key]


def split_jpeg(data: bytes) -> tuple[bytes, bytes]:
    """A JPEG stream as ``(tables, image)``: quantization and Huffman tables apart from the rest."""
    tables, image, place = b"", b"", 2
    while data[place + 1] != 0xDA:
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if data[place + 1] in (0xDB, 0xC4):
            tables += data[place:end]
        else:
            image += data[place:end]
        place = end
    return b"\xff\xd8" + tables + b"\xff\xd9", b"\xff\xd8" + image + data[place:]


def write_ome_tiff(
    path: str | Path,
    image: NDArray[Any],
    mpp: float | None = 0.25,
    levels: int = 3,
    tile: int = 256,
    compression: str | None = "deflate",
    axes: str = "YXS",
) -> Path:
    """An OME-TIFF whose lower resolutions are SubIFDs, each half the one before."""
    import tifffile

    size = (
        {}
        if mpp is None
        else {f"PhysicalSize{a}": mpp for a in "XY"} | {f"PhysicalSize{a}Unit": "µm" for a in "XY"}
    )
    channel_first = axes == "CYX"
    photometric = "rgb" if axes == "YXS" else "minisblack"
    options: dict[str, Any] = {"tile": (tile, tile), "compression": compression, "photometric": photometric}
    with tifffile.TiffWriter(path, ome=True) as tif:
        tif.write(image, subifds=levels - 1, metadata={"axes": axes, **size}, **options)
        for _ in range(levels - 1):
            image = image[:, ::2, ::2] if channel_first else image[::2, ::2]
            tif.write(image, subfiletype=1, **options)
    return Path(path)


# -- OME-Zarr --------------------------------------------------------------------------------------


def write_ome_zarr(
    path: str | Path,
    image: NDArray[Any],
    mpp: float | None = 0.25,
    version: Literal["0.4", "0.5"] = "0.5",
    levels: int = 3,
    axes: str = "cyx",
    unit: str = "micrometer",
    per_um: float = 1.0,
    chunk: int = 128,
) -> Path:
    """An OME-Zarr image; ``image`` is ``(h, w, 3)`` and is stored with the given axes (letters of ``tczyx``)."""
    import zarr

    group = zarr.open_group(str(path), mode="w", zarr_format=2 if version == "0.4" else 3)
    datasets: list[Any] = []
    for level in range(levels):
        stored = image.transpose(["yxc".index(a) for a in axes if a in "yxc"])
        stored = np.expand_dims(stored, [i for i, a in enumerate(axes) if a not in "yxc"])
        chunks = tuple(min(chunk, n) if a in "yx" else n for a, n in zip(axes, stored.shape, strict=True))
        array = group.create_array(str(level), shape=stored.shape, chunks=chunks, dtype=stored.dtype)
        array[...] = stored
        scale = [(mpp or 1.0) * per_um * 2**level if a in "yx" else 1.0 for a in axes]
        datasets.append(
            {"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        )
        image = image[::2, ::2]
    kinds = {"t": "time", "c": "channel"}
    listed = [
        {"name": a, "type": kinds.get(a, "space")}
        | ({"unit": unit} if mpp is not None and a in "zyx" else {})
        for a in axes
    ]
    image_metadata: dict[str, Any] = {"name": "image", "axes": listed, "datasets": datasets}
    if version == "0.4":
        group.attrs["multiscales"] = [image_metadata | {"version": "0.4"}]
    else:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [image_metadata]}
    return Path(path)


def edit_json(path: str | Path, **changes: Any) -> None:
    """Overwrite keys of a JSON file, to make damaged metadata."""
    place = Path(path)
    place.write_text(json.dumps(json.loads(place.read_text()) | changes))
