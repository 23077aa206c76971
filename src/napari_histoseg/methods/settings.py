"""Settings: one frozen, validated model a method serves the Python call, the command line and the form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from napari_histoseg.errors import SettingsError


class Settings(BaseModel):
    """Base of every settings model. Immutable; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Build the model from loose values (keyword arguments, ``--set`` strings, a form).

        Raises
        ------
        SettingsError
            Names every field that is unknown or impossible, the rule, and the value given.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise SettingsError(explain(cls, error)) from None

    def replace(self, **changes: Any) -> Self:
        """A copy with some values changed, validated again."""
        return self.parse({**self.model_dump(), **changes})


def explain(model: type[BaseModel], error: ValidationError) -> str:
    """One sentence a problem: the field, the rule, and the value that was given."""
    lines = []
    for problem in error.errors(include_url=False):
        name = ".".join(str(part) for part in problem["loc"]) or "settings"
        if problem["type"] == "extra_forbidden":
            known = ", ".join(sorted(model.model_fields))
            lines.append(f"There is no setting '{name}'. The settings are: {known}.")
        elif problem["type"] == "value_error" and str(problem["ctx"]["error"]).endswith("."):
            lines.append(str(problem["ctx"]["error"]))
        else:
            rule = problem["msg"][0].lower() + problem["msg"][1:]
            lines.append(f"The setting '{name}' is wrong: {rule}. Got {problem['input']!r} instead.")
    return " ".join(lines)


Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "float32", "bfloat16"]


class RunSettings(Settings):
    """What every run has, whatever the method."""

    device: Device = Field("auto", title="Device", description="Where the network runs; auto takes a GPU when there is one.")
    precision: Precision = Field(
        "auto", title="Precision", description="auto takes bfloat16 where the processor or card has it and float32 elsewhere."
    )
    seed: int = Field(0, ge=0, title="Seed", description="Seed of everything random in the run.")
    tile_px: int = Field(
        1024, ge=64, le=4096, multiple_of=32, title="Tile size", description="Side of a tile in working pixels, without its margin."
    )
    batch_tiles: int = Field(
        0, ge=0, le=64, title="Tiles a batch", description="Tiles given to the network at once; 0 chooses by memory."
    )
    tissue_only: bool = Field(True, title="Tissue only", description="Leave glass out: tiles without tissue are not computed.")
    force_mpp: bool = Field(
        False, title="Ignore the pixel-size check", description="Run even if the slide is too coarse for the model."
    )


class MapSettings(RunSettings):
    """What every run has that maps classes."""

    glass_um: float = Field(
        60.0,
        ge=0,
        le=500,
        title="Glass (µm)",
        description="Pixels with no tissue within this distance are background, whatever the network says; 0 leaves the network's answer.",
    )


class TrainSettings(Settings):
    """What every training has, whatever the method."""

    device: Device = Field("auto", title="Device", description="Where the network trains; auto takes a GPU when there is one.")
    precision: Precision = Field(
        "auto", title="Precision", description="auto takes bfloat16 where the processor or card has it and float32 elsewhere."
    )
    seed: int = Field(0, ge=0, title="Seed", description="Seed of the start weights, the sampling and the augmentation.")
    steps: int = Field(6000, ge=1, title="Steps", description="Optimizer steps in all.")
    batch: int = Field(8, ge=1, le=512, title="Batch", description="Crops a step.")
    crop_px: int = Field(256, ge=64, le=2048, multiple_of=16, title="Crop", description="Side of a training crop in working pixels.")
    learning_rate: float = Field(1e-3, gt=0, le=1, title="Learning rate", description="Peak of the cosine schedule.")
    weight_decay: float = Field(1e-4, ge=0, le=1, title="Weight decay", description="Of AdamW.")
    validate_every: int = Field(500, ge=1, title="Validate every", description="Steps between two validations.")
    patience: int = Field(
        0, ge=0, title="Patience", description="Validations without a better score before stopping early; 0 never stops early."
    )
    val_fraction: float = Field(
        0.15, ge=0, lt=1, title="Validation share", description="Share of the groups (patients, photographs) held out."
    )
    average_decay: float = Field(
        0.999, ge=0, lt=1, title="Weight averaging", description="Decay of the exponential moving average that is kept; 0 is off."
    )
    threads: int = Field(0, ge=0, le=256, title="Threads", description="CPU threads; 0 takes all.")
