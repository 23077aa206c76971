"""Settings of grouping cells."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PlainSerializer

from napari_histoseg.methods.cells.crops import CropStyle
from napari_histoseg.methods.cells.gansettings import GanTraining
from napari_histoseg.methods.settings import RunSettings, Settings

Way = Literal["neighborhood", "pixels", "morphology", "mixture", "features", "infogan"]
WAYS = (
    "neighborhood: looks and shape of a nucleus and of those around it, k-means; pixels: k-means on the picture; "
    "morphology: k-means on shape and stain; mixture: Gaussian mixture on shape and stain; features: k-means on what the nuclei network sees; "
    "infogan: a generative network's classes."
)


def _said(labels: Any) -> Any:
    """What the run record says of objects that were given as arrays: their place in a file is all that JSON can hold."""
    if labels is None or isinstance(labels, str | dict):
        return labels
    path = getattr(labels, "path", None) or (labels if hasattr(labels, "__fspath__") else None)
    return str(path) if path is not None else {"kind": type(labels).__name__, "shape": list(getattr(labels, "shape", ()))}


Labels = Annotated[Any, PlainSerializer(_said)]


class Looking(Settings):
    """How nuclei are looked at and grouped: the same in a run and in a training."""

    method: Way = Field("neighborhood", title="Method", description=WAYS)
    n_classes: int = Field(3, ge=2, le=20, title="Classes", description="How many kinds of cells to tell apart; the paper's are 3 and 5.")
    colors: Literal["relative", "absolute"] = Field(
        "relative",
        title="Colors",
        description="relative: the mean color of a slide's nuclei is taken out, so that a class is not a stain; absolute: as scanned.",
    )
    around_um: float = Field(
        20.0, ge=0, le=40, title="Neighborhood (µm)", description="How far the nuclei around count (Gaussian, σ); 0 looks at each alone."
    )
    surroundings: bool = Field(True, title="Surroundings", description="Show what lies around a nucleus in its picture; else it is white.")
    crop_px: int = Field(40, ge=16, le=128, multiple_of=4, title="Crop", description="Side of a nucleus's picture in pixels; the paper's is 40.")
    encoder: Literal["auto", "imagenet", "nuclei"] = Field(
        "auto",
        title="Network of features",
        description="imagenet: torchvision's ResNet-18, from torch's own folder; nuclei: the shipped nuclei network; auto: the first where it is found.",
    )
    mpp: float = Field(0.25, gt=0, le=4, title="Pixel size (µm/px)", description="Pixel size at which nuclei are seen.")
    sample: int = Field(
        20_000, ge=50, le=200_000, title="Learn from", description="Nuclei, from all over the slide, that the classes are learned from."
    )

    @property
    def reach_um(self) -> float:
        """σ of the neighborhood, 0 for methods that look at each nucleus alone."""
        return self.around_um if self.method == "neighborhood" else 0.0

    @property
    def style(self) -> CropStyle:
        """How nuclei become pictures."""
        return CropStyle(crop_px=self.crop_px, surroundings=self.surroundings)


class CellsSettings(Looking, RunSettings):
    """Settings of a run of ``cells``."""

    labels: Labels = Field(
        None, title="Nuclei", description="The objects to group: a result, a label image, or a GeoJSON file; ids stay as they are."
    )
    tile_px: int = Field(
        2048, ge=64, le=4096, multiple_of=32, title="Tile size", description="Side of a tile in working pixels, without its margin."
    )
    tissue_only: bool = Field(False, title="Tissue only", description="Leave out nuclei that lie on glass.")
    gan_steps: int = Field(
        600, ge=1, title="Steps", description="Steps of the generative network (infogan) where a run trains it, without weights."
    )


class CellsTraining(Looking, GanTraining):
    """Settings of learning classes of cells from a result, or from pictures with nuclei."""

    repeats: int = Field(
        1, ge=1, le=20, title="Seeds", description="Trainings of the generative network from different seeds; the one with the best score is kept."
    )
    val_fraction: float = Field(
        0.2, gt=0, lt=1, title="Validation share", description="Share of the nuclei that the generative network is scored on, and never sees."
    )
