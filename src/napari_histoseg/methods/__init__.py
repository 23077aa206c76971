"""The methods by name. Listing them imports none of them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from napari_histoseg.errors import SettingsError

if TYPE_CHECKING:
    from napari_histoseg.methods.base import Method

_NAMES = ("nuclei", "stain", "cells", "tissue", "tumour", "lsr", "joint")


def names() -> tuple[str, ...]:
    """Names of all methods, in the order that they are shown."""
    return _NAMES


def get(name: str) -> Method:
    """The method of that name; still without torch.

    Raises
    ------
    SettingsError
        If there is no such method.
    """
    if name not in _NAMES:
        raise SettingsError(f"There is no method '{name}'. The methods are: {', '.join(_NAMES)}.")
    method: Method = import_module(f"{__name__}.{name}").METHOD
    return method
