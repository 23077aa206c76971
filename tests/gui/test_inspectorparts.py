"""Parts of the inspector by themselves: tables of colors, clouds of points, box plots."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from qtpy.QtCore import QPointF, Qt
from qtpy.QtTest import QTest

from napari_histoseg.gui.inspectorcolors import DENSE, DIMMED, IdTable, codes_of, object_colors_of, rgba
from napari_histoseg.gui.inspectormap import PointMap
from napari_histoseg.gui.inspectorplot import Box5, BoxPlot, means_of, ticks, tip_of, title_of
from napari_histoseg.gui.inspectorraster import View, fitted, inside_polygon, picture, placed
from napari_histoseg.results import ClassRecord

CLASSES = [ClassRecord(value=2, name="a", color="#ff0000"), ClassRecord(value=5, name="b", color="#0000ff")]

# -- colors ---------------------------------------------------------------------------------------------------------------


@given(
    ids=st.lists(st.one_of(st.integers(1, 50), st.integers(DENSE, 2**32 - 1)), min_size=1, max_size=30, unique=True),
    asked=st.lists(st.one_of(st.integers(0, 60), st.integers(0, 2**32 - 1)), min_size=1, max_size=40),
)
def test_an_id_has_its_code_and_others_have_none(ids: list[int], asked: list[int]) -> None:
    codes = (np.arange(len(ids)) % 200 + 1).astype(np.uint8)
    table = IdTable(np.array(ids, np.uint32), codes)
    wanted = dict(zip(ids, codes.tolist(), strict=True))
    values = np.array([*asked, *ids], np.uint32).reshape(1, -1)
    assert table.look_up(values).tolist() == [[wanted.get(int(v), 0) for v in values[0]]]


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16, np.uint32])
def test_labels_of_any_type_are_looked_up(dtype: Any) -> None:
    table = IdTable(np.array([1, 3]), np.array([7, 9], np.uint8))
    assert table.look_up(np.array([0, 1, 2, 3, 4, 1000], dtype)).tolist() == [0, 7, 0, 9, 0, 0]
    if np.dtype(dtype).kind == "i":
        assert table.look_up(np.array([-1], dtype)).tolist() == [0]


def test_no_objects_have_no_colors() -> None:
    colors = object_colors_of(np.empty(0, np.uint32), np.empty(0, np.int32), CLASSES)
    assert (colors.map(np.array([0, 1, 5])) == 0).all()


def test_chosen_objects_keep_their_color_and_others_fade() -> None:
    ids, values = np.array([1, 2, 3, 4]), np.array([2, 5, 2, 9])
    chosen = np.array([True, False, False, False])
    colors = object_colors_of(ids, values, CLASSES, chosen)
    shown = colors.map(ids)
    np.testing.assert_allclose(shown[0], rgba("#ff0000"))
    np.testing.assert_allclose(shown[1], (0, 0, 1, DIMMED), atol=1e-6)
    np.testing.assert_allclose(shown[2], (1, 0, 0, DIMMED), atol=1e-6)
    assert shown[3, 0] == shown[3, 1] == shown[3, 2]
    assert (colors.undimmed().map(ids)[:, 3] == 1).all()
    np.testing.assert_allclose(colors.map(1), rgba("#ff0000"))


def test_more_classes_than_a_byte_holds() -> None:
    many = [ClassRecord(value=k, name=str(k), color=f"#{k:06x}") for k in range(1, 400)]
    ids = np.arange(1, 400)
    shown = object_colors_of(ids, ids, many, ids % 2 == 0).map(ids)
    np.testing.assert_allclose(shown[:, :3], [rgba(each.color)[:3] for each in many], atol=1e-6)


@pytest.mark.parametrize(("values", "codes"), [([2, 5, 2], [1, 2, 1]), ([0, 3, 5], [3, 3, 2]), ([-4, 2], [3, 1]), ([], [])])
def test_codes_are_places_in_the_list(values: list[int], codes: list[int]) -> None:
    assert codes_of(np.array(values, np.int32), [2, 5]).tolist() == codes


# -- points ---------------------------------------------------------------------------------------------------------------


def even_odd(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    inside = np.zeros(len(points), bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y0 != y1:
            crosses = (points[:, 1] < y0) != (points[:, 1] < y1)
            inside ^= crosses & (points[:, 0] < x0 + (points[:, 1] - y0) / (y1 - y0) * (x1 - x0))
    return inside


# Corners on whole numbers and points between them: none lies on an edge's end.
@given(
    corners=arrays(np.int64, st.tuples(st.integers(3, 9), st.just(2)), elements=st.integers(-10, 10)),
    seed=st.integers(0, 2**16),
)
@example(corners=np.array([[-1, -1], [2, -1], [-1, -1], [-1, 0]]), seed=0)
def test_a_polygon_holds_points_by_the_even_odd_rule(corners: np.ndarray, seed: int) -> None:
    points = np.random.default_rng(seed).uniform(-11, 11, (200, 2))
    found = inside_polygon(points.astype(np.float64), corners.astype(float))
    np.testing.assert_array_equal(found, np.flatnonzero(even_odd(points, corners.astype(float))))


def test_points_without_a_place_are_never_inside() -> None:
    points = np.array([[0.5, 0.5], [np.nan, np.nan]])
    assert inside_polygon(points, np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]])).tolist() == [0]
    assert not len(inside_polygon(points, np.array([[0, 0], [1, 1.0]])))


def test_a_view_goes_there_and_back() -> None:
    points = np.random.default_rng(0).normal(size=(50, 2))
    view = fitted(points, 300, 200)
    pixels = view.to_pixels(points, 300, 200)
    assert (pixels.min(0) >= 0).all() and (pixels.max(0) <= (300, 200)).all()
    np.testing.assert_allclose(view.to_points(pixels, 300, 200), points)


@pytest.mark.parametrize("n", [10, 6_000, 40_000])
def test_every_point_in_sight_is_drawn_in_its_color(n: int) -> None:
    rng = np.random.default_rng(1)
    points = rng.uniform(0, 10, (n, 2)).astype(np.float32)
    codes = (points[:, 0] > 5).astype(int)
    palette = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)
    view = View(5, 5, 20)
    out = picture(placed(points, view, 200, 200), codes, palette)
    at = view.to_pixels(points, 200, 200).astype(int)
    inside = (at >= 0).all(1) & (at < 200).all(1)
    drawn = out[at[inside, 1], at[inside, 0]]
    assert (drawn[:, 3] > 100).all()
    assert (out[:, :97][out[:, :97, 3] > 0][:, 2] == 0).all() and (out[:, 103:][out[:, 103:, 3] > 0][:, 0] == 0).all()


def test_chosen_points_are_drawn_over_the_others() -> None:
    points = np.array([[0, 0], [0.1, 0], [8, 8]], np.float32)
    palette = np.array([[255, 0, 0], [0, 255, 0]], np.uint8)
    out = picture(placed(points, View(4, 4, 10), 100, 100), np.array([0, 1, 0]), palette, np.array([True, False, False]))
    at = View(4, 4, 10).to_pixels(points, 100, 100).astype(int)
    mine, faint = out[at[0, 1], at[0, 0]], out[at[2, 1], at[2, 0]]
    assert mine[:3].tolist() == [255, 0, 0]
    assert mine[3] > 2 * faint[3] > 0


def test_nothing_to_draw_is_an_empty_picture() -> None:
    nowhere = np.full((3, 2), np.nan, np.float32)
    view = fitted(nowhere, 50, 40)
    assert not picture(placed(nowhere, view, 50, 40), np.zeros(3, int), np.zeros((1, 3), np.uint8)).any()


@pytest.fixture
def cloud(qtbot: Any) -> PointMap:
    """A map of its own, shown."""
    made = PointMap()
    qtbot.addWidget(made)
    made.resize(300, 250)
    made.show_points(np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32))
    made.show()
    qtbot.waitExposed(made)
    made.fit()
    return made


def test_zoom_keeps_the_place_under_the_cursor(cloud: PointMap) -> None:
    place = np.array([[40.0, 60.0]])
    before = cloud.view.to_points(place, cloud.width(), cloud.height())
    cloud.zoom(3.0, QPointF(40, 60))
    np.testing.assert_allclose(cloud.view.to_points(place, cloud.width(), cloud.height()), before)


@pytest.mark.parametrize("key", [Qt.Key.Key_Plus, Qt.Key.Key_Minus, Qt.Key.Key_Left, Qt.Key.Key_Right, Qt.Key.Key_Up, Qt.Key.Key_Down])
def test_keys_move_the_map_and_home_shows_all_again(cloud: PointMap, key: Any) -> None:
    before = cloud.view
    QTest.keyClick(cloud, key)
    assert cloud.view != before
    QTest.keyClick(cloud, Qt.Key.Key_Home)
    assert cloud.view == before


def test_the_nearest_point_is_found_only_when_it_is_near(cloud: PointMap) -> None:
    at = cloud.view.to_pixels(cloud.points, cloud.width(), cloud.height())
    far = int(np.argmax(at[:, 0]))
    assert cloud.nearest(QPointF(*at[far])) == far
    assert cloud.nearest(QPointF(at[far, 0] + 30, at[far, 1])) == -1


def test_a_large_map_is_drawn_fast_enough_to_be_moved() -> None:
    import time

    points = np.random.default_rng(0).normal(size=(200_000, 2)).astype(np.float32)
    codes = np.random.default_rng(1).integers(0, 8, len(points))
    palette = np.random.default_rng(2).integers(0, 255, (8, 3)).astype(np.uint8)
    view = fitted(points, 400, 400)
    best = 9.0
    for _ in range(3):
        begun = time.perf_counter()
        picture(placed(points, view, 400, 400), codes, palette, np.arange(200_000) % 2 == 0)
        best = min(best, time.perf_counter() - begun)
    assert best < 0.3


# -- measurements ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (28, 59, [30, 40, 50]), (-1, 1, [-1, -0.5, 0, 0.5, 1]), (0, 12_000, [0, 5000, 10_000])],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_a_box_plot_draws_also_a_class_without_values(qtbot: Any) -> None:
    plot = BoxPlot()
    qtbot.addWidget(plot)
    plot.resize(320, 120)
    boxes = [Box5("a", "#ff0000", (1.0, 2.0, 3.0, 4.0, 9.0), 12), Box5("a very long name of a class", "#00ff00", None, 0)]
    plot.show_boxes("Area µm²", boxes)
    assert plot.span == (1.0, 9.0)
    image = plot.grab().toImage()
    reds = sum(image.pixelColor(x, y).getRgb()[:3] == (255, 0, 0) for x in range(image.width()) for y in range(image.height()))
    assert reds > 100
    assert "median 3" in tip_of(boxes[0]) and "no values" in tip_of(boxes[1])


def test_a_plot_of_one_value_has_a_span(qtbot: Any) -> None:
    plot = BoxPlot()
    qtbot.addWidget(plot)
    plot.show_boxes("x", [Box5("a", "#ff0000", (2.0,) * 5, 1)])
    assert plot.span == (1.5, 2.5)
    plot.grab()


@pytest.mark.parametrize(("column", "title"), [("area_um2", "Area µm²"), ("feret_um", "Feret µm"), ("some_number", "Some number")])
def test_measurements_have_titles(column: str, title: str) -> None:
    assert title_of(column) == title


def test_means_leave_out_what_is_not_measured() -> None:
    from types import SimpleNamespace

    import pandas as pd

    clusters: Any = SimpleNamespace(
        cluster=np.array([1, 1, 2, 0, 3]), measurements=pd.DataFrame({"area_um2": [1.0, 3.0, 5.0, 100.0, np.nan]})
    )
    assert means_of(clusters, "area_um2") == {1: 2.0, 2: 5.0}
