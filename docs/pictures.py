"""Make the pictures of the documentation: napari is driven like a person would, on a real slide.

    xvfb-run -a -s "-screen 0 1600x1000x24" python docs/pictures.py SLIDE [--out docs/images] [--only stain]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import napari
import numpy as np
from PIL import Image
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_histoseg.annotations.dataset import PatchClass
from napari_histoseg.gui import warm
from napari_histoseg.gui.inspectorlist import NAME
from napari_histoseg.slide import Box

CELL_NAMES = ("pink tissue", "epidermis", "spindle")
"""What the classes of the slide's nuclei look like, the largest first."""

TISSUE_NAMES = {2: "dermis", 5: "keratin", 6: "epidermis"}
"""What some classes of the slide's tissue are, by their values."""

LSR_STEPS = 400
"""As few as make a sensible map."""

OUTLINED = (
    ((546, 367), (612, 348), (659, 404), (716, 433), (763, 490), (706, 527), (668, 603), (631, 679), (593, 754), (546, 811), (532, 641), (536, 490)),
    ((536, 830), (612, 849), (668, 924), (716, 868), (819, 764), (895, 679), (885, 735), (763, 905), (706, 981), (687, 1113), (612, 1227), (555, 1170), (546, 981)),
)
"""Corners (x, y) in µm from the slide's corner, around its epidermis."""


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

    def at(self, world: tuple[float, float]) -> QPoint:
        """Where a place in µm, ``(y, x)``, lies on the canvas."""
        off = (np.array(world) - np.array(self.viewer.scene.camera.center[-2:])) * self.viewer.scene.camera.zoom
        return QPoint(round(self.canvas.width() / 2 + off[1]), round(self.canvas.height() / 2 + off[0]))

    def key(self, name: str) -> None:
        """Press a key over the canvas."""
        QTest.keyClick(self.canvas, name)
        self.wait(0.3)

    def paint(self, corners: list[QPoint]) -> None:
        """Drag along a line."""
        none, left = Qt.KeyboardModifier.NoModifier, Qt.MouseButton.LeftButton
        QTest.mouseMove(self.canvas, corners[0])
        QTest.mousePress(self.canvas, left, none, corners[0])
        for start, end in pairwise(corners):
            for f in np.linspace(0, 1, 8):
                at = QPoint(round(start.x() + f * (end.x() - start.x())), round(start.y() + f * (end.y() - start.y())))
                there = QPointF(self.canvas.mapToGlobal(at))
                QApplication.sendEvent(self.canvas, QMouseEvent(QEvent.Type.MouseMove, QPointF(at), there, left, left, none))
                self.wait(0.02)
        QTest.mouseRelease(self.canvas, left, none, corners[-1])
        self.wait(0.2)

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
    camera.save("glass.png")
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


EPITHELIUM = [
    ((262, 565), (330, 562), (400, 590), (470, 580)), ((340, 598), (400, 608), (440, 612), (482, 612)), ((425, 560), (470, 545), (486, 560)),
]  # fmt: skip
STROMA = [((265, 500), (330, 490), (390, 482), (480, 472)), ((400, 512), (440, 515), (482, 510))]
CLICKS = [
    ((614, 485), "2"), ((907, 485), "2"), ((1229, 504), "2"), ((1097, 790), "2"), ((560, 610), "1"), ((983, 665), "1"),
    ((1324, 340), "1"), ((1229, 845), "1"), ((623, 788), "3"), ((775, 665), "3"),
]  # fmt: skip


def annotate(camera: Photographer, slide: str) -> None:
    """A patch painted with the smart brush, and ten that are clicked; places in µm, ``(y, x)``."""
    viewer, left = camera.viewer, Qt.MouseButton.LeftButton
    viewer.open(slide, plugin="napari-histoseg")
    _, dock = viewer.window.add_plugin_dock_widget("napari-histoseg", "Annotate")
    camera.wait(90, warm._ready.is_set)
    desk = dock.panel.desk
    names = (("epithelium", "#e6194b"), ("stroma", "#3cb44b"), ("keratin", "#4363d8"))
    with tempfile.TemporaryDirectory() as folder:
        desk.create(Path(folder) / "skin", 1.0, [PatchClass(value=i, name=n, color=c) for i, (n, c) in enumerate(names, 1)])
        camera.wait(1.5)
        viewer.window._qt_window.activateWindow()
        camera.canvas.setFocus()
        camera.look(2, 370, 500)
        camera.key("N")
        camera.key("S")
        camera.wait(10, lambda: desk.loader.pieces(desk.chosen) is not None)
        dock.panel.tools.set_brush(18)
        for key, strokes in (("1", EPITHELIUM), ("2", STROMA)):
            camera.key(key)
            for stroke in strokes:
                camera.paint([camera.at(place) for place in stroke])
        camera.wait(2)
        camera.save("annotate.png")
        camera.key("B")
        viewer.reset_view()
        desk.set_patch_px(128)
        camera.key("C")
        for place, key in CLICKS:
            QTest.mouseMove(camera.canvas, camera.at(place))
            QTest.mouseClick(camera.canvas, left, pos=camera.at(place))
            camera.key(key)
        camera.wait(2)
        camera.save("annotate-patches.png")


def joint(camera: Photographer, slide: str) -> None:
    """Three painted and twenty classified patches, trained on and mapped. Colors stand in for the hand that would paint."""
    viewer = camera.viewer
    viewer.open(slide, plugin="napari-histoseg")
    _, dock = viewer.window.add_plugin_dock_widget("napari-histoseg", "Joint")
    camera.wait(60, warm._ready.is_set)
    with tempfile.TemporaryDirectory() as folder:
        fill_dataset(camera, dock.panel.desk, Path(folder) / "skin")
        dock.tabs.setCurrentIndex(1)
        dock.training.form.set_values(steps=200, validate_every=50)
        viewer.reset_view()
        camera.click(dock.training.train_button)
        camera.wait(600, lambda: dock.training.current is None and not dock.busy)
        camera.wait(5, lambda: bool(dock.advice.text()))
        camera.click(dock.next.find_button)
        camera.wait(60, lambda: dock.next.current is None)
        camera.wait(2)
        camera.save("joint-train.png")
        dock.tabs.setCurrentIndex(2)
        viewer.reset_view()
        dock.where.buttons["Whole slide"].click()
        camera.click(dock.run_button)
        camera.wait(300, lambda: dock.current is None)
        camera.wait(4)
        camera.save("joint.png")


def fill_dataset(camera: Photographer, desk: Any, folder: Path) -> None:
    """Three painted patches, and twenty with a class."""
    desk.create(folder, 1.0, [PatchClass(value=1, name="epidermis", color="#e6194b"), PatchClass(value=2, name="dermis", color="#3cb44b")])
    desk.set_patch_px(192)
    session, slide = desk.require(), desk.require_slide()
    side = round(192 / slide.require_mpp())
    for part, (x, y) in enumerate(((0.25, 0.3), (0.55, 0.55), (0.75, 0.2))):
        box = Box(int(x * (slide.width - side)), int(y * (slide.height - side)), side, side)
        patch = session.add_mask_patch(slide, box, group=f"part {part}")
        session.set_mask(patch.id, classes_by_color(session.image(patch.id)))
    rng = np.random.default_rng(1)
    while len(session.patches) < 23:
        box = Box(int(rng.integers(slide.width - side // 2)), int(rng.integers(slide.height - side // 2)), side // 2, side // 2)
        share = np.bincount(classes_by_color(slide.read(0, box)[::2, ::2]).ravel(), minlength=256)[1:3] / (side // 4) ** 2
        if share.max() > 0.4:
            session.add_label_patch(slide, box, int(share.argmax()) + 1, group=f"part {len(session.patches) % 3}")
    camera.wait(2)


def classes_by_color(image: np.ndarray) -> np.ndarray:
    """Dark purple is epidermis, pink is dermis, bright is background; the rest is left open."""
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 3)
    bright, red, chroma = smooth.mean(2), smooth[..., 0], np.ptp(smooth, axis=2)
    mask = np.full(bright.shape, 255, np.uint8)
    mask[bright > 225] = 0
    mask[(bright <= 225) & (red < 165)] = 1
    mask[(bright <= 225) & (red >= 185) & (chroma > 45)] = 2
    return mask


def lsr(camera: Photographer, slide: str) -> None:
    """Blocks labeled by how much epidermis they hold, a table of shares, a training, a map. Colors stand in for the hand that would label."""
    viewer = camera.viewer
    viewer.open(slide, plugin="napari-histoseg")
    _, dock = viewer.window.add_plugin_dock_widget("napari-histoseg", "Label super-resolution")
    camera.wait(90, warm._ready.is_set)
    desk, grids = dock.panel.desk, dock.grids
    with tempfile.TemporaryDirectory() as folder:
        desk.create(Path(folder) / "skin", 1.0, [PatchClass(value=1, name="epidermis", color="#3cb44b")])
        dock.blocks.block_um.setValue(50)
        camera.click(dock.blocks.lay_button)
        camera.wait(30, lambda: grids.layers.painting and grids.layers.blocks.mode == "paint")
        viewer.window._qt_window.activateWindow()
        camera.canvas.setFocus()
        session, number, picture = desk.require(), grids.current, desk.require_slide()
        amounts = amounts_by_color(picture, grids.grid)
        half = amounts.copy()
        half[:, half.shape[1] // 2 :] = 255
        session.blocks.set_labels(number, half)
        viewer.reset_view()
        camera.wait(1)
        row = half.shape[0] // 2
        camera.key("1")
        ends = [camera.at(tuple(grids.layers.blocks.data_to_world((row, column)))) for column in (half.shape[1] - 5, half.shape[1] - 1)]
        camera.paint(ends)
        camera.wait(2)
        camera.save("lsr-blocks.png")
        session.blocks.set_labels(number, amounts)
        dock.tabs.setCurrentIndex(1)
        for _ in range(3):
            camera.click(dock.table.next_button)
            camera.wait(3)
            session.set_mask(desk.chosen, (classes_by_color(session.image(desk.chosen)) == 1).astype(np.uint8))
            camera.wait(3)
        camera.save("lsr-table.png")
        desk.choose(None)
        dock.tabs.setCurrentIndex(2)
        dock.training.form.set_values(steps=LSR_STEPS, validate_every=LSR_STEPS // 4)
        viewer.reset_view()
        viewer.layers.selection.active = desk.layer
        camera.click(dock.training.train_button)
        camera.wait(3000, lambda: dock.training.current is None and not dock.busy)
        camera.wait(4)
        camera.save("lsr-train.png")
        dock.tabs.setCurrentIndex(3)
        dock.where.buttons["Whole slide"].click()
        camera.click(dock.run_button)
        camera.wait(600, lambda: dock.current is None)
        camera.wait(4)
        camera.save("lsr.png")


def amounts_by_color(slide: Any, grid: Any) -> np.ndarray:
    """How much of each block is epidermis by its color, as one of the five amounts; glass stays open."""
    found = classes_by_color(slide.read(0, grid.box))
    rows, columns, side = grid.rows, grid.columns, grid.side_px
    blocks = found.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(rows, columns, -1)
    share = (blocks == 1).mean(2)
    amounts = 1 + np.digitize(share, (0.03, 0.3, 0.65, 0.95))
    return np.where((blocks == 0).mean(2) > 0.9, 255, amounts).astype(np.uint8)


def cells(camera: Photographer, slide: str) -> None:
    """Nuclei found, grouped into classes, looked at and named."""
    viewer = camera.viewer
    viewer.open(slide, plugin="napari-histoseg")
    finder, dock = viewer.window.add_plugin_dock_widget("napari-histoseg", "Nuclei")
    camera.wait(90, warm._ready.is_set)
    camera.look(1.3, 440, 640)
    camera.click(dock.run_button)
    camera.wait(300, lambda: dock.current is None)
    viewer.window.remove_dock_widget(finder)
    _, dock = viewer.window.add_plugin_dock_widget("napari-histoseg", "Cells")
    camera.wait(90, lambda: not any(each.is_alive() for each in warm._methods.values()))
    camera.click(dock.run_button)
    camera.wait(300, lambda: dock.current is None)
    camera.wait(20, lambda: dock.inspector.desk.book is not None)
    dock.tabs.setCurrentIndex(0)
    camera.wait(2)
    camera.save("cells.png")
    dock.tabs.setCurrentIndex(1)
    for row, name in enumerate(CELL_NAMES):
        camera.wait(1)
        dock.inspector.bar.list.item(row, NAME).setText(name)
    dock.inspector.desk.look_at(dock.inspector.desk.classes[1].value)
    camera.look(3.2, 395, 545)
    camera.wait(4)
    camera.save("cells-classes.png")


def tissue(camera: Photographer, slide: str) -> None:
    """A slide mapped, its classes named, and a network that learns classes for others."""
    viewer = camera.viewer
    viewer.open(slide, plugin="napari-histoseg")
    _, dock = viewer.window.add_plugin_dock_widget("napari-histoseg", "Tissue")
    camera.wait(90, lambda: warm._ready.is_set() and not any(each.is_alive() for each in warm._methods.values()))
    dock.where.buttons["Whole slide"].click()
    viewer.reset_view()
    camera.click(dock.run_button)
    camera.wait(300, lambda: dock.current is None)
    camera.wait(20, lambda: dock.inspector.desk.book is not None)
    for row, each in enumerate(dock.inspector.desk.classes):
        if each.value in TISSUE_NAMES:
            dock.inspector.bar.list.item(row, NAME).setText(TISSUE_NAMES[each.value])
            camera.wait(1)
    dock.inspector.desk.look_at(max(TISSUE_NAMES))
    camera.wait(4)
    camera.save("tissue.png")
    camera.look(1.6, 560, 520)
    dock.tabs.setCurrentIndex(2)
    dock.training.form.set_values(variant="paper", steps=80, validate_every=20)
    camera.click(dock.training.train_button)
    camera.wait(600, lambda: len(dock.training.curve.scores) > 2)
    camera.wait(120, lambda: not dock.busy)
    camera.save("tissue-train.png")
    camera.click(dock.training.stop_button)
    camera.wait(300, lambda: dock.training.current is None and not dock.busy)


def tumour(camera: Photographer, slide: str) -> None:
    """The epidermis outlined, as a stand-in for a tumour; a small model trained on it, and its map."""
    viewer = camera.viewer
    viewer.open(slide, plugin="napari-histoseg")
    _, dock = viewer.window.add_plugin_dock_widget("napari-histoseg", "Tumour")
    camera.wait(90, lambda: warm._ready.is_set() and not any(each.is_alive() for each in warm._methods.values()))
    viewer.reset_view()
    camera.wait(1)
    for corners in OUTLINED:
        camera.click(dock.slides.outline_button)
        camera.wait(0.5)
        corner = viewer.layers[0].extent.world[0]
        camera.paint([camera.at((corner[0] + y, corner[1] + x)) for x, y in (*corners, corners[0])])
        camera.wait(1.5)
    camera.save("tumour-slides.png")
    dock.tabs.setCurrentIndex(1)
    small = {"mpp": 0.5, "crop_px": 128, "steps": 90, "validate_every": 30, "folds": 1, "refine_steps": 60, "refine_px": 64, "val_patches": 100}
    dock.training.form.set_values(**small)
    camera.click(dock.training.train_button)
    camera.wait(600, lambda: len(dock.training.curve.scores) > 2 and dock.training.worst.isVisible())
    camera.wait(60, lambda: not dock.busy)
    camera.save("tumour-train.png")
    camera.wait(900, lambda: dock.training.current is None and not dock.busy)
    dock.tabs.setCurrentIndex(2)
    dock.where.buttons["Whole slide"].click()
    dock.form.set_values(mc_samples=5)
    camera.click(dock.run_button)
    camera.wait(300, lambda: dock.current is None and not dock.busy)
    camera.wait(5)
    camera.save("tumour.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images")
    parser.add_argument("--only", choices=("nuclei", "stain", "cells", "tissue", "tumour", "annotate", "lsr", "joint"))
    args = parser.parse_args()
    args.out.mkdir(exist_ok=True)
    for scene in (nuclei, stain, cells, tissue, tumour, annotate, lsr, joint):
        if args.only in (None, scene.__name__):
            camera = Photographer(args.out)
            scene(camera, args.slide)
            camera.viewer.close()


if __name__ == "__main__":
    main()
