"""Settings of the tumour heatmap and its refined outline."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from napari_histoseg.methods.settings import RunSettings, TrainSettings

Backbone = Literal["mobilenet_v2", "inception_v3", "none"]
Refiner = Literal["unet", "agunet", "dagunet", "doubleunet", "none"]
OUT_MPP = 8.0
"""About the µm per pixel of heatmaps and outlines."""


class TumourSettings(RunSettings):
    """Settings of a run of ``tumour``."""

    tile_px: int = Field(
        128, ge=32, le=1024, multiple_of=32, title="Tile size", description="Side of a tile in pixels of the heatmap (8 µm)."
    )
    outline: Literal["auto", "refined", "smoothed", "threshold"] = Field(
        "auto",
        title="Outline",
        description="refined: by the second network; smoothed: heatmap above the threshold, closed and opened; threshold: as it is; auto: refined where the model can.",
    )
    threshold: float = Field(0.5, gt=0, lt=1, title="Threshold", description="Probability from which on it is tumour.")
    overlap: Literal["0", "0.5", "0.75"] = Field(
        "0", title="Overlap", description="Of neighboring patches, whose probabilities are averaged; 0.5 takes 4 times as long, 0.75 takes 16 times."
    )
    least_tissue: float = Field(
        0.25, ge=0, le=1, title="Least tissue", description="Patches with a smaller share of tissue have no probability."
    )
    smooth_um: float = Field(
        160.0, ge=0, le=2000, title="Smoothing (µm)", description="Width of what closing fills and opening removes; only of smoothed outlines."
    )
    mc_samples: int = Field(
        0, ge=0, le=100, title="Uncertainty samples", description="Passes of the refining network with dropout on; 0 leaves the uncertainty out."
    )

    @field_validator("overlap", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        """A number is as good as its name."""
        return f"{value:g}" if isinstance(value, (int, float)) else value


class TumourTraining(TrainSettings):
    """Settings of training ``tumour``: first the classifier of patches, then the network that refines its heatmaps."""

    backbone: Backbone = Field(
        "mobilenet_v2", title="Classifier", description="mobilenet_v2: light; inception_v3: larger; none: the outline comes from low resolution alone."
    )
    refiner: Refiner = Field("unet", title="Refiner", description="Network that refines the heatmap; none: the heatmap is all.")
    variant: Literal["improved", "paper"] = Field(
        "improved",
        title="Design",
        description="improved: refines at a fixed pixel size, varies the stain; paper: whole slide in 1024 × 1024, augmentation and optimizer as published.",
    )
    encoder: Literal["auto", "imagenet", "scratch"] = Field(
        "auto", title="Start of the classifier", description="imagenet: torchvision's weights; auto: those where they are found, else random numbers."
    )
    encoder_file: Path | None = Field(
        None, title="Encoder file", description="torchvision's checkpoint (.pth) of the backbone; searched in torch's own folder when not given."
    )
    start: Path | None = Field(None, title="Start from", description="Tumour weights (.safetensors) to go on from.")
    mpp: float = Field(1.0, gt=0, le=8, title="Pixel size (µm/px)", description="Pixel size of patches; 1 is a 10x objective.")
    crop_px: int = Field(256, ge=64, le=1024, multiple_of=32, title="Patch", description="Side of a patch in its pixels.")
    steps: int = Field(400, ge=1, title="Steps", description="Optimizer steps of the classifier; also of each one that is trained for cross-fitting.")
    batch: int = Field(16, ge=2, le=512, title="Batch", description="Patches a step; the paper's is 64.")
    learning_rate: float = Field(
        0.0, ge=0, le=1, title="Learning rate", description="Of the classifier: 0 takes 0.0001 for the paper and for ImageNet weights, else 0.002."
    )
    weight_decay: float = Field(1e-3, ge=0, le=1, title="Weight decay", description="Of AdamW; the paper's Adam has none.")
    validate_every: int = Field(100, ge=1, title="Validate every", description="Steps between two validations.")
    average_decay: float = Field(
        0.98, ge=0, lt=1, title="Weight averaging", description="Decay of the exponential moving average that is kept; 0 is off."
    )
    val_fraction: float = Field(0.2, ge=0, lt=1, title="Validation share", description="Share of the groups (patients, slides) held out.")
    val_patches: int = Field(400, ge=2, le=20000, title="Validation patches", description="Patches of held-out slides that the classifier is scored on.")
    tumour_class: str = Field("", title="Tumour class", description="Name of the class that is the tumour; needed where the dataset has several.")
    balance: str = Field(
        "grade", title="Balance on", description="Labels of the slides, separated by commas, that are drawn evenly before slide and class."
    )
    sampling: Literal["balanced", "unbalanced"] = Field(
        "balanced", title="Sampling", description="balanced: labels, slide, class, patch, each drawn evenly; unbalanced: all patches alike."
    )
    least_tissue: float = Field(0.25, ge=0, le=1, title="Least tissue", description="Patches with a smaller share of tissue are left out.")
    least_tumour: float = Field(
        0.25, ge=0, lt=1, title="Least tumour", description="Patches with a larger share are tumour; those with some, but less, are left out."
    )
    guided: bool = Field(False, title="Cluster guiding", description="Balance the loss on kinds of tissue that are found by clustering.")
    cluster_stage: bool = Field(False, title="Draw clusters", description="Draw these kinds of tissue evenly, too, after slide and class.")
    n_clusters: int = Field(10, ge=2, le=100, title="Clusters", description="Kinds of tissue for cluster guiding.")
    readers: int = Field(2, ge=1, le=16, title="Readers", description="Threads that read patches from the slides while the network learns.")
    folds: int = Field(
        2, ge=1, le=10, title="Cross-fitting", description="Parts of the slides, each with a heatmap of a classifier that has not seen it; 1: none."
    )
    refine_steps: int = Field(400, ge=1, title="Refiner's steps", description="Optimizer steps of the refiner.")
    refine_batch: int = Field(8, ge=1, le=64, title="Refiner's batch", description="Pictures at once; the paper's is 4.")
    accumulate: int = Field(
        0, ge=0, le=64, title="Accumulation", description="Batches whose gradients make one step of the refiner; 0 takes 1, and for the paper 6."
    )
    refine_rate: float = Field(1e-3, gt=0, le=1, title="Refiner's rate", description="Learning rate of the refiner.")
    refine_patience: int = Field(
        0, ge=0, title="Refiner's patience", description="Validations of the refiner without a better score before stopping early; 0 never stops early."
    )
    refine_mpp: float = Field(
        16.0, gt=0, le=128, title="Refiner's pixels (µm)", description="About the pixel size that the refiner works at; the paper's is what a whole slide in 1024 px gives."
    )
    refine_px: int = Field(
        0, ge=0, le=2048, multiple_of=32, title="Refiner's picture", description="Side of its pictures while it learns; 0 takes 256, and for the paper 1024."
    )
    augmentation: float = Field(1.0, ge=0, le=2, title="Augmentation", description="Strength of changes of the stain; 0 is flips and turns only.")
    skip_unreadable: bool = Field(
        False, title="Skip unreadable slides", description="Train without slides that cannot be read, instead of stopping; they are named."
    )

    def rate(self, pretrained: bool) -> float:
        """The classifier's learning rate, the usual one when none is given."""
        return self.learning_rate or (1e-4 if pretrained or self.variant == "paper" else 2e-3)

    @property
    def accumulated(self) -> int:
        """Batches of the refiner that make one step."""
        return self.accumulate or (6 if self.variant == "paper" else 1)

    @property
    def picture_px(self) -> int:
        """Side of the refiner's pictures."""
        return self.refine_px or (1024 if self.variant == "paper" else 256)

    @property
    def levels(self) -> int:
        """Halvings in the refiner: the paper's 8, or as many as smaller pictures bear."""
        wanted, side, levels = 8 if self.variant == "paper" else 6, self.picture_px, 0
        while levels < wanted and side % 2 == 0 and side >= 4:
            side, levels = side // 2, levels + 1
        return levels

    @property
    def factor(self) -> int:
        """Pixels of the heatmap for each pixel that the refiner sees, along each axis."""
        return 1 if self.variant == "paper" else max(1, round(self.refine_mpp / (self.mpp * self.scale)))

    @property
    def whole_px(self) -> int:
        """Side that the refiner brings a whole slide to; 0 where it works at the heatmap's pixels."""
        return self.picture_px if self.variant == "paper" else 0

    @property
    def scale(self) -> int:
        """Pixels of a patch for each pixel of the heatmap, along each axis."""
        return scale_at(self.mpp)

    @property
    def stages(self) -> tuple[str, ...]:
        """Labels that are drawn before slide and class."""
        return tuple(name.strip() for name in self.balance.split(",") if name.strip())


def scale_at(mpp: float) -> int:
    """Pixels at ``mpp`` for each pixel of the heatmap: the power of two that brings it nearest to 8 µm."""
    scale = 1
    while mpp * scale * 1.42 < OUT_MPP:
        scale *= 2
    return scale
