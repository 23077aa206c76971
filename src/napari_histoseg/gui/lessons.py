"""Slides that can be learned from: those in the viewer, and files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_histoseg.annotations.dataset import Patch
from napari_histoseg.errors import HistosegError, PixelSizeError
from napari_histoseg.gui.slides import is_slide_layer, slide_of
from napari_histoseg.slide import Box, Slide, open_slide

if TYPE_CHECKING:
    from napari.layers import Image

FILES = "Slides (*.svs *.tif *.tiff *.ndpi *.mrxs *.scn *.bif *.svslide *.vms *.vmu *.dcm *.png *.jpg *.jpeg);;All files (*)"


@dataclass(frozen=True, eq=False)
class Known:
    """A slide of the list; ``layer`` None for a file."""

    name: str
    path: str | None
    bounds: Box
    mpp: float | None
    fingerprint: str
    layer: Image | None = None

    @classmethod
    def of(cls, slide: Slide, layer: Image | None = None) -> Known:
        """What has to be known of a slide."""
        return cls(slide.name, slide.path, slide.bounds, slide.mpp, slide.fingerprint(), layer)

    def closed(self) -> Known:
        """The same slide without a layer."""
        return replace(self, layer=None)

    def patches(self, boxes: Sequence[Box]) -> list[Patch]:
        """Its parts, as patches without annotation."""
        if self.mpp is None:
            raise PixelSizeError(f"{self.name} has no pixel size (µm/px). Choose it above as the slide and enter one, or leave it out.")
        return [
            Patch(slide=self.path, box=(b.x, b.y, b.width, b.height), group=Path(self.path or self.name).stem, slide_fingerprint=self.fingerprint, slide_mpp=self.mpp)
            for b in boxes
        ]


def shown_by(layer: Any) -> Known | None:
    """The slide that a layer shows as it was scanned; None where there is none."""
    if not is_slide_layer(layer):
        return None
    try:
        slide = slide_of(layer)
        return Known.of(slide, layer) if slide.stain is None else None
    except HistosegError:
        # The header says what is wrong with the layer when it is chosen.
        return None


def looked_at(paths: Sequence[Path]) -> tuple[list[Known], list[str]]:
    """What is known of slides in files, and what is wrong with others; for a worker thread."""
    found, problems = [], []
    for path in paths:
        try:
            with closing(open_slide(path)) as slide:
                found.append(Known.of(slide))
        except HistosegError as error:
            problems.append(str(error))
    return found, problems
