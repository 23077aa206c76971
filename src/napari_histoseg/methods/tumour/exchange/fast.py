"""A pipeline as text, for FAST and FastPathology: patches, network, heatmap and outline of a whole slide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from napari_histoseg.methods.tumour.config import TumourTraining

FILE_NAME = "pipeline.fpl"
MAGNIFICATION = 10.0
"""What FAST calls 1 µm per pixel."""
PICTURE_PX = 64
"""Side of the pieces that FAST puts the picture at low resolution together from; it needs more than one piece."""
SLIDE = "WSI"


@dataclass(frozen=True)
class Block:
    """A process object or renderer of FAST.

    Attributes
    ----------
    kind : str
        ``ProcessObject`` or ``Renderer``.
    name, type : str
    attributes : tuple of (str, str)
    inputs : tuple of str
        What is connected to its ports.
    """

    kind: str
    name: str
    type: str
    attributes: tuple[tuple[str, str], ...] = ()
    inputs: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """As FAST reads them."""
        attributes = [f"Attribute {name} {value}" for name, value in self.attributes]
        inputs = [f"Input {port} {source}" + ("" if source == SLIDE else " 0") for port, source in enumerate(self.inputs)]
        return [f"{self.kind} {self.name} {self.type}", *attributes, *inputs, ""]


def pipeline(name: str, settings: TumourTraining, classifier: str, refiner: str, threshold: float = 0.5) -> str:
    """The text of a pipeline.

    Parameters
    ----------
    name : str
        Of the model.
    settings : TumourTraining
    classifier, refiner : str
        Names of the ONNX files beside the pipeline; empty where there is none.
    threshold : float
        Probability from which on it is tumour.
    """
    output = "segmentation refinement 0" if refiner else "heatmap stitcher 0"
    said = name.replace('"', "'")
    head = [
        f'PipelineName "Tumour: {said}"',
        'PipelineDescription "Heatmap of patches and outline of the tumour, refined from it, as trained in napari-histoseg"',
        f'PipelineInputData {SLIDE} "Whole-slide image"',
        f"PipelineOutputData {output}",
        'Attribute classes "Background;Tumour"',
        "",
    ]
    blocks = [
        *(_heatmap(settings, classifier) if classifier else ()),
        *(_outline(settings, refiner, bool(classifier), threshold) if refiner else ()),
        Block("Renderer", "slideRenderer", "ImagePyramidRenderer", inputs=(SLIDE,)),
        *([Block("Renderer", "heatmapRenderer", "HeatmapRenderer", (("hidden-channels", "0"),), ("stitcher",))] if classifier else ()),
        *([Block("Renderer", "outlineRenderer", "SegmentationRenderer", (("border-opacity", "1.0"),), ("refinement",))] if refiner else ()),
    ]
    return "\n".join([*head, *(line for block in blocks for line in block.lines())])


def _heatmap(settings: TumourTraining, file: str) -> Sequence[Block]:
    side = str(settings.crop_px)
    patches = (
        ("patch-size", f"{side} {side}"),
        ("patch-magnification", f"{MAGNIFICATION / settings.mpp:g}"),
        ("mask-threshold", f"{settings.least_tissue:g}"),
    )
    return (
        Block("ProcessObject", "tissue", "TissueSegmentation", inputs=(SLIDE,)),
        Block("ProcessObject", "patch", "PatchGenerator", patches, (SLIDE, "tissue")),
        Block("ProcessObject", "network", "NeuralNetwork", (_model(file), ("scale-factor", f"{1 / 255:.15f}")), ("patch",)),
        Block("ProcessObject", "stitcher", "PatchStitcher", inputs=("network",)),
    )


def _outline(settings: TumourTraining, file: str, heat: bool, threshold: float) -> Sequence[Block]:
    seen = settings.mpp * settings.scale * settings.factor
    pieces = (("patch-size", f"{PICTURE_PX} {PICTURE_PX}"), ("patch-magnification", f"{MAGNIFICATION / seen:g}"))
    mapped = (
        Block("ProcessObject", "heatmapDone", "RunUntilFinished", inputs=("stitcher",)),
        Block("ProcessObject", "heatmap", "TensorToImage", (("channels", "1"),), ("heatmapDone",)),
    )
    return (
        *(mapped if heat else ()),
        Block("ProcessObject", "piece", "PatchGenerator", pieces, (SLIDE,)),
        Block("ProcessObject", "picture", "PatchStitcher", inputs=("piece",)),
        Block("ProcessObject", "pictureDone", "RunUntilFinished", inputs=("picture",)),
        Block(
            "ProcessObject", "refinement", "SegmentationNetwork", (_model(file), ("threshold", f"{threshold:g}")),
            ("heatmap", "pictureDone") if heat else ("pictureDone",),
        ),
    )  # fmt: skip


def _model(file: str) -> tuple[str, str]:
    return "model", f'"$CURRENT_PATH$/{file}"'
