"""Small label windows: outlines and plain measurements of the objects in them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from scipy import ndimage

from napari_histoseg.slide.geometry import Box


def outline_of(mask: NDArray[np.bool_], origin: tuple[float, float], downsample: float) -> shapely.Geometry:
    """The exact outline of a mask, along pixel edges, in level-0 pixels.

    Parameters
    ----------
    mask : (h, w) bool
        One object.
    origin : (x, y)
        Working pixel of the slide at the mask's upper left.
    downsample : float
        Level-0 pixels per working pixel.
    """
    rows, columns = np.nonzero(np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1))
    # Every run of object pixels in a row is a pair of edges, hence a rectangle; their union is the outline.
    left, right, top = columns[::2] + origin[0], columns[1::2] + origin[0], rows[::2] + origin[1]
    boxes = shapely.box(left, top, right, top + 1)
    union = shapely.union_all(boxes).simplify(0)
    return shapely.transform(union, lambda points: points * downsample)


def measure_plainly(labels: NDArray[np.int32], box: Box, mpp: float, downsample: float, outlines: bool = True) -> pd.DataFrame:
    """Area, centroid and outline of every object in a window.

    Parameters
    ----------
    labels : (h, w) int32
        Ids; 0 is background.
    box : Box
        Where the window lies, in working pixels of the slide.
    mpp : float
        Working pixel size in µm.
    downsample : float
        Level-0 pixels per working pixel.
    outlines : bool
        Also trace them.

    Returns
    -------
    DataFrame
        ``id``, ``centroid_x_um``, ``centroid_y_um``, ``area_um2`` and ``outline`` (WKB, level-0 pixels).
    """
    ids = np.unique(labels)
    ids = ids[ids != 0]
    slices = ndimage.find_objects(labels)
    rows = []
    for identity in ids:
        window = slices[identity - 1]
        mask = labels[window] == identity
        y, x = np.nonzero(mask)
        x0, y0 = box.x + window[1].start, box.y + window[0].start
        row = {
            "id": np.uint32(identity),
            "centroid_x_um": (x.mean() + 0.5 + x0) * mpp,
            "centroid_y_um": (y.mean() + 0.5 + y0) * mpp,
            "area_um2": np.float32(mask.sum() * mpp**2),
        }
        if outlines:
            row["outline"] = shapely.to_wkb(outline_of(mask, (x0, y0), downsample))
        rows.append(row)
    columns = ["id", "centroid_x_um", "centroid_y_um", "area_um2", *(["outline"] if outlines else [])]
    return pd.DataFrame(rows, columns=columns)
