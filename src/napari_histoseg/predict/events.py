"""What a run says while it goes on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_histoseg.slide.geometry import Box

if TYPE_CHECKING:
    from napari_histoseg.results import Result
    from napari_histoseg.results.store import ResultStore


@dataclass(frozen=True)
class Started:
    """The run was planned and the store opened.

    Attributes
    ----------
    path : Path
        The result's folder.
    total : int
        Tiles to compute in all.
    done : int
        Tiles already there (a resumed run).
    mpp : float
        µm per working pixel.
    frame : Box
        Working pixels covered, slide frame.
    device, precision : str
    store : ResultStore
        For showing the growing arrays; written by the run alone.
    """

    path: Path
    total: int
    done: int
    mpp: float
    frame: Box
    device: str
    precision: str
    store: ResultStore


@dataclass(frozen=True)
class Fitting:
    """The model looks at the slide before the first tile, or at the whole map after the last: steps done, and in all."""

    done: int
    total: int
    words: str = "Learning from the slide"


@dataclass(frozen=True)
class TileDone:
    """A tile is in the store.

    Attributes
    ----------
    index : int
    box : Box
        Its ``keep`` box, working pixels, slide frame.
    done, total : int
    n_objects : int
        Objects found so far, all tiles.
    seconds : float
        Since the run started.
    """

    index: int
    box: Box
    done: int
    total: int
    n_objects: int
    seconds: float


@dataclass(frozen=True)
class Notice:
    """Something a person should know; the run goes on."""

    message: str


@dataclass(frozen=True)
class Finished:
    """The run ended by itself."""

    result: Result
    seconds: float


RunEvent = Started | Fitting | TileDone | Notice | Finished
