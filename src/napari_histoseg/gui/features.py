"""Measurements in napari's status bar: the few that matter, by object."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

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
    columns: dict[str, object] = {"index": objects["id"].to_numpy()}
    for name, (title, digits) in SHOWN.items():
        if name not in objects.columns:
            continue
        values = objects[name]
        if digits is None:
            if values.astype(str).str.strip().replace("nan", "").any():
                columns[title] = values.astype(str).to_numpy()
        else:
            columns[title] = values.round(digits).to_numpy()
    return pd.DataFrame(columns)
