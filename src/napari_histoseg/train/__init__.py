"""One loop that turns annotations into weights, for every method.

The public call is ``napari_histoseg.train(method, dataset, out=...)``, and this room has the same name. Importing anything
from the room binds the module to that name in the package, so the module itself can be called.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any


class _CallableRoom(types.ModuleType):
    """The module, which calls :func:`napari_histoseg.api.train`."""

    def __call__(self, method: str, dataset: str | Path, /, *, out: str | Path, **settings: Any) -> Path:
        from napari_histoseg.api import train

        return train(method, dataset, out=out, **settings)


sys.modules[__name__].__class__ = _CallableRoom
