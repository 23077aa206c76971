"""What a person made of the classes of a tissue map, as weights for the next slide: names, colors, merges and splits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari_histoseg.methods.carry import FIELDS, model_of
from napari_histoseg.methods.tissue.fitted import read_fitted, renamed

if TYPE_CHECKING:
    from napari_histoseg.results import Result


def carry(result: Result, out: Path) -> Path:
    """Write the classes of a result, as they are shown now, as a weights file.

    Raises
    ------
    ResultError
        The result is of another method, has not finished, or has lost its model.
    SettingsError
        The file's name says something else.
    """
    path = model_of(result, out, "tissue", "tissue")
    fitted, card = read_fitted(path)
    classes = [record.model_dump(include=FIELDS) for record in result.classes if record.value]
    fine = range(1, len(fitted.owners) + 1)
    shown = {value: result.class_of[value].value for value in fine if value in result.class_of and result.class_of[value].value != value}
    fitted = renamed(fitted, classes, shown)
    scores = {k: v for k, v in card.scores.items() if k != "slide_density"}
    summary = f"Kinds of tissue: {', '.join(str(c['name']) for c in classes)}."
    known = {"classes": list(fitted.classes), "settings": fitted.card(name="").settings, "scores": scores, "name": out.stem, "summary": summary}
    fitted.save(out, card.model_copy(update=known))
    return out
