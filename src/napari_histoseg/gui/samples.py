"""Sample data for File ▸ Open Sample."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from napari_histoseg.errors import HistosegError

if TYPE_CHECKING:
    from napari_histoseg.gui.layers import LayerData

log = logging.getLogger(__name__)


def cmu_region() -> list[LayerData] | list[tuple[None]]:
    """A region of a real slide (CMU-1, CC0, 0.499 µm/px); downloaded once and kept."""
    from napari_histoseg.gui.layers import slide_layer
    from napari_histoseg.samples import cmu_path
    from napari_histoseg.slide import open_slide

    try:
        return [slide_layer(open_slide(cmu_path()))]
    except HistosegError as error:
        from napari.utils.notifications import show_error

        log.debug("The sample was not opened", exc_info=True)
        show_error(str(error))
        return [(None,)]


def stained_tissue() -> list[LayerData]:
    """scikit-image's stained tissue (512 × 512 px, immunohistochemistry); needs no network."""
    from napari_histoseg.gui.layers import slide_layer
    from napari_histoseg.samples import TISSUE_MPP, tissue_image
    from napari_histoseg.slide import open_slide

    slide = open_slide(tissue_image(), mpp=TISSUE_MPP)
    data, keywords, kind = slide_layer(slide)
    return [(data, {**keywords, "name": "Stained tissue"}, kind)]
