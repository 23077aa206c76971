"""Tumour: a heatmap of patches, and an outline refined from it at low resolution (H2G-Net, Pedersen et al. 2021)."""

from __future__ import annotations

from napari_histoseg.methods.base import MethodPackage, MethodSpec
from napari_histoseg.methods.tumour.config import TumourSettings, TumourTraining

SPEC = MethodSpec(
    name="tumour",
    title="Tumour",
    summary="Heatmap and refined outline of the tumour, learned from slides that you outlined.",
    outputs=("labels", "probability", "uncertainty"),
    settings=TumourSettings,
    training=TumourTraining,
)

METHOD = MethodPackage(SPEC)
