"""What the dock "Stain" computes off the main thread: a slide's stain, a normalizer, the view before and after."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject

from napari_histoseg.gui.background import in_background
from napari_histoseg.slide import Box, Slide
from napari_histoseg.slide.normalized import Normalizer
from napari_histoseg.slide.stain import METHODS, StainNormalizer, StainProfile, measure_slide

LARGEST_PX = 16_000_000
"""A view of a slide without reduced levels is read up to here; of a larger one only the middle is shown."""
KEPT = 16

T = TypeVar("T")

_measured: OrderedDict[tuple[str, bool], StainProfile] = OrderedDict()
_fitted: OrderedDict[tuple[Any, ...], Normalizer] = OrderedDict()
_turn = threading.Lock()


def stain_of(slide: Slide) -> StainProfile:
    """The stain of a slide as scanned, measured once; for a worker, it takes a second."""
    return _once(_measured, (slide.fingerprint(), slide.converts), lambda: measure_slide(slide.unstained))


def normalizer_of(slide: Slide, target: Any, method: str) -> Normalizer:
    """The normalizer that every run would use for this target and method; fitted once."""
    if isinstance(target, StainProfile) and method in METHODS:
        return StainNormalizer(stain_of(slide), target, method)
    named = target.model_dump_json() if isinstance(target, StainProfile) else str(target)

    def fit() -> Normalizer:
        from napari_histoseg.methods.stain.resolve import stained

        normalizer = stained(slide.unstained, target, method).stain
        assert normalizer is not None
        return normalizer

    return _once(_fitted, (slide.fingerprint(), slide.converts, slide.mpp, named, method), fit)


def _once(kept: OrderedDict[Any, T], key: Any, make: Callable[[], T]) -> T:
    """What was made for a key; made now if it was not, by one thread at a time."""
    with _turn:
        if key not in kept:
            kept[key] = make()
            while len(kept) > KEPT:
                kept.popitem(last=False)
        return kept[key]


def target_name(normalizer: Any) -> str:
    """What the colors are brought to, as layers are named by it."""
    about = normalizer.describe()
    target = about.get("target")
    name = target.get("name") if isinstance(target, dict) else target
    return str(name or about.get("style") or "reference")


@dataclass(frozen=True)
class Look:
    """A view of a slide before and after (h, w, 3), and what made the difference."""

    before: NDArray[np.uint8]
    after: NDArray[np.uint8]
    normalizer: Any
    source: StainProfile
    target: StainProfile | None


def look(slide: Slide, levels: Sequence[Any], box: Box, size: tuple[int, int], target: Any, method: str) -> Look:
    """Read a box (level-0 pixels) of a slide as scanned, and normalize it.

    Parameters
    ----------
    levels : sequence of arrays (h, w, 3)
        The slide's pyramid as scanned, finest first.
    size : (width, height)
        The pictures fit into this, in the box's proportions.
    """
    normalizer = normalizer_of(slide, target, method)
    before = fitted(read_view(levels, box, size), size)
    after = normalizer.apply(before)
    wanted = target if isinstance(target, StainProfile) else getattr(normalizer, "target", None)
    return Look(before, after, normalizer, stain_of(slide), wanted)


def read_view(levels: Sequence[Any], box: Box, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Pixels of a box (level-0 pixels), from the coarsest level that fills ``size``."""
    wide, high = levels[0].shape[1], levels[0].shape[0]
    if len(levels) == 1 and box.area > LARGEST_PX:
        side = int(LARGEST_PX**0.5)
        width, height = min(box.width, side), min(box.height, side)
        box = Box(box.x + (box.width - width) // 2, box.y + (box.height - height) // 2, width, height)
    scale = min(size[0] / box.width, size[1] / box.height)
    enough = [i for i, level in enumerate(levels) if level.shape[1] / wide >= scale] or [0]
    level = levels[enough[-1]]
    fx, fy = level.shape[1] / wide, level.shape[0] / high
    left, top = int(box.x * fx), int(box.y * fy)
    right, bottom = max(round(box.right * fx), left + 1), max(round(box.bottom * fy), top + 1)
    return np.ascontiguousarray(np.asarray(level[top:bottom, left:right])[..., :3])


def fitted(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The picture made to fit into ``size``, in its own proportions."""
    height, width = pixels.shape[:2]
    scale = min(size[0] / width, size[1] / height)
    wanted = max(round(width * scale), 1), max(round(height * scale), 1)
    return np.asarray(cv2.resize(pixels, wanted, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST), np.uint8)


class Latest(QObject):
    """Work of which only the newest counts: one piece at a time, what was asked meanwhile is done after it, the last only."""

    def __init__(self, title: str, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._title = title
        self._next: tuple[Callable[[], Any], Callable[[Any], None], Callable[[str], None]] | None = None
        self.busy = False

    def ask(self, work: Callable[[], Any], done: Callable[[Any], None], failed: Callable[[str], None]) -> None:
        """Do ``work`` on a thread as soon as what is under way has ended; the rest as for `in_background`."""
        self._next = work, done, failed
        if not self.busy:
            self._begin()

    def _begin(self) -> None:
        if self._next is None:
            return
        (work, done, failed), self._next = self._next, None
        self.busy = True
        # Without a parent: there are many of these, and each goes when it has ended.
        in_background(self._title, work, done, failed).ended.connect(self._on_ended)

    def _on_ended(self) -> None:
        self.busy = False
        self._begin()
