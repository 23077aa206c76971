"""Make the pictures of the documentation: napari is driven like a person would, on a real slide.

    xvfb-run -a -s "-screen 0 1600x1000x24" python docs/pictures.py SLIDE [--out docs/images] [--only stain]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
from PIL import Image
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_histoseg.gui import warm


class Photographer:
    """A napari window, hands on it, and a camera."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.viewer = napari.Viewer(show=True)
        self.viewer.window._qt_window.resize(1600, 1000)
        self.canvas = self.viewer.window._qt_viewer.canvas.native

    def wait(self, seconds: float = 0.5, until: Callable[[], bool] = lambda: False) -> None:
        """Let the window live."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not until():
            QApplication.processEvents()
            time.sleep(0.005)

    def save(self, name: str) -> None:
        """The whole window as a small PNG."""
        pixels = self.viewer.screenshot(canvas_only=False, flash=False)[..., :3]
        # An octree keeps the few pixels of a small sign in their color.
        picture = Image.fromarray(pixels).quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.FLOYDSTEINBERG)
        picture.save(self.out / name, optimize=True)

    def look(self, zoom: float, y_um: float, x_um: float) -> None:
        """Move the view."""
        self.viewer.scene.camera.zoom = zoom
        self.viewer.scene.camera.center = (0, y_um, x_um)
        self.wait(1.2)

    def click(self, widget: Any) -> None:
        """A left click on a button."""
        QTest.mouseClick(widget, Qt.MouseButton.LeftButton)

    def on_canvas(self, layer: Any, frame: Any, x_px: float, y_px: float) -> QPoint:
        """Where a working pixel of the slide lies on the canvas."""
        world = np.array(layer.data_to_world((y_px - frame.y - 0.5, x_px - frame.x - 0.5)))
        off = (world - np.array(self.viewer.scene.camera.center[-2:])) * self.viewer.scene.camera.zoom
        return QPoint(round(self.canvas.width() / 2 + off[1]), round(self.canvas.height() / 2 + off[0]))

    def drag(self, start: QPoint, end: QPoint) -> None:
        """Press with Shift and move, without letting go."""
        shift, left = Qt.KeyboardModifier.ShiftModifier, Qt.MouseButton.LeftButton
        QTest.mouseMove(self.canvas, start)
        QTest.mousePress(self.canvas, left, shift, start)
        for f in np.linspace(0, 1, 8):
            at = QPoint(round(start.x() + f * (end.x() - start.x())), round(start.y() + f * (end.y() - start.y())))
            there = QPointF(self.canvas.mapToGlobal(at))
            QApplication.sendEvent(
                self.canvas, QMouseEvent(QEvent.Type.MouseMove, QPointF(at), there, left, left, shift)
            )
            self.wait(0.05)


def nuclei(camera: Photographer, slide: str) -> None:
    """Open, preview, tissue, run, table, split."""
    viewer = camera.viewer
    viewer.open(slide, plugin="napari-histoseg")
    _, dock = viewer.window.add_plugin_dock_widget("napari-histoseg", "Nuclei")
    camera.wait(90, warm._ready.is_set)
    camera.wait(1)
    camera.save("open.png")
    camera.look(3, 330, 560)
    camera.click(dock.preview_button)
    camera.wait(60, lambda: dock.current is None)
    dock.models.about.expand()
    camera.wait(1.5)
    camera.save("preview.png")
    dock.models.about.collapse()
    dock.where.buttons["Tissue"].click()
    dock.header.detect.click()
    camera.wait(5, lambda: dock.header.tissue_layer() is not None)
    camera.wait(1)
    camera.save("tissue.png")
    dock.header.tissue_layer().visible = False
    camera.look(1.6, 440, 600)
    camera.click(dock.run_button)
    camera.wait(60, lambda: dock.current is None or (dock.current.labels is not None and dock.progress.bar.value() > 10))
    camera.save("running.png")
    camera.wait(300, lambda: dock.current is None)
    camera.look(3.2, 395, 545)
    camera.save("nuclei.png")
    table(camera)
    split(camera, dock)


def table(camera: Photographer) -> None:
    """The objects, largest first, one picked."""
    _, dock = camera.viewer.window.add_plugin_dock_widget("napari-histoseg", "Objects")
    camera.wait(1)
    titles = [dock.model.headerData(i, Qt.Orientation.Horizontal) for i in range(8)]
    dock.view.sortByColumn(titles.index("Area µm²"), Qt.SortOrder.DescendingOrder)
    camera.wait(0.3)
    row = dock.view.visualRect(dock.model.index(3, 0)).center()
    QTest.mouseClick(dock.view.viewport(), Qt.MouseButton.LeftButton, pos=row)
    camera.wait(1.5)
    camera.save("table.png")


def split(camera: Photographer, dock: Any) -> None:
    """A line being drawn through the nucleus in the middle."""
    layer, result = dock.edit.layer, dock.edit.result
    camera.viewer.layers.selection.active = layer
    camera.viewer.scene.camera.zoom = 10
    camera.wait(0.5)
    y_um, x_um = camera.viewer.scene.camera.center[-2:]
    objects = result.objects
    middle = objects.loc[np.hypot(objects.centroid_x_um - x_um, objects.centroid_y_um - y_um).idxmin()]
    x, y = middle.centroid_x_um / result.mpp, middle.centroid_y_um / result.mpp
    ends = [camera.on_canvas(layer, result.frame, x + d, y + d / 5) for d in (-16, 16)]
    camera.drag(*ends)
    camera.save("split.png")
    QTest.mouseRelease(
        camera.canvas, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.ShiftModifier, ends[1]
    )
    camera.wait(0.5)


def stain(camera: Photographer, slide: str) -> None:
    """The slide in the colors of a profile that ships."""
    viewer = camera.viewer
    viewer.open(slide, plugin="napari-histoseg")
    _, dock = viewer.window.add_plugin_dock_widget("napari-histoseg", "Stain")
    camera.wait(60, warm._ready.is_set)
    camera.look(2.2, 330, 560)
    camera.wait(90, lambda: dock.shown is not None)
    dock.choice.reference.setCurrentText("colon-consep")
    dock.view.split = 0.45
    camera.wait(5, lambda: not dock._latest.busy)
    camera.wait(2)
    camera.save("stain.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images")
    parser.add_argument("--only", choices=("nuclei", "stain"))
    args = parser.parse_args()
    args.out.mkdir(exist_ok=True)
    for scene in (nuclei, stain):
        if args.only in (None, scene.__name__):
            camera = Photographer(args.out)
            scene(camera, args.slide)
            camera.viewer.close()


if __name__ == "__main__":
    main()
