"""Settings of stain normalization."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from napari_histoseg.methods.settings import RunSettings, TrainSettings
from napari_histoseg.slide.stain import StainProfile

OWN_RATE = {"adadelta": 1.0, "adamw": 2e-3}
"""Learning rate of each optimizer when none is given: the paper's for Adadelta."""


class StainSettings(RunSettings):
    """Settings of a run of ``stain``."""

    method: Literal["macenko", "vahadane", "reinhard", "neural"] = Field(
        "macenko",
        title="Method",
        description="macenko, vahadane: hematoxylin and eosin apart; reinhard: mean and spread of color; neural: a learned style.",
    )
    target: StainProfile | str | None = Field(
        None,
        title="Reference",
        description="What to look like: a built-in profile, a profile's file, a picture or a slide; empty is the first built-in one.",
    )
    tissue_only: bool = Field(False, title="Tissue only", description="Leave glass out: tiles without tissue stay white.")

    @field_validator("target", mode="before")
    @classmethod
    def _measured(cls, value: Any) -> Any:
        """Pictures and slides are measured now, so that the record holds what was used."""
        if value is None or isinstance(value, StainProfile | str | dict):
            return value
        if isinstance(value, Path):
            return str(value)
        from napari_histoseg.methods.stain.resolve import profile_of

        return profile_of(value)


class StainTraining(TrainSettings):
    """Settings of training a stain style."""

    architecture: Literal["compact", "paper"] = Field(
        "compact", title="Network", description="compact: the encoder's details reach the decoder, sharp at a small width; paper: none do."
    )
    width: int = Field(
        64, ge=8, le=256, multiple_of=8, title="Width", description="Channels and global vector; 64 for a CPU, 256 is the paper's."
    )
    mpp: float = Field(0.25, gt=0, le=10, title="Pixel size (µm/px)", description="Finest pixel size that the style is learned at.")
    zoom_out: float = Field(
        8.0, ge=1, le=64, title="Coarsest level", description="Crops are drawn at up to this many times the pixel size, for overviews."
    )
    class_weight: float = Field(
        0.01, ge=0, le=1, title="Class weight", description="Weight λ of the class loss; the paper's are 1/300 to 1/30, 0 leaves it out."
    )
    optimizer: Literal["adadelta", "adamw"] = Field(
        "adadelta", title="Optimizer", description="adadelta: the paper's, at a constant rate; adamw: with a cosine schedule, faster here."
    )
    learning_rate: float = Field(
        0.0, ge=0, le=1, title="Learning rate", description="0 takes the optimizer's own: 1 for adadelta, 0.002 for adamw."
    )
    weight_decay: float = Field(1e-4, ge=0, le=1, title="Weight decay", description="Of adamw; adadelta has none, as in the paper.")
    steps: int = Field(2000, ge=1, title="Steps", description="Optimizer steps in all.")
    batch: int = Field(16, ge=2, le=512, title="Batch", description="Crops a step; the paper's is 64.")
    crop_px: int = Field(224, ge=64, le=2048, multiple_of=16, title="Crop", description="Side of a training crop; the paper's is 224.")
    validate_every: int = Field(250, ge=1, title="Validate every", description="Steps between two validations.")
    average_decay: float = Field(
        0.99, ge=0, lt=1, title="Weight averaging", description="Decay of the exponential moving average that is kept; 0 is off."
    )
    augmentation: float = Field(
        1.0, ge=0, le=2, title="Augmentation", description="Strength of changes in stain amount, lightness, blur and noise; 0 is shifts and flips only."
    )

    @property
    def rate(self) -> float:
        """The learning rate, the optimizer's own when none is given."""
        return self.learning_rate or OWN_RATE[self.optimizer]
