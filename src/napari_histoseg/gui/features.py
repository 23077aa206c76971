"""Measurements in napari's status bar: the few that matter, by object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_histoseg.results import Result

SHOWN = {
    "class": ("class", None),
    "probability": ("probability", 2),
    "area_um2": ("area µm²", 1),
    "eccentricity": ("eccentricity", 2),
    "hematoxylin_od_mean": ("hematoxylin", 2),
    "eosin_od_mean": ("eosin", 2),
}
"""Columns of the object table, what the status bar calls them, and the digits that it shows."""


def show_measurements(layer: Labels, result: Result) -> None:
    """Give the labels layer the result's measurements; napari then shows those of the object under the cursor."""
    if result.has_objects:
        layer.features = status_table(result.objects)


def status_table(objects: pd.DataFrame) -> pd.DataFrame:
    """The columns that the status bar shows, with ``index`` as napari wants it: the label's value."""
    # Background has no measurements; without a row of its own napari would say "[No Properties]" over it.
    columns: dict[str, NDArray[Any]] = {"index": np.concatenate([[0], objects["id"].to_numpy()])}
    for name, (title, digits) in SHOWN.items():
        if name not in objects.columns:
            continue
        if digits is None:
            columns[title] = np.concatenate([np.array([None], object), objects[name].to_numpy(object)])
        else:
            columns[title] = np.concatenate([[np.nan], objects[name].to_numpy(float).round(digits)])
    return pd.DataFrame(columns)
