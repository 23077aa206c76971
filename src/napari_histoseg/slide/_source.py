"""What every backend gives to :class:`~napari_histoseg.slide.slide.Slide`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_histoseg.slide.geometry import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution of a slide.

    Parameters
    ----------
    width, height : int
        Size in pixels of this level.
    downsample : float
        Level-0 pixels per pixel of this level, exact (the mean of both axes), not rounded.
    """

    width: int
    height: int
    downsample: float

    @property
    def bounds(self) -> Box:
        """The whole level, in its own pixels."""
        return Box(0, 0, self.width, self.height)


def make_levels(sizes: list[tuple[int, int]]) -> tuple[Level, ...]:
    """Levels from ``(width, height)`` pairs, finest first, with exact downsamples."""
    width, height = sizes[0]
    return tuple(Level(w, h, (width / w + height / h) / 2) for w, h in sizes)


class Source(ABC):
    """The pixels and the facts of one opened slide; the base of all backends.

    A backend fills the attributes and implements :meth:`read`, which must be safe to call from many threads,
    must not depend on how a region is cut into boxes, and raises :class:`~napari_histoseg.errors.TileError`
    for what cannot be decoded.
    """

    path: str | None = None
    name: str = ""
    format: str = ""
    vendor: str | None = None
    objective: float | None = None
    mpp: float | None = None
    icc_profile: bytes | None = None
    levels: tuple[Level, ...] = ()
    #: ``(width, height)`` of the stored tiles of each level; what is cheapest to read at once.
    tiles: tuple[tuple[int, int], ...] = ()

    def __init__(self) -> None:
        self.properties: dict[str, str] = {}

    @abstractmethod
    def read(self, level: int, box: Box) -> NDArray[np.uint8]:
        """RGB pixels ``(height, width, 3)`` of a box that lies inside the level."""

    def associated(self) -> dict[str, NDArray[np.uint8]]:
        """Label, macro and thumbnail images, if the file has any."""
        return {}

    @abstractmethod
    def identity(self) -> bytes:
        """Bytes that tell this content from another, for the fingerprint."""

    def close(self) -> None:  # noqa: B027  a source without an open file has nothing to release
        """Release the file."""

    def set_pixel_size(self, mpp_x: float | None, mpp_y: float | None) -> None:
        """Take the mean of both axes as the pixel size; note it when they differ by more than 2 %."""
        if not mpp_x or not mpp_y or not (0 < mpp_x < float("inf") and 0 < mpp_y < float("inf")):
            return
        self.mpp = mpp_x if mpp_x == mpp_y else (mpp_x + mpp_y) / 2
        if abs(mpp_x - mpp_y) > 0.02 * self.mpp:
            self.properties["histoseg.pixel-size"] = (
                f"The pixels are not square: {mpp_x:g} x {mpp_y:g} µm; their mean {self.mpp:g} µm/px is used."
            )


def file_identity(path: str) -> bytes:
    """Size, first MiB and last MiB of a file."""
    size = Path(path).stat().st_size
    with open(path, "rb") as file:
        head = file.read(MIB)
        file.seek(max(size - MIB, 0))
        return str(size).encode() + head + file.read(MIB)


def on_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Composite ``(h, w, 4)`` RGBA on white."""
    alpha = rgba[..., 3]
    if alpha.size == 0 or alpha.min() == 255:
        return np.ascontiguousarray(rgba[..., :3])
    a = alpha[..., None].astype(np.uint16)
    mixed = (rgba[..., :3].astype(np.uint16) * a + 255 * (255 - a) + 127) // 255
    return mixed.astype(np.uint8)
