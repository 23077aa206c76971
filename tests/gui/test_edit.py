"""Correcting a result by pointing, with the mouse on the canvas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from scipy import ndimage

from napari_histoseg.gui.nuclei import NucleiDock
from napari_histoseg.results import open_result
from napari_histoseg.results.pyramid import open_pyramid

LEFT = Qt.MouseButton.LeftButton


class Hand:
    """Points at working pixels of the result with the mouse."""

    def __init__(self, dock: NucleiDock, qtbot: Any) -> None:
        self.dock, self.qtbot = dock, qtbot
        assert dock.edit.layer is not None
        assert dock.edit.result is not None
        self.layer, self.result = dock.edit.layer, dock.edit.result
        self.viewer = dock.viewer
        self.canvas = self.viewer.window._qt_viewer.canvas.native
        self.viewer.scene.camera.zoom = 4
        self.viewer.layers.selection.active = self.layer

    def look_at(self, x: float, y: float) -> None:
        world = self.layer.data_to_world((y - 0.5, x - 0.5))
        self.viewer.scene.camera.center = (0, *world)
        self.qtbot.wait(50)

    def at(self, x: float, y: float) -> QPoint:
        world = np.array(self.layer.data_to_world((y - 0.5, x - 0.5)))
        offset = (world - np.array(self.viewer.scene.camera.center[-2:])) * self.viewer.scene.camera.zoom
        return QPoint(round(self.canvas.width() / 2 + offset[1]), round(self.canvas.height() / 2 + offset[0]))

    def click(self, x: float, y: float, modifier: Any = Qt.KeyboardModifier.NoModifier) -> None:
        self.look_at(x, y)
        QTest.mouseMove(self.canvas, self.at(x, y))
        QTest.mouseClick(self.canvas, LEFT, modifier, self.at(x, y))
        self.qtbot.wait(50)

    def drag(self, start: Any, end: Any, modifier: Any = Qt.KeyboardModifier.NoModifier) -> None:
        self.look_at(*np.mean([start, end], axis=0))
        points = [self.at(*p) for p in np.linspace(start, end, 6)]
        QTest.mouseMove(self.canvas, points[0])
        QTest.mousePress(self.canvas, LEFT, modifier, points[0])
        for point in points[1:]:
            # QTest's own move carries no pressed button.
            self._move(point, modifier)
        QTest.mouseRelease(self.canvas, LEFT, modifier, points[-1])
        self.qtbot.wait(50)

    def _move(self, point: QPoint, modifier: Any) -> None:
        from qtpy.QtCore import QEvent, QPointF
        from qtpy.QtGui import QMouseEvent
        from qtpy.QtWidgets import QApplication

        glob = QPointF(self.canvas.mapToGlobal(point))
        event = QMouseEvent(QEvent.Type.MouseMove, QPointF(point), glob, LEFT, LEFT, modifier)
        QApplication.sendEvent(self.canvas, event)
        self.qtbot.wait(20)

    def row(self, index: int = 0) -> Any:
        """A nucleus well inside the slide."""
        table = self.result.objects
        inside = table[(table.centroid_x_um.between(60, 260)) & table.centroid_y_um.between(60, 200) & (table.area_um2 > 15)]
        return inside.iloc[index]

    def px(self, row: Any) -> tuple[float, float]:
        mpp = self.result.mpp or 1.0
        return float(row.centroid_x_um) / mpp, float(row.centroid_y_um) / mpp


@pytest.fixture
def hand(finished: NucleiDock, qtbot: Any) -> Hand:
    return Hand(finished, qtbot)


def ids(hand: Hand) -> set[int]:
    return set(hand.result.objects["id"])


def said(hand: Hand) -> str:
    return hand.dock.progress.message.text()


def test_alt_click_deletes_and_undo_brings_back(hand: Hand) -> None:
    row = hand.row()
    before = ids(hand)
    hand.click(*hand.px(row), Qt.KeyboardModifier.AltModifier)
    assert before - ids(hand) == {row.id}
    assert f"Deleted nucleus {row.id}" in said(hand)
    assert hand.result.label_at(row.centroid_x_um, row.centroid_y_um) == 0
    hand.dock.edit.undo_button.click()
    assert "Undone: deleted" in said(hand)
    assert ids(hand) == before
    hand.dock.edit.redo_button.click()
    assert before - ids(hand) == {row.id}


def test_the_canvas_shows_a_correction_at_once(hand: Hand) -> None:
    row = hand.row()
    x, y = hand.px(row)
    hand.look_at(x, y)
    world = hand.layer.data_to_world((y - 0.5, x - 0.5))
    assert hand.layer.get_value(world, world=True)[1] == row.id
    hand.dock.edit.click("Delete", (x, y))
    assert not hand.layer.get_value(world, world=True)[1]


def test_add_finds_the_nucleus_under_the_click(hand: Hand) -> None:
    row = hand.row(2)
    area = float(row.area_um2)
    hand.dock.edit.click("Delete", hand.px(row))
    count = len(hand.result.objects)
    hand.dock.edit.tools["Add"].click()
    hand.click(*hand.px(row))
    assert "Added nucleus" in said(hand)
    assert len(hand.result.objects) == count + 1
    added = hand.result.objects.loc[hand.result.objects["id"].idxmax()]
    assert added.area_um2 == pytest.approx(area, rel=0.5)
    assert added.hematoxylin_od_mean > 0
    assert np.hypot(added.centroid_x_um - row.centroid_x_um, added.centroid_y_um - row.centroid_y_um) < 1.5


def test_add_on_nothing_says_so(hand: Hand) -> None:
    labels = np.asarray(hand.result.labels)
    far = ndimage.distance_transform_edt(labels == 0)[100:400, 100:500]
    y, x = np.unravel_index(int(far.argmax()), far.shape)
    # The map of this model is never empty inside tissue: say that it is here.
    level = open_pyramid(hand.result.path, "probability", mode="r+")[0]
    level[y + 80 : y + 121, x + 80 : x + 121] = 0
    hand.dock.edit.click("Add", (float(x + 100.5), float(y + 100.5)))
    assert "No nucleus was found under the click" in said(hand)


def test_shift_drag_splits_and_the_view_stays(hand: Hand) -> None:
    row = hand.row(1)
    x, y = hand.px(row)
    before = ids(hand)
    hand.look_at(x, y)
    center = hand.viewer.scene.camera.center
    hand.drag((x - 14, y - 14), (x + 14, y + 14), Qt.KeyboardModifier.ShiftModifier)
    assert "Split nucleus" in said(hand), said(hand)
    assert len(ids(hand)) == len(before) + 1
    np.testing.assert_allclose(hand.viewer.scene.camera.center, center, atol=0.5)


def test_merge_by_a_drag_from_one_to_the_other(hand: Hand) -> None:
    row = hand.row()
    x, y = hand.px(row)
    others = hand.result.objects[hand.result.objects["id"] != row.id]
    distance = np.hypot(others.centroid_x_um - row.centroid_x_um, others.centroid_y_um - row.centroid_y_um)
    other = others.loc[distance.idxmin()]
    hand.dock.edit.tools["Merge"].click()
    before = ids(hand)
    hand.drag((x, y), hand.px(other))
    assert "Merged 2 nuclei" in said(hand), said(hand)
    assert len(ids(hand)) == len(before) - 1


def test_a_line_over_nothing_is_refused_in_words(hand: Hand) -> None:
    hand.dock.edit.drag("Split", (-50.0, -50.0), (-20.0, -20.0))
    assert "crosses no nucleus" in said(hand)


def test_look_picks_and_drags_move_the_view(hand: Hand) -> None:
    row = hand.row(3)
    hand.dock.edit.tools["Look"].click()
    hand.click(*hand.px(row))
    assert hand.layer.selected_label == row.id
    center = hand.viewer.scene.camera.center
    x, y = hand.px(row)
    hand.drag((x, y), (x + 30, y))
    assert not np.allclose(hand.viewer.scene.camera.center, center, atol=1)


def test_keys_choose_tools_and_undo(hand: Hand) -> None:
    hand.canvas.setFocus()
    for key, name in (("A", "Add"), ("D", "Delete"), ("S", "Split"), ("M", "Merge"), ("L", "Look")):
        QTest.keyClick(hand.canvas, key)
        assert hand.dock.edit.tool == name
    hand.dock.edit.click("Delete", hand.px(hand.row()))
    QTest.keyClick(hand.canvas, "Z", Qt.KeyboardModifier.ControlModifier)
    assert "Undone" in said(hand)
    QTest.keyClick(hand.canvas, "Z", Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier)
    assert "Done again" in said(hand)


def test_nothing_to_undo_is_said(hand: Hand) -> None:
    hand.dock.edit.undo()
    assert "no correction to undo" in said(hand)


def test_the_status_bar_shows_measurements_of_the_object(hand: Hand) -> None:
    row = hand.row()
    world = hand.layer.data_to_world(tuple(v - 0.5 for v in reversed(hand.px(row))))
    hand.look_at(*hand.px(row))
    status = hand.layer.get_status(world, world=True)
    assert f"area µm²: {row.area_um2:.1f}" in status["value"].replace("µm²: ", "µm²: ")
    assert "[No Properties]" not in hand.layer.get_status((1.0, 1.0), world=True)["value"]


def test_corrections_are_in_the_stored_result(hand: Hand) -> None:
    row = hand.row()
    hand.dock.edit.click("Delete", hand.px(row))
    assert row.id not in set(open_result(hand.result.path).objects["id"])
