"""The annotation panel, driven with mouse and keys over a slide in a file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import napari
import numpy as np
import pytest
from PIL import Image
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QFileDialog

from napari_histoseg._testing import he_image, write_svs
from napari_histoseg.annotations import imports
from napari_histoseg.annotations import session as sessions
from napari_histoseg.annotations.dataset import UNLABELED, read_dataset
from napari_histoseg.errors import StorageError
from napari_histoseg.gui import annotate, annotateroom
from napari_histoseg.gui.annotate import AnnotateDock, AnnotationPanel
from napari_histoseg.gui.annotateimport import AskRegions
from napari_histoseg.gui.annotatekeys import main_window
from napari_histoseg.gui.annotatenew import NewDataset, classes_of
from napari_histoseg.gui.annotatetools import LOOK, PAINT, PLACE, SMART
from napari_histoseg.gui.layers import slide_layer
from napari_histoseg.gui.shown import show_layers
from napari_histoseg.slide import Box, open_slide

LEFT = Qt.MouseButton.LeftButton
NONE, CONTROL, SHIFT = Qt.KeyboardModifier.NoModifier, Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier
SECONDS = 30_000
MPP, MASK_MPP, SIDE = 0.5, 1.0, 128


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two slides."""
    folder = tmp_path_factory.mktemp("slides")
    made = [write_svs(folder / f"{name}.svs", he_image(1400, 1100, seed=seed, mpp=MPP), mpp=MPP) for name, seed in (("one", 1), ("two", 2))]
    return made[0], made[1]


@pytest.fixture(autouse=True)
def warm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No imports ahead, and no room is left to the next test."""
    monkeypatch.setattr(annotate, "warm_up", lambda viewer: None)
    yield
    for room in list(annotateroom.ROOMS):
        room.desk.abandon()
    annotateroom.ROOMS.clear()


class Person:
    """Sits before the window: looks, points, paints, types."""

    def __init__(self, viewer: napari.Viewer, qtbot: Any) -> None:
        self.viewer, self.qtbot = viewer, qtbot
        self.dock = AnnotateDock(viewer)
        viewer.window.add_dock_widget(self.dock, name="Annotate")
        self.panel = self.dock.panel
        self.desk, self.tools = self.panel.desk, self.panel.tools
        self.canvas = viewer.window._qt_viewer.canvas.native
        self.heard: list[str] = []
        self.desk.said.connect(self.heard.append)
        self.desk.problem.connect(self.heard.append)
        viewer.window._qt_window.activateWindow()
        self.canvas.setFocus()
        qtbot.wait(50)

    def new(self, folder: Path, classes: str = "tumour, stroma") -> None:
        assert self.desk.do(lambda: self.desk.create(folder, MASK_MPP, classes_of(classes)))
        self.desk.set_patch_px(SIDE)
        self.until_laid_out()

    def open(self, folder: Path) -> None:
        before = self.desk.session
        self.desk.do(lambda: self.desk.open(folder))
        self.qtbot.waitUntil(lambda: self.desk.session is not before and not self.desk.busy, timeout=SECONDS)
        self.until_laid_out()

    def until_laid_out(self) -> None:
        layers = self.desk.layers
        if self.desk.slide is not None:
            self.until(lambda: layers.map is None or (layers.paint is not None and layers.patches is not None and not layers.map.wanted))

    def until(self, what: Callable[[], bool]) -> None:
        self.qtbot.waitUntil(what, timeout=SECONDS)

    # -- eyes -------------------------------------------------------------------------------------------------------

    @property
    def session(self) -> Any:
        assert self.desk.session is not None
        return self.desk.session

    @property
    def said(self) -> str:
        return str(self.panel.message.text())

    def stored(self, number: str | None = None) -> np.ndarray:
        """What is on the disk."""
        patch = self.session.patch(number or self.desk.chosen)
        return np.asarray(Image.open(self.session.folder / patch.patch.mask))

    def listed(self) -> list[dict[str, Any]]:
        """The patches in the file."""
        found: list[dict[str, Any]] = json.loads((self.session.folder / "dataset.json").read_text())["patches"]
        return found

    # -- hands ------------------------------------------------------------------------------------------------------

    def key(self, key: Any, modifier: Any = NONE) -> None:
        QTest.keyClick(self.canvas, key, modifier)
        self.qtbot.wait(20)

    def look_at(self, x: float, y: float, zoom: float = 2.0) -> None:
        """Level-0 pixels."""
        self.viewer.scene.camera.center = (0, (y - 0.5) * MPP, (x - 0.5) * MPP)
        self.viewer.scene.camera.zoom = zoom
        self.qtbot.wait(30)

    def at(self, x: float, y: float) -> QPoint:
        world = (np.array([y, x]) - 0.5) * MPP
        offset = (world - np.array(self.viewer.scene.camera.center[-2:])) * self.viewer.scene.camera.zoom
        return QPoint(round(self.canvas.width() / 2 + offset[1]), round(self.canvas.height() / 2 + offset[0]))

    def click(self, x: float, y: float) -> None:
        QTest.mouseMove(self.canvas, self.at(x, y))
        QTest.mouseClick(self.canvas, LEFT, NONE, self.at(x, y))
        self.qtbot.wait(30)

    def drag(self, *points: tuple[float, float]) -> None:
        between = [np.linspace(a, b, 5) for a, b in pairwise(points)]
        places = [self.at(*p) for p in np.concatenate(between)]
        QTest.mouseMove(self.canvas, places[0])
        QTest.mousePress(self.canvas, LEFT, NONE, places[0])
        for place in places[1:]:
            # QTest's own move carries no pressed button.
            glob = QPointF(self.canvas.mapToGlobal(place))
            QApplication.sendEvent(self.canvas, QMouseEvent(QEvent.Type.MouseMove, QPointF(place), glob, LEFT, LEFT, NONE))
            self.qtbot.wait(10)
        QTest.mouseRelease(self.canvas, LEFT, NONE, places[-1])
        self.qtbot.wait(30)

    def patch_here(self, x: float = 600, y: float = 500) -> str:
        """A segmentation patch around a level-0 pixel, opened with the brush."""
        self.look_at(x, y)
        self.key("N")
        assert self.desk.chosen is not None, self.said
        self.until(lambda: self.desk.layers.paint.visible and self.desk.layers.paint.mode != "pan_zoom")
        self.qtbot.wait(30)
        return str(self.desk.chosen)


@pytest.fixture
def bare(make_napari_viewer: Callable[..., napari.Viewer]) -> napari.Viewer:
    """A viewer without a slide."""
    return make_napari_viewer(show=True)


@pytest.fixture
def person(bare: napari.Viewer, files: tuple[Path, Path], qtbot: Any) -> Person:
    """Somebody with a slide open."""
    show_layers(bare, [slide_layer(open_slide(files[0]))])
    return Person(bare, qtbot)


@pytest.fixture
def busy(person: Person, tmp_path: Path) -> Person:
    """Somebody with a slide and a new dataset."""
    person.new(tmp_path / "set")
    return person


# -- segmentation patches -----------------------------------------------------------------------------------------------


def test_a_new_patch_lies_in_the_middle_of_the_view_over_its_pixels(busy: Person) -> None:
    busy.patch_here(601, 502)
    patch = busy.desk.current
    assert patch is not None and patch.kind == "mask"
    assert patch.box == Box(472, 374, 2 * SIDE, 2 * SIDE)
    paint, layer = busy.desk.layers.paint, busy.desk.layer
    assert paint is not None and layer is not None
    assert paint.data.shape == (SIDE, SIDE)
    assert (paint.data == UNLABELED).all()
    # The mask's corners are the patch's, through the layers' own transforms; a mask pixel is two slide pixels wide.
    for mask, slide in (((-0.5, -0.5), (373.5, 471.5)), ((SIDE - 0.5, SIDE - 0.5), (629.5, 727.5))):
        np.testing.assert_allclose(paint.data_to_world(mask), layer.data_to_world(slide), atol=1e-9)
    assert tuple(str(u) for u in paint.units) == ("micrometer", "micrometer")
    assert busy.tools.tool == PAINT
    assert paint.mode == "paint"


def test_a_patch_is_moved_into_the_slide_and_refused_beside_it(busy: Person) -> None:
    busy.patch_here(3, 1090)
    assert busy.desk.current is not None and busy.desk.current.box == Box(0, 1100 - 2 * SIDE, 2 * SIDE, 2 * SIDE)
    busy.look_at(-800, 500)
    busy.key("N")
    assert "beside one.svs" in busy.said
    assert len(busy.session.patches) == 1


def test_a_stroke_is_on_the_disk_when_it_ends_and_not_before(busy: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    number = busy.patch_here()
    writes = []
    real = sessions.AnnotationSession.set_mask
    monkeypatch.setattr(sessions.AnnotationSession, "set_mask", lambda self, *args: (writes.append(args[0]), real(self, *args))[1])
    busy.key("1")
    busy.drag((560, 480), (600, 500), (640, 480), (660, 520))
    assert writes == [number]
    on_disk = busy.stored()
    assert set(np.unique(on_disk)) == {1, UNLABELED}
    np.testing.assert_array_equal(on_disk, busy.desk.layers.paint.data)
    # Where the mouse was, and nowhere else.
    painted = np.argwhere(on_disk == 1) * 2 + 1 + (busy.desk.current.box.y, busy.desk.current.box.x)
    assert np.abs(painted.mean(0) - (495, 612)).max() < 20
    read_dataset(busy.session.folder)


def test_background_and_unlabelled_are_two_things(busy: Person) -> None:
    busy.patch_here()
    busy.key("2")
    busy.drag((560, 480), (640, 480))
    busy.key("0")
    busy.drag((560, 540), (640, 540))
    assert set(np.unique(busy.stored())) == {0, 2, UNLABELED}
    colors = busy.desk.layers.paint.colormap.map(np.array([0, UNLABELED], np.uint8))
    assert colors[0][3] > 0
    assert colors[1][3] == 0
    busy.key("E")
    busy.drag((550, 540), (650, 540))
    assert set(np.unique(busy.stored())) == {2, UNLABELED}
    busy.key("B")
    assert set(np.unique(busy.stored())) == {0, 2}
    assert "background" in busy.said


def test_polygon_and_fill(busy: Person) -> None:
    busy.patch_here()
    busy.key("G")
    corners = ((540, 440), (660, 440), (660, 560), (540, 560))
    for x, y in corners:
        busy.click(x, y)
    QTest.mouseDClick(busy.canvas, LEFT, NONE, busy.at(540, 560))
    busy.until(lambda: (busy.stored() == 1).any())
    assert (busy.stored() == 1).sum() == pytest.approx(60 * 60, rel=0.1)
    busy.key("F")
    busy.key("2")
    busy.click(600, 500)
    assert (busy.stored() == 2).sum() == pytest.approx(60 * 60, rel=0.1)


def test_the_smart_brush_paints_whole_superpixels_in_one_stroke(busy: Person) -> None:
    number = busy.patch_here()
    busy.key("S")
    assert busy.tools.tool == SMART
    busy.until(lambda: busy.desk.loader.pieces(number) is not None)
    steps = busy.session.can_undo
    center = busy.viewer.scene.camera.center
    busy.drag((560, 480), (600, 500), (640, 480))
    np.testing.assert_allclose(busy.viewer.scene.camera.center, center)
    painted = busy.stored() == 1
    pieces = busy.desk.loader.pieces(number).labels
    share = np.bincount(pieces[painted], minlength=pieces.max() + 1) / np.bincount(pieces.ravel())
    assert painted.any()
    assert set(np.unique(share)) == {0.0, 1.0}
    assert busy.session.can_undo != steps
    busy.key("Z", CONTROL)
    assert (busy.stored() == UNLABELED).all()


def test_slides_are_read_and_superpixels_found_off_the_main_thread(busy: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    for name in ("image", "thumbnail"):
        real = getattr(sessions.AnnotationSession, name)

        def watched(self: Any, *args: Any, real: Any = real) -> Any:
            threads.append(threading.current_thread())
            return real(self, *args)

        monkeypatch.setattr(sessions.AnnotationSession, name, watched)
    number = busy.patch_here()
    model = busy.panel.room.patches
    busy.until(lambda: busy.desk.loader.pieces(number) is not None and number in model._pictures)
    assert threads
    assert threading.main_thread() not in threads


def test_undo_and_redo_say_what_and_change_window_and_disk(busy: Person) -> None:
    number = busy.patch_here()
    busy.drag((560, 480), (640, 480))
    first = busy.stored()
    busy.key("2")
    busy.drag((560, 520), (640, 520))
    busy.key("Z", CONTROL)
    assert busy.said == f"Undid: painting in {number}."
    np.testing.assert_array_equal(busy.stored(), first)
    np.testing.assert_array_equal(busy.desk.layers.paint.data, first)
    busy.key("Z", CONTROL)
    assert (busy.desk.layers.paint.data == UNLABELED).all()
    busy.key("Z", CONTROL | SHIFT)
    assert busy.said.startswith("Redid")
    np.testing.assert_array_equal(busy.desk.layers.paint.data, first)
    for _ in range(2):
        busy.key("Z", CONTROL)
    assert not busy.session.patches
    busy.key("Z", CONTROL)
    assert "nothing to undo" in busy.said


def test_what_cannot_be_written_stays_and_is_written_with_the_next_stroke(busy: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    number = busy.patch_here()
    full = StorageError("Writing to /x failed: the disk is full. Free space and try again.")

    def refuse(*args: Any) -> None:
        raise full

    with monkeypatch.context() as patched:
        patched.setattr(sessions.AnnotationSession, "set_mask", refuse)
        busy.drag((560, 480), (640, 480))
        assert busy.said == str(full)
        assert (busy.desk.layers.paint.data == 1).any()
        # Also when another patch is taken in hand meanwhile.
        busy.desk.choose(None)
    assert (busy.stored(number) == UNLABELED).all()
    busy.desk.go_to(number)
    assert (busy.desk.layers.paint.data == 1).any()
    busy.key("2")
    busy.drag((560, 520), (640, 520))
    assert set(np.unique(busy.stored())) == {1, 2, UNLABELED}
    assert not busy.desk.unsaved


def test_a_click_beside_the_open_patch_takes_another_one_without_painting(busy: Person) -> None:
    first = busy.patch_here(500, 500)
    second = busy.patch_here(900, 500)
    busy.look_at(700, 500, zoom=1)
    assert busy.tools.tool == PAINT
    busy.click(500, 500)
    assert busy.desk.chosen == first
    assert (busy.stored(first) == UNLABELED).all()
    busy.click(500, 500)
    assert (busy.stored(first) == 1).any()
    assert (busy.stored(second) == UNLABELED).all()


def test_deleting_the_paint_layer_loses_nothing(busy: Person) -> None:
    number = busy.patch_here()
    busy.drag((560, 480), (640, 480))
    before = busy.stored(number)
    busy.viewer.layers.remove(busy.desk.layers.paint)
    busy.qtbot.wait(50)
    assert not busy.desk.painting
    busy.desk.go_to(number)
    busy.until(lambda: busy.desk.layers.paint.mode == "paint")
    np.testing.assert_array_equal(busy.desk.layers.paint.data, before)
    busy.drag((560, 520), (640, 520))
    assert (busy.stored(number) == 1).sum() > (before == 1).sum()


def test_the_brush_stays_in_the_hand_when_another_layer_goes(busy: Person) -> None:
    busy.patch_here()
    extra = busy.viewer.add_points(np.zeros((1, 2)), units="um")
    busy.viewer.layers.selection.active = busy.desk.layers.paint
    busy.viewer.layers.remove(extra)
    busy.until(lambda: busy.desk.layers.paint.mode == "paint")
    busy.drag((560, 480), (640, 480))
    assert (busy.stored() == 1).any()


# -- classification patches ---------------------------------------------------------------------------------------------


def test_click_and_number_make_a_classification_patch(busy: Person) -> None:
    busy.look_at(600, 500, zoom=1)
    busy.key("C")
    assert busy.tools.tool == PLACE
    for x, y, key in ((500, 400, "1"), (900, 700, "2")):
        busy.click(x, y)
        busy.key(key)
    assert [p["label"] for p in busy.listed()] == ["tumour", "stroma"]
    assert busy.listed()[0]["box"] == [500 - SIDE, 400 - SIDE, 2 * SIDE, 2 * SIDE]
    # Another number is another class; a drag moves the view and places nothing.
    busy.key("1")
    assert busy.listed()[1]["label"] == "tumour"
    busy.drag((600, 500), (640, 540))
    assert len(busy.listed()) == 2
    busy.key("L")
    busy.click(500, 400)
    assert busy.desk.chosen == busy.listed()[0]["id"]


def test_shift_and_number_add_and_take_away_classes(busy: Person) -> None:
    busy.look_at(600, 500, zoom=1)
    busy.key("C")
    busy.key("2", SHIFT)
    assert "Only a classification patch can have several classes" in busy.said
    busy.click(500, 400)
    busy.key("1")
    busy.key("2", SHIFT)
    assert busy.listed()[0]["label"] == ["tumour", "stroma"] and busy.said == "Patch p0001: tumour + stroma."
    model = busy.panel.list.view.model()
    assert model.data(model.index(0)).startswith("p0001  tumour + stroma\n")
    rows = {row[0]: row for row in ([busy.panel.classes.table.item(i, j).text() for j in (2, 3)] for i in range(3))}
    assert rows["tumour"][1] == rows["stroma"][1] == "0 + 1"
    frames = busy.desk.layers.patches
    # A frame of each class within the other, and that of the chosen patch around them.
    assert len(frames.data) == 12 and len(np.unique(np.round(frames.edge_color, 2), axis=0)) == 3
    sides = [np.ptp(frames.data[4 * i : 4 * i + 4, 0, 0]) for i in range(3)]
    assert sides[1] < sides[0] < sides[2]
    busy.key("1", SHIFT)
    assert busy.listed()[0]["label"] == "stroma"
    busy.key("Z", CONTROL)
    assert busy.listed()[0]["label"] == ["tumour", "stroma"] and busy.said == "Undid: class 'tumour' taken from p0001."
    busy.key("1")
    assert busy.listed()[0]["label"] == "tumour"
    busy.key("7", SHIFT)
    assert "No class has the value 7" in busy.said


def test_the_background_is_a_class_of_patches_once_it_has_a_name(busy: Person) -> None:
    busy.look_at(600, 500, zoom=1)
    busy.key("C")
    busy.click(500, 400)
    busy.key("0")
    assert "no name yet" in busy.said
    table = busy.panel.classes.table
    table.item(0, 2).setText("glass")
    busy.key("0")
    assert busy.listed()[0]["label"] == "glass"
    busy.key("7")
    assert "no class with the key 7" in busy.said


def test_frames_have_the_colors_of_their_classes(busy: Person) -> None:
    busy.look_at(600, 500, zoom=1)
    busy.key("C")
    busy.click(500, 400)
    busy.key("1")
    frames = busy.desk.layers.patches
    assert frames is not None
    colors = {tuple(np.round(c, 2)) for c in frames.edge_color}
    busy.panel.classes.recolor(1, "#00ff00")
    assert (0.0, 1.0, 0.0, 1.0) in {tuple(np.round(c, 2)) for c in frames.edge_color} - colors
    # Lines lie along the patch's border.
    starts = frames.data[:4, 0]
    assert np.abs(starts.min(0) - (400 - SIDE, 500 - SIDE)).max() < 12


def test_frames_that_somebody_hid_are_right_when_they_are_seen_again(busy: Person) -> None:
    first = busy.patch_here(300, 300)
    busy.patch_here(900, 700)
    frames = busy.desk.layers.patches
    frames.visible = False
    busy.desk.remove(first)
    busy.desk.choose(None)
    frames.visible = True
    assert len(frames.data) == len(frames.edge_color) == 4


# -- classes ------------------------------------------------------------------------------------------------------------


def test_classes_are_added_renamed_and_removed_unless_used(busy: Person) -> None:
    classes = busy.panel.classes
    classes.add_button.click()
    assert busy.desk.value == 3
    row = classes.table.rowCount() - 1
    classes.table.item(row, 2).setText("fat")
    assert [c.name for c in busy.session.classes] == ["tumour", "stroma", "fat"]
    classes.table.item(row, 2).setText("stroma")
    assert "already" in busy.said
    assert classes.table.item(row, 2).text() == "fat"
    classes.remove_button.click()
    assert [c.name for c in busy.session.classes] == ["tumour", "stroma"]
    busy.patch_here()
    busy.key("1")
    busy.drag((560, 480), (640, 480))
    classes.remove_button.click()
    assert "used by 1 painted patch" in busy.said
    assert len(busy.session.classes) == 2


def test_counts_and_areas_follow_each_stroke(busy: Person) -> None:
    busy.patch_here()
    busy.drag((560, 480), (640, 480))
    count = next(c for c in busy.session.counts() if c.value == 1)
    table = busy.panel.classes.table
    assert table.item(1, 3).text() == "1 + 0"
    assert table.item(1, 4).text() == f"{count.painted_um2:,.0f} µm²"
    assert count.painted_um2 == (busy.stored() == 1).sum() * MASK_MPP**2


def test_a_row_of_the_table_chooses_the_class(busy: Person) -> None:
    busy.patch_here()
    table = busy.panel.classes.table
    place = table.visualItemRect(table.item(2, 2)).center()
    QTest.mouseClick(table.viewport(), LEFT, NONE, place)
    assert busy.desk.layers.paint.selected_label == 2


# -- keys ---------------------------------------------------------------------------------------------------------------


def test_keys_do_not_fire_while_typing_and_go_with_the_panel(busy: Person) -> None:
    busy.patch_here()
    group = busy.panel.list.group
    group.setFocus()
    group.selectAll()
    busy.qtbot.wait(20)
    for letter in ("p", "1", "7", "n", "c"):
        QTest.keyClick(group, letter)
    assert group.text() == "p17nc"
    assert busy.tools.tool == PAINT
    assert len(busy.session.patches) == 1
    QTest.keyClick(group, Qt.Key.Key_Return)
    assert busy.listed()[0]["group"] == "p17nc"
    busy.canvas.setFocus()
    busy.dock.hide()
    busy.key("L")
    busy.key("N")
    assert busy.tools.tool == PAINT
    assert len(busy.session.patches) == 1


def test_keys_leave_other_layers_alone(busy: Person) -> None:
    busy.viewer.add_points(np.zeros((1, 2)), units="um")
    busy.key("N")
    assert not busy.session.patches
    busy.viewer.layers.selection.active = busy.desk.layer
    busy.key("N")
    assert len(busy.session.patches) == 1


def test_the_brush_grows_and_shrinks(busy: Person) -> None:
    busy.patch_here()
    before = busy.tools.brush_px
    busy.key("]")
    assert busy.desk.layers.paint.brush_size > before
    busy.key("[")
    assert busy.panel.bar.brush.value() == busy.desk.layers.paint.brush_size == busy.tools.brush_px


# -- the list -----------------------------------------------------------------------------------------------------------


def test_a_click_in_the_list_flies_there_and_opens_the_patch(busy: Person) -> None:
    first = busy.patch_here(300, 300)
    busy.drag((280, 300), (320, 300))
    busy.patch_here(1000, 800)
    view = busy.panel.list.view
    QTest.mouseClick(view.viewport(), LEFT, NONE, view.visualRect(view.model().index(0, 0)).center())
    assert busy.desk.chosen == first
    np.testing.assert_allclose(busy.viewer.scene.camera.center[-2:], np.array([299.5, 299.5]) * MPP, atol=1)
    assert (busy.desk.layers.paint.data == 1).any()
    assert busy.panel.list.group.text() == "one"
    busy.key(".")
    assert busy.desk.chosen != first
    busy.key(",")
    assert busy.desk.chosen == first


def test_delete_removes_and_undo_brings_back(busy: Person) -> None:
    number = busy.patch_here()
    busy.drag((560, 480), (640, 480))
    before = busy.stored()
    busy.key(Qt.Key.Key_Delete)
    assert not busy.listed()
    assert not busy.desk.painting
    busy.key("Z", CONTROL)
    np.testing.assert_array_equal(busy.stored(number), before)
    assert busy.panel.room.patches.rowCount() == 1


def test_group_and_split_are_stored_and_the_next_patch_has_the_group(busy: Person) -> None:
    busy.patch_here()
    busy.panel.list.group.setText("patient 7")
    busy.panel.list.group.editingFinished.emit()
    busy.panel.list.split.setCurrentIndex(2)
    busy.panel.list.split.activated.emit(2)
    busy.patch_here(1000, 800)
    assert [(p["group"], p.get("split")) for p in busy.listed()] == [("patient 7", "val"), ("patient 7", None)]


def test_the_thumbnail_follows_the_painting(busy: Person) -> None:
    number = busy.patch_here()
    model = busy.panel.room.patches
    busy.until(lambda: number in model._pictures)
    before = model._pictures[number]
    busy.drag((560, 480), (640, 480))
    busy.until(lambda: model._pictures[number] is not before)
    seen, was = (icon.pixmap(64, 64).toImage() for icon in (model._pictures[number], before))
    assert seen != was


# -- leaving and coming back --------------------------------------------------------------------------------------------


def test_everything_is_in_its_place_when_the_dataset_is_opened_again(
    busy: Person, make_napari_viewer: Callable[..., napari.Viewer], files: tuple[Path, Path], qtbot: Any
) -> None:
    number = busy.patch_here(500, 400)
    busy.drag((480, 400), (520, 400))
    mask, folder = busy.stored(), busy.session.folder
    busy.look_at(600, 500, zoom=1)
    busy.key("C")
    busy.click(1000, 700)
    busy.key("2")
    busy.viewer.window.remove_dock_widget(busy.dock)
    busy.until(lambda: busy.desk.session is None)
    busy.until(lambda: not [layer for layer in busy.viewer.layers if layer.name in ("Paint", "Patches", "Annotations")])

    viewer = make_napari_viewer(show=True)
    show_layers(viewer, [slide_layer(open_slide(files[0]))])
    again = Person(viewer, qtbot)
    again.open(folder)
    assert [p.kind for p in again.desk.here()] == ["mask", "label"]
    layers, box = again.desk.layers, again.desk.find(number).box
    again.until(lambda: (layers.map.coarsest != UNLABELED).any())
    image = again.desk.layer
    # Through the transforms of the two layers: each painted pixel is shown over its two slide pixels.
    for row, column in np.argwhere(mask == 1)[::40]:
        world = image.data_to_world((box.y + 2 * row + 0.5, box.x + 2 * column + 0.5))
        _, value = layers.annotations.get_value(world, world=True)
        assert value == 1
    assert not layers.annotations.editable
    again.desk.go_to(number)
    np.testing.assert_array_equal(layers.paint.data, mask)
    assert (layers.map.levels[0][:, :] == UNLABELED).all()


PAINTER = """
import sys
from pathlib import Path

import napari
import numpy as np
from qtpy.QtTest import QTest

from napari_histoseg.gui import annotate
from napari_histoseg.gui.annotatenew import classes_of
from napari_histoseg.gui.layers import slide_layer
from napari_histoseg.gui.shown import show_layers
from napari_histoseg.slide import open_slide

annotate.warm_up = lambda viewer: None
viewer = napari.Viewer(show=True)
show_layers(viewer, [slide_layer(open_slide(sys.argv[1]))])
dock = annotate.AnnotateDock(viewer)
viewer.window.add_dock_widget(dock, name="Annotate")
desk = dock.panel.desk
desk.create(Path(sys.argv[2]), 1.0, classes_of("a"))
viewer.scene.camera.center = (0, 250, 300)
dock.panel.keys.new_mask_patch()
while desk.layers.paint.mode != "paint":
    QTest.qWait(20)
for stroke in range(1, 200):
    desk.layers.paint.data_setitem((np.array([0]), np.array([stroke])), 1)
    QTest.qWait(5)
    print(stroke, flush=True)
"""


def test_a_kill_while_painting_costs_one_stroke_at_most(files: tuple[Path, Path], tmp_path: Path) -> None:
    command = [sys.executable, "-c", PAINTER, str(files[0]), str(tmp_path / "set")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as painter:
        assert painter.stdout is not None
        told = 0
        while told < 30:
            line = painter.stdout.readline()
            assert line, "the painter ended by itself"
            told = int(line) if line.strip().isdigit() else told
        painter.kill()
        told += len(painter.stdout.read().split())
    with sessions.AnnotationSession.open(tmp_path / "set") as session:
        painted = int((session.mask(session.patches[0].id) == 1).sum())
    assert told - 1 <= painted <= told + 1


def test_a_second_window_is_told_that_the_dataset_is_in_use(
    busy: Person, make_napari_viewer: Callable[..., napari.Viewer], qtbot: Any
) -> None:
    folder = busy.session.folder
    other = Person(make_napari_viewer(show=True), qtbot)
    assert other.panel.room is not busy.panel.room
    other.desk.open(folder)
    qtbot.waitUntil(lambda: bool(other.said) and not other.desk.busy, timeout=SECONDS)
    assert other.desk.session is None
    assert str(folder) in other.said
    assert "open" in other.said or "in use" in other.said
    busy.desk.close()
    other.open(folder)
    assert other.desk.session is not None


def test_panels_of_one_window_share_the_dataset(busy: Person) -> None:
    second = AnnotateDock(busy.viewer)
    busy.viewer.window.add_dock_widget(second, name="Second")
    assert second.panel.session is busy.session
    busy.patch_here()
    assert second.panel.list.view.model().rowCount() == 1
    assert second.panel.chosen == busy.panel.chosen
    busy.viewer.window.remove_dock_widget(second)
    busy.qtbot.wait(50)
    assert busy.desk.session is not None
    busy.key("L")
    assert busy.tools.tool == LOOK


def test_the_questions_of_the_dataset_row(person: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = person.panel.data
    folder = tmp_path / "asked"

    def fill_in(dialog: NewDataset) -> int:
        dialog.folder.setText(str(folder))
        dialog.mpp.setValue(1.0)
        dialog.classes.setText("fat, , gland,fat")
        return 1

    monkeypatch.setattr(NewDataset, "exec", fill_in)
    data.new_button.click()
    assert [(c.value, c.name) for c in person.session.classes] == [(1, "fat"), (2, "gland")]
    assert "asked" in data.name.text()
    data.new_button.click()
    assert "open already" in person.said
    person.desk.close()
    data.new_button.click()
    assert "holds a dataset already" in person.said
    assert data.name.text() == "No dataset is open."
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *args: str(folder))
    data.open_button.click()
    person.until(lambda: person.desk.session is not None)
    data.open_button.click()
    assert "open already" in person.said


def test_a_viewer_is_handed_over_as_napari_does(bare: napari.Viewer, files: tuple[Path, Path], tmp_path: Path, qtbot: Any) -> None:
    from napari.utils._proxies import PublicOnlyProxy

    show_layers(bare, [slide_layer(open_slide(files[0]))])
    person = Person(bare, qtbot)
    other = AnnotateDock(PublicOnlyProxy(bare))
    assert other.panel.room is person.panel.room
    person.viewer.window.remove_dock_widget(person.dock)
    bare.window.add_dock_widget(other, name="Other")
    person.panel, person.desk = other.panel, other.panel.desk
    person.new(tmp_path / "set")
    # The layers of the panel before go one after another.
    qtbot.wait(600)
    person.patch_here()
    person.drag((560, 480), (640, 480))
    assert (person.stored() == 1).any()


def test_a_broken_dataset_names_every_problem_and_is_left_as_it_is(person: Person, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    text = json.dumps({"mpp": 1.0, "classes": [], "patches": [{"image": "a.png"}, {"image": "b.png", "label": "x"}]})
    (folder / "dataset.json").write_text(text)
    person.desk.open(folder)
    person.until(lambda: not person.desk.busy)
    assert "a.png" in person.said
    assert "b.png" in person.said
    assert person.desk.session is None
    assert (folder / "dataset.json").read_text() == text


# -- imports ------------------------------------------------------------------------------------------------------------


def test_regions_of_qupath_become_patches_over_the_slide(busy: Person, tmp_path: Path) -> None:
    ring = [[400, 300], [600, 300], [600, 450], [400, 450], [400, 300]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "annotation", "classification": {"name": "necrosis", "color": [10, 200, 30]}},
    }
    path = tmp_path / "regions.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    busy.panel.data.import_geojson(path)
    assert not busy.panel.classes.isEnabled()
    busy.until(lambda: not busy.desk.busy)
    assert busy.said.startswith("1 patch from regions.geojson.")
    assert busy.panel.classes.isEnabled()
    made = next(c for c in busy.session.classes if c.name == "necrosis")
    assert made.color == "#0ac81e"
    patch = busy.desk.here()[0]
    busy.panel.go_to(patch.id)
    rows, columns = np.nonzero(busy.desk.layers.paint.data == made.value)
    inside = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) * 2 + (patch.box.x, patch.box.y) * 2
    np.testing.assert_allclose(inside, (400, 300, 600, 450), atol=2)


def regions(path: Path, count: int = 1) -> Path:
    rings = [[[x, 300], [x + 40, 300], [x + 40, 340], [x, 340], [x, 300]] for x in range(100, 100 + 300 * count, 300)]
    features = [{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {"classification": {"name": "necrosis"}}} for ring in rings]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_what_lies_beside_regions_and_whose_they_are_is_asked(busy: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = regions(tmp_path / "r.geojson")
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(path), ""))
    suggested: list[str] = []

    def answer(dialog: AskRegions) -> bool:
        suggested.append(dialog.group.text())
        dialog.outside.setCurrentText("is background")
        dialog.group.setText(" patient 7 ")
        return len(suggested) > 1

    monkeypatch.setattr(AskRegions, "exec", answer)
    busy.panel.data.ask_geojson()
    assert not busy.desk.busy and not busy.desk.patches()
    busy.panel.data.ask_geojson()
    busy.until(lambda: not busy.desk.busy)
    (patch,) = busy.desk.patches()
    assert set(np.unique(busy.stored(patch.id))) == {0, 3} and patch.patch.group == "patient 7"
    monkeypatch.setattr(AskRegions, "exec", lambda dialog: suggested.append(dialog.group.text()))
    busy.panel.data.ask_geojson()
    assert suggested == ["one", "one", "patient 7"]


def test_an_import_shows_how_far_it_is_and_can_be_cancelled(busy: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, reached = threading.Event(), threading.Event()
    paint = imports._Painter.paint

    def slow(painter: Any, box: Box, shape: tuple[int, int]) -> Any:
        reached.set()
        assert gate.wait(120)
        return paint(painter, box, shape)

    monkeypatch.setattr(imports._Painter, "paint", slow)
    bar = busy.panel.importing
    path = regions(tmp_path / "r.geojson", 4)
    busy.panel.data.import_geojson(path)
    assert bar.isVisible() and not busy.panel.data.isEnabled() and bar.cancel_button.isEnabled()
    busy.until(lambda: reached.is_set() and 0 < bar.progress.bar.value() < bar.progress.bar.maximum())
    assert bar.progress.words.text().startswith("Importing r.geojson")
    QTest.mouseClick(bar.cancel_button, LEFT)
    assert not bar.cancel_button.isEnabled()
    gate.set()
    busy.until(lambda: not busy.desk.busy)
    assert busy.said == "Cancelled. Nothing was imported from r.geojson." and not bar.isVisible()
    assert not busy.desk.patches() and "necrosis" not in [c.name for c in busy.session.classes]
    busy.panel.data.import_geojson(path)
    assert bar.cancel_button.isEnabled()
    busy.until(lambda: not busy.desk.busy)
    assert len(busy.desk.patches()) == 4 and busy.said.startswith("4 patches from r.geojson.")


def test_pictures_with_masks_are_copied_in_and_can_be_painted(busy: Person, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("images", "masks"):
        (source / name).mkdir(parents=True)
    picture = he_image(90, 70, seed=6)
    Image.fromarray(picture).save(source / "images" / "a.png")
    Image.fromarray(np.full((70, 90), 2, np.uint8)).save(source / "masks" / "a.png")
    busy.panel.data.import_folder(source, "masks")
    busy.until(lambda: not busy.desk.busy)
    number = busy.listed()[0]["id"]
    busy.panel.go_to(number)
    busy.until(lambda: any(layer.name == "Patch image" for layer in busy.viewer.layers))
    shown = busy.viewer.layers["Patch image"]
    np.testing.assert_array_equal(shown.data, picture)
    paint = busy.desk.layers.paint
    np.testing.assert_allclose(paint.data_to_world((0, 0)), shown.data_to_world((0, 0)))
    busy.key("P")
    busy.key("1")
    QTest.mouseClick(busy.canvas, LEFT, NONE, QPoint(busy.canvas.width() // 2, busy.canvas.height() // 2))
    busy.qtbot.wait(30)
    assert set(np.unique(busy.stored())) == {1, 2}
    busy.patch_here()
    assert "Patch image" not in [layer.name for layer in busy.viewer.layers]


def test_a_folder_of_classes_becomes_classification_patches(busy: Person, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for i, name in enumerate(("tumour", "debris")):
        (source / name).mkdir(parents=True)
        Image.fromarray(he_image(64, 64, seed=i)).save(source / name / f"{i}.png")
    busy.panel.data.import_folder(source, "classes")
    busy.until(lambda: not busy.desk.busy)
    assert sorted(p["label"] for p in busy.listed()) == ["debris", "tumour"]
    assert [c.name for c in busy.session.classes] == ["tumour", "stroma", "debris"]
    number = next(p["id"] for p in busy.listed() if p["label"] == "debris")
    busy.panel.go_to(number)
    busy.until(lambda: any(layer.name == "Patch image" for layer in busy.viewer.layers))
    assert not busy.desk.painting
    busy.key("2")
    assert busy.session.patch(number).patch.label == "stroma"


def test_an_import_that_is_refused_says_why(busy: Person, tmp_path: Path) -> None:
    path = tmp_path / "x.geojson"
    path.write_text("nonsense")
    busy.panel.data.import_geojson(path)
    busy.until(lambda: not busy.desk.busy)
    assert "x.geojson" in busy.said
    assert busy.panel.classes.isEnabled()


# -- several slides -----------------------------------------------------------------------------------------------------


def test_a_patch_of_another_slide_brings_its_slide(busy: Person, files: tuple[Path, Path]) -> None:
    first = busy.patch_here()
    show_layers(busy.viewer, [slide_layer(open_slide(files[1]))])
    assert busy.desk.slide is not None and busy.desk.slide.name == "two.svs"
    assert not busy.desk.painting
    busy.patch_here(700, 600)
    assert len(busy.desk.here()) == 1
    busy.panel.go_to(first)
    assert busy.desk.slide.name == "one.svs"
    assert busy.desk.painting
    assert "on 2 slides" in busy.panel.data.name.text()


def test_a_slide_that_is_not_open_is_opened(busy: Person) -> None:
    first = busy.patch_here()
    busy.viewer.layers.remove(busy.desk.layer)
    assert busy.desk.slide is None
    busy.qtbot.wait(100)
    assert not [layer for layer in busy.viewer.layers if layer.name in ("Paint", "Patches") and layer.visible]
    busy.panel.go_to(first)
    busy.until(lambda: busy.desk.slide is not None)
    busy.until(lambda: busy.desk.painting)
    assert busy.desk.chosen == first


def test_a_slide_that_moved_is_found_among_the_open_ones_or_by_asking(
    bare: napari.Viewer, files: tuple[Path, Path], tmp_path: Path, qtbot: Any
) -> None:
    here = tmp_path / "here" / "s.svs"
    here.parent.mkdir()
    shutil.copy(files[0], here)
    person = Person(bare, qtbot)
    layer = show_layers(bare, [slide_layer(open_slide(here))])[0]
    person.new(tmp_path / "set")
    number = person.patch_here()
    folder = person.session.folder
    person.desk.close()
    qtbot.wait(100)
    bare.layers.remove(layer)
    qtbot.wait(100)
    there = tmp_path / "there" / "renamed.svs"
    there.parent.mkdir()
    shutil.move(here, there)
    person.open(folder)
    data = person.panel.data
    person.until(lambda: data.find_button.isVisibleTo(data))
    assert "s.svs is not where it was" in data.missing.text()
    person.panel.go_to(number)
    assert "not where it was" in person.said
    data.found(data._slides[0], str(files[1]))
    assert "another slide" in person.said
    person.until(lambda: bool(data._slides))
    data.found(data._slides[0], str(there))
    person.until(lambda: not data.find_button.isVisibleTo(data))
    assert Path(person.listed()[0]["slide"]) == there
    person.panel.go_to(number)
    person.until(lambda: person.desk.painting)


def test_an_open_slide_that_moved_is_recognized(bare: napari.Viewer, files: tuple[Path, Path], tmp_path: Path, qtbot: Any) -> None:
    old = tmp_path / "old.svs"
    shutil.copy(files[0], old)
    person = Person(bare, qtbot)
    layer = show_layers(bare, [slide_layer(open_slide(old))])[0]
    person.new(tmp_path / "set")
    person.patch_here()
    folder = person.session.folder
    person.desk.close()
    qtbot.wait(100)
    bare.layers.remove(layer)
    qtbot.wait(100)
    old.unlink()
    show_layers(bare, [slide_layer(open_slide(files[0]))])
    person.open(folder)
    assert len(person.desk.here()) == 1
    assert Path(person.listed()[0]["slide"]) == files[0]
    assert not person.panel.data.find_button.isVisibleTo(person.panel.data)


def test_a_slide_without_a_pixel_size_is_refused_in_words(bare: napari.Viewer, tmp_path: Path, qtbot: Any) -> None:
    path = write_svs(tmp_path / "s.svs", he_image(600, 500, seed=4), mpp=None)
    show_layers(bare, [slide_layer(open_slide(path))])
    person = Person(bare, qtbot)
    person.new(tmp_path / "set")
    person.key("N")
    assert "has no pixel size" in person.said
    person.dock.header.mpp.setValue(MPP)
    person.dock.header.use.click()
    person.until_laid_out()
    person.patch_here(300, 250)
    assert person.desk.painting


def test_without_a_dataset_the_keys_say_what_to_do(person: Person) -> None:
    person.key("N")
    assert "No dataset is open" in person.said
    assert main_window(person.panel) is person.viewer.window._qt_window
    assert isinstance(person.panel, AnnotationPanel)
