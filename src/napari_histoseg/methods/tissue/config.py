"""Settings of clustering tissue."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from napari_histoseg.methods.settings import RunSettings, Settings
from napari_histoseg.methods.tissue.netsettings import NetTraining

Variant = Literal["improved", "paper", "kmeans", "mean_shift", "normalized_cut", "fuzzy_cmeans"]
VARIANTS = (
    "improved: what a place is made of, its texture of color words; paper: the published network, trained by superpixels; kmeans, mean_shift: "
    "single colors; normalized_cut, fuzzy_cmeans: colors of superpixels."
)


class Clustering(Settings):
    """How tissue is looked at and clustered: the same in a run and in a training."""

    seed: int = Field(0, ge=0, title="Seed", description="Seed of everything random.")
    variant: Variant = Field("improved", title="Method", description=VARIANTS)
    n_classes: int = Field(
        6, ge=1, le=20, title="Most classes", description="Kinds of tissue to tell apart, at most; there are fewer where fewer are found."
    )
    mpp: float = Field(
        0.5, gt=0, le=16, title="Pixel size (µm/px)", description="Pixel size at which tissue is seen; a coarser slide is seen at its own."
    )
    colors: Literal["relative", "absolute"] = Field(
        "relative",
        title="Colors",
        description="relative: the strength of a slide's stain is taken out, so that a class is not a stain; absolute: as scanned.",
    )
    window_um: float = Field(
        6.0, gt=0, le=100, title="Window (µm)", description="How far around a place its texture is looked at (Gaussian, σ); of 'improved'."
    )
    n_words: int = Field(48, ge=2, le=200, title="Words", description="Kinds of pixels that textures are made of; of 'improved'.")
    glass_um: float = Field(
        8.0, ge=0, le=100, title="Glass (µm)", description="Where nothing is stained within this distance it is background; 0 gives glass a class."
    )
    smooth_um: float = Field(
        4.0, ge=0, le=100, title="Smoothing (µm)", description="Blur (σ) before single colors are clustered; of 'kmeans' and 'mean_shift'."
    )
    superpixel_um: float = Field(
        4.0, gt=0, le=200, title="Superpixel (µm)", description="Mean side of a superpixel (to 1, 2, 4 … 32 px); of 'normalized_cut' and 'fuzzy_cmeans'."
    )
    fuzziness: float = Field(2.0, gt=1, le=10, title="Fuzziness", description="Exponent m of fuzzy c-means.")
    sample: int = Field(
        40, ge=1, le=1000, title="Learn from", description="Fields of tissue, from all over a slide, that the classes are learned from."
    )
    sample_px: int = Field(512, ge=64, le=2048, title="Field", description="Side of a field that is learned from, in working pixels.")


class TissueSettings(Clustering, RunSettings):
    """Settings of a run of ``tissue``."""

    crf: bool = Field(
        False, title="Refine outlines (CRF)", description="Let outlines follow the colors of the picture, by a fully connected CRF; slower."
    )
    crf_smooth_um: float = Field(1.5, gt=0, le=50, title="CRF smoothing (µm)", description="σ within which pixels take one class, whatever their color.")
    crf_color_um: float = Field(10.0, gt=0, le=100, title="CRF reach (µm)", description="σ within which pixels of like color take one class.")
    crf_color_sd: float = Field(13.0, gt=0, le=255, title="CRF color", description="How unlike colors may be (σ, 0–255).")
    crf_weight: float = Field(4.0, ge=0, le=100, title="CRF weight", description="Of like colors; smoothing has a third of it.")
    crf_rounds: int = Field(5, ge=1, le=50, title="CRF rounds", description="Of mean field.")
    patch_um: float = Field(
        64.0, ge=8, le=1000, title="Patches (µm)", description="Distance between the places that the gallery and the map of patches show."
    )
    net_steps: int = Field(200, ge=1, title="Steps", description="Steps of the network ('paper') where a run trains it, without weights.")


class TissueTraining(Clustering, NetTraining):
    """Settings of learning kinds of tissue from slides or patches."""

    val_fraction: float = Field(
        0.2, ge=0, lt=1, title="Validation share", description="Share of the slides or pictures that the network ('paper') is scored on, and never sees."
    )
