"""Joint segmentation: outline a few patches, give many only a class, train one network on both (Ciga & Martel 2021)."""

from __future__ import annotations

from napari_histoseg.methods.base import MethodPackage, MethodSpec
from napari_histoseg.methods.joint.config import JointSettings, JointTraining

SPEC = MethodSpec(
    name="joint",
    title="Joint",
    summary="Learns your classes from a few outlined and many classified patches, and maps them over the slide.",
    outputs=("labels", "probability"),
    settings=JointSettings,
    training=JointTraining,
)

METHOD = MethodPackage(SPEC)
