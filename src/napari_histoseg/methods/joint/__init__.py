"""Joint segmentation: outline a few patches, give many only a class, train one network on both (Ciga & Martel 2021)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari_histoseg.methods.base import MethodSpec
from napari_histoseg.methods.joint.config import JointSettings, JointTraining

if TYPE_CHECKING:
    import torch

    from napari_histoseg.annotations.dataset import PatchDataset
    from napari_histoseg.methods.base import Model
    from napari_histoseg.methods.joint.task import JointTask
    from napari_histoseg.methods.settings import RunSettings, TrainSettings
    from napari_histoseg.slide import Slide

SPEC = MethodSpec(
    name="joint",
    title="Joint",
    summary="Learns your classes from a few outlined and many classified patches, and maps them over the slide.",
    outputs=("labels", "probability"),
    settings=JointSettings,
    training=JointTraining,
)


class JointMethod:
    """Segmentation trained on masks and patch classes together; it runs with weights that were trained here."""

    spec = SPEC

    def prepare(self, slide: Slide, settings: RunSettings, weights: Path | None) -> Slide:
        """The slide as it is."""
        return slide

    def load(
        self, settings: RunSettings, weights: Path | None, device: torch.device, precision: torch.dtype
    ) -> Model:
        """Build the model of the weights."""
        from napari_histoseg.methods.joint.predictor import load

        assert isinstance(settings, JointSettings)
        return load(settings, weights, device, precision)

    def train_task(self, dataset: Path | PatchDataset, settings: TrainSettings) -> JointTask:
        """Training on a patch dataset with masks of class values, and patches with a class."""
        from napari_histoseg.methods.joint.train import task_from_dataset

        assert isinstance(settings, JointTraining)
        return task_from_dataset(dataset, settings)


METHOD = JointMethod()
