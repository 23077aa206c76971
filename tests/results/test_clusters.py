"""What the inspector asks of a result's objects: ranks, sizes, numbers, maps, splits and what corrections teach."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.manifold import trustworthiness

from napari_histoseg.errors import SettingsError
from napari_histoseg.metrics.cells import agreement
from napari_histoseg.results import ClassRecord, Result, ResultStore, clusters
from napari_histoseg.results.classbook import ClassBook
from napari_histoseg.results.clusters import Clusters, plane_kinds

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def made(cluster: Any, embedding: Any, probability: Any = None, stored: Any = None, **measurements: Any) -> Clusters:
    """Objects 10, 20, … from arrays."""
    cluster = np.asarray(cluster, np.int32)
    n = len(cluster)
    embedding = np.asarray(embedding, np.float32)
    embedding = embedding if embedding.ndim == 2 else embedding[:, None]
    chances = np.full(n, np.nan, np.float32) if probability is None else np.asarray(probability, np.float32)
    classes = tuple(ClassRecord(value=int(v), name=f"cluster {v}") for v in range(1, int(cluster.max(initial=1)) + 1))
    return Clusters(
        ids=np.arange(10, 10 * n + 1, 10, dtype=np.uint32),
        x_um=np.arange(n, dtype=float),
        y_um=np.zeros(n),
        cluster=cluster,
        stored=cluster if stored is None else np.asarray(stored, np.int32),
        probability=chances,
        embedding=embedding,
        measurements=pd.DataFrame(measurements, index=range(n)),
        classes=classes,
    )


def test_the_arrays_are_those_of_the_table(cells: Result) -> None:
    found, objects = Clusters.of(cells), cells.objects
    np.testing.assert_array_equal(found.ids, objects["id"])
    np.testing.assert_array_equal(found.cluster, objects["cluster"])
    np.testing.assert_array_equal(found.stored, objects["cluster"])
    np.testing.assert_array_equal(found.embedding, objects[[f"embedding_{i:02d}" for i in range(4)]])
    np.testing.assert_array_equal(found.probability, objects["probability"])
    assert list(found.measurements.columns) == ["area_um2", "eccentricity"]
    assert [c.name for c in found.classes] == ["cluster 1", "cluster 2", "cluster 3"]


def test_following_the_book_keeps_maps(cells: Result) -> None:
    book, before = ClassBook(cells), Clusters.of(cells)
    points = before.plane()
    book.merge([1, 2])
    after = before.follow(cells)
    assert after.ids is before.ids and after.plane() is points
    assert set(after.cluster.tolist()) == {1, 3}
    assert after.sizes() == {1: int((before.cluster < 3).sum()), 3: int((before.cluster == 3).sum())}
    assert before.sizes()[2] > 0


def test_following_reads_anew_where_objects_changed(cells: Result, new_cells: Any, store_cells: Any, tmp_path: Path) -> None:
    other = store_cells(tmp_path / "other", new_cells(50, seed=3))
    after = Clusters.of(cells).follow(other)
    np.testing.assert_array_equal(after.ids, other.objects["id"])


def test_a_class_map_has_no_objects(new_record: Any, tmp_path: Path) -> None:
    record = new_record(classes=[ClassRecord(value=1, name="a")])
    result = ResultStore.create(tmp_path / "r", record, ("labels",)).finish()
    with pytest.raises(SettingsError, match="map of classes and has no objects"):
        Clusters.of(result)


def test_objects_without_clusters_have_the_classes_of_their_names(own: Result) -> None:
    found = Clusters.of(own)
    assert set(found.cluster.tolist()) == {1}
    assert found.embedding.shape == (len(found), 0)
    assert len(found.typical(1, 5)) == 5


# -- ranks --------------------------------------------------------------------------------------------------------------


def test_ranks_by_distance() -> None:
    # Middles at 0 and 10: object 40 lies between, object 50 far out.
    found = made([1, 1, 1, 1, 1, 2, 2], [-0.5, 0.0, 0.5, 5.0, -5.0, 10.0, 10.0])
    assert found.typical(1, 3).tolist() == [20, 10, 30]
    assert found.outliers(1, 2).tolist() == [40, 50]
    assert found.borderline(1, 2).tolist() == [40, 30]
    assert found.members(2).tolist() == [60, 70]
    assert found.typical(1, 0).tolist() == []
    assert found.typical(3).tolist() == found.members(3).tolist() == []


def test_borderline_goes_by_probability_while_the_class_is_as_the_run_made_it() -> None:
    places, chances = [0.0, 1.0, 3.0, 10.0], [0.5, 0.9, 0.8, 0.7]
    assert made([1, 1, 1, 2], places, chances).borderline(1).tolist() == [10, 30, 20]
    assert made([1, 1, 1, 2], places, chances, stored=[1, 1, 2, 2]).borderline(1)[0] == 30


def test_objects_without_an_embedding_come_last() -> None:
    found = made([1, 1, 1, 2], [0.0, np.nan, 1.0, 9.0])
    assert found.typical(1).tolist()[-1] == found.outliers(1).tolist()[-1] == found.borderline(1).tolist()[-1] == 20
    assert np.isnan(found.plane()[1]).all() and np.isfinite(found.plane()[[0, 2, 3]]).all()
    assert 20 not in found.recluster(1, 2).index


@settings(max_examples=30, deadline=None)
@given(
    cluster=hnp.arrays(np.int32, st.integers(1, 60), elements=st.integers(0, 4)),
    n=st.integers(0, 70),
    seed=st.integers(0, 99),
)
def test_ranks_are_the_best_of_the_class_in_order(cluster: Any, n: int, seed: int) -> None:
    found = made(cluster, np.random.default_rng(seed).normal(size=(len(cluster), 3)).round(1))
    for value in range(5):
        members = found.members(value)
        for ranked, score in ((found.typical(value, n), found.distance), (found.outliers(value, n), -found.distance)):
            assert len(ranked) == min(n, len(members)) and set(ranked) <= set(members)
            keys = np.nan_to_num(score[found.positions(ranked)], nan=1e9)
            assert (np.diff(keys) >= 0).all()
            rest = np.nan_to_num(score[found.positions(np.setdiff1d(members, ranked))], nan=1e9)
            assert not len(keys) or not len(rest) or keys[-1] <= rest.min()


@settings(max_examples=30, deadline=None)
@given(cluster=hnp.arrays(np.int32, st.integers(2, 40), elements=st.integers(1, 4)), shift=st.floats(-1e3, 1e3), seed=st.integers(0, 99))
def test_distances_are_euclidean_wherever_the_embedding_lies(cluster: Any, shift: float, seed: int) -> None:
    places = np.random.default_rng(seed).normal(size=(len(cluster), 3)) + shift
    found = made(cluster, places)
    centers = {v: places[cluster == v].mean(0) for v in np.unique(cluster)}
    own = np.array([np.linalg.norm(p - centers[v]) for p, v in zip(places, cluster, strict=True)])
    np.testing.assert_allclose(found.distance, own, atol=0.02)


def test_positions_of_unknown_ids_are_left_out() -> None:
    found = made([1, 1, 2], [0, 1, 2])
    assert found.positions([30, 5, 10, 99]).tolist() == [2, 0]
    assert made([], []).positions([1]).tolist() == []


# -- numbers ------------------------------------------------------------------------------------------------------------


def test_box_stats_are_those_of_a_box_plot() -> None:
    # Quartiles 2, 3 and 4, so that whiskers reach to -1 and 7 at most: 30 lies beyond.
    values = [1.0, 2.0, 3.0, 4.0, 30.0, np.nan, np.inf]
    found = made([1] * 7 + [2] + [3] * 3, np.zeros(11), area=[*values, np.nan, 5.0, 5.0, 5.0])
    table = found.box_stats("area")
    assert list(table.columns) == ["low", "q1", "median", "q3", "high", "count"]
    assert table.loc[1].tolist() == [1, 2, 3, 4, 4, 5]
    assert table.loc[3].tolist() == [5, 5, 5, 5, 5, 3]
    assert table.loc[2, "count"] == 0 and np.isnan(table.loc[2, "median"])
    with pytest.raises(SettingsError, match=r"no measurement 'size'. The measurements are: area"):
        found.box_stats("size")


def test_summary_has_sizes_and_means(cells: Result) -> None:
    found = Clusters.of(cells)
    table = found.summary_table()
    objects = cells.objects
    assert table.index.tolist() == [1, 2, 3]
    assert table["name"].tolist() == ["cluster 1", "cluster 2", "cluster 3"]
    assert table["count"].sum() == 300 and table["share"].sum() == pytest.approx(1)
    for value in (1, 2, 3):
        mine = objects[objects["cluster"] == value]
        assert table.loc[value, "eccentricity"] == pytest.approx(mine["eccentricity"].mean(), rel=1e-4)


def test_a_class_without_objects_is_listed(cells: Result) -> None:
    everything = cells.objects["id"].to_numpy()
    ClassBook(cells).relabel(everything, np.full(300, 2), "all")
    found = Clusters.of(cells)
    assert found.sizes() == {1: 0, 2: 300, 3: 0}
    assert found.summary_table().loc[1, "count"] == 0 and np.isnan(found.summary_table().loc[1, "area_um2"])
    assert found.borderline(2, 3).shape == (3,) and found.outliers(1).shape == (0,)
    assert np.isnan(found.box_stats("area_um2").loc[3, "q1"])


@pytest.mark.parametrize("n", [0, 1, 3])
def test_very_few_objects(n: int) -> None:
    found = made([1] * n, np.zeros((n, 2)), area=np.arange(n, dtype=float))
    assert found.plane().shape == found.plane("tsne").shape == (n, 2)
    assert len(found.typical(1)) == len(found.borderline(1)) == n
    assert found.box_stats("area").loc[1, "count"] == n
    assert len(found.summary_table()) == 1


# -- maps ---------------------------------------------------------------------------------------------------------------


def test_pca_is_the_plane_of_largest_variance() -> None:
    rng = np.random.default_rng(1)
    flat = rng.normal(size=(200, 2)) * (5, 2)
    turned = flat @ np.linalg.qr(rng.normal(size=(6, 6)))[0][:2] + 100
    points = made(np.ones(200), turned).plane()
    assert points.dtype == np.float32
    np.testing.assert_allclose(np.abs(points.std(0)), np.sqrt(np.linalg.eigvalsh(np.cov(flat.T, bias=True))[::-1]), rtol=1e-3)
    distances = np.linalg.norm(points[:1] - points, axis=1)
    np.testing.assert_allclose(distances, np.linalg.norm(flat[:1] - flat, axis=1), atol=1e-2)
    np.testing.assert_array_equal(points, made(np.ones(200), turned).plane())


@pytest.mark.parametrize("d", [0, 1])
def test_a_line_or_nothing_is_a_map_too(d: int) -> None:
    points = made(np.ones(20), np.arange(20.0 * d).reshape(20, d)).plane()
    assert np.isfinite(points).all() and (points[:, 1] == 0).all()


def test_tsne_keeps_neighbors_also_of_objects_that_it_places_afterwards(cells: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "TSNE_OBJECTS", 150)
    found = Clusters.of(cells)
    points = found.plane("tsne", seed=1)
    assert found.plane("tsne", seed=1) is points
    assert trustworthiness(found.embedding, points, n_neighbors=5) > 0.9


def test_umap_where_it_is_installed(cells: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Clusters.of(cells)
    monkeypatch.setitem(sys.modules, "umap", None)
    monkeypatch.setattr(clusters, "find_spec", lambda name: None)
    assert plane_kinds() == ("pca", "tsne")
    with pytest.raises(SettingsError, match="pip install umap-learn"):
        found.plane("umap")
    fake = SimpleNamespace(UMAP=lambda random_state: SimpleNamespace(fit_transform=lambda space: space[:, :2]))
    monkeypatch.setitem(sys.modules, "umap", fake)
    monkeypatch.setattr(clusters, "find_spec", importlib.util.find_spec)
    np.testing.assert_array_equal(found.plane("umap"), found.embedding[:, :2])


def test_an_unknown_map_is_refused(cells: Result) -> None:
    with pytest.raises(SettingsError, match=r"no map of kind 'mds'. Use one of pca, tsne, umap"):
        Clusters.of(cells).plane("mds")  # type: ignore[arg-type]


# -- splitting and learning ---------------------------------------------------------------------------------------------


def test_reclustering_finds_the_groups_of_a_merged_class(cells: Result) -> None:
    before = Clusters.of(cells)
    ClassBook(cells).merge([1, 2, 3])
    parts = before.follow(cells).recluster(1, 3, seed=2)
    assert agreement([parts.to_numpy(), before.cluster]) > 0.99
    assert (np.diff(np.bincount(parts)) <= 0).all()
    pd.testing.assert_series_equal(parts, before.follow(cells).recluster(1, 3, seed=2))


@pytest.mark.parametrize(("k", "words"), [(1, "Got 1"), (3, r"\(2\). Got 3")])
def test_more_parts_than_different_objects_are_refused(k: int, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        made([1, 1, 1, 1], [0, 0, 5, 5]).recluster(1, k)


def test_twenty_corrections_teach_the_rest(cells: Result) -> None:
    before = Clusters.of(cells)
    truth = before.cluster.copy()
    everything = ClassBook(cells).merge([1, 2, 3])
    book = ClassBook(cells)
    found = before.follow(cells)
    assert set(found.cluster.tolist()) == {everything}
    new = book.assign(before.typical(2, 20), "lymphocyte")
    other = book.assign(before.typical(3, 20), "stroma")
    values, probability = before.follow(cells).learn(book.corrections(), others=False)
    assert set(values.tolist()) == {new, other}
    assert (values[truth == 2] == new).all() and (values[truth == 3] == other).all()
    book.assign(before.typical(1, 20), everything)
    values, probability = before.follow(cells).learn(book.corrections())
    assert np.mean(values == np.select([truth == 1, truth == 2], [everything, new], other)) > 0.98
    assert probability.dtype == np.float32 and ((probability > 0) & (probability <= 1)).all()
    assert (probability[before.positions(book.corrections()["id"])] == 1).all()
    assert book.relabel(before.ids, values, "Learned") > 0
    assert agreement([Clusters.of(cells).cluster, truth]) > 0.95


def test_classes_without_a_correction_stay(cells: Result) -> None:
    found = Clusters.of(cells)
    one = pd.DataFrame({"id": found.typical(2, 10), "value": 2})
    values, _ = found.learn(one)
    assert np.mean(values == found.cluster) > 0.98
    with pytest.raises(SettingsError, match=r"at least two classes. Got 1;"):
        found.learn(one, others=False)


def test_nothing_to_learn_from(cells: Result) -> None:
    ClassBook(cells).merge([1, 2, 3])
    found = Clusters.of(cells)
    with pytest.raises(SettingsError, match=r"at least two classes. Got 0"):
        found.learn(pd.DataFrame({"id": np.array([], np.uint32), "value": np.array([], np.int32)}))


def test_objects_without_a_place_keep_their_class_and_gone_ones_do_not_matter() -> None:
    found = made([1, 1, 2, 2, 2], [0, 1, 9, 10, np.nan])
    values, probability = found.learn(pd.DataFrame({"id": [10, 40, 50, 777], "value": [2, 1, 1, 1]}), others=False)
    assert values.tolist() == [2, 2, 1, 1, 1]
    assert np.isnan(probability).sum() == 0 and probability[4] == 1
    values, probability = found.learn(pd.DataFrame({"id": [10, 40], "value": [2, 1]}), others=False)
    assert values[4] == 2 and np.isnan(probability[4])


@pytest.mark.parametrize("k", [2, 4])
def test_probability_is_that_of_the_regression(k: int, new_cells: Any, store_cells: Any, tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    classes = [ClassRecord(value=v, name=f"cluster {v}") for v in range(1, k + 1)]
    found = Clusters.of(store_cells(tmp_path / "r", new_cells(200, k), classes=classes))
    given = pd.DataFrame({"id": found.ids[:60], "value": found.cluster[:60]})
    values, probability = found.learn(given)
    space = StandardScaler().fit_transform(found.embedding)
    model = LogisticRegression(class_weight="balanced", max_iter=1000).fit(space[:60], given["value"])
    np.testing.assert_array_equal(values[60:], model.predict(space[60:]))
    np.testing.assert_allclose(probability[60:], model.predict_proba(space[60:]).max(1), atol=1e-3)


# -- agreement ----------------------------------------------------------------------------------------------------------


def test_agreement_does_not_mind_the_numbers_of_clusters() -> None:
    assert agreement([[0, 0, 1, 1], [5, 5, 2, 2], [1, 1, 0, 0]]) == 1
    random = [np.random.default_rng(seed).integers(0, 4, 3000) for seed in range(3)]
    assert abs(agreement(random)) < 0.01


@pytest.mark.parametrize("given", [[], [[1, 2]], [[1, 2], [1]]])
def test_agreement_needs_two_of_the_same_length(given: Any) -> None:
    with pytest.raises(SettingsError, match="two or more clusterings of the same objects"):
        agreement(given)


# -- speed --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(new_cells: Any, store_cells: Any, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """200,000 objects in eight classes with 16 numbers of embedding and 30 measurements."""
    n = 200_000
    classes = [ClassRecord(value=v, name=f"cluster {v}") for v in range(1, 9)]
    rng = np.random.default_rng(0)
    cluster = rng.integers(1, 9, n).astype(np.int32)
    objects = pd.DataFrame(
        {
            "id": np.arange(1, n + 1, dtype=np.uint32),
            "centroid_x_um": rng.uniform(0, 32, n),
            "centroid_y_um": rng.uniform(0, 32, n),
            "class": np.char.add("cluster ", cluster.astype(str)).tolist(),
            "probability": rng.uniform(size=n).astype(np.float32),
            "cluster": cluster,
        }
    )
    measured = pd.DataFrame(rng.normal(size=(n, 30)).astype(np.float32), columns=[f"m{i}" for i in range(30)])
    places = (rng.normal(size=(9, 16))[cluster] * 4 + rng.normal(size=(n, 16))).astype(np.float32)
    embedded = pd.DataFrame(places, columns=[f"embedding_{i:02d}" for i in range(16)])
    result: Result = store_cells(tmp_path_factory.mktemp("large") / "r", pd.concat([objects, measured, embedded], axis=1), classes=classes)
    return result


def seconds(call: Callable[[], Any]) -> float:
    """On the clock, or of the processor where that is at work for others too."""
    clock, processor = time.perf_counter(), time.process_time()
    call()
    return min(time.perf_counter() - clock, time.process_time() - processor)


def test_two_hundred_thousand_objects_are_quick(large: Result) -> None:
    # Three times what it may take on an idle machine.
    assert seconds(lambda: Clusters.of(large)) < 6
    found, book = Clusters.of(large), ClassBook(large)
    assert seconds(lambda: (found.typical(1), found.outliers(2), found.borderline(3))) < 0.6
    assert seconds(lambda: found.typical(4)) < 0.3
    assert seconds(lambda: found.box_stats("m3")) < 0.9
    assert seconds(found.plane) < 3
    assert seconds(lambda: book.recolor(1, "#123456")) < 0.5
    assert seconds(lambda: (book.merge([1, 2]), found.follow(large), large.objects)) < 1.5
    given = pd.DataFrame({"id": found.ids[:40], "value": found.cluster[:40]})
    assert seconds(lambda: book.relabel(found.ids, np.where(found.cluster < 3, 1, found.cluster), "same")) < 1.5
    assert seconds(lambda: found.learn(given)) < 3
