"""Settings of nuclei segmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from napari_histoseg.methods.settings import RunSettings, TrainSettings

Architecture = Literal["compact", "unet"]


class NucleiSettings(RunSettings):
    """Settings of a run of ``nuclei``."""

    model: Literal["compact", "unet", "log"] = Field(
        "compact",
        title="Model",
        description="compact: offsets to the nucleus center, for a CPU; unet: the paper's U-Net; log: blob detection, no network.",
    )
    threshold: float = Field(
        0.5, gt=0, lt=1, title="Nucleus threshold", description="Probability above which a pixel belongs to a nucleus."
    )
    min_area_um2: float = Field(
        3.0, ge=0, le=1000, title="Smallest nucleus (µm²)", description="Smaller objects are dropped."
    )
    min_probability: float = Field(
        0.0, ge=0, lt=1, title="Least certainty", description="Objects whose mean probability is below this are dropped."
    )
    neighbor_radius_um: float = Field(
        25.0, gt=0, le=500, title="Neighborhood (µm)", description="Radius in which neighbors of a nucleus are counted."
    )


class NucleiTraining(TrainSettings):
    """Settings of training ``nuclei``."""

    architecture: Architecture = Field("compact", title="Network", description="compact or the paper's unet.")
    mpp: float = Field(0.25, gt=0, le=10, title="Pixel size (µm/px)", description="Pixel size that the network works at.")
    width: int = Field(32, ge=4, le=128, title="Width", description="Channels of the first level.")
    augmentation: float = Field(
        1.0, ge=0, le=2, title="Augmentation", description="Strength of stain, blur, noise and scale jitter; 0 is flips only."
    )
    stain_sigma1: float = Field(
        0.0, ge=0, lt=1, title="Stain amount jitter", description="Each stain, as measured on its picture, is scaled by up to this part; 0 is off."
    )
    stain_sigma2: float = Field(
        0.0, ge=0, le=1, title="Stain shift jitter", description="Each stain is shifted by up to this optical density; 0 is off."
    )
    start: Path | None = Field(
        None,
        title="Start from",
        description="Weights (.safetensors) of the same network and width to go on from; random numbers when not given.",
    )
