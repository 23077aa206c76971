"""Adding layers, and finding those of a result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_histoseg.gui.layers import KEY

if TYPE_CHECKING:
    from napari.layers import Labels, Layer
    from napari.viewer import Viewer

    from napari_histoseg.gui.layers import LayerData
    from napari_histoseg.results import Result


def show_layers(viewer: Viewer, layers: list[LayerData]) -> list[Layer]:
    """Add layers as a reader returns them."""
    add: dict[str, Any] = {"image": viewer.add_image, "labels": viewer.add_labels}
    return [add[kind](data, **keywords) for data, keywords, kind in layers]


def result_of(layer: Layer | None) -> Result | None:
    """The result that a layer shows, once its run has ended."""
    return None if layer is None else layer.metadata.get(KEY, {}).get("result")


def result_layers_of(viewer: Viewer) -> list[Labels]:
    """The labels layers that show results, those of runs under way included, in the order of the layer list."""
    from napari.layers import Labels

    return [x for x in viewer.layers if isinstance(x, Labels) and x.metadata.get(KEY, {}).keys() & {"result", "path"}]
