"""Stain normalization: a slide's colors brought to a reference, lazily."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari_histoseg.methods.base import MethodPackage, MethodSpec
from napari_histoseg.methods.stain.config import StainSettings, StainTraining

if TYPE_CHECKING:
    import torch

    from napari_histoseg.methods.base import Model
    from napari_histoseg.methods.settings import RunSettings
    from napari_histoseg.slide import Slide

SPEC = MethodSpec(
    name="stain",
    title="Stain",
    summary="Brings the colors of a slide to a reference: Macenko, Vahadane, Reinhard, or a learned style.",
    outputs=("image",),
    settings=StainSettings,
    training=StainTraining,
)


class StainPackage(MethodPackage):
    """Colors change where the slide is read; the run only writes them down."""

    def prepare(self, slide: Slide, settings: RunSettings, weights: Path | None) -> Slide:
        """The slide, read through the normalizer that the settings name; measured once, over the whole slide."""
        from napari_histoseg.methods.stain.resolve import normalizer_for

        assert isinstance(settings, StainSettings)
        normalizer = normalizer_for(slide, settings.target, settings.method, weights=weights, seed=settings.seed, device=settings.device)
        return slide.with_stain(normalizer)

    def load(
        self, slide: Slide, settings: RunSettings, weights: Path | None, device: torch.device, precision: torch.dtype
    ) -> Model:
        """What keeps the pixels that it is given."""
        from napari_histoseg.methods.stain.predictor import StainModel

        assert isinstance(settings, StainSettings)
        return StainModel(settings)


METHOD = StainPackage(SPEC)
