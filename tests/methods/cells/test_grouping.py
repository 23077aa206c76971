"""From numbers to classes: axes, Gaussians and planes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from napari_histoseg.methods.cells.grouping import Axes, Groups, Planes, from_tensors, to_tensors
from napari_histoseg.metrics.cells import adjusted_rand


def blobs(seed: int = 0, count: int = 3, each: int = 60, axes: int = 5) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Groups of falling size, far apart."""
    rng = np.random.default_rng(seed)
    centers = 10 * rng.permutation(np.eye(max(axes, count)))[:count, :axes]
    sizes = [each * (count - k) for k in range(count)]
    return np.concatenate([c + rng.normal(size=(n, axes)) for c, n in zip(centers, sizes, strict=True)]), np.repeat(np.arange(count), sizes)


@pytest.mark.parametrize("kind", ["kmeans", "mixture"])
def test_groups_that_lie_apart_are_found_in_the_order_of_their_size(kind: str) -> None:
    places, truth = blobs()
    groups = Groups.fit(places, 3, kind, seed=1)  # type: ignore[arg-type]
    chance = groups.probability(places)
    np.testing.assert_array_equal(chance.argmax(1), truth)
    np.testing.assert_allclose(chance.sum(1), 1)
    assert chance.max(1).min() > 0.9


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_the_order_of_the_nuclei_does_not_change_the_classes_that_lie_apart(seed: int) -> None:
    places, _ = blobs(seed=seed % 7)
    order = np.random.default_rng(seed).permutation(len(places))
    plain = Groups.fit(places, 3, "kmeans", 0).probability(places).argmax(1)
    mixed = Groups.fit(places[order], 3, "kmeans", 0).probability(places).argmax(1)
    assert adjusted_rand(plain, mixed) == 1


def test_between_two_classes_neither_is_sure() -> None:
    places, _ = blobs()
    groups = Groups.fit(places, 3, "kmeans", 0)
    middle = groups.probability(groups.centers[:2].mean(0, keepdims=True))[0]
    assert middle[:2] == pytest.approx([0.5, 0.5], abs=1e-3)


def test_nuclei_that_are_all_alike_are_of_one_class() -> None:
    places = np.ones((20, 4))
    axes = Axes.fit(places, 16, each_scaled=True, seed=0)
    embedded = axes.project(places)
    assert np.isfinite(embedded).all()
    groups = Groups.fit(embedded, 3, "kmeans", 0)
    assert len(np.unique(groups.probability(embedded).argmax(1))) == 1


def test_missing_numbers_count_as_the_mean() -> None:
    places, _ = blobs()
    holed = places.copy()
    holed[3, 2] = np.nan
    axes = Axes.fit(holed, 3, each_scaled=True, seed=0)
    filled = holed.copy()
    filled[3, 2] = np.nanmean(holed[:, 2])
    np.testing.assert_allclose(axes.project(holed)[3], axes.project(filled)[3])
    empty = np.full((5, 2), np.nan)
    assert np.isfinite(Axes.fit(empty, 2, each_scaled=True, seed=0).project(empty)).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 8), st.booleans())
def test_axes_keep_distances_when_none_is_left_out(seed: int, axes: int, each: bool) -> None:
    numbers = np.random.default_rng(seed).normal(size=(40, axes)) * np.arange(1, axes + 1)
    found = Axes.fit(numbers, 16, each_scaled=each, seed=0)
    scaled = (numbers - found.mean) / found.scale
    embedded = found.project(numbers)
    np.testing.assert_allclose(np.linalg.norm(embedded[1:] - embedded[:-1], axis=1), np.linalg.norm(scaled[1:] - scaled[:-1], axis=1))
    # The longest first, and each with one sign whatever the solver.
    assert (np.diff(embedded.std(0)) <= 1e-9).all()
    assert (found.directions[np.abs(found.directions).argmax(0), np.arange(found.directions.shape[1])] > 0).all()


@pytest.mark.parametrize("count", [2, 3, 5])
def test_planes_learn_classes_that_somebody_drew(count: int) -> None:
    places, _ = blobs()
    drawn = np.digitize(places[:, 0] + places[:, 1], np.quantile(places[:, 0] + places[:, 1], np.arange(1, count) / count))
    planes = Planes.fit(places, drawn, seed=0)
    chance = planes.probability(places)
    assert chance.shape == (len(places), count)
    np.testing.assert_allclose(chance.sum(1), 1)
    assert (chance.argmax(1) == drawn).mean() > 0.9


@pytest.mark.parametrize("part", ["axes", "groups", "planes"])
def test_parts_go_through_a_weights_file(part: str) -> None:
    places, truth = blobs()
    made = {"axes": Axes.fit(places, 3, each_scaled=False, seed=0), "groups": Groups.fit(places, 3, "mixture", 0), "planes": Planes.fit(places, truth, 0)}[part]
    back = from_tensors("x", type(made), to_tensors("x", made))
    for name in vars(made):
        np.testing.assert_array_equal(getattr(back, name), getattr(made, name))
    with pytest.raises(KeyError):
        from_tensors("y", type(made), to_tensors("x", made))
