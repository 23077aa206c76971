"""The inspector of classes: what it shows is what is stored, both ways between list, pictures, map and slide."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import napari
import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest

from napari_histoseg._testing_clusters import cluster_result, slide_record, stored, tissue_result
from napari_histoseg.gui.highlight import NAME
from napari_histoseg.gui.inspector import ClusterInspector
from napari_histoseg.gui.inspectorcolors import rgba
from napari_histoseg.gui.inspectorlist import COLOR, MEAN, SHARE, SIZE, TICK
from napari_histoseg.gui.inspectorlist import NAME as NAME_COLUMN
from napari_histoseg.gui.layers import result_layers
from napari_histoseg.gui.shown import show_layers
from napari_histoseg.results import Result, open_result
from napari_histoseg.results.classmap import class_areas
from napari_histoseg.slide import Slide

CLASSES = 4


@pytest.fixture
def result(scene: tuple[np.ndarray, np.ndarray], slide: Slide, tmp_path: Path) -> Result:
    """The scene's nuclei in four classes."""
    return cluster_result(tmp_path / "cells", slide, scene[1], CLASSES)


@pytest.fixture
def messages() -> list[str]:
    """What the panel said."""
    return []


@pytest.fixture
def panel(viewer: napari.Viewer, result: Result, slide: Slide, messages: list[str], qtbot: Any) -> ClusterInspector:
    """The panel in the window, showing the result."""
    return opened(viewer, result, slide, messages, qtbot)


def opened(viewer: napari.Viewer, result: Result, slide: Slide | None, messages: list[str], qtbot: Any) -> ClusterInspector:
    layer = show_layers(viewer, result_layers(result))[-1]
    made = ClusterInspector(viewer)
    made.message.connect(messages.append)
    viewer.window.add_dock_widget(made, name="Inspector")
    made.show_result(result, layer, slide)
    qtbot.waitUntil(lambda: made.desk.book is not None, timeout=20_000)
    return made


def layer_of(panel: ClusterInspector) -> Any:
    assert panel.desk.layer is not None
    return panel.desk.layer


def texts(panel: ClusterInspector, column: int) -> list[str]:
    table = panel.bar.list
    return [table.item(row, column).text() for row in range(table.rowCount())]


def wanted_colors(panel: ClusterInspector) -> np.ndarray:
    """What the objects' colors should be, by the table that is on the disk."""
    assert panel.desk.result is not None
    again = open_result(panel.desk.result.path)
    colors = {each.name: each.color for each in again.classes}
    return np.array([rgba(colors[name]) for name in again.objects["class"]])


def shown_colors(panel: ClusterInspector) -> np.ndarray:
    return np.asarray(layer_of(panel).colormap.map(panel.desk.ids))


def assert_shows_what_is_stored(panel: ClusterInspector) -> None:
    assert panel.desk.result is not None
    again = open_result(panel.desk.result.path)
    counts = again.objects["class"].value_counts()
    assert texts(panel, NAME_COLUMN) == [each.name for each in again.classes]
    assert texts(panel, SIZE) == [f"{counts.get(each.name, 0):,}" for each in again.classes]
    np.testing.assert_allclose(shown_colors(panel), wanted_colors(panel), atol=1e-6)


def settle(panel: ClusterInspector, qtbot: Any) -> None:
    qtbot.waitUntil(lambda: not panel.desk.work.running and not panel.measurements.work.running, timeout=20_000)


# -- classes --------------------------------------------------------------------------------------------------------------


def test_it_opens_with_the_classes_as_they_are_stored(panel: ClusterInspector, qtbot: Any) -> None:
    assert_shows_what_is_stored(panel)
    assert len(panel.desk.ids) > 50
    assert panel.desk.value is not None
    settle(panel, qtbot)
    assert all(float(text) > 0 for text in texts(panel, MEAN))


def test_pixels_have_the_colors_of_their_classes(panel: ClusterInspector, viewer: napari.Viewer, qtbot: Any) -> None:
    layer = layer_of(panel)
    layer.opacity = 1.0
    viewer.layers[0].visible = False
    wanted = {tuple(round(255 * part) for part in rgba(each.color)[:3]) for each in panel.desk.classes} | {(0, 0, 0)}

    def seen() -> set[Any]:
        shot = viewer.screenshot(flash=False, size=None).reshape(-1, 4)
        return {tuple(color) for color in np.unique(shot[:, :3], axis=0).tolist()}

    qtbot.waitUntil(lambda: seen() == wanted)


def test_renaming_by_typing_in_the_list(panel: ClusterInspector) -> None:
    panel.bar.list.item(1, NAME_COLUMN).setText("lymphocyte")
    assert texts(panel, NAME_COLUMN)[1] == "lymphocyte"
    assert_shows_what_is_stored(panel)


def test_the_status_bar_says_the_new_name(panel: ClusterInspector, qtbot: Any) -> None:
    panel.bar.list.item(0, NAME_COLUMN).setText("plasma cell")
    qtbot.waitUntil(lambda: "plasma cell" in set(layer_of(panel).features["class"]), timeout=10_000)


def test_a_name_that_another_class_has_is_refused(panel: ClusterInspector, messages: list[str]) -> None:
    panel.bar.list.item(1, NAME_COLUMN).setText("cluster 1")
    assert texts(panel, NAME_COLUMN)[1] == "cluster 2"
    assert "already" in messages[-1]


def test_recoloring_changes_list_slide_and_file(panel: ClusterInspector, monkeypatch: pytest.MonkeyPatch) -> None:
    from qtpy.QtGui import QColor

    from napari_histoseg.gui import inspectorlist

    monkeypatch.setattr(inspectorlist.QColorDialog, "getColor", lambda *a: QColor("#123456"))
    panel.bar.list.cellDoubleClicked.emit(2, COLOR)
    assert panel.desk.classes[2].color == "#123456"
    assert_shows_what_is_stored(panel)


def tick(panel: ClusterInspector, rows: list[int]) -> None:
    for row in rows:
        panel.bar.list.item(row, TICK).setCheckState(Qt.CheckState.Checked)


def test_merging_ticked_classes_and_undoing(panel: ClusterInspector, messages: list[str]) -> None:
    before = texts(panel, NAME_COLUMN), shown_colors(panel)
    tick(panel, [0, 2])
    panel.bar.merge_button.click()
    assert panel.bar.list.rowCount() == CLASSES - 1
    assert "Merged" in messages[-1]
    assert_shows_what_is_stored(panel)
    panel.bar.undo_button.click()
    assert texts(panel, NAME_COLUMN) == before[0]
    np.testing.assert_array_equal(shown_colors(panel), before[1])
    panel.bar.redo_button.click()
    assert panel.bar.list.rowCount() == CLASSES - 1
    assert_shows_what_is_stored(panel)


def test_merging_fewer_than_two_says_why_not(panel: ClusterInspector, messages: list[str]) -> None:
    panel.bar.merge_button.click()
    tick(panel, [1])
    panel.bar.merge_button.click()
    assert messages == ["Merging needs two or more classes. Tick them in the list first."] * 2
    assert panel.bar.list.rowCount() == CLASSES


def test_splitting_the_class_that_is_looked_at(panel: ClusterInspector, qtbot: Any, messages: list[str]) -> None:
    whole = panel.desk.sizes()[2]
    panel.desk.look_at(2)
    panel.bar.parts.setValue(3)
    panel.bar.split_button.click()
    qtbot.waitUntil(lambda: panel.bar.list.rowCount() == CLASSES + 2, timeout=20_000)
    sizes = panel.desk.sizes()
    assert sum(sizes[value] for value in sizes if value == 2 or value > CLASSES) == whole
    assert_shows_what_is_stored(panel)
    panel.bar.undo_button.click()
    assert panel.bar.list.rowCount() == CLASSES
    assert_shows_what_is_stored(panel)


def test_names_are_there_when_the_result_is_opened_again(panel: ClusterInspector, viewer: napari.Viewer, qtbot: Any) -> None:
    assert panel.desk.result is not None
    panel.desk.require().rename(1, "stroma")
    again = open_result(panel.desk.result.path)
    panel.show_result(again, layer_of(panel), panel.desk.slide)
    qtbot.waitUntil(lambda: panel.desk.book is not None, timeout=20_000)
    assert texts(panel, NAME_COLUMN)[0] == "stroma"


# -- the map --------------------------------------------------------------------------------------------------------------


def drag(widget: Any, corners: np.ndarray, modifiers: Any = Qt.KeyboardModifier.NoModifier) -> None:
    """Press at the first corner, move along the others and let go."""
    points = [QPoint(int(x), int(y)) for x, y in corners]
    QTest.mousePress(widget, Qt.MouseButton.LeftButton, modifiers, points[0])
    for point in points[1:]:
        QTest.mouseMove(widget, point)
    QTest.mouseRelease(widget, Qt.MouseButton.LeftButton, modifiers, points[-1])


def winding(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Even-odd rule, point by point."""
    inside = np.zeros(len(points), bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        crosses = (points[:, 1] < y0) != (points[:, 1] < y1)
        inside ^= crosses & (points[:, 0] < x0 + (points[:, 1] - y0) / (y1 - y0) * (x1 - x0))
    return inside


@pytest.fixture
def points(panel: ClusterInspector, qtbot: Any) -> Any:
    """The map, shown and filled."""
    panel.tabs.setCurrentWidget(panel.map)
    found = panel.map.points
    qtbot.waitUntil(lambda: len(found.points) == len(panel.desk.ids) and found.width() > 100, timeout=20_000)
    qtbot.wait(50)
    return found


def test_the_lasso_chooses_exactly_the_points_inside(panel: ClusterInspector, points: Any, messages: list[str]) -> None:
    wide, high = points.width(), points.height()
    # Across the middle, with a dent and a crossing.
    corners = np.floor(np.array([[0.1, 0.2], [0.9, 0.3], [0.6, 0.5], [0.8, 0.9], [0.3, 0.4], [0.2, 0.8]]) * (wide, high))
    drag(points, corners)
    at = points.view.to_pixels(points.points, wide, high)
    expected = np.flatnonzero(winding(at, corners))
    assert 0 < len(expected) < len(at)
    np.testing.assert_array_equal(panel.desk.chosen, expected)


def test_shift_and_lasso_chooses_more(panel: ClusterInspector, points: Any) -> None:
    wide, high = points.width(), points.height()
    left = np.array([[1, 1], [wide // 2, 1], [wide // 2, high - 2], [1, high - 2]])
    right = left + np.array([wide // 2 - 1, 0])
    drag(points, left)
    first = panel.desk.chosen
    drag(points, right, Qt.KeyboardModifier.ShiftModifier)
    assert len(panel.desk.chosen) > len(first)
    assert set(first) <= set(panel.desk.chosen)


def test_what_is_chosen_in_the_map_stands_out_in_the_slide(panel: ClusterInspector, points: Any) -> None:
    panel.desk.choose([3, 5, 8])
    alpha = shown_colors(panel)[:, 3]
    assert (alpha[[3, 5, 8]] == 1).all()
    assert (np.delete(alpha, [3, 5, 8]) < 0.5).all()
    panel.desk.choose([])
    assert (shown_colors(panel)[:, 3] == 1).all()


def test_a_click_on_a_point_goes_there(panel: ClusterInspector, points: Any, viewer: napari.Viewer) -> None:
    at = points.view.to_pixels(points.points, points.width(), points.height())
    alone = int(np.argmax(at[:, 0]))
    QTest.mouseClick(points, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, QPoint(*at[alone].round().astype(int).tolist()))
    assert panel.desk.chosen.tolist() == [alone]
    assert_in_the_middle(panel, viewer, alone)


def assert_in_the_middle(panel: ClusterInspector, viewer: napari.Viewer, position: int) -> None:
    clusters = panel.desk.clusters
    assert clusters is not None
    middle = np.array(viewer.scene.camera.center[-2:])
    # napari has the middle of the first pixel at 0.
    np.testing.assert_allclose(middle + 0.25, (clusters.y_um[position], clusters.x_um[position]), atol=1e-3)
    assert panel.link.object_at((0, *middle)[-2:]) == clusters.ids[position]


def test_a_slow_map_can_be_cancelled_and_keeps_the_old_one(
    panel: ClusterInspector, points: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    gate = threading.Event()
    before = points.points
    real = type(panel.desk.clusters).plane

    def slow(self: Any, kind: str = "pca", seed: int = 0) -> Any:
        if kind == "tsne":
            assert gate.wait(120)
        return real(self, "pca") * 2

    monkeypatch.setattr(type(panel.desk.clusters), "plane", slow)
    panel.map.kind.setCurrentIndex(1)
    assert panel.map.cancel_button.isVisible()
    panel.map.cancel_button.click()
    assert panel.map.kind.currentData() == "pca"
    gate.set()
    qtbot.wait(100)
    assert points.points is before


def test_another_kind_of_map_is_shown_when_it_is_made(panel: ClusterInspector, points: Any, qtbot: Any) -> None:
    before = points.points
    panel.map.kind.setCurrentIndex(1)
    qtbot.waitUntil(lambda: points.points is not before, timeout=60_000)
    assert points.points.shape == before.shape
    assert not panel.map.cancel_button.isVisible()


# -- the gallery ----------------------------------------------------------------------------------------------------------


def fill(panel: ClusterInspector, qtbot: Any, value: int) -> None:
    """Wait until the gallery shows a class completely."""
    panel.desk.look_at(value)
    assert panel.desk.clusters is not None
    wanted = panel.desk.clusters.positions(panel.desk.clusters.typical(value, 60)).tolist()
    qtbot.waitUntil(lambda: panel.gallery.positions() == wanted, timeout=20_000)


def test_pictures_are_the_typical_objects_in_order_and_none_of_an_earlier_choice(panel: ClusterInspector, qtbot: Any) -> None:
    for value in (1, 2, 3, 4, 1, 2):
        panel.desk.look_at(value)
    fill(panel, qtbot, 4)
    qtbot.wait(200)
    assert {int(panel.desk.values[p]) for p in panel.gallery.positions()} == {4}


def click_picture(panel: ClusterInspector, row: int, modifiers: Any = Qt.KeyboardModifier.NoModifier) -> int:
    pictures = panel.gallery.pictures
    item = pictures.item(row)
    assert item is not None
    viewport = pictures.viewport()
    assert viewport is not None
    QTest.mouseClick(viewport, Qt.MouseButton.LeftButton, modifiers, pictures.visualItemRect(item).center())
    return panel.gallery.positions()[row]


def test_clicking_a_picture_goes_there_and_outlines_the_object(panel: ClusterInspector, qtbot: Any, viewer: napari.Viewer) -> None:
    fill(panel, qtbot, 2)
    position = click_picture(panel, 3)
    assert panel.desk.chosen.tolist() == [position]
    assert_in_the_middle(panel, viewer, position)
    outline = viewer.layers[NAME].data[0]
    assert np.abs(outline.mean(0) - viewer.scene.camera.center[-2:]).max() < 2
    click_picture(panel, 1, Qt.KeyboardModifier.ControlModifier)
    assert len(panel.desk.chosen) == 2
    assert len(viewer.layers[NAME].data) == 0


def test_a_picture_shows_the_slide_around_its_object(panel: ClusterInspector, slide: Slide, result: Result) -> None:
    from napari_histoseg.gui.inspectorgallery import LINE, object_mask, picture_of
    from napari_histoseg.slide import Box

    clusters = panel.desk.clusters
    assert clusters is not None
    picture = picture_of(slide, result, clusters, 10, size=44)
    assert (picture == LINE).all(-1).sum() > 10
    x, y = clusters.x_um[10] / 0.5, clusters.y_um[10] / 0.5
    box = Box(round(x - 22), round(y - 22), 44, 44)
    plain = slide.read_at(0.5, box)
    other = ~(picture == LINE).all(-1)
    np.testing.assert_array_equal(picture[other], plain[other])
    assert object_mask(result, box, int(clusters.ids[10])).sum() * 0.25 == pytest.approx(clusters.measurements["area_um2"][10])


# -- the slide ------------------------------------------------------------------------------------------------------------


def press(panel: ClusterInspector, world: Any, modifiers: tuple[str, ...] = (), move: float = 0.0) -> None:
    """A press in the canvas at a world point, moved by some pixels, and let go."""
    event = SimpleNamespace(button=1, type="mouse_press", pos=(100.0, 100.0), position=world, modifiers=modifiers)
    steps = panel.link._on_press(panel.link._viewer, event)
    for kind in ("mouse_move", "mouse_release"):
        if next(steps, "ended") == "ended":
            return
        event.type, event.pos = kind, (100.0 + move, 100.0)
    next(steps, None)


def world_of(panel: ClusterInspector, position: int) -> tuple[float, float]:
    clusters = panel.desk.clusters
    assert clusters is not None
    return float(clusters.y_um[position]) - 0.25, float(clusters.x_um[position]) - 0.25


def test_a_click_in_the_slide_chooses_the_object_in_map_and_words(panel: ClusterInspector, points: Any) -> None:
    press(panel, world_of(panel, 7))
    assert panel.desk.chosen.tolist() == [7]
    assert points._chosen.tolist() == [7]
    assert f"Object {panel.desk.ids[7]}: " in panel.teach.words.text()
    press(panel, world_of(panel, 9), ("Shift",))
    assert panel.desk.chosen.tolist() == [7, 9]
    press(panel, world_of(panel, 7), ("Shift",))
    assert panel.desk.chosen.tolist() == [9]


def test_moving_the_view_or_painting_chooses_nothing(panel: ClusterInspector, viewer: napari.Viewer) -> None:
    press(panel, world_of(panel, 7), move=30)
    assert not len(panel.desk.chosen)
    viewer.layers.selection.active = viewer.add_labels(np.zeros((20, 20), np.uint8))
    viewer.layers.selection.active.mode = "paint"
    press(panel, world_of(panel, 7))
    assert not len(panel.desk.chosen)


# -- corrections ----------------------------------------------------------------------------------------------------------


def test_a_digit_gives_the_chosen_objects_a_class(panel: ClusterInspector) -> None:
    wrong = np.flatnonzero(panel.desk.values == 1)[:3]
    panel.desk.choose(wrong)
    QTest.keyClick(panel.gallery.pictures, Qt.Key.Key_4)
    assert (panel.desk.values[wrong] == 4).all()
    assert_classes_are_stored(panel)
    QTest.keyClick(panel.map.points, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert (panel.desk.values[wrong] == 1).all()
    QTest.keyClick(panel.bar.list, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier)
    assert (panel.desk.values[wrong] == 4).all()


def assert_classes_are_stored(panel: ClusterInspector) -> None:
    assert panel.desk.result is not None
    again = open_result(panel.desk.result.path).objects
    np.testing.assert_array_equal(again["cluster"], panel.desk.values)


def test_digits_go_into_text_fields(panel: ClusterInspector) -> None:
    panel.desk.choose([0, 1])
    before = panel.desk.values.copy()
    field = panel.teach.name.lineEdit()
    assert field is not None
    QTest.keyClicks(field, "t4")
    assert field.text() == "t4"
    np.testing.assert_array_equal(panel.desk.values, before)


def test_a_new_name_makes_a_new_class(panel: ClusterInspector, messages: list[str]) -> None:
    panel.desk.choose([0, 1, 2])
    panel.teach.name.setEditText("mitosis")
    panel.teach.assign_button.click()
    assert texts(panel, NAME_COLUMN)[-1] == "mitosis"
    assert texts(panel, SIZE)[-1] == "3"
    assert "mitosis" in messages[-1]


def test_keys_without_meaning_say_why_and_esc_chooses_none(panel: ClusterInspector, messages: list[str]) -> None:
    QTest.keyClick(panel.gallery.pictures, Qt.Key.Key_1)
    assert "No object is chosen" in messages[-1]
    panel.desk.choose([1, 2])
    QTest.keyClick(panel.gallery.pictures, Qt.Key.Key_9)
    assert "There is no class 9" in messages[-1]
    QTest.keyClick(panel.gallery.pictures, Qt.Key.Key_Escape)
    assert not len(panel.desk.chosen)


def mix_up(panel: ClusterInspector, share: float = 0.3) -> np.ndarray:
    """Give some objects classes at random; returns what they were."""
    right = panel.desk.values.copy()
    rng = np.random.default_rng(0)
    wrong = np.where(rng.random(len(right)) < share, rng.integers(1, CLASSES + 1, len(right)), right)
    panel.desk.require().relabel(panel.desk.ids, wrong, "Mixed up")
    return right


def test_learning_from_corrections_puts_the_others_right(panel: ClusterInspector, qtbot: Any, messages: list[str]) -> None:
    right = mix_up(panel)
    before = (panel.desk.values == right).mean()
    for value in range(1, CLASSES + 1):
        panel.desk.choose(np.flatnonzero(right == value)[:8])
        panel.teach.assign_row(value - 1)
    panel.teach.learn_button.click()
    qtbot.waitUntil(lambda: "Learned" in messages[-1], timeout=20_000)
    assert (panel.desk.values == right).mean() > max(before, 0.97)
    panel.desk.choose([])
    assert_shows_what_is_stored(panel)


def test_a_split_under_way_is_not_pushed_aside_by_learning(panel: ClusterInspector, qtbot: Any, messages: list[str]) -> None:
    for value in (1, 2):
        panel.desk.choose(np.flatnonzero(panel.desk.values == value)[:5])
        panel.desk.assign(value)
    panel.bar.split_button.click()
    panel.teach.learn_button.click()
    assert "is not done yet" in messages[-1]
    qtbot.waitUntil(lambda: panel.bar.list.rowCount() == CLASSES + 1, timeout=20_000)


def test_learning_after_each_correction(panel: ClusterInspector, qtbot: Any, messages: list[str]) -> None:
    right = mix_up(panel)
    panel.teach.live.setChecked(True)
    for value in (1, 2):
        panel.desk.choose(np.flatnonzero(right == value)[:8])
        panel.teach.assign_row(value - 1)
    qtbot.waitUntil(lambda: any("Learned" in said for said in messages), timeout=20_000)


def test_objects_that_another_dock_removed_are_gone_here(panel: ClusterInspector, result: Result, qtbot: Any) -> None:
    from napari_histoseg.gui.features import show_measurements
    from napari_histoseg.results.edit import Editor

    gone = int(panel.desk.ids[5])
    Editor(result).delete(gone)
    show_measurements(layer_of(panel), result)
    assert gone not in panel.desk.ids
    assert_shows_what_is_stored(panel)


# -- coming and going -----------------------------------------------------------------------------------------------------


def test_closing_the_dock_leaves_nothing_behind(panel: ClusterInspector, viewer: napari.Viewer, qtbot: Any) -> None:
    layer = layer_of(panel)
    panel.desk.choose([4])
    panel.desk.choose([4, 5])
    viewer.window.remove_dock_widget(panel)
    qtbot.waitUntil(lambda: panel.desk.book is None, timeout=5000)
    assert panel.link._on_press not in viewer.mouse_drag_callbacks
    assert (layer.colormap.map(np.array([1, 2, 3]))[:, 3] == 1).all()
    assert all(len(each.data) == 0 for each in viewer.layers if each.name == NAME)
    for emitter in (layer.events.selected_label, layer.events.features, viewer.layers.events.removed):
        assert not any(getattr(callback[0](), "__class__", None).__name__ == "SlideLink" for callback in emitter.callbacks if isinstance(callback, tuple))
    layer.selected_label = 3
    viewer.layers.remove(layer)


def test_hiding_the_dock_keeps_everything(panel: ClusterInspector, qtbot: Any) -> None:
    dock = panel.parentWidget()
    assert dock is not None
    panel.desk.choose([4, 5])
    dock.setVisible(False)
    qtbot.wait(50)
    assert panel.desk.book is not None
    assert panel.desk.chosen.tolist() == [4, 5]


def test_the_layer_may_go(panel: ClusterInspector, viewer: napari.Viewer) -> None:
    viewer.layers.remove(layer_of(panel))
    panel.desk.require().recolor(1, "#000000")
    panel.desk.choose([1, 2])
    panel.desk.fly.emit(1)
    assert np.isfinite(viewer.scene.camera.center).all()


def test_without_slide_there_are_no_pictures_and_a_sentence(
    viewer: napari.Viewer, result: Result, messages: list[str], qtbot: Any
) -> None:
    made = opened(viewer, result, None, messages, qtbot)
    qtbot.waitUntil(lambda: "not open" in made.gallery.words.text(), timeout=5000)
    assert not made.gallery.positions()


def test_clear_empties_everything(panel: ClusterInspector, qtbot: Any) -> None:
    fill(panel, qtbot, 1)
    panel.clear()
    assert panel.bar.list.rowCount() == 0
    assert not panel.gallery.positions()
    assert len(panel.map.points.points) == 0
    assert panel.measurements.plot.boxes == []
    assert not panel.bar.merge_button.isEnabled()


# -- maps of classes ------------------------------------------------------------------------------------------------------


@pytest.fixture
def tissue(viewer: napari.Viewer, slide: Slide, tmp_path: Path, messages: list[str], qtbot: Any) -> ClusterInspector:
    """A map of three classes under inspection."""
    values = np.ones((slide.height, slide.width), np.uint32)
    values[:, :200], values[:100] = 2, 3
    made = stored(tmp_path / "tissue", slide_record(slide), values, None, 3, 0.5)
    return opened(viewer, made, slide, messages, qtbot)


def test_a_map_of_classes_has_areas_names_colors_and_merges(tissue: ClusterInspector) -> None:
    area = 640 * 100 * 0.25 / 1e6
    assert texts(tissue, SIZE)[2] == f"{area:.2f}"
    assert not tissue.tabs.isVisible()
    assert not tissue.bar.split_button.isEnabled()
    book = tissue.desk.require()
    book.rename(1, "stroma")
    book.recolor(2, "#000080")
    layer = layer_of(tissue)
    np.testing.assert_allclose(layer.colormap.map(2), rgba("#000080"), atol=1e-6)
    tick(tissue, [1, 2])
    tissue.bar.merge_button.click()
    assert tissue.bar.list.rowCount() == 2
    np.testing.assert_allclose(layer.colormap.map(3), layer.colormap.map(2))
    assert sum(float(text.rstrip(" %")) for text in texts(tissue, 4)) == pytest.approx(100, abs=1)


@pytest.fixture
def finer(viewer: napari.Viewer, slide: Slide, tmp_path: Path, messages: list[str], qtbot: Any) -> ClusterInspector:
    """A map of three classes with finer values and patches under inspection."""
    return opened(viewer, tissue_result(tmp_path / "finer", slide), slide, messages, qtbot)


def raw_of(panel: ClusterInspector) -> np.ndarray:
    assert panel.desk.result is not None
    return np.asarray(panel.desk.result.arrays()["labels"][0][:])


def assert_shows_the_stored_map(panel: ClusterInspector) -> None:
    """List, layer, and what the result says agree."""
    assert panel.desk.result is not None
    again = open_result(panel.desk.result.path)
    areas = class_areas(again).set_index("value")
    assert texts(panel, NAME_COLUMN) == [each.name for each in again.classes]
    assert texts(panel, SIZE) == [f"{area:.2f}" for area in areas.area_mm2]
    assert texts(panel, SHARE) == [f"{100 * share:.0f} %" for share in areas.share]
    layer = layer_of(panel)
    for value, each in again.class_of.items():
        np.testing.assert_allclose(layer.colormap.map(value), rgba(each.color), atol=1e-6)
    np.testing.assert_array_equal(panel.desk.values, [again.class_of[v].value for v in again.patches["cluster"]])


def test_a_map_with_patches_has_pictures_and_a_map_but_no_corrections(finer: ClusterInspector, qtbot: Any) -> None:
    assert_shows_the_stored_map(finer)
    assert finer.tabs.isVisible() and not finer.teach.isVisible()
    assert [finer.tabs.isTabVisible(tab) for tab in range(3)] == [True, True, False]
    assert texts(finer, TICK) == ["", "", ""]
    fill(finer, qtbot, 1)
    assert {int(finer.desk.values[p]) for p in finer.gallery.positions()} == {1}
    assert finer.gallery.pictures.item(0).toolTip().startswith("Patch ")
    for kind in (1, 2):
        finer.gallery.kinds.setCurrentIndex(kind)
        qtbot.waitUntil(lambda: len(finer.gallery.positions()) == min(60, int((finer.desk.values == 1).sum())), timeout=20_000)


def test_a_picture_of_a_patch_shows_the_slide_there(finer: ClusterInspector, slide: Slide) -> None:
    from napari_histoseg.gui.inspectorgallery import patch_of
    from napari_histoseg.slide import Box

    clusters = finer.desk.clusters
    assert clusters is not None and finer.desk.field_um == 128
    x, y = clusters.x_um[40] / 0.5, clusters.y_um[40] / 0.5
    np.testing.assert_array_equal(patch_of(slide, clusters, 32.0, 40, size=64), slide.read_at(0.5, Box(round(x - 32), round(y - 32), 64, 64)))


def test_clicking_a_patch_goes_there(finer: ClusterInspector, qtbot: Any, viewer: napari.Viewer) -> None:
    fill(finer, qtbot, 2)
    position = click_picture(finer, 2)
    clusters = finer.desk.clusters
    assert clusters is not None and finer.desk.chosen.tolist() == [position]
    middle = np.array(viewer.scene.camera.center[-2:])
    np.testing.assert_allclose(middle + 0.25, (clusters.y_um[position], clusters.x_um[position]), atol=1e-3)
    assert finer.link.object_at(tuple(middle)) == clusters.stored[position]
    assert not any(each.name == NAME for each in viewer.layers)


def test_a_click_in_the_map_looks_at_the_class_that_is_painted_there(finer: ClusterInspector, qtbot: Any) -> None:
    stored_values = raw_of(finer)
    for stored_value, value in ((6, 2), (5, 1), (3, 3), (4, 1)):
        y, x = np.argwhere(stored_values == stored_value)[50]
        press(finer, (y * 0.5, x * 0.5))
        assert finer.desk.value == value
        assert finer.bar.list.value_at(finer.bar.list.currentRow()) == value
    wanted = finer.desk.clusters.positions(finer.desk.clusters.typical(1, 60)).tolist()
    qtbot.waitUntil(lambda: finer.gallery.positions() == wanted, timeout=20_000)
    press(finer, (-50.0, -50.0))
    assert finer.desk.value == 1
    assert not len(finer.desk.chosen)


def test_the_lasso_shows_the_pictures_of_its_patches(finer: ClusterInspector, qtbot: Any) -> None:
    finer.tabs.setCurrentWidget(finer.map)
    points = finer.map.points
    qtbot.waitUntil(lambda: len(points.points) == len(finer.desk.ids) and points.width() > 100, timeout=20_000)
    qtbot.wait(50)
    wide, high = points.width(), points.height()
    drag(points, np.array([[1, 1], [wide // 2, 1], [wide // 2, high - 2], [1, high - 2]]))
    chosen = finer.desk.chosen.tolist()
    assert 0 < len(chosen) < len(finer.desk.ids)
    finer.tabs.setCurrentWidget(finer.gallery)
    assert finer.gallery.kind == "Chosen"
    qtbot.waitUntil(lambda: finer.gallery.positions() == chosen[:60], timeout=20_000)
    click_picture(finer, 1)
    assert finer.desk.chosen.tolist() == chosen and finer.gallery.positions() == chosen[:60]
    finer.desk.look_at(3 if finer.desk.value != 3 else 1)
    assert finer.gallery.kind == "Typical"


def test_splitting_a_class_of_a_map_recolors_it_at_once(finer: ClusterInspector, qtbot: Any, messages: list[str]) -> None:
    before = raw_of(finer)
    finer.desk.look_at(1)
    finer.bar.parts.setValue(2)
    QTest.mouseClick(finer.bar.split_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: finer.bar.list.rowCount() == 4, timeout=20_000)
    # In the embedding 4 lies near 1, and 5 far from both.
    assert texts(finer, NAME_COLUMN) == ["cluster 1", "cluster 2", "cluster 3", "cluster 1 (2)"]
    assert finer.desk.require().stored_values(5) == [5]
    assert_shows_the_stored_map(finer)
    assert "Split cluster 1 into 2" in messages[-1]
    np.testing.assert_array_equal(raw_of(finer), before)
    tick(finer, [1, 3])
    QTest.mouseClick(finer.bar.merge_button, Qt.MouseButton.LeftButton)
    assert finer.bar.list.rowCount() == 3
    assert_shows_the_stored_map(finer)
    for _ in range(2):
        QTest.keyClick(finer.bar.list, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
        assert_shows_the_stored_map(finer)
    assert texts(finer, NAME_COLUMN) == ["cluster 1", "cluster 2", "cluster 3"]
    QTest.keyClick(finer.bar.list, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier)
    assert finer.bar.list.rowCount() == 4
    assert_shows_the_stored_map(finer)


def test_a_class_without_finer_ones_is_not_split(finer: ClusterInspector, qtbot: Any, messages: list[str]) -> None:
    finer.desk.look_at(3)
    QTest.mouseClick(finer.bar.split_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: bool(messages), timeout=20_000)
    assert "cluster 3 has no finer classes, so it cannot be split" in messages[-1]
    assert finer.bar.list.rowCount() == 3


def test_names_and_colors_of_a_map_are_seen_at_once(finer: ClusterInspector, qtbot: Any) -> None:
    finer.bar.list.item(0, NAME_COLUMN).setText("muscle")
    finer.desk.require().recolor(1, "#123456")
    assert_shows_the_stored_map(finer)
    qtbot.waitUntil(lambda: "muscle" in set(layer_of(finer).features["class"]), timeout=10_000)
    features = layer_of(finer).features.set_index("index")["class"]
    assert features[[1, 4, 5]].tolist() == ["muscle"] * 3


def test_digits_and_picks_mean_nothing_in_a_map(finer: ClusterInspector, messages: list[str]) -> None:
    finer.desk.choose([0, 1])
    QTest.keyClick(finer.map.points, Qt.Key.Key_2)
    layer_of(finer).selected_label = 5
    assert messages == [] and finer.desk.chosen.tolist() == [0, 1]
    QTest.keyClick(finer.map.points, Qt.Key.Key_Escape)
    assert not len(finer.desk.chosen)


def test_every_part_has_a_tip_and_a_name(panel: ClusterInspector) -> None:
    from qtpy.QtWidgets import QAbstractButton, QComboBox, QSpinBox

    for kind in (QAbstractButton, QComboBox, QSpinBox):
        for widget in panel.findChildren(kind):
            if widget.objectName().startswith("qt_") or widget.inherits("QToolButton") or widget.metaObject().className().startswith("QTableCorner"):
                continue
            assert widget.toolTip(), widget
            assert widget.accessibleName() or getattr(widget, "text", lambda: "x")(), widget
