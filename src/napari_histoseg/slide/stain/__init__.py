"""Stain: measured, normalized, taken apart; a property of how a slide is read."""

from __future__ import annotations

from napari_histoseg.slide.stain.measure import measure
from napari_histoseg.slide.stain.profile import (
    METHODS,
    StainMethod,
    StainProfile,
    StainVectors,
    builtin_profiles,
    load_profile,
    save_profile,
)
from napari_histoseg.slide.stain.safety import Quality
from napari_histoseg.slide.stain.sample import measure_slide
from napari_histoseg.slide.stain.separate import jitter, separate
from napari_histoseg.slide.stain.transform import StainNormalizer

__all__ = [
    "METHODS",
    "Quality",
    "StainMethod",
    "StainNormalizer",
    "StainProfile",
    "StainVectors",
    "builtin_profiles",
    "jitter",
    "load_profile",
    "measure",
    "measure_slide",
    "save_profile",
    "separate",
]
