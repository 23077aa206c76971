"""What a method is to the engine, the command line and the window."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from napari_histoseg.errors import RunError, TileError
from napari_histoseg.slide.geometry import Box
from napari_histoseg.tiling import Tile

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from napari_histoseg.annotations.dataset import PatchDataset
    from napari_histoseg.methods.settings import RunSettings, TrainSettings
    from napari_histoseg.slide import Slide
    from napari_histoseg.train.task import TrainTask

Outputs = tuple[str, ...]
"""Kinds of output a method writes: ``labels``, ``objects`` or ``patches``, ``probability``, ``uncertainty``, ``image``."""


@dataclass(frozen=True)
class TileFrame:
    """Where a tile lies, for methods that measure.

    Attributes
    ----------
    tile : Tile
        Boxes in working pixels, slide frame.
    mpp : float
        µm per working pixel.
    downsample : float
        Level-0 pixels per working pixel.
    bounds : Box
        The slide, working pixels: what the tile shows outside of it is mirrored.
    """

    tile: Tile
    mpp: float
    downsample: float
    bounds: Box


@dataclass(frozen=True)
class Survey:
    """The slide before its first tile, for what is fitted once a slide and never per tile.

    Attributes
    ----------
    frames : sequence of TileFrame
        The tiles that the run wants, in an order drawn by its seed: the first few come from all over the slide.
    read : callable
        The pixels (h, w, 3) of a tile's ``read`` box; raises `TileError` where the file is damaged.
    folder : Path
        The result's folder. What was fitted can be kept there, for when the run is resumed.
    """

    frames: Sequence[TileFrame]
    read: Callable[[TileFrame], NDArray[np.uint8]]
    folder: Path

    def tissue(self, count: int) -> list[NDArray[np.uint8]]:
        """The pixels of up to ``count`` tiles without their margins; tiles that cannot be read are passed over.

        Raises
        ------
        RunError
            If none can be read.
        """
        found: list[NDArray[np.uint8]] = []
        for frame in self.frames:
            try:
                image = self.read(frame)
            except TileError:
                continue
            found.append(image[frame.tile.keep.relative_to(frame.tile.read).slices])
            if len(found) == count:
                break
        if not found:
            raise RunError(
                f"None of the {len(self.frames)} tiles with tissue could be read. The file is damaged; copy it again from its source."
            )
        return found


@dataclass(frozen=True)
class TileOutput:
    """What a method found in a tile.

    Attributes
    ----------
    labels : (Box, int32 array), optional
        Object ids local to the tile (1..n), only of objects whose center lies in ``tile.keep``; the box (working pixels,
        slide frame) may reach past ``keep``. For class maps: class values in ``keep``.
    objects : DataFrame, optional
        A row an object; ``id`` as in ``labels``.
    probability : (Box, uint8 array), optional
        Probability × 255 in ``keep``.
    uncertainty : (Box, uint8 array), optional
        Standard deviation of the probability × 510: half of the range is the most there can be.
    image : (Box, uint8 (h, w, 3) array), optional
    patches : DataFrame, optional
        A row a patch: places all over a class map, for looking at its classes. ``id`` (1..n, local to the tile), ``centroid_x_um``,
        ``centroid_y_um``, ``class``, ``probability``, ``cluster`` (the value in ``labels``), ``embedding_00`` and so on.
    own_ids : bool
        The ids are unique over the slide already (they were given) and are kept as they are.
    """

    labels: tuple[Box, NDArray[np.int32]] | tuple[Box, NDArray[np.uint32]] | None = None
    objects: pd.DataFrame | None = None
    probability: tuple[Box, NDArray[np.uint8]] | None = None
    uncertainty: tuple[Box, NDArray[np.uint8]] | None = None
    image: tuple[Box, NDArray[np.uint8]] | None = None
    patches: pd.DataFrame | None = None
    own_ids: bool = False


class Model(Protocol):
    """A method with its settings and weights, ready for tiles. Thread-safe: the engine calls it from several threads."""

    @property
    def mpp(self) -> float | None:
        """µm/px that the model works at; None for the slide's own."""

    halo_px: int
    """Margin a tile needs, a multiple of ``stride_px``."""
    stride_px: int
    """Tiles start and end at multiples of this."""
    weights: dict[str, Any] | None
    """Name, file and sha256 of the weights, for the run record."""
    classes: list[dict[str, Any]]
    """Class value, name and color; known after `fit` at the latest."""
    merged: dict[int, int]
    """Class of each finer value that labels or clusters may have besides those of the classes; known after `fit` at the latest."""

    @property
    def settings(self) -> RunSettings:
        """As used, for the run record: what was given as an array, or is said by the weights, is named."""

    def fit(self, survey: Survey) -> Iterator[tuple[int, int] | str]:
        """See the slide once, before the first tile, and say how far it is, (done, total), or what a person should know.

        Empty where nothing is fitted.
        """

    def forward(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(n, h, w, 3) uint8 → (n, c, h, w) float32 network output."""

    def decode(self, raw: NDArray[np.float32], image: NDArray[np.uint8], frame: TileFrame) -> TileOutput:
        """Network output over ``tile.read`` → labels, objects, maps."""

    def finish(self, objects: pd.DataFrame) -> pd.DataFrame:
        """Columns that need all objects at once (neighbor counts), aligned with ``objects``; may be empty."""


@runtime_checkable
class Finer(Protocol):
    """A model that looks at finer pixels than it writes. Its tiles are read without margin, in whole steps of ``stride_px`` from the slide's corner."""

    scale: int
    """Pixels that are read for each working pixel, along each axis: `Model.forward` gets tiles this many times as large."""


@dataclass(frozen=True)
class Whole:
    """What a run has computed so far, for what takes all tiles to decide.

    Attributes
    ----------
    frames : sequence of TileFrame
        The tiles that the run wants, in raster order.
    frame, bounds : Box
        What the run covers, and the slide, in working pixels.
    probability : array (h, w) uint8
        The map over ``frame``; 0 where nothing was computed.
    read : callable
        The slide's pixels (h, w, 3) of a box of working pixels, mirrored outside the slide; raises `TileError` where the file is damaged.
    """

    frames: Sequence[TileFrame]
    frame: Box
    bounds: Box
    probability: Any
    read: Callable[[Box], NDArray[np.uint8]]


@runtime_checkable
class Refining(Protocol):
    """A model whose labels follow from the whole map, once all its tiles are there."""

    outputs: Outputs
    """What it writes, among what its method can."""

    def refine(self, whole: Whole) -> Iterator[TileOutput | str]:
        """What takes the place of the tiles' pixels, piece by piece, or what a person should know."""


@dataclass(frozen=True)
class MethodSpec:
    """A method's name and words; costs no torch to have."""

    name: str
    title: str
    summary: str
    outputs: Outputs
    settings: type[RunSettings]
    training: type[TrainSettings] | None = None
    examples: tuple[str, ...] = field(default=())


class Method(Protocol):
    """A method as ``methods.get(name)`` returns it."""

    spec: MethodSpec

    def prepare(self, slide: Slide, settings: RunSettings, weights: Path | None) -> Slide:
        """The slide as the method reads it; most read it as it is."""

    def load(
        self, slide: Slide, settings: RunSettings, weights: Path | None, device: torch.device, precision: torch.dtype
    ) -> Model:
        """Build the model for a slide; imports torch and reads weights."""

    def train_task(self, dataset: Path | PatchDataset, settings: TrainSettings) -> TrainTask:
        """The training task over a patch dataset; raises where the method has no training."""


class MethodPackage:
    """A method that is a package here, named as its spec is; its modules are imported when they are needed, and torch with them.

    The package has the modules ``predictor``, with ``load(settings, weights, device, precision)``, and ``train``, with
    ``task_from_dataset(dataset, settings)``. A method that differs overrides what differs.
    """

    def __init__(self, spec: MethodSpec) -> None:
        self.spec = spec

    def prepare(self, slide: Slide, settings: RunSettings, weights: Path | None) -> Slide:
        """The slide as it is."""
        return slide

    def load(
        self, slide: Slide, settings: RunSettings, weights: Path | None, device: torch.device, precision: torch.dtype
    ) -> Model:
        """Build the model that the settings and the weights name."""
        assert isinstance(settings, self.spec.settings)
        model: Model = self._module("predictor").load(settings, weights, device, precision)
        return model

    def train_task(self, dataset: Path | PatchDataset, settings: TrainSettings) -> TrainTask:
        """The training task over a patch dataset; see the package's ``task_from_dataset``."""
        assert self.spec.training is not None and isinstance(settings, self.spec.training)
        task: TrainTask = self._module("train").task_from_dataset(dataset, settings)
        return task

    def _module(self, name: str) -> Any:
        return import_module(f"{__package__}.{self.spec.name}.{name}")
