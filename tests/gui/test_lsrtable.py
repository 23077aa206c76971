"""Shares as they are typed, shown, checked and plotted; without a window."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qtpy.QtCore import QPoint

from napari_histoseg.annotations.dataset import PatchClass, PatchDataset
from napari_histoseg.errors import SettingsError
from napari_histoseg.gui.lsrplot import MARGIN, Share, SharePlot, shares_of
from napari_histoseg.gui.lsrtable import parse_share, rest_text, share_text, table_problems, with_share
from napari_histoseg.methods.lsr.table import statistic

CLASSES = (PatchClass(value=1, name="gland"), PatchClass(value=2, name="stroma"))
COARSE = (PatchClass(value=1, name="none"), PatchClass(value=4, name="mostly"))


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("70 ± 5", (0.7, 0.05)),
        ("70±5", (0.7, 0.05)),
        (" 70 % ± 5 % ", (0.7, 0.05)),
        ("70 +- 5", (0.7, 0.05)),
        ("70 +/- 5", (0.7, 0.05)),
        ("70; 5", (0.7, 0.05)),
        ("70 5", (0.7, 0.05)),
        ("0,5 ± 0,1", (0.005, 0.001)),
        ("0 ± 0.1", (0.0, 0.001)),
        ("100 ± 100", (1.0, 1.0)),
        ("70", (0.7, 0.05)),
    ],
)
def test_shares_are_read_as_people_type_them(text: str, share: tuple[float, float]) -> None:
    assert parse_share(text) == pytest.approx(share)


def test_where_no_deviation_is_typed_the_one_before_stays() -> None:
    assert parse_share("70", 0.2) == pytest.approx((0.7, 0.2))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is no share"),
        ("much", "'much' is no share. Write mean and standard deviation in percent, such as 70 ± 5."),
        ("-5 ± 2", "is no share"),
        ("70 ± 5 ± 2", "is no share"),
        ("nan ± 1", "is no share"),
        ("101 ± 5", "A share of 101% is more than a whole block"),
        ("70 ± 0", "A standard deviation is above 0"),
        ("70 ± 101", "at most 100 %"),
    ],
)
def test_what_is_no_share_is_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_share(text)
    assert sentence in str(caught.value)


@given(st.integers(0, 1000), st.integers(1, 990))
def test_what_is_shown_is_read_alike(eta: int, rho: int) -> None:
    share = round(eta / 1000, 3), round(rho / 1000, 2) or 0.001
    assert parse_share(share_text(*share)) == pytest.approx(share, abs=1e-9)


def test_a_share_that_is_typed_replaces_its_row_and_the_background_of_its_label() -> None:
    rows = [statistic(1, 0, 0.9, 0.1), statistic(1, 1, 0.1, 0.1), statistic(4, 0, 0.2, 0.1), statistic(4, 1, 0.8, 0.1)]
    new = with_share(rows, 4, 1, (0.6, 0.05))
    assert [(row.coarse, row.class_value, row.eta) for row in new] == [(1, 0, 0.9), (1, 1, 0.1), (4, 1, 0.6)]
    assert [(row.coarse, row.class_value) for row in with_share(rows, 4, 1, None)] == [(1, 0), (1, 1)]
    assert with_share([], 4, 2, (0.5, 0.1)) == [statistic(4, 2, 0.5, 0.1)]


@pytest.mark.parametrize(
    ("own", "text"), [({}, ""), ({1: 0.7}, "30"), ({1: 0.7, 2: 0.3}, "0"), ({1: 0.8, 2: 0.4}, "-20"), ({0: 0.25, 1: 0.7}, "25 ± 10")]
)
def test_the_rest_is_what_the_classes_leave(own: dict[int, float], text: str) -> None:
    assert rest_text({value: statistic(1, value, eta, 0.1) for value, eta in own.items()}, [1, 2]) == text


def dataset_of(*rows: tuple[int, int, float]) -> PatchDataset:
    stated = tuple(statistic(coarse, value, eta, 0.05) for coarse, value, eta in rows)
    return PatchDataset(classes=CLASSES, coarse_classes=COARSE, statistics=stated, folder=Path("/some/set"))


@pytest.mark.parametrize(
    ("rows", "labels", "sentences"),
    [
        ([], [], []),
        ([], [1], ["No shares are stated yet."]),
        ([(1, 1, 0.1), (4, 1, 0.8)], [1, 4], []),
        ([(1, 1, 0.1)], [1, 4], ["The coarse label 'mostly' has blocks and no shares"]),
        ([(4, 1, 0.8), (4, 2, 0.4)], [4], ["'mostly' sum to 120.0%"]),
        ([(4, 1, 0.8), (4, 2, 0.4)], [1, 4], ["'none' has blocks and no shares", "'mostly' sum to 120.0%"]),
        ([(4, 7, 0.8)], [4], ["class value 7, which is no class"]),
    ],
)
def test_every_problem_of_a_table_is_said(rows: list[tuple[int, int, float]], labels: list[int], sentences: list[str]) -> None:
    found = " ".join(table_problems(dataset_of(*rows), labels))
    assert all(sentence in found for sentence in sentences)
    assert bool(found) == bool(sentences)
    assert "/some/set" not in found


# -- the plot -----------------------------------------------------------------------------------------------------------


def card(**scores: float) -> Any:
    """A model card with a table of two labels and one class."""
    rows = [{"coarse": c, "class": v, "eta": e, "rho": 0.05} for c, v, e in ((1, 0, 1.0), (1, 1, 0.0), (4, 0, 0.2), (4, 1, 0.8))]
    classes = [{"value": 0, "name": "background"}, {"value": 1, "name": "gland"}]
    return SimpleNamespace(data=[{"statistics": rows}], classes=classes, scores={"validation": scores, "images": 3})


def test_the_plot_shows_what_the_model_learned_and_what_it_maps() -> None:
    shares = shares_of(card(score=0.9, share_4_1=0.75, share_4_0=0.25), {1: "none", 4: "mostly"})
    assert [(s.coarse_name, s.class_name, s.stated, s.found) for s in shares] == [("none", "gland", 0.0, None), ("mostly", "gland", 0.8, 0.75)]
    assert shares[1].words == "mostly, gland: 75% in the map, stated 80% ± 5.0%"
    assert shares[0].words == "none, gland: no held-out block, stated 0% ± 5.0%"
    assert shares_of(card(), {}, {"share_4_1": 0.5})[1].found == 0.5
    assert shares_of(card(), {})[1].coarse_name == "4"
    assert shares_of(SimpleNamespace(data=[], classes=[], scores={}), {}) == []


def test_dots_and_bands_stand_where_their_shares_are(qtbot: Any) -> None:
    plot = SharePlot()
    qtbot.addWidget(plot)
    plot.resize(400, 170)
    left, top, right, bottom = MARGIN
    plot.show_shares([Share(4, "mostly", 1, "gland", 0.8, 0.01, 0.25), Share(5, "all", 1, "gland", 1.0, 0.01, None)])
    plot.show()
    qtbot.waitExposed(plot)
    middle = left + (400 - left - right) / 4
    height = 170 - top - bottom
    picture = plot.grab().toImage()

    def colored(share: float) -> bool:
        shade = picture.pixelColor(QPoint(round(middle), round(170 - bottom - share * height)))
        return max(shade.red(), shade.green(), shade.blue()) - min(shade.red(), shade.green(), shade.blue()) > 40

    assert [colored(share) for share in (0.25, 0.8, 0.6, 0.1)] == [True, True, False, False]
    assert [share.coarse for share in plot.at(middle)] == [4]
    assert plot.at(5) == []
    assert "mostly, gland: 25% in the map" in plot.accessibleDescription()
