"""Pixels under the patches of a session, and small pictures of them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_histoseg.annotations.dataset import UNLABELED, Patch, PatchClass, PatchDataset, read_box
from napari_histoseg.errors import HistosegError
from napari_histoseg.results.pyramid import rgb
from napari_histoseg.slide.geometry import Box

if TYPE_CHECKING:
    from napari_histoseg.slide import Slide

MAX_BYTES = 128 << 20
#: How much of a class's color lies over the tissue of a thumbnail.
TINT = 0.45
MISSING = 200
FRAME_PX = 3


class PictureCache:
    """The pictures looked at last, up to a number of bytes; safe to use from many threads."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._pictures: OrderedDict[Any, NDArray[np.uint8]] = OrderedDict()
        self._max_bytes, self._lock = max_bytes, threading.Lock()

    def get(self, key: Any, make: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """The picture of a key, made when it is not there; not to be written to."""
        with self._lock:
            if key in self._pictures:
                self._pictures.move_to_end(key)
                return self._pictures[key]
        picture = make()
        picture.flags.writeable = False
        with self._lock:
            self._pictures[key] = picture
            while sum(p.nbytes for p in self._pictures.values()) > self._max_bytes and len(self._pictures) > 1:
                self._pictures.popitem(last=False)
        return picture

    def clear(self) -> None:
        """Forget all pictures."""
        with self._lock:
            self._pictures.clear()


def read_patch(dataset: PatchDataset, patch: Patch, slide: Slide | None, shape: tuple[int, int] | None) -> NDArray[np.uint8]:
    """RGB ``(h, w, 3)`` of a patch: its image as it is, or its box of the slide at a shape."""
    if slide is None:
        with dataset.open(patch) as picture:
            return picture.read(0, picture.bounds)
    assert patch.box is not None and shape is not None
    return read_box(slide, Box(*patch.box), shape)[0]


def thumbnail(image: NDArray[np.uint8] | None, mask: NDArray[np.uint8] | None, labels: Sequence[PatchClass], classes: Sequence[PatchClass], px: int) -> NDArray[np.uint8]:
    """A patch in a square of ``px``, its annotation in the classes' colors; gray where the pixels are missing."""
    source = image if image is not None else np.full((*(mask.shape if mask is not None else (px, px)), 3), MISSING, np.uint8)
    height, width = source.shape[:2]
    factor = px / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = np.array(Image.fromarray(source).resize(size, Image.Resampling.BILINEAR))
    if mask is not None:
        small = tinted(small, np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)), classes)
    out = np.full((px, px, 3), 255, np.uint8)
    top, left = (px - size[1]) // 2, (px - size[0]) // 2
    out[top : top + size[1], left : left + size[0]] = small
    return framed(out, [label.color for label in labels]) if labels else out


def tinted(image: NDArray[np.uint8], mask: NDArray[np.uint8], classes: Sequence[PatchClass]) -> NDArray[np.uint8]:
    """Classes laid over an image of the same shape; pixels that are not annotated or background without a name stay."""
    table, weight = np.zeros((256, 3)), np.zeros(256)
    for c in classes:
        table[c.value], weight[c.value] = rgb(c.color), TINT
    weight[UNLABELED] = 0
    share = weight[mask][..., None]
    mixed: NDArray[np.uint8] = np.round(image * (1 - share) + table[mask] * share).astype(np.uint8)
    return mixed


def framed(image: NDArray[np.uint8], colors: Sequence[str]) -> NDArray[np.uint8]:
    """The image with a border of a color; several take turns from left to right."""
    inside = image[FRAME_PX:-FRAME_PX, FRAME_PX:-FRAME_PX].copy()
    edges = np.linspace(0, image.shape[1], len(colors) + 1).round().astype(int)
    for left, right, color in zip(edges[:-1], edges[1:], colors, strict=True):
        image[:, left:right] = rgb(color)
    image[FRAME_PX:-FRAME_PX, FRAME_PX:-FRAME_PX] = inside
    return image


def or_none(read: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8] | None:
    """What can be read; None where a slide is missing or damaged."""
    try:
        return read()
    except HistosegError:
        # A list of patches is shown whole, with gray pictures; whoever asks for the pixels themselves is told why.
        return None
