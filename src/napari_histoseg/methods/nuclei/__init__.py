"""Nuclei segmentation: every nucleus as an object with its outline and measurements."""

from __future__ import annotations

from napari_histoseg.methods.base import MethodPackage, MethodSpec
from napari_histoseg.methods.nuclei.config import NucleiSettings, NucleiTraining

SPEC = MethodSpec(
    name="nuclei",
    title="Nuclei",
    summary="Finds every nucleus, with outline, measurements and stain intensities.",
    outputs=("labels", "objects", "probability"),
    settings=NucleiSettings,
    training=NucleiTraining,
)

METHOD = MethodPackage(SPEC)
