"""From what a file or an array holds to 8-bit RGB.

The rules, applied once when a slide is opened and then to every read alike:

- grayscale: three equal channels; RGBA: composited on white; 8 bit: as it is
- 16 bit, unsigned: multiplied by 255 and divided by 255, 4095 or 65535, the smallest of them that is not below
  the maximum of a coarse sample of the image
- float: 0 to 1 becomes 0 to 255; any other range is refused, and the range that was found is named
- anything else is refused: signed and 32-bit integers are labels; two or more than four channels are no H&E image
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histoseg.errors import SlideError
from napari_histoseg.slide._source import on_white
from napari_histoseg.slide.geometry import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLE_BLOCK, SAMPLE_BLOCKS = 256, 5


@dataclass(frozen=True, slots=True)
class Layout:
    """Which axes of an array are rows, columns and channels; all others have length 1."""

    ndim: int
    y: int
    x: int
    channel: int | None

    def size(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """``(width, height)``."""
        return int(shape[self.x]), int(shape[self.y])

    def channels(self, shape: tuple[int, ...]) -> int:
        """Number of channels; 1 without a channel axis."""
        return 1 if self.channel is None else int(shape[self.channel])

    def cut(self, data: Any, box: Box) -> NDArray[Any]:
        """The box as ``(height, width)`` or ``(height, width, channels)``, computed."""
        index: list[int | slice] = [0] * self.ndim
        index[self.y], index[self.x] = box.slices
        if self.channel is None:
            return np.asarray(data[tuple(index)])
        index[self.channel] = slice(None)
        part = np.asarray(data[tuple(index)])
        return part if self.channel > self.x else np.moveaxis(part, 0, -1)


def find_layout(shape: tuple[int, ...], what: str) -> Layout:
    """Rows, columns and channels of an array of which only the shape is known.

    ``(H, W)``, ``(H, W, C)`` and ``(C, H, W)`` with C of 1, 3 or 4, behind any number of axes of length 1.
    When both the first and the last of three axes could be channels, the last one is.
    """
    ndim = len(shape)
    skip = 0
    while ndim - skip > 3 and shape[skip] == 1:
        skip += 1
    core = shape[skip:]
    if any(n == 0 for n in shape):
        raise SlideError(f"{what} has the shape {tuple(shape)}: it holds no pixel.")
    if len(core) == 2:
        return Layout(ndim, ndim - 2, ndim - 1, None)
    if len(core) == 3 and core[-1] in (1, 3, 4):
        return Layout(ndim, ndim - 3, ndim - 2, ndim - 1)
    if len(core) == 3 and core[0] in (1, 3, 4):
        return Layout(ndim, ndim - 2, ndim - 1, ndim - 3)
    raise SlideError(
        f"{what} has the shape {tuple(shape)}, which is no H&E image. "
        "Give (height, width), (height, width, 3 or 4) or (3 or 4, height, width)."
    )


@dataclass(frozen=True, slots=True)
class Scaling:
    """How raw values become 8 bit: ``maximum`` is the value that becomes 255 (None: already 8 bit)."""

    maximum: float | None
    note: str = ""

    def rgb(self, raw: NDArray[Any]) -> NDArray[np.uint8]:
        """``(h, w)`` or ``(h, w, 1 | 3 | 4)`` of the file's type to ``(h, w, 3)`` uint8."""
        if raw.ndim == 2:
            raw = raw[..., None]
        values = self._to_8_bit(raw)
        if values.shape[-1] == 1:
            return np.repeat(values, 3, axis=-1)
        if values.shape[-1] == 4:
            return on_white(values)
        return np.ascontiguousarray(values)

    def _to_8_bit(self, raw: NDArray[Any]) -> NDArray[np.uint8]:
        if self.maximum is None:
            return raw.astype(np.uint8, copy=False)
        if self.maximum == 255:
            return np.asarray(np.minimum(raw, 255), dtype=np.uint8)
        scaled = np.nan_to_num(raw.astype(np.float32) * np.float32(255 / self.maximum), nan=0.0)
        return np.asarray(np.clip(np.rint(scaled), 0, 255), dtype=np.uint8)


def find_scaling(
    dtype: np.dtype[Any], channels: int, sample: Callable[[], NDArray[Any]], what: str
) -> Scaling:
    """The rule for an image of this type; ``sample`` is called for 16-bit and float images only.

    Raises
    ------
    SlideError
        For what is no H&E image (labels, masks, other numbers of channels) and for floats outside 0 to 1.
    """
    if channels not in (1, 3, 4):
        raise SlideError(
            f"{what} has {channels} channels. An H&E image has 1 (gray), 3 (RGB) or 4 (RGBA); pick the "
            "channels first."
        )
    if dtype == np.uint8:
        return Scaling(None)
    if dtype == np.uint16:
        top = int(sample().max())
        limit = next(n for n in (255, 4095, 65535) if top <= n)
        return Scaling(float(limit), f"16 bit, divided by {limit} (largest sampled value {top})")
    if dtype.kind == "f":
        values = sample()
        values = values[np.isfinite(values)]
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
        if low < -1e-6 or high > 1 + 1e-6:
            raise SlideError(
                f"{what} holds floating-point values from {low:g} to {high:g}. "
                "They must lie between 0 and 1; rescale the image or convert it to 8 bit."
            )
        return Scaling(1.0, "floating point, 0 to 1 becomes 0 to 255")
    raise SlideError(
        f"{what} holds values of type {dtype}, which is a label image or a mask, not a picture. "
        "Give 8-bit or 16-bit unsigned integers, or floats between 0 and 1."
    )


def sample_boxes(width: int, height: int) -> list[Box]:
    """A coarse sample of an image: 5 x 5 evenly placed blocks of 256 px, or the whole image when it is small."""
    if width * height <= (SAMPLE_BLOCK * SAMPLE_BLOCKS) ** 2:
        return [Box(0, 0, width, height)]
    w, h = min(width, SAMPLE_BLOCK), min(height, SAMPLE_BLOCK)
    xs = sorted({round(i * (width - w) / (SAMPLE_BLOCKS - 1)) for i in range(SAMPLE_BLOCKS)})
    ys = sorted({round(i * (height - h) / (SAMPLE_BLOCKS - 1)) for i in range(SAMPLE_BLOCKS)})
    return [Box(x, y, w, h) for y in ys for x in xs]
