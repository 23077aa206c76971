"""What carrying classes on to other slides has in common, whatever the method."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari_histoseg.errors import ResultError, SettingsError

if TYPE_CHECKING:
    from napari_histoseg.results import Result

FIELDS = {"value", "name", "color"}
"""What is carried of a class."""
MODEL = "model.safetensors"
"""The fitted model, in a result's folder."""


def model_of(result: Result, out: Path, method: str, noun: str) -> Path:
    """The model in a result of a method, when it can be carried on into the file ``out``.

    Raises
    ------
    ResultError
        The result is of another method, has not finished, or has lost its model.
    SettingsError
        The file's name says something else.
    """
    path = result.path / MODEL
    if result.record.method != method or not result.finished or not path.is_file():
        raise ResultError(f"{result.path} has no model of {noun} to carry on. Give a finished result of {method}.")
    if out.suffix != ".safetensors":
        raise SettingsError(f"Weights are written as .safetensors. Got {out.name!r} instead; name the file for instance {method}.safetensors.")
    return path
