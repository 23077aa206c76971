"""The dock "Label super-resolution", driven as a person does: lay a grid, drag, state shares, train, map."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import napari
import numpy as np
import pytest
from napari.utils._proxies import PublicOnlyProxy
from PIL import Image
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_histoseg._testing import he_image, write_svs
from napari_histoseg.annotations.blocks import BlockGrid
from napari_histoseg.annotations.dataset import UNLABELED, read_dataset
from napari_histoseg.annotations.session import AnnotationSession
from napari_histoseg.errors import StorageError
from napari_histoseg.gui import annotate, annotateroom, rundock
from napari_histoseg.gui.annotatenew import classes_of
from napari_histoseg.gui.layers import KEY, slide_layer
from napari_histoseg.gui.lsr import LsrDock
from napari_histoseg.gui.lsrblocks import HEAT, PATCHES, TISSUE, whole_blocks
from napari_histoseg.gui.lsrgrid import DIMMED, OPACITY
from napari_histoseg.gui.lsrpaint import glass_blocks
from napari_histoseg.gui.shown import show_layers
from napari_histoseg.gui.trainpanel import models_in
from napari_histoseg.slide import Box, open_slide, tissue_mask

LEFT = Qt.MouseButton.LeftButton
NO, CONTROL, SHIFT = Qt.KeyboardModifier.NoModifier, Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier
MPP, MASK_MPP = 0.5, 2.0
BLOCK_UM, SIDE = 64.0, 128
"""Of a block: µm, and level-0 pixels."""
ROWS, COLUMNS = 8, 12
PURPLE = np.array([120, 60, 150], np.uint8)
FAST = {"steps": 4, "batch": 6, "group": 2, "width": 4, "validate_every": 2, "threads": 1, "precision": "float32", "device": "cpu"}


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two slides whose right half is purple tissue; the last four columns of blocks are glass."""
    folder, made = tmp_path_factory.mktemp("slides"), []
    for seed in (1, 2):
        image = he_image(COLUMNS * SIDE, ROWS * SIDE, seed=seed, mpp=MPP, glass=0.0)
        middle, glass = 4 * SIDE, 8 * SIDE
        image[:, middle:] = image[:, middle:] // 3 + PURPLE // 2
        image[:, glass:] = 244
        made.append(write_svs(folder / f"slide{seed}.svs", image, mpp=MPP))
    return made[0], made[1]


@pytest.fixture(autouse=True)
def ready(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No imports ahead, and no room is left to the next test."""
    for each in (rundock, annotate):
        monkeypatch.setattr(each, "warm_up", lambda viewer: None)
    yield
    for room in list(annotateroom.ROOMS):
        room.desk.abandon()
    annotateroom.ROOMS.clear()


class Person:
    """Sits before the window."""

    def __init__(self, viewer: napari.Viewer, qtbot: Any, folder: Path) -> None:
        self.viewer, self.qtbot, self.folder = viewer, qtbot, folder
        # As napari hands it over.
        self.dock = LsrDock(PublicOnlyProxy(viewer))
        viewer.window.add_dock_widget(self.dock, name="Label super-resolution")
        self.grids, self.blocks, self.table, self.training = self.dock.grids, self.dock.blocks, self.dock.table, self.dock.training
        self.desk = self.dock.panel.desk
        self.canvas = viewer.window._qt_viewer.canvas.native
        self.training.form.set_values(**FAST)
        self.dock.form.set_values(tile_px=256, device="cpu", precision="float32")
        self.blocks.block_um.setValue(BLOCK_UM)
        viewer.window._qt_window.activateWindow()
        self.canvas.setFocus()
        qtbot.wait(50)

    def until(self, what: Callable[[], bool]) -> None:
        self.qtbot.waitUntil(what)

    def new(self, classes: str = "purple") -> None:
        assert self.desk.do(lambda: self.desk.create(self.folder, MASK_MPP, classes_of(classes)))

    def open(self, folder: Path) -> None:
        self.desk.do(lambda: self.desk.open(folder))
        self.until(lambda: not self.desk.busy)

    def lay(self) -> None:
        """A dataset with a grid over the slide, to be painted in."""
        if self.desk.session is None:
            self.new()
        self.blocks.lay_button.click()
        self.until_laid()

    def until_laid(self) -> None:
        layers = self.grids.layers
        self.until(lambda: self.grids.current is not None and layers.blocks is not None and layers.blocks.visible)
        self.until(lambda: not layers.painting or layers.blocks.mode in ("paint", "erase"))  # type: ignore[union-attr]
        self.viewer.reset_view()
        self.qtbot.wait(80)

    def label(self, column: int, amount: int) -> None:
        """Give a column of blocks a label as if it were painted."""
        layer = self.grids.layers.blocks
        assert layer is not None
        layer.data_setitem(np.nonzero(np.arange(COLUMNS)[None, :].repeat(ROWS, 0) == column), amount)
        layer.events.paint(value=[])
        self.qtbot.wait(20)

    def learnable(self) -> None:
        """Three labels on each of two slides' worth of blocks."""
        self.lay()
        for column, amount in ((0, 1), (1, 1), (3, 3), (4, 5), (5, 5)):
            self.label(column, amount)

    def train(self) -> str:
        """Train to the end, or to what is wrong, which is returned."""
        self.training.train_button.click()
        self.until(lambda: self.training.current is None and not self.dock.busy)
        return str(self.training.progress.message.text())

    # -- eyes -------------------------------------------------------------------------------------------------------

    @property
    def said(self) -> str:
        return str(self.dock.panel.message.text())

    def stored(self) -> np.ndarray:
        """What is on the disk."""
        (entry,) = [each for each in self.file()["patches"] if "blocks" in each]
        return np.asarray(Image.open(self.folder / entry["blocks"]))

    def file(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "dataset.json").read_text())
        return found

    def names(self) -> list[str]:
        return [each["name"] for each in self.file()["coarse_classes"]]

    # -- hands ------------------------------------------------------------------------------------------------------

    def key(self, key: Any, modifier: Any = NO) -> None:
        QTest.keyClick(self.canvas, key, modifier)
        self.qtbot.wait(30)

    def at(self, row: int, column: int) -> QPoint:
        """The middle of a block on the canvas."""
        layer = self.grids.layers.blocks
        assert layer is not None
        off = (np.array(layer.data_to_world((row, column))) - np.array(self.viewer.scene.camera.center[-2:])) * self.viewer.scene.camera.zoom
        return QPoint(round(self.canvas.width() / 2 + off[1]), round(self.canvas.height() / 2 + off[0]))

    def drag(self, *blocks: tuple[int, int]) -> None:
        between = [np.linspace(a, b, 6) for a, b in pairwise(blocks)]
        places = [self.at(*place) for place in np.concatenate(between)]
        QTest.mouseMove(self.canvas, places[0])
        QTest.mousePress(self.canvas, LEFT, NO, places[0])
        for place in places[1:]:
            # QTest's own move carries no pressed button.
            there = QPointF(self.canvas.mapToGlobal(place))
            QApplication.sendEvent(self.canvas, QMouseEvent(QEvent.Type.MouseMove, QPointF(place), there, LEFT, LEFT, NO))
            self.qtbot.wait(10)
        QTest.mouseRelease(self.canvas, LEFT, NO, places[-1])
        self.qtbot.wait(40)


@pytest.fixture
def person(make_napari_viewer: Callable[..., napari.Viewer], files: tuple[Path, Path], qtbot: Any, tmp_path: Path) -> Person:
    viewer = make_napari_viewer(show=True)
    show_layers(viewer, [slide_layer(open_slide(files[0]))])
    made = Person(viewer, qtbot, tmp_path / "blocks")
    made.until(lambda: made.desk.slide is not None)
    return made


# -- painting -----------------------------------------------------------------------------------------------------------


def test_without_a_dataset_nothing_can_be_pressed(person: Person) -> None:
    for each in (person.blocks.lay_button, person.training.train_button, person.table.next_button, person.dock.run_button):
        assert not each.isEnabled()
    # The panel is on two pages, with what belongs there.
    for panel, parts in ((person.dock.panel, ["Dataset", "Classes"]), (person.dock.painting, ["Annotate", "Patches"])):
        assert [part.title() for part in panel._parts if not part.isHidden()] == parts


def test_a_grid_lies_over_the_slide_with_a_pixel_a_block(person: Person) -> None:
    person.lay()
    layers, slide = person.grids.layers, person.desk.layer
    assert layers.blocks is not None and layers.lines is not None and slide is not None
    assert layers.blocks.data.shape == (ROWS, COLUMNS)
    assert (layers.blocks.data == UNLABELED).all()
    # The corners of the blocks are those of the slide's pixels, through the layers' own transforms.
    for row, column in ((0, 0), (ROWS, COLUMNS), (3, 5)):
        mine = layers.blocks.data_to_world((row - 0.5, column - 0.5))
        np.testing.assert_allclose(mine, slide.data_to_world((SIDE * row - 0.5, SIDE * column - 0.5)), atol=1e-9)
    lines = layers.lines.data
    assert len(lines) == ROWS + 1 + COLUMNS + 1
    np.testing.assert_allclose(layers.lines.data_to_world(lines[-1][0]), slide.data_to_world((-0.5, SIDE * COLUMNS - 0.5)), atol=1e-9)
    assert person.names() == ["none", "a little", "about half", "mostly", "all"]
    assert [row["class"] for row in person.file()["statistics"]] == [1] * 5


def test_a_stroke_labels_blocks_and_is_on_the_disk_when_it_ends(person: Person) -> None:
    person.lay()
    person.key("4")
    person.drag((2, 3), (2, 7))
    stored = person.stored()
    assert np.argwhere(stored == 4).tolist() == [[2, column] for column in range(3, 8)]
    assert (stored != UNLABELED).sum() == 5
    np.testing.assert_array_equal(person.grids.layers.blocks.data, stored)  # type: ignore[union-attr]
    assert person.grids.counts == person.grids.totals == {4: 5}
    row = person.blocks._values.index(4)
    assert [person.blocks.palette_table.item(row, column).text() for column in range(4)] == ["4", "mostly", "5", "5"]


def test_nothing_is_written_before_the_stroke_ends(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_histoseg.annotations.blockwork import BlockWork

    person.lay()
    writes, down = [], []
    real = BlockWork.set_labels
    monkeypatch.setattr(BlockWork, "set_labels", lambda self, *args: (writes.append(QApplication.mouseButtons()), real(self, *args))[1])
    person.grids.layers.stroke.connect(lambda: down.append(len(writes)))
    person.drag((1, 1), (1, 9), (6, 9))
    assert len(writes) == 1
    assert down == [0]


def test_keys_take_labels_and_the_eraser(person: Person) -> None:
    person.lay()
    person.key("1")
    person.drag((1, 1), (1, 4))
    person.key("5")
    person.drag((1, 3), (1, 6))
    assert person.stored()[1].tolist()[1:7] == [1, 1, 5, 5, 5, 5]
    person.key("0")
    person.drag((1, 2), (1, 3))
    assert person.stored()[1].tolist()[1:7] == [1, UNLABELED, UNLABELED, 5, 5, 5]
    person.key("2")
    person.key(Qt.Key.Key_Delete)
    person.drag((1, 5), (1, 6))
    assert person.stored()[1].tolist()[1:7] == [1, UNLABELED, UNLABELED, 5, UNLABELED, UNLABELED]
    person.key("9")
    assert "There are 5 coarse labels" in person.said
    person.key(Qt.Key.Key_Escape)
    assert person.grids.layers.blocks.mode == "pan_zoom"  # type: ignore[union-attr]


def test_a_click_on_the_list_takes_a_label_and_a_click_on_a_block_paints_it(person: Person) -> None:
    person.lay()
    table = person.blocks.palette_table
    table.cellClicked.emit(person.blocks._values.index(3), 1)
    QTest.mouseMove(person.canvas, person.at(4, 4))
    QTest.mouseClick(person.canvas, LEFT, NO, person.at(4, 4))
    person.qtbot.wait(40)
    assert np.argwhere(person.stored() == 3).tolist() == [[4, 4]]
    # The panel's own clicks, which take patches in hand, are for other layers.
    assert person.desk.chosen is None


def test_undo_and_redo_change_window_and_disk(person: Person) -> None:
    person.lay()
    person.key("2")
    person.drag((1, 1), (1, 4))
    first = person.stored()
    person.drag((5, 1), (5, 4))
    person.key("Z", CONTROL)
    assert person.said.startswith("Undid: blocks of")
    np.testing.assert_array_equal(person.stored(), first)
    np.testing.assert_array_equal(person.grids.layers.blocks.data, first)  # type: ignore[union-attr]
    assert person.grids.counts == {2: 4}
    person.key("Z", CONTROL | SHIFT)
    assert (person.stored()[5] == 2).sum() == 4
    for _ in range(3):
        person.blocks.undo_button.click()
    assert person.grids.current is None
    assert not person.grids.layers.blocks.visible  # type: ignore[union-attr]
    assert not person.file()["patches"]


def test_a_stroke_that_cannot_be_written_is_written_with_the_next(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_histoseg.annotations.blockwork import BlockWork

    def refuse(*args: Any) -> None:
        raise StorageError("Writing to /x failed: the disk is full. Free space and try again.")

    person.lay()
    with monkeypatch.context() as patched:
        patched.setattr(BlockWork, "set_labels", refuse)
        person.label(1, 2)
    assert "the disk is full" in person.said
    assert (person.stored() == UNLABELED).all()
    person.label(2, 3)
    assert (person.stored()[:, 1:3] == (2, 3)).all()


def test_a_dataset_comes_back_with_its_grid_in_place(person: Person) -> None:
    person.lay()
    person.label(3, 4)
    before = person.grids.layers.blocks.extent.world  # type: ignore[union-attr]
    assert person.desk.do(lambda: person.desk.create(person.folder.with_name("other"), MASK_MPP, classes_of("a")))
    assert not person.grids.layers.blocks.visible  # type: ignore[union-attr]
    person.open(person.folder)
    person.until_laid()
    np.testing.assert_allclose(person.grids.layers.blocks.extent.world, before)  # type: ignore[union-attr]
    assert (person.grids.layers.blocks.data[:, 3] == 4).all()  # type: ignore[union-attr]
    assert person.grids.totals == {4: ROWS}


def test_a_closed_dock_gives_the_dataset_free_and_takes_its_layers_away(person: Person) -> None:
    person.lay()
    person.viewer.window.remove_dock_widget(person.dock)
    person.until(lambda: person.desk.session is None)
    person.until(lambda: len(person.viewer.layers) == 1)
    with AnnotationSession.open(person.folder) as session:
        assert len(session.patches) == 1


def test_each_slide_has_its_own_grid(person: Person, files: tuple[Path, Path]) -> None:
    person.lay()
    person.label(1, 2)
    first = person.desk.layer
    show_layers(person.viewer, [slide_layer(open_slide(files[1]))])
    person.until(lambda: person.desk.slide is not None and person.desk.slide.name == files[1].name)
    assert person.grids.current is None
    person.lay()
    person.label(2, 5)
    assert person.grids.totals == {2: ROWS, 5: ROWS}
    assert len(person.file()["patches"]) == 2
    person.viewer.layers.selection.active = first
    person.until(lambda: person.grids.counts == {2: ROWS})
    assert (person.grids.layers.blocks.data[:, 1] == 2).all()  # type: ignore[union-attr]
    groups = {each["group"] for each in person.file()["patches"]}
    assert len(groups) == 2


def test_glass_is_labeled_at_once_where_that_is_wanted(person: Person) -> None:
    person.new()
    person.blocks.glass.setChecked(True)
    person.blocks.lay_button.click()
    person.until_laid()
    stored = person.stored()
    assert (stored[:, 9:] == 1).all()
    assert (stored[:, :7] == UNLABELED).all()
    assert "of glass hold" in person.said


def test_a_grid_over_the_tissue_leaves_the_glass_out(person: Person) -> None:
    person.new()
    person.blocks.area.setCurrentText(TISSUE)
    person.blocks.lay_button.click()
    person.until_laid()
    # Of glass no more than what whole blocks around the tissue take along.
    assert person.stored().shape in [(ROWS, 8), (ROWS, 9)]


@pytest.mark.parametrize(
    ("stretch", "size", "found"), [((0, 100), 1000, (0, 120)), ((300, 421), 1000, (270, 180)), ((890, 1000), 1000, (880, 120)), ((10, 990), 1000, (0, 1000))]
)
def test_whole_blocks_cover_a_stretch(stretch: tuple[int, int], size: int, found: tuple[int, int]) -> None:
    assert whole_blocks(*stretch, 60, size) == found


def test_glass_is_what_holds_next_to_no_tissue(files: tuple[Path, Path]) -> None:
    with open_slide(files[0]) as slide:
        mask = tissue_mask(slide)
        grid = BlockGrid.over(slide, BLOCK_UM)
        found = glass_blocks(grid, mask)
        one_by_one = [[mask.fraction(grid.block(r, c)) < 0.05 for c in range(COLUMNS)] for r in range(ROWS)]
    np.testing.assert_array_equal(found, one_by_one)
    assert 0 < found.sum() < found.size


def test_blocks_larger_than_the_slide_are_a_sentence(person: Person) -> None:
    person.new()
    person.blocks.block_um.setValue(5000)
    person.blocks.lay_button.click()
    assert "Blocks of 5000 µm are larger than slide1.svs" in person.said
    assert not person.file()["patches"]


def test_a_dataset_that_another_window_holds_is_a_sentence(person: Person) -> None:
    with AnnotationSession.create(person.folder, mpp=MASK_MPP):
        person.open(person.folder)
        assert person.desk.session is None
        assert str(person.folder) in person.said or "another" in person.said
        assert not person.blocks.lay_button.isEnabled()
    person.open(person.folder)
    assert person.blocks.lay_button.isEnabled()


def test_maps_are_looked_at_without_blocks_over_them(person: Person) -> None:
    person.lay()
    layers = person.grids.layers
    assert layers.blocks is not None and layers.lines is not None
    for tab, seen in ((1, True), (2, False), (3, False), (0, True)):
        person.dock.tabs.setCurrentIndex(tab)
        assert (layers.blocks.visible, layers.lines.visible) == (seen, seen)
    # The brush is put down as the page with the labels goes, and keys mean the slide.
    assert layers.blocks.mode == "pan_zoom"
    assert person.viewer.layers.selection.active == person.desk.layer


# -- other sources ------------------------------------------------------------------------------------------------------


def test_a_heatmap_from_a_file_labels_all_blocks(person: Person, tmp_path: Path) -> None:
    person.new()
    ramp = np.linspace(0, 255, COLUMNS * 4).astype(np.uint8)[None].repeat(ROWS * 4, 0)
    Image.fromarray(ramp).save(tmp_path / "heat.png")
    person.blocks.source.setCurrentText(HEAT)
    heat = person.blocks.heat
    assert not heat.label_button.isEnabled()
    heat.take(tmp_path / "heat.png")
    heat.label_button.click()
    person.until_laid()
    stored = person.stored()
    assert (np.diff(stored.astype(int), axis=1) >= 0).all()
    assert stored[0, 0] == 0
    assert stored[0, -1] == 9
    assert person.names()[0] == "0–10 %"
    assert f"{ROWS * COLUMNS} of {ROWS * COLUMNS} blocks have a label" in person.said
    assert person.table.problems.text().startswith("No shares are stated")


@pytest.mark.parametrize(("edges", "sentence"), [("0, 0.5, 0.2, 1", "rise from 0 to 1"), ("0, half, 1", "are no edges of bins")])
def test_edges_that_do_not_rise_are_a_sentence(person: Person, tmp_path: Path, edges: str, sentence: str) -> None:
    person.new()
    Image.fromarray(np.zeros((8, 12), np.uint8)).save(tmp_path / "heat.png")
    heat = person.blocks.heat
    heat.take(tmp_path / "heat.png")
    heat.bins.setCurrentText("own edges")
    heat.edges.setText(edges)
    heat.label_button.click()
    assert sentence in person.said
    assert person.grids.current is None


def test_classified_patches_become_blocks(person: Person) -> None:
    person.new("pink, purple")
    slide = person.desk.require_slide()
    for i in range(3):
        person.desk.require().add_label_patch(slide, Box(SIDE * i, 0, SIDE, SIDE), 1 + i % 2)
    person.blocks.source.setCurrentText(PATCHES)
    person.blocks.adopt_button.click()
    assert [each.get("coarse") for each in person.file()["patches"]] == [1, 2, 1]
    assert person.grids.totals == {1: 2, 2: 1}
    assert person.said.startswith("3 patches became blocks.")


# -- the table ----------------------------------------------------------------------------------------------------------


def share_of(person: Person, coarse: int) -> tuple[float, float]:
    (row,) = [each for each in person.file()["statistics"] if (each["coarse"], each["class"]) == (coarse, 1)]
    return row["eta"], row["rho"]


def test_what_is_typed_is_in_the_dataset(person: Person) -> None:
    person.lay()
    person.label(1, 4)
    table = person.table.table
    row = table._rows.index(4)
    assert table.item(row, 1).text() == "85 ± 10"
    table.item(row, 1).setText("70 ± 5")
    assert share_of(person, 4) == pytest.approx((0.7, 0.05))
    assert table.item(row, 2).text() == "30"
    assert person.table.problems.text() == "The table can be used."
    person.desk.undo()
    assert share_of(person, 4) == pytest.approx((0.85, 0.1))
    assert table.item(row, 1).text() == "85 ± 10"


@pytest.mark.parametrize(("text", "sentence"), [("120 ± 5", "more than a whole block"), ("70 ± 0", "above 0"), ("much", "is no share")])
def test_a_table_that_cannot_be_used_says_why_and_training_does_not_begin(person: Person, text: str, sentence: str) -> None:
    person.learnable()
    table = person.table.table
    table.item(table._rows.index(3), 1).setText(text)
    assert sentence in person.table.problems.text()
    assert share_of(person, 3) == pytest.approx((0.5, 0.15))
    person.training.train_button.click()
    assert person.training.current is None
    assert sentence in person.training.progress.message.text()
    table.item(table._rows.index(3), 1).setText("55")
    assert person.table.problems.text() == "The table can be used."
    assert share_of(person, 3) == pytest.approx((0.55, 0.15))


def test_shares_of_more_than_100_percent_are_a_sentence(person: Person) -> None:
    person.new("pink, purple")
    person.lay()
    person.label(1, 4)
    table = person.table.table
    row = table._rows.index(4)
    table.item(row, 2).setText("40 ± 5")
    assert "sum to 125.0%" in person.table.problems.text()
    person.training.train_button.click()
    person.until(lambda: person.training.current is None)
    assert "sum to 125.0%" in person.training.progress.message.text()


def test_blocks_of_a_label_without_shares_are_a_sentence(person: Person) -> None:
    person.lay()
    person.label(1, 4)
    table = person.table.table
    table.item(table._rows.index(4), 1).setText("")
    assert "'mostly' has blocks and no shares in the table" in person.table.problems.text()
    person.table.amounts_button.click()
    assert person.table.problems.text() == "The table can be used."


def test_the_papers_table_is_for_one_class(person: Person) -> None:
    person.new()
    person.table.paper_button.click()
    assert share_of(person, 9) == pytest.approx((0.7, 0.05))
    person.desk.require().add_class("stroma")
    person.table.paper_button.click()
    assert "one class beside background" in person.said


# -- painted blocks -----------------------------------------------------------------------------------------------------


def paint_half(person: Person, part: float) -> None:
    """Paint the patch in hand: the class in this part of it, the rest is background."""
    paint = person.desk.layers.paint
    assert paint is not None
    mask = np.zeros(paint.data.shape, np.uint8)
    mask[:, : round(part * mask.shape[1])] = 1
    person.desk.require().set_mask(str(person.desk.chosen), mask)


def test_the_next_block_to_paint_is_of_the_label_with_fewest(person: Person) -> None:
    person.lay()
    person.label(1, 2)
    person.label(4, 5)
    person.dock.tabs.setCurrentIndex(1)
    person.until(lambda: person.desk.layers.paint is not None)
    boxes = []
    for part in (0.25, 1.0, 0.3):
        person.until(lambda: person.table.current is None and not person.table._later.isActive())
        person.table.next_button.click()
        assert person.desk.painting, person.said
        assert person.grids.layers.blocks.opacity == DIMMED  # type: ignore[union-attr]
        boxes.append(person.desk.current.box)  # type: ignore[union-attr]
        paint_half(person, part)
    assert [(box.x // SIDE, box.width) for box in boxes if box] == [(1, SIDE), (4, SIDE), (1, SIDE)]
    assert len(set(boxes)) == 3
    # The view is there.
    world = person.desk.layer.data_to_world((boxes[-1].y + SIDE / 2, boxes[-1].x + SIDE / 2))  # type: ignore[union-attr]
    np.testing.assert_allclose(person.viewer.scene.camera.center[-2:], world, atol=1)
    person.grids.take(1)
    assert person.grids.layers.blocks.opacity == OPACITY  # type: ignore[union-attr]


def test_a_block_that_is_half_painted_comes_first_again(person: Person) -> None:
    person.lay()
    person.label(1, 2)
    person.until(lambda: person.desk.layers.paint is not None)
    person.table.next_button.click()
    number = person.desk.chosen
    person.desk.choose(None)
    person.table.next_button.click()
    assert person.desk.chosen == number
    assert "is not painted wholly yet" in person.said


def test_the_table_is_measured_in_painted_blocks(person: Person) -> None:
    person.lay()
    person.label(1, 2)
    session, slide, grid = person.desk.require(), person.desk.require_slide(), person.grids.grid
    assert grid is not None
    assert not person.table.measure_button.isEnabled()
    for row, share in enumerate((0.25, 0.5)):
        patch = session.add_mask_patch(slide, grid.block(row, 1))
        mask = np.zeros(session.mask(patch.id).shape, np.uint8)
        mask[:, : round(share * mask.shape[1])] = 1
        session.set_mask(patch.id, mask)
    person.until(lambda: 2 in person.table.shares and len(person.table.shares[2]) == 2)
    table = person.table.table
    assert table.item(table._rows.index(2), 4).text() == "2/10"
    # Stated are 15 %, and painted 38 %.
    assert "2 painted blocks of 'a little' hold 38% purple" in person.table.problems.text() or person.table.problems.text() == "The table can be used."
    person.table.measure_button.click()
    assert share_of(person, 2) == pytest.approx((0.375, np.std((0.25, 0.5), ddof=1)), abs=1e-3)
    assert share_of(person, 4) == pytest.approx((0.85, 0.1))
    assert "2 of 'a little'" in person.said
    read_dataset(person.folder)


# -- training and mapping -----------------------------------------------------------------------------------------------


def test_training_makes_a_model_whose_shares_are_plotted(person: Person) -> None:
    person.learnable()
    said = person.train()
    assert "Nothing was held out" in said
    (model,) = models_in(person.folder, "lsr")
    assert person.dock.models.choice.weights == model
    assert "shares" in person.training.curve.losses
    shares = {share.coarse: share for share in person.dock.plot.shares}
    assert set(shares) == {1, 3, 5}
    assert shares[3].stated == 0.5
    assert all(share.found is not None and 0 <= share.found <= 1 for share in shares.values())
    assert shares[3].words.startswith("about half, purple: ")
    assert not person.dock.plot_group.isHidden()
    # The view was mapped with the best weights.
    (layer,) = [each for each in person.viewer.layers if each.metadata.get(KEY, {}).get("kind") == "labels"]
    assert layer.name == "Lsr of slide1.svs preview"


def test_the_slide_is_mapped_with_areas(person: Person) -> None:
    person.learnable()
    person.training.watch.setChecked(False)
    said = person.train()
    assert person.dock.models.any, said
    person.dock.where.buttons["Whole slide"].setChecked(True)
    person.dock.run_button.click()
    person.until(lambda: person.dock.current is None)
    (layer,) = [each for each in person.viewer.layers if each.metadata.get(KEY, {}).get("kind") == "labels"]
    assert set(np.unique(np.asarray(layer.data[0]))) <= {0, 1}
    assert person.dock.progress.words.text().startswith("Done: a map of purple.")
    person.until(lambda: "mm²" in person.dock.areas.text())
    assert "%" not in person.dock.areas.text()
    assert person.dock.export_button.isEnabled()


def test_without_labels_training_says_what_is_missing(person: Person) -> None:
    person.lay()
    assert "has no coarse labels" in person.train()
    assert not models_in(person.folder, "lsr")
