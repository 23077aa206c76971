"""Pixels in: slides, their levels and pixel size, boxes, and where the tissue is."""

from __future__ import annotations

from napari_histoseg.slide.geometry import Box, px_to_um, um_to_px
from napari_histoseg.slide.open import open_slide
from napari_histoseg.slide.slide import Level, Slide
from napari_histoseg.slide.tissue import TissueMask, is_field, tissue_mask

__all__ = ["Box", "Level", "Slide", "TissueMask", "is_field", "open_slide", "px_to_um", "tissue_mask", "um_to_px"]
