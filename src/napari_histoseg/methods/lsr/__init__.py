"""Label super-resolution: label blocks "none, some, mostly", and learn outlines whose shares agree (Zhao et al. 2020)."""

from __future__ import annotations

from napari_histoseg.methods.base import MethodPackage, MethodSpec
from napari_histoseg.methods.lsr.config import LsrSettings, LsrTraining

SPEC = MethodSpec(
    name="lsr",
    title="Label super-resolution",
    summary="Learns sharp outlines from blocks of which you only say how much of each class they hold.",
    outputs=("labels", "probability"),
    settings=LsrSettings,
    training=LsrTraining,
)

METHOD = MethodPackage(SPEC)
