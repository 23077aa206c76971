"""Interactive analysis of H&E whole-slide images: a napari plugin, a Python library and a command line.

The public names load on first use, so that importing the package costs neither torch nor Qt.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_histoseg import methods
    from napari_histoseg.annotations.bringblocks import import_blocks
    from napari_histoseg.api import carry, export_onnx, iter_run, iter_train, list_weights, open_slide, run, train
    from napari_histoseg.metrics.score import score
    from napari_histoseg.results import Result, export, open_result
    from napari_histoseg.slide import Box, Slide, tissue_mask

_HOMES = {
    "methods": "napari_histoseg.methods",
    "carry": "napari_histoseg.api",
    "export_onnx": "napari_histoseg.api",
    "import_blocks": "napari_histoseg.annotations.bringblocks",
    "iter_run": "napari_histoseg.api",
    "iter_train": "napari_histoseg.api",
    "list_weights": "napari_histoseg.api",
    "run": "napari_histoseg.api",
    "train": "napari_histoseg.train",
    "score": "napari_histoseg.metrics.score",
    "Result": "napari_histoseg.results",
    "export": "napari_histoseg.results",
    "open_result": "napari_histoseg.results",
    "Box": "napari_histoseg.slide",
    "Slide": "napari_histoseg.slide",
    "open_slide": "napari_histoseg.api",
    "tissue_mask": "napari_histoseg.slide",
}

__all__ = [
    "Box",
    "Result",
    "Slide",
    "carry",
    "export",
    "export_onnx",
    "import_blocks",
    "iter_run",
    "iter_train",
    "list_weights",
    "methods",
    "open_result",
    "open_slide",
    "run",
    "score",
    "tissue_mask",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_HOMES[name])
    # ``methods`` is a room; ``train`` is one that can be called.
    return module if _HOMES[name] == f"{__name__}.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return __all__
