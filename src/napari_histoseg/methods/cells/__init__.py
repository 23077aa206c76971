"""Classes of cells: nuclei that were found before, grouped into kinds without labels (Yuan & Suh 2018, §2.3, and better)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari_histoseg.methods.base import MethodPackage, MethodSpec
from napari_histoseg.methods.cells.config import CellsSettings, CellsTraining

if TYPE_CHECKING:
    import torch

    from napari_histoseg.methods.base import Model
    from napari_histoseg.methods.settings import RunSettings
    from napari_histoseg.slide import Slide

SPEC = MethodSpec(
    name="cells",
    title="Cells",
    summary="Groups nuclei into kinds without labels, for you to look at, name and carry to the next slide.",
    outputs=("labels", "objects"),
    settings=CellsSettings,
    training=CellsTraining,
)


class CellsMethod(MethodPackage):
    """The nuclei are the slide's, so a model is for one slide."""

    def load(
        self, slide: Slide, settings: RunSettings, weights: Path | None, device: torch.device, precision: torch.dtype
    ) -> Model:
        """The model for the slide; classes are always computed in float32."""
        from napari_histoseg.methods.cells.predictor import load

        assert isinstance(settings, CellsSettings)
        return load(slide, settings, weights, device)


METHOD = CellsMethod(SPEC)
