"""The dock "Objects": linked both ways with the picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest

from napari_histoseg.gui.highlight import NAME
from napari_histoseg.gui.nuclei import NucleiDock
from napari_histoseg.gui.table import ObjectsDock
from napari_histoseg.gui.tablemodel import TableModel, text_of

DESCENDING = Qt.SortOrder.DescendingOrder


@pytest.fixture
def objects(finished: NucleiDock) -> ObjectsDock:
    made = ObjectsDock(finished.viewer)
    finished.viewer.window.add_dock_widget(made, name="Objects", area="bottom")
    return made


def click_row(objects: ObjectsDock, row: int) -> None:
    index = objects.model.index(row, 0)
    objects.view.scrollTo(index)
    viewport = objects.view.viewport()
    assert viewport is not None
    QTest.mouseClick(viewport, Qt.MouseButton.LeftButton, pos=objects.view.visualRect(index).center())


def test_a_row_an_object(objects: ObjectsDock, finished: NucleiDock) -> None:
    assert finished.edit.result is not None
    assert objects.model.rowCount() == len(finished.edit.result.objects)
    assert "objects" in objects.count.text()


def test_clicking_a_row_flies_there_and_outlines_the_object(objects: ObjectsDock, finished: NucleiDock) -> None:
    click_row(objects, 4)
    row = objects.model.object_at(4)
    layer = finished.edit.layer
    assert layer is not None
    center = finished.viewer.scene.camera.center[-2:]
    mpp = 0.5
    np.testing.assert_allclose(center, (row.centroid_y_um - mpp / 2, row.centroid_x_um - mpp / 2), atol=1e-6)
    assert layer.selected_label == row.id
    outline = finished.viewer.layers[NAME].data[0]
    assert np.abs(outline.mean(0) - center).max() < 3
    assert finished.viewer.layers.selection.active is not finished.viewer.layers[NAME]


def test_picking_in_the_picture_selects_the_row(objects: ObjectsDock, finished: NucleiDock) -> None:
    row = objects.model.object_at(7)
    finished.edit.click("Look", (row.centroid_x_um / 0.5, row.centroid_y_um / 0.5))
    selection = objects.view.selectionModel()
    assert selection is not None
    assert [index.row() for index in selection.selectedRows()] == [7]


def test_the_table_follows_corrections(objects: ObjectsDock, finished: NucleiDock, qtbot: Any) -> None:
    before = objects.model.rowCount()
    row = objects.model.object_at(3)
    finished.edit.click("Delete", (row.centroid_x_um / 0.5, row.centroid_y_um / 0.5))
    qtbot.waitUntil(lambda: objects.model.rowCount() == before - 1, timeout=5000)
    assert objects.model.row_of(int(row.id)) == -1


def test_sorting_by_a_column(objects: ObjectsDock) -> None:
    column = [objects.model.headerData(i, Qt.Orientation.Horizontal) for i in range(6)].index("Area µm²")
    objects.view.sortByColumn(column, DESCENDING)
    areas = [objects.model.object_at(row).area_um2 for row in range(objects.model.rowCount())]
    assert areas == sorted(areas, reverse=True)


def test_the_table_is_empty_without_a_result_and_goes_to_the_bottom(viewer: Any, qtbot: Any) -> None:
    _, made = viewer.window.add_plugin_dock_widget("napari-histoseg", "Objects")
    assert made.model.rowCount() == 0
    assert not made.export_button.isEnabled()
    dock = made._dock()
    bottom = Qt.DockWidgetArea.BottomDockWidgetArea
    qtbot.waitUntil(lambda: made.window().dockWidgetArea(dock) == bottom)


def table(rows: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {"id": np.arange(rows) * 3 + 1, "class": "nucleus", "area_um2": rng.random(rows), "centroid_x_um": rng.random(rows)}
    )


def test_the_model_passes_qts_own_checks(qtmodeltester: Any) -> None:
    model = TableModel()
    model.set_frame(table(50))
    qtmodeltester.check(model)
    model.sort(2)
    qtmodeltester.check(model)


def test_selection_survives_sorting(qtbot: Any) -> None:
    from qtpy.QtCore import QPersistentModelIndex

    model = TableModel()
    model.set_frame(table(100))
    chosen = QPersistentModelIndex(model.index(40, 0))
    number = model.id_at(40)
    model.sort(2, DESCENDING)
    assert model.id_at(chosen.row()) == number


@pytest.mark.parametrize(
    ("value", "text"),
    [(3, "3"), (0.123456, "0.1235"), (1234.567, "1234.6"), (np.nan, ""), (None, ""), ("nucleus", "nucleus")],
)
def test_cells_are_short(value: Any, text: str) -> None:
    assert text_of(value) == text
