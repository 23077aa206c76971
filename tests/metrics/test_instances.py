"""Instance scores: exact on small pictures, equal to slow reference versions, blind to ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.measure import label

from napari_histoseg.errors import SettingsError
from napari_histoseg.metrics import aji, f1, pq, score_nuclei

EMPTY = np.zeros((4, 6), int)
TWO = np.array([[1, 1, 0, 2, 2, 2], [1, 1, 0, 2, 2, 2], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]])

pictures = arrays(np.int64, (9, 9), elements=st.integers(0, 4))
wholes = st.tuples(pictures, pictures)


def slow_aji(true: Any, pred: Any) -> float:
    """Kumar et al. 2017, Algorithm 1, word for word."""
    truths, found = [i for i in np.unique(true) if i], [j for j in np.unique(pred) if j]
    if not truths and not found:
        return 1.0
    shared = union = 0
    used = set()
    for i in truths:
        g = true == i
        ious = [((g & (pred == j)).sum() / (g | (pred == j)).sum(), j) for j in found]
        best, j = max(ious, key=lambda pair: (pair[0], -pair[1]), default=(0, 0))
        if best == 0:
            union += g.sum()
            continue
        shared += (g & (pred == j)).sum()
        union += (g | (pred == j)).sum()
        used.add(j)
    union += sum((pred == j).sum() for j in found if j not in used)
    return float(shared / union)


def slow_pq(true: Any, pred: Any, threshold: float) -> tuple[float, float, float]:
    """Kirillov et al. 2019, equation 2."""
    truths, found = [i for i in np.unique(true) if i], [j for j in np.unique(pred) if j]
    if not truths and not found:
        return 1.0, 1.0, 1.0
    matched = []
    for i in truths:
        for j in found:
            iou = ((true == i) & (pred == j)).sum() / ((true == i) | (pred == j)).sum()
            if iou > threshold:
                matched.append(iou)
    dq = len(matched) / (len(matched) + 0.5 * (len(truths) + len(found) - 2 * len(matched)))
    sq = float(np.mean(matched)) if matched else 0.0
    return dq, sq, dq * sq


@settings(deadline=None)
@given(wholes)
def test_scores_equal_the_slow_versions(pair: Any) -> None:
    true, pred = pair
    assert aji(true, pred) == pytest.approx(slow_aji(true, pred))
    for threshold in (0.5, 0.7):
        expected = slow_pq(true, pred, threshold)
        assert pq(true, pred, threshold) == pytest.approx(expected)
        assert f1(true, pred, threshold) == pytest.approx(expected[0])


@settings(deadline=None)
@given(pictures)
def test_the_truth_itself_scores_one(true: Any) -> None:
    scores = score_nuclei(true, true)
    assert scores["n_true"] == scores["n_pred"]
    assert all(value == 1 for name, value in scores.items() if not name.startswith("n_"))


@settings(deadline=None)
@given(wholes, st.permutations(range(1, 5)), st.integers(1, 10**9))
def test_ids_mean_nothing(pair: Any, order: list[int], stride: int) -> None:
    true, pred = pair
    lookup = np.array([0, *(i * stride for i in order)])
    a, b = score_nuclei(pred, true), score_nuclei(lookup[pred], lookup[true])
    # Kumar's choice among predictions of exactly equal IoU goes by id.
    a.pop("aji"), b.pop("aji")
    assert a == pytest.approx(b)


def test_ids_mean_nothing_to_the_aji() -> None:
    rng = np.random.default_rng(0)
    true, pred = (label(rng.random((60, 60)) > 0.6, connectivity=1) for _ in range(2))
    order = rng.permutation(int(pred.max()) + 1) * 1000 + 7
    order[0], shuffled = 0, rng.permutation(int(true.max())) + 1
    assert aji(np.array([0, *shuffled])[true], true) == pytest.approx(1)
    assert aji(true, order[pred]) == pytest.approx(aji(true, pred), rel=0.02)


@pytest.mark.parametrize(
    ("true", "pred", "expected"),
    [(EMPTY, EMPTY, 1.0), (TWO, EMPTY, 0.0), (EMPTY, TWO, 0.0)],
    ids=["both empty", "nothing found", "nothing there"],
)
def test_empty_pictures(true: Any, pred: Any, expected: float) -> None:
    scores = score_nuclei(pred, true)
    for name in ("aji", "pq", "dq", "f1_50", "f1_90", "dice", "jaccard"):
        assert scores[name] == expected


def test_known_values() -> None:
    pred = TWO.copy()
    pred[0, 0] = 0
    pred[3, :3] = 9
    scores = score_nuclei(pred, TWO)
    assert scores["aji"] == pytest.approx((3 + 6) / (4 + 6 + 3))
    assert scores["dq"] == pytest.approx(2 * 2 / 5)
    assert scores["sq"] == pytest.approx((0.75 + 1) / 2)
    assert scores["f1_70"] == pytest.approx(0.8)
    assert scores["f1_80"] == pytest.approx(0.4)
    assert scores["dice"] == pytest.approx(18 / 22)
    assert scores["sensitivity"] == pytest.approx(0.9)
    assert scores["specificity"] == pytest.approx(11 / 14)
    assert (scores["n_true"], scores["n_pred"]) == (2, 3)


def test_a_prediction_may_serve_two_truths() -> None:
    assert aji(TWO, np.where(TWO > 0, 1, 0)) == pytest.approx((4 + 6) / (10 + 10))


def test_shapes_and_thresholds_are_checked() -> None:
    with pytest.raises(SettingsError, match=r"\(4, 6\).*\(3, 3\)"):
        aji(TWO, np.zeros((3, 3), int))
    with pytest.raises(SettingsError, match=r"from 0\.5"):
        f1(TWO, TWO, 0.3)
