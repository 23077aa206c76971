"""Going to a patch, wherever it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_histoseg.errors import DatasetError
from napari_histoseg.gui.background import in_background
from napari_histoseg.gui.layers import KEY, slide_layer
from napari_histoseg.gui.pixelsize import with_remembered
from napari_histoseg.gui.shown import show_layers
from napari_histoseg.slide import Slide

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_histoseg.annotations.entries import Annotation
    from napari_histoseg.gui.annotatedesk import Desk

FILL = 0.7
"""After flying to a patch it takes this share of the window."""


def fly(viewer: Viewer, corners: NDArray[np.float64]) -> None:
    """Put two opposite world points ``(y, x)`` into the window, with what is around them."""
    camera = viewer.scene.camera
    camera.center = (0.0, *(float(v) for v in corners.mean(0)))
    camera.zoom = FILL * min(viewer.canvas.size) / max(float(np.abs(corners[1] - corners[0]).max()), 1e-6)


def bring_slide(desk: Desk, patch: Annotation) -> None:
    """Show the slide of a patch, opened on a thread when it is not open, and go on to the patch then.

    Raises
    ------
    DatasetError
        The slide is not where it was.
    """
    for layer in desk.viewer.layers:
        slide = layer.metadata.get(KEY, {}).get("slide")
        if isinstance(slide, Slide) and slide.fingerprint() == patch.slide_fingerprint:
            desk.arrive(layer, patch.id)
            return
    path = desk.require().folder / str(patch.patch.slide)
    if not path.exists():
        raise DatasetError(f"{path.name} is not where it was ({path.parent}). Open the slide, or press 'Find slide…' and say where it is.")

    def done(opened: Any) -> None:
        desk.arrive(show_layers(desk.viewer, [slide_layer(opened)])[0], patch.id)

    desk.said.emit(f"Opening {path.name}…")
    in_background(f"Opening {path.name}", lambda: _opened(path, patch.patch.slide_mpp), done, desk.problem.emit, desk)


def _opened(path: Path, mpp: float | None) -> Slide:
    """The slide, with the pixel size that it was annotated with where its file has none."""
    from napari_histoseg.slide import open_slide

    slide = with_remembered(open_slide(path))
    slide = slide if slide.mpp is not None or mpp is None else slide.with_mpp(mpp)
    # Known from now on, so that the window does not read for it.
    slide.fingerprint()
    return slide
