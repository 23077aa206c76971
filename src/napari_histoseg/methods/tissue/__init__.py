"""Tissue: slides clustered into kinds of tissue without labels, by texture or by the network of the paper (Chang, Ji & Li)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_histoseg.methods.base import MethodPackage, MethodSpec
from napari_histoseg.methods.tissue.config import TissueSettings, TissueTraining

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from napari_histoseg.methods.base import Model
    from napari_histoseg.methods.settings import RunSettings
    from napari_histoseg.slide import Slide

SPEC = MethodSpec(
    name="tissue",
    title="Tissue",
    summary="Clusters a slide into kinds of tissue without labels, for you to look at, name and carry to the next slide.",
    outputs=("labels", "patches", "probability"),
    settings=TissueSettings,
    training=TissueTraining,
)


class TissueMethod(MethodPackage):
    """Classes are the slide's own where no model is given."""

    def load(
        self, slide: Slide, settings: RunSettings, weights: Path | None, device: torch.device, precision: torch.dtype
    ) -> Model:
        """The model for the slide; classes are always computed in float32."""
        from napari_histoseg.methods.tissue.predictor import load

        assert isinstance(settings, TissueSettings)
        return load(slide, settings, weights, device)


METHOD = TissueMethod(SPEC)
