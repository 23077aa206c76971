"""Coarse labels of blocks from what is there already, without a window: into a dataset that is there, or a new one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_histoseg.annotations import coarse, heat, heattiles
from napari_histoseg.annotations.blocks import BlockGrid
from napari_histoseg.annotations.bring import GEOJSON
from napari_histoseg.annotations.dataset import FILE_NAME
from napari_histoseg.annotations.imports import import_folder
from napari_histoseg.annotations.placing import shape_on
from napari_histoseg.annotations.session import AnnotationSession
from napari_histoseg.errors import DatasetError, PixelSizeError
from napari_histoseg.results import Result, open_result
from napari_histoseg.slide import Slide, open_slide
from napari_histoseg.slide.geometry import Box

BLOCK_UM = 100.0
BLOCK_PX = 40
"""Pixels of a block's side in a new dataset, as the network sees it."""


@dataclass(frozen=True)
class BlocksReport:
    """What an import made.

    Attributes
    ----------
    id : str or None
        The patch of the grid; None for classification patches.
    rows, columns : int
        Of the grid; 0 for classification patches.
    blocks : dict of str to int
        How many blocks have each coarse label, by name.
    unlabeled : int
        Blocks of the grid without a label.
    notices : tuple of str
        What was left out or replaced.
    """

    id: str | None
    rows: int
    columns: int
    blocks: dict[str, int]
    unlabeled: int
    notices: tuple[str, ...]


def import_blocks(
    source: Any,
    dataset: str | Path,
    *,
    slide: str | Path | Slide | None = None,
    block_um: float = BLOCK_UM,
    bins: int = 10,
    edges: Sequence[float] | None = None,
    class_name: str | None = None,
    area: tuple[int, int, int, int] | None = None,
    mpp: float | None = None,
    slide_mpp: float | None = None,
) -> BlocksReport:
    """Give blocks of a slide coarse labels: bins of a probability that is known already, or of the share that areas cover.

    Parameters
    ----------
    source : path, Result, array or DataFrame
        A result with a map of a probability (of ``tumour``: its heatmap), a gray picture of the slide (PNG, TIFF, JPEG, NPY), a table of points or
        tiles (CSV), or areas (GeoJSON); see `heat.result_values`, `heat.picture_values`, `heattiles.table_values` and
        `heattiles.area_values`. Without a slide the dataset itself, whose classification patches become blocks, or a folder with one folder of pictures
        for each class.
    dataset : path
        The dataset's folder; made when there is none. A grid that lies there already is replaced, in one step that can be undone.
    slide : path or Slide
        What the blocks lie on.
    block_um : float
        Side of a block.
    bins : int
        So many, equally wide.
    edges : sequence of float, optional
        Of the bins instead, from 0 to 1.
    class_name : str, optional
        The class of areas that counts.
    area : (x, y, width, height), optional
        Level-0 pixels: only this part of the slide gets blocks, and a picture shows just this part.
    mpp : float, optional
        µm per pixel at which patches of a new dataset are painted; one at which a block is 40 px wide when not given.
    slide_mpp : float, optional
        µm per level-0 pixel of the slide, where its file does not say it.

    Returns
    -------
    BlocksReport

    Raises
    ------
    DatasetError
        Says what is missing or wrong; the dataset is then as it was.
    """
    folder = Path(dataset)
    if slide is None:
        return _patches(source, folder, mpp)
    if not (math.isfinite(block_um) and block_um > 0):
        raise DatasetError(f"Blocks of {block_um:g} µm are impossible. Give a side above 0 µm.")
    limits = coarse.even_edges(bins) if edges is None else coarse.checked_edges(edges)
    with ExitStack() as stack:
        opened = slide if isinstance(slide, Slide) else stack.enter_context(open_slide(slide, mpp=slide_mpp))
        if opened.mpp is None:
            raise PixelSizeError(f"{opened.name} has no pixel size (µm/px). Give it with --slide-mpp on the command line, or slide_mpp= in Python.")
        own_mpp = mpp or max(opened.mpp, block_um / BLOCK_PX)
        return _lay(source, folder, opened, block_um, limits, class_name, None if area is None else Box(*area), own_mpp)


def _lay(
    source: Any, folder: Path, slide: Slide, block_um: float, edges: coarse.Edges, class_name: str | None, area: Box | None, mpp: float
) -> BlocksReport:
    grid = BlockGrid.over(slide, block_um, area)
    notices: list[str] = []
    labels = coarse.quantized(values_of(source, grid, slide, area=area, class_name=class_name, notices=notices), edges)
    if not (folder / FILE_NAME).is_file():
        # Said before a dataset is made for nothing.
        shape_on(slide, grid.box, mpp)
    names, counts = coarse.bins(edges), coarse.counted(labels)
    with _opened(folder, mpp) as session:
        patch, _ = session.patch_for(slide, grid.box)
        id, replaced = session.blocks.lay(patch, grid, labels, names, f"{sum(counts.values()):,} blocks imported")
    notices += [f"The grid {old} of {slide.name}, which lay there, was replaced." for old in replaced]
    return BlocksReport(id, grid.rows, grid.columns, {c.name: counts.get(c.value, 0) for c in names}, labels.size - sum(counts.values()), tuple(notices))


def values_of(
    source: Any, grid: BlockGrid, slide: Slide, *, area: Box | None = None, class_name: str | None = None, notices: list[str] | None = None
) -> NDArray[np.float64]:
    """The probability of each block of a grid (rows, columns), from any source; NaN where nothing is known.

    Parameters
    ----------
    source : path, Result, array or DataFrame
        As for `import_blocks`.
    grid : BlockGrid
    slide : Slide
        What the grid lies on.
    area : Box, optional
        What a picture shows, in level-0 pixels; the whole slide when not given.
    class_name, notices
        See `heattiles.area_values`.

    Raises
    ------
    DatasetError
        The source is of no such kind, or cannot be used; no block has a value.
    """
    values = _values(source, grid, slide, area or slide.bounds, class_name, notices)
    if np.isnan(values).all():
        raise DatasetError(f"No block of {slide.name} has a value: the source covers less than half of each. Give a source that covers the blocks, or choose other blocks.")
    return values


def _values(source: Any, grid: BlockGrid, slide: Slide, area: Box, class_name: str | None, notices: list[str] | None) -> NDArray[np.float64]:
    if isinstance(source, Result):
        return heat.result_values(source, grid, slide)
    if isinstance(source, pd.DataFrame):
        return heattiles.table_values(source, grid, slide, notices)
    if not isinstance(source, (str, Path)):
        return heat.picture_values(np.asarray(source), grid, area)
    path = Path(source)
    name = path.name.lower()
    if not path.exists():
        raise DatasetError(f"{path} does not exist.")
    if path.is_dir() and (path / "run.json").is_file():
        return heat.result_values(open_result(path), grid, slide)
    if name.endswith(GEOJSON):
        return heattiles.area_values(path, grid, slide, class_name, notices)
    if name.endswith(heattiles.TABLES):
        return heattiles.table_values(path, grid, slide, notices)
    if name.endswith(heat.PICTURES):
        return heat.picture_values(path, grid, area)
    raise DatasetError(f"{path} says nothing about blocks. Give a result's folder, a gray picture ({', '.join(heat.PICTURES)}), a table (.csv, .tsv) or areas (.geojson).")


def _patches(source: Any, folder: Path, mpp: float | None) -> BlocksReport:
    """Classification patches as blocks: those of the dataset, or pictures in folders."""
    path = Path(source) if isinstance(source, (str, Path)) else None
    if path is None or not path.is_dir() or (path / "run.json").is_file():
        raise DatasetError(f"{path or 'The source'} needs the slide that its blocks lie on. Name it with --slide, or slide= in Python.")
    own = path.resolve() == folder.resolve()
    if not own and not (folder / FILE_NAME).is_file() and mpp is None:
        raise DatasetError(f"{folder} is no dataset yet. Say at how many µm per pixel the pictures are, with --mpp, or mpp= in Python.")
    with AnnotationSession.open(folder) if own or mpp is None else _opened(folder, mpp) as session:
        notices = () if own else import_folder(session, path, kind="classes", mpp=mpp).notices
        several = sum(len(p.labels) > 1 for p in session.dataset.patches)
        try:
            session.blocks.adopt_labels()
        except DatasetError:
            if not own:
                session.undo()
            raise
        data = session.dataset
    if several:
        notices = (*notices, f"{several} {'patch has' if several == 1 else 'patches have'} several classes and stayed without a coarse label.")
    count = {c.name: sum(p.coarse == c.value for p in data.patches) for c in data.coarse_classes}
    return BlocksReport(None, 0, 0, count, 0, notices)


def _opened(folder: Path, mpp: float) -> AnnotationSession:
    return AnnotationSession.open(folder) if (folder / FILE_NAME).is_file() else AnnotationSession.create(folder, mpp=mpp)
