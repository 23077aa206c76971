"""Adding layers, and finding those of a result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QTimer

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


TURN_MS = 60
"""Between two steps of adding a layer: long enough for the window to draw and to answer the mouse."""


def add_in_turns(viewer: Viewer, made: LayerData, owner: QObject, then: Callable[[], None] = lambda: None) -> Layer:
    """Add a layer in several turns of the event loop, so that the window answers in between.

    A labels layer takes napari a quarter of a second. It is added unseen; then come its pixels, then one by one the overlays
    for polygon and brush, which nobody needs while a run shows its first tile. ``then`` is called at the end, unless ``owner`` is deleted before.
    """
    from napari.layers import Layer

    layer = Layer.create(*made)
    things = [layer, *getattr(layer, "_overlays", {}).values()]
    later = [thing for thing in things if thing.visible]
    for thing in later:
        thing.visible = False
    viewer.add_layer(layer)
    timer = QTimer(owner)

    def step() -> None:
        if later and layer in viewer.layers:
            later.pop(0).visible = True
        else:
            timer.stop()
            timer.deleteLater()
            then()

    timer.timeout.connect(step)
    timer.start(TURN_MS)
    return layer


def remove_by_frames(viewer: Viewer, layers: Sequence[Layer]) -> None:
    """Make layers clear, and remove them one after another, with a drawn frame before each.

    Removing two of different kinds before the next drawing ends the program with some OpenGL drivers, and so does removing two that are
    not visible: clear ones are drawn. On a busy machine a drawing may be long in coming: a time says nothing. Until then the layers stay.
    """
    from qtpy.QtOpenGLWidgets import QOpenGLWidget

    waiting = list(layers)
    for layer in waiting:
        layer.opacity = 0.0
        layer.visible = True
    canvas = viewer.window.main_menu.window().findChild(QOpenGLWidget)

    def step() -> None:
        with suppress(RuntimeError, TypeError):  # the window was closed meanwhile
            while waiting:
                layer = waiting.pop(0)
                if layer in viewer.layers:
                    viewer.layers.remove(layer)
                    canvas.update()
                    return
            canvas.frameSwapped.disconnect(drawn)

    def drawn() -> None:
        # Never from within a drawing.
        QTimer.singleShot(0, step)

    if waiting and canvas is not None:
        canvas.frameSwapped.connect(drawn)
        canvas.update()


def result_of(layer: Layer | None) -> Result | None:
    """The result that a layer shows, once its run has ended."""
    return None if layer is None else layer.metadata.get(KEY, {}).get("result")


def result_layers_of(viewer: Viewer) -> list[Labels]:
    """The labels layers that show results, those of runs under way included, in the order of the layer list."""
    from napari.layers import Labels

    return [x for x in viewer.layers if isinstance(x, Labels) and x.metadata.get(KEY, {}).keys() & {"result", "path"}]
