"""Settings of joint segmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from napari_histoseg.methods.settings import MapSettings, TrainSettings

Variant = Literal["improved", "paper"]
OWN_WIDTH = {"improved": 32, "paper": 64}
OWN_RATE = {"improved": 2e-3, "paper": 1e-4}
"""Width and learning rate of each variant when none are given: the paper's for ``paper``."""
IMAGENET_WIDTH = 64


class JointSettings(MapSettings):
    """Settings of a run of ``joint``."""


class JointTraining(TrainSettings):
    """Settings of training ``joint``."""

    variant: Variant = Field(
        "improved", title="Network", description="improved: fine borders, any patch size; paper: as published, answers in cells of 8 px."
    )
    head: Literal["conv", "maxpool"] = Field(
        "conv", title="Classifier", description="Of the paper's network. conv: as in the paper; maxpool: as in the authors' code."
    )
    encoder: Literal["auto", "imagenet", "scratch"] = Field(
        "auto", title="Start of the encoder", description="imagenet: torchvision's ResNet-18; auto: that where it is found, else random numbers."
    )
    encoder_file: Path | None = Field(
        None, title="Encoder file", description="torchvision's ResNet-18 checkpoint (.pth); searched in torch's own folder when not given."
    )
    start: Path | None = Field(
        None, title="Start from", description="Joint weights (.safetensors) to go on from; classes are matched by name."
    )
    width: int = Field(
        0, ge=0, le=128, title="Width", description="Channels of the first layer; 0 takes 64 for the paper and ImageNet, else 32."
    )
    mpp: float = Field(2.0, gt=0, le=20, title="Pixel size (µm/px)", description="Pixel size that the network works at.")
    steps: int = Field(600, ge=1, title="Steps", description="Optimizer steps in all.")
    batch: int = Field(22, ge=4, le=512, title="Batch", description="Crops a step; the paper's is 20.")
    crop_px: int = Field(128, ge=32, le=2048, multiple_of=16, title="Crop", description="Side of a training crop; the paper's is 128.")
    mix: float = Field(
        0.73, gt=0, le=1, title="Mix", description="Share of segmentation patches in a batch, where there are classification patches."
    )
    learning_rate: float = Field(
        0.0, ge=0, le=1, title="Learning rate", description="Peak of the cosine; 0 takes 0.002, and for the paper a constant 0.0001."
    )
    weight_decay: float = Field(1e-2, ge=0, le=1, title="Weight decay", description="Of AdamW; the paper's Adam has none.")
    validate_every: int = Field(100, ge=1, title="Validate every", description="Steps between two validations.")
    average_decay: float = Field(
        0.99, ge=0, lt=1, title="Weight averaging", description="Decay of the exponential moving average that is kept; 0 is off."
    )
    val_fraction: float = Field(
        0.2, ge=0, lt=1, title="Validation share", description="Share of the groups (patients, slides) of segmentation patches held out."
    )
    class_weighting: Literal["auto", "inverse", "root", "none"] = Field(
        "auto", title="Class weights", description="By the inverse class frequency, its square root, or none; auto: inverse for the paper, else root."
    )
    class_weight: float = Field(
        0.3, ge=0, le=10, title="Weight of classification", description="Of its loss beside the segmentation loss; the paper's is 1."
    )
    augmentation: float = Field(
        1.0, ge=0, le=2, title="Augmentation", description="Strength of turns, zoom, stain, blur and noise; 0 is flips only."
    )
    least_foreground: float = Field(
        0.75, ge=0, le=1, title="Least tissue", description="Crops of larger patches with less tissue than this are not drawn."
    )

    def own_width(self, imagenet: bool) -> int:
        """The width, the variant's own when none is given; ImageNet weights have 64."""
        return self.width or (IMAGENET_WIDTH if imagenet else OWN_WIDTH[self.variant])

    @property
    def rate(self) -> float:
        """The learning rate, the variant's own when none is given."""
        return self.learning_rate or OWN_RATE[self.variant]

    @property
    def weighting(self) -> str:
        """The class weighting, the variant's own when none is named."""
        if self.class_weighting != "auto":
            return self.class_weighting
        return "inverse" if self.variant == "paper" else "root"
