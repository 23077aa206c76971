"""Settings of label super-resolution; without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from napari_histoseg.methods.settings import MapSettings, TrainSettings

Level = Literal["intra", "inter", "intra+inter"]
Matching = Literal["joint", "marginal"]
Source = Literal["auto", "dataset", "painted", "paper"]

PAPER_RATE = {"intra": 1e-5, "inter": 1e-3, "intra+inter": 1e-3}
"""Learning rates of Zhao et al. 2020 (§3.3), which gives none for ``inter`` alone."""
OWN_RATE = 2e-3
PAPER_SMOOTHING = 0.9
"""Of RMSprop's mean square, called β there."""


class LsrSettings(MapSettings):
    """Settings of a run of ``lsr``."""


class LsrTraining(TrainSettings):
    """Settings of training ``lsr``."""

    variant: Literal["improved", "paper"] = Field(
        "improved",
        title="Design",
        description="improved: sees around blocks, varies the stain, averages the weights, more groups a step, AdamW; paper: as published.",
    )
    level: Level = Field(
        "intra+inter", title="Loss", description="What is compared with the table: each block, the spread between blocks, or both together (the paper's best)."
    )
    matching: Matching = Field("marginal", title="Matching", description="joint: the paper's formula; marginal: the usual one, which is surer to hold the shares.")
    table: Source = Field(
        "auto",
        title="Table",
        description="Shares of the coarse labels. dataset: as stated; painted: measured in painted blocks; paper: its Table 1 for ten bins; auto: stated, else measured.",
    )
    mpp: float = Field(
        0.0, ge=0, le=20, title="Pixel size (µm/px)", description="Pixel size that the network works at; 0 takes the one at which a block is 48 px wide. The paper's is 4.2."
    )
    start: Path | None = Field(
        None, title="Start from", description="Weights of label super-resolution (.safetensors) to go on from; they have the classes of the table."
    )
    width: int = Field(16, ge=4, le=128, title="Width", description="Channels of the first level.")
    steps: int = Field(1200, ge=1, title="Steps", description="Optimizer steps in all.")
    batch: int = Field(30, ge=2, le=512, title="Blocks a step", description="Blocks of all groups together; the paper's are 30.")
    group: int = Field(0, ge=0, le=256, title="Blocks of a group", description="With one coarse label; 0 takes 3, the paper's 15. A step has as many groups as fit.")
    context: float = Field(
        0.67,
        ge=0,
        le=4,
        title="Context",
        description="What the network sees around a block without counting it, in sides of the block; where the block lies in it is drawn. None in the paper.",
    )
    least_glass_um: float = Field(
        30.0, ge=0, le=500, title="Glass (µm)", description="Pixels with no tissue within this distance do not count in shares; 0 counts all."
    )
    learning_rate: float = Field(
        0.0, ge=0, le=1, title="Learning rate", description="0 takes 0.002 under a cosine; the paper's is a constant 0.001, and 0.00001 for intra."
    )
    weight_decay: float = Field(1e-2, ge=0, le=1, title="Weight decay", description="Of AdamW; the paper's RMSprop has none.")
    painted_weight: float = Field(
        1.0, ge=0, le=100, title="Weight of painted blocks", description="Of the pixel loss where blocks are painted, beside the loss of the shares; 0 leaves them out."
    )
    augmentation: float = Field(1.0, ge=0, le=2, title="Augmentation", description="Strength of stain, blur and noise; 0 is flips and quarter turns only.")
    validate_every: int = Field(200, ge=1, title="Validate every", description="Steps between two validations.")
    average_decay: float = Field(
        0.99, ge=0, lt=1, title="Weight averaging", description="Decay of the exponential moving average that is kept; 0 is off."
    )
    val_fraction: float = Field(
        0.2, ge=0, lt=1, title="Validation share", description="Share of the groups (patients, slides) of blocks held out."
    )
    crop_px: int = Field(0, ge=0, le=0, title="Crop", description="Blocks are seen whole.")

    @model_validator(mode="after")
    def _whole_groups(self) -> Self:
        if self.batch < self.own_group:
            raise ValueError(f"A step of {self.batch} blocks holds no group of {self.own_group}. Raise batch, or lower group.")
        if self.level != "intra" and self.own_group < 2:
            raise ValueError("A spread over blocks needs groups of at least two. Raise group, or set level to intra.")
        return self

    @property
    def own_group(self) -> int:
        """Blocks of a group, the variant's own when none are given."""
        return self.group or (15 if self.variant == "paper" else 3)

    @property
    def groups(self) -> int:
        """Groups of a step."""
        return self.batch // self.own_group

    @property
    def rate(self) -> float:
        """The learning rate, the variant's own when none is given."""
        return self.learning_rate or (PAPER_RATE[self.level] if self.variant == "paper" else OWN_RATE)

    @property
    def strength(self) -> float:
        """Of the augmentation; the paper names none."""
        return 0.0 if self.variant == "paper" else self.augmentation

    @property
    def surroundings(self) -> float:
        """What is seen around a block, in sides of it."""
        return 0.0 if self.variant == "paper" else self.context
