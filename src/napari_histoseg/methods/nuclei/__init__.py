"""Nuclei segmentation: every nucleus as an object with its outline and measurements."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari_histoseg.methods.base import MethodSpec
from napari_histoseg.methods.nuclei.config import NucleiSettings, NucleiTraining

if TYPE_CHECKING:
    import torch

    from napari_histoseg.annotations.dataset import PatchDataset
    from napari_histoseg.methods.base import Model
    from napari_histoseg.methods.settings import RunSettings, TrainSettings
    from napari_histoseg.slide import Slide
    from napari_histoseg.train.task import TrainTask

SPEC = MethodSpec(
    name="nuclei",
    title="Nuclei",
    summary="Finds every nucleus, with outline, measurements and stain intensities.",
    outputs=("labels", "objects", "probability"),
    settings=NucleiSettings,
    training=NucleiTraining,
)


class NucleiMethod:
    """Nuclei segmentation by the compact network, the paper's U-Net, or blob detection."""

    spec = SPEC

    def prepare(self, slide: Slide, settings: RunSettings, weights: Path | None) -> Slide:
        """The slide as it is."""
        return slide

    def load(
        self, settings: RunSettings, weights: Path | None, device: torch.device, precision: torch.dtype
    ) -> Model:
        """Build the model that the settings name."""
        from napari_histoseg.methods.nuclei.predictor import load

        assert isinstance(settings, NucleiSettings)
        return load(settings, weights, device, precision)

    def train_task(self, dataset: Path | PatchDataset, settings: TrainSettings) -> TrainTask:
        """Training on a patch dataset whose masks are instance maps."""
        from napari_histoseg.methods.nuclei.train import task_from_dataset

        assert isinstance(settings, NucleiTraining)
        return task_from_dataset(dataset, settings)


METHOD = NucleiMethod()
