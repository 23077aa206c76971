"""What is made of a result of tumour: outlines at any threshold, areas, and a result with another outline of the same heatmap. No window here."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray

from napari_histoseg.annotations.areas import Area
from napari_histoseg.errors import ResultError
from napari_histoseg.gui.tumouroutline import area_of, mm2
from napari_histoseg.results.classmap import blocks
from napari_histoseg.results.files import storage_errors
from napari_histoseg.results.geojson import DECIMALS, write_collection
from napari_histoseg.results.lock import NAME as LOCK
from napari_histoseg.results.pyramid import create_pyramid, folder_name, rgb

if TYPE_CHECKING:
    from napari_histoseg.results import Result

OUTLINE_COLOR = "#e6194b"
SMOOTH_PX = 0.7
"""Outlines of a result are moved by at most this much, in its pixels of 8 µm, to have few enough points to be corrected by hand."""
CONTOUR_PX = 2_000_000
"""Lines of a threshold are drawn from the finest level with at most this many pixels. A patch covers 32 × 32 px, so that nothing is lost."""


@dataclass(frozen=True, eq=False)
class Heat:
    """A heatmap, ready for a threshold that moves.

    Attributes
    ----------
    values : (h, w) uint8
        Probability at a coarse level.
    step : int
        Working pixels for each of its pixels.
    counts : (256,) int64
        Working pixels with each probability, at the finest level.
    outlined_px : int
        Working pixels of the result's own outline.
    um2 : float
        Area of a working pixel.
    """

    values: NDArray[np.uint8]
    step: int
    counts: NDArray[np.int64]
    outlined_px: int
    um2: float

    def above(self, threshold: float) -> float:
        """Area in µm² with at least this probability; what has none at all is never tumour."""
        return float(self.counts[self._least(threshold) :].sum()) * self.um2

    @property
    def outlined(self) -> float:
        """Area in µm² of the result's own outline."""
        return self.outlined_px * self.um2

    def lines(self, threshold: float) -> NDArray[np.float64]:
        """Lines around what has at least this probability; see `lines_around`."""
        return lines_around(self.values >= self._least(threshold), self.step)

    @staticmethod
    def _least(threshold: float) -> int:
        return max(1, int(np.ceil(threshold * 255 - 1e-9)))


def heat_of(result: Result) -> Heat | None:
    """The heatmap of a result; None where it has none. For a worker thread."""
    arrays = result.arrays()
    levels = arrays.get("probability")
    if not levels:
        return None
    level = next((i for i, a in enumerate(levels) if a.shape[0] * a.shape[1] <= CONTOUR_PX), len(levels) - 1)
    counts = np.zeros(256, np.int64)
    finest: Any = levels[0]
    rows = max(1, finest.chunks[0])
    for top in range(0, finest.shape[0], rows):
        counts += np.bincount(np.asarray(finest[top : top + rows]).ravel(), minlength=256)
    outlined = sum(int((block > 0).sum()) for _, block in blocks(result.levels("labels")[0])) if "labels" in arrays else 0
    values, step = without_repeats(np.asarray(levels[level][:], np.uint8), 2**level)
    return Heat(values, step, counts, outlined, (result.mpp or 1.0) ** 2)


def without_repeats(values: NDArray[np.uint8], step: int) -> tuple[NDArray[np.uint8], int]:
    """The same map with fewer pixels, as long as squares of 2 × 2 have one value: a patch then is one pixel."""
    while min(values.shape) > 1:
        less = values[::2, ::2]
        if not np.array_equal(less.repeat(2, 0).repeat(2, 1)[: values.shape[0], : values.shape[1]], values):
            break
        values, step = less, 2 * step
    return np.ascontiguousarray(values), step


def lines_around(mask: NDArray[np.bool_], step: int = 1) -> NDArray[np.float64]:
    """The edges between pixels inside and outside of a mask, those in one line as one.

    Parameters
    ----------
    mask : (h, w) bool
    step : int
        Pixels of the layer for each pixel of the mask.

    Returns
    -------
    (n, 2, 2)
        Start and direction ``(y, x)`` in napari's data coordinates, where a pixel's middle is its index.
    """
    padded = np.pad(mask, 1)
    across = _runs(padded[1:, 1:-1] != padded[:-1, 1:-1])
    down = _runs((padded[1:-1, 1:] != padded[1:-1, :-1]).T)
    lines = np.zeros((len(across) + len(down), 2, 2))
    lines[: len(across), 0], lines[: len(across), 1, 1] = across[:, :2], across[:, 2]
    lines[len(across) :, 0], lines[len(across) :, 1, 0] = down[:, 1::-1], down[:, 2]
    lines *= step
    lines[:, 0] -= 0.5
    return lines


def _runs(edges: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Row, first column and length of each run in a row."""
    ends = np.diff(np.pad(edges, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(ends == 1)
    _, stops = np.nonzero(ends == -1)
    return np.column_stack([rows, starts, stops - starts])


def area_of_result(result: Result, smooth_px: float = SMOOTH_PX) -> Area:
    """What a result says is tumour, in level-0 pixels; for a worker thread.

    Raises
    ------
    ResultError
        The result has no outline.
    """
    if "labels" not in result.arrays():
        raise ResultError(f"{result.path} has no outline.")
    mask = np.zeros(result.frame.shape, bool)
    for box, block in blocks(result.levels("labels")[0]):
        mask[box.slices] = block > 0
    area: Area = shapely.transform(area_of(mask, result.frame, smooth_px), lambda points: points * result.downsample)
    return area


def copied(source: Path, target: Path, settings: dict[str, Any]) -> None:
    """Copy a finished result as one whose heatmap is done and whose outline is not: a run that goes on with it just outlines.

    Parameters
    ----------
    settings : dict
        That the run goes on with.

    Raises
    ------
    ResultError
        The result did not come to its end, or the folder exists.
    StorageError
        It cannot be written.
    """
    from napari_histoseg.results.record import RunRecord

    record = RunRecord.read(source)
    if record.status != "finished":
        raise ResultError(f"The heatmap in {source} is not whole. Resume its run first.")
    outputs = ["labels", "probability", *(["uncertainty"] if settings.get("mc_samples") else [])]
    with storage_errors(target, "refine again"):
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(LOCK, folder_name("uncertainty")))
        changed = record.replaced(status="cancelled", settings=settings, outputs=tuple(outputs), notices=[])
        if "uncertainty" in outputs:
            create_pyramid(target, "uncertainty", changed)
        changed.write(target)


def written(path: Path, area: Area, mpp: float | None) -> Path:
    """Write an area as annotations that QuPath reads; for a worker thread.

    Raises
    ------
    ResultError
        The extension is another one.
    StorageError
    """
    if not path.name.lower().endswith((".geojson", ".geojson.gz")):
        raise ResultError(f"{path.name} has another extension than .geojson or .geojson.gz.")
    texts = []
    for part in shapely.get_parts(area):
        measured = {} if mpp is None else {"area µm²": round(part.area * mpp**2, 2)}
        about = {"objectType": "annotation", "classification": {"name": "Tumor", "color": rgb(OUTLINE_COLOR)}, "measurements": measured}
        rounded = shapely.transform(part, lambda points: np.round(points, DECIMALS))
        texts.append(f'{{"type":"Feature","geometry":{shapely.to_geojson(rounded)},"properties":{json.dumps(about, ensure_ascii=False)}}}')
    with storage_errors(path, "export again"):
        write_collection(path, texts)
    return path


def area_words(result: Result) -> str:
    """The area of a result's outline."""
    if "labels" not in result.arrays():
        return "no outline"
    pixels = sum(int((block > 0).sum()) for _, block in blocks(result.levels("labels")[0]))
    return f"{mm2(pixels * (result.mpp or 1.0) ** 2)} of tumour" if pixels else "no tumour"
