"""What a person made of the classes of a result, as weights for the next slide: names, colors, merges, splits and corrections."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_histoseg.methods.carry import FIELDS, model_of
from napari_histoseg.methods.cells.fitted import Fitted, read_fitted
from napari_histoseg.methods.cells.grouping import Planes

if TYPE_CHECKING:
    from napari_histoseg.results import Result

MOST_LEARNED = 50_000
"""Objects that the planes between split and corrected classes are learned from."""


def carry(result: Result, out: Path) -> Path:
    """Write the classes of a result, as they are shown now, as a weights file.

    Renamed, recolored and merged clusters go along as they are. Where objects were split off or corrected, the classes that are
    shown are learned from the embedding (logistic regression), for clusters alone cannot say them.

    Parameters
    ----------
    result : Result
        Of ``cells``.
    out : Path
        A ``.safetensors`` file.

    Raises
    ------
    ResultError
        The result is of another method, has not finished, or has lost its model.
    SettingsError
        The file's name says something else.
    """
    path = model_of(result, out, "cells", "cell classes")
    fitted, card = read_fitted(path, torch.device("cpu"))
    if len(result.class_reader.state.moves):
        fitted = _learned(fitted, result)
    else:
        fitted = replace(fitted, classes=tuple(_shown(c, result) for c in fitted.classes))
    scores = {k: v for k, v in card.scores.items() if k != "slide_color"}
    names = ", ".join(dict.fromkeys(str(c["name"]) for c in fitted.classes))
    summary = f"Classes of cells: {names}."
    fitted.save(out, card.model_copy(update={"classes": list(fitted.classes), "scores": scores, "name": out.stem, "summary": summary}))
    return out


def _shown(given: dict[str, Any], result: Result) -> dict[str, Any]:
    record = result.class_of.get(int(given["value"]))
    return given if record is None else record.model_dump(include=FIELDS)


def _learned(fitted: Fitted, result: Result) -> Fitted:
    objects = result.objects
    shown = objects["cluster"].to_numpy()
    classes = sorted((c for c in result.classes if (shown == c.value).any()), key=lambda c: c.value)
    values = [c.value for c in classes]
    known = np.flatnonzero(np.isin(shown, values))
    if len(known) > MOST_LEARNED:
        known = np.sort(np.random.default_rng(0).permutation(known)[:MOST_LEARNED])
    place = objects.filter(like="embedding_").to_numpy(float)[known]
    planes = Planes.fit(place, np.searchsorted(values, shown[known]), seed=0)
    return replace(fitted, groups=planes, classes=tuple(c.model_dump(include=FIELDS) for c in classes))
