"""Drawing down the tree: every branch of a node is as likely as its siblings, at any depth."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_histoseg.methods.tumour.sampler import UNKNOWN, Tree

STAGES = ("grade", "name", "label")
rows_of = st.lists(st.tuples(*[st.sampled_from([None, "a", "b", "c"])] * 4), min_size=1, max_size=60)


def table(rows: list[tuple[object, ...]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=[f"stage {i}" for i in range(len(rows[0]))])


def slides() -> pd.DataFrame:
    """Two grades; one slide of the first, two of the second, one of which has no tumour; patches of very different number."""
    counts = {("1", "a", 0): 50, ("1", "a", 1): 2, ("2", "b", 0): 7, ("2", "b", 1): 1, ("2", "c", 0): 30}
    return pd.DataFrame([key for key, count in counts.items() for _ in range(count)], columns=STAGES)


def drawn(tree: Tree, count: int, seed: int = 0) -> list[int]:
    rng = np.random.default_rng(seed)
    return [tree.draw(rng) for _ in range(count)]


@given(rows_of, st.integers(0, 4))
def test_chances_are_uniform_at_every_stage_of_any_depth(rows: list[tuple[object, ...]], depth: int) -> None:
    data = table(rows)
    stages = list(data.columns[:depth])
    chance = Tree(data, stages).chances()
    assert chance.sum() == pytest.approx(1) and (chance > 0).all()
    known = data[stages].fillna(UNKNOWN).assign(chance=chance)
    for stage in range(depth + 1):
        # The children of each node are alike.
        above, below = stages[:stage], stages[: stage + 1]
        nodes = known.groupby(above, dropna=False) if above else [((), known)]
        for _, node in nodes:
            shares = node["chance"] if stage == depth else node.groupby(below)["chance"].sum()
            np.testing.assert_allclose(shares, shares.iloc[0])


def test_the_chances_of_the_paper_s_tree() -> None:
    chance = slides().assign(chance=Tree(slides(), STAGES).chances()).groupby(list(STAGES))["chance"].agg(["sum", "first"])
    # Of the slide without tumour all patches are without: a class that is missing costs its slide nothing.
    assert chance["sum"].to_dict() == pytest.approx(
        {("1", "a", 0): 1 / 4, ("1", "a", 1): 1 / 4, ("2", "b", 0): 1 / 8, ("2", "b", 1): 1 / 8, ("2", "c", 0): 1 / 4}
    )
    assert chance.loc[("1", "a", 0), "first"] == pytest.approx(1 / 4 / 50)


def test_draws_follow_the_chances() -> None:
    tree, count = Tree(slides(), STAGES), 20_000
    found = np.bincount(drawn(tree, count), minlength=len(slides()))
    expected = tree.chances() * count
    assert found.sum() == count
    # Chi squared of 89 degrees of freedom: 148 is its 99.99 % quantile.
    assert ((found - expected) ** 2 / expected).sum() < 148


def test_without_stages_all_patches_are_alike() -> None:
    tree = Tree(slides(), ())
    np.testing.assert_allclose(tree.chances(), 1 / 90)
    assert tree.report([3, 4])[["patches", "drawn", "expected", "share"]].to_numpy().tolist() == [[90, 2, pytest.approx(1), 1]]


def test_labels_that_are_not_stated_are_a_kind_of_their_own() -> None:
    data = pd.DataFrame({"grade": ["1", None, "2", float("nan"), None]})
    tree = Tree(data, ("grade",))
    np.testing.assert_allclose(tree.chances(), [1 / 3, 1 / 9, 1 / 3, 1 / 9, 1 / 9])
    assert tree.report([1])["grade"].tolist() == ["1", "2", UNKNOWN]


def test_the_same_seed_draws_the_same() -> None:
    tree = Tree(slides(), STAGES)
    assert drawn(tree, 50, 3) == drawn(Tree(slides(), STAGES), 50, 3) != drawn(tree, 50, 4)


@given(st.permutations(["a", "b", "c", "d"]))
def test_the_order_of_slides_changes_nothing(order: list[str]) -> None:
    data = pd.DataFrame([(str(name < "c"), name, label, i) for name, label, i in product("abcd", (0, 1), range(3))], columns=[*STAGES, "patch"])
    moved = pd.concat([data[data["name"] == name] for name in order], ignore_index=True)
    seen = [each.iloc[drawn(Tree(each, STAGES), 40)].to_numpy().tolist() for each in (data, moved)]
    assert seen[0] == seen[1]


@given(rows_of, st.integers(0, 4), st.lists(st.integers(0, 10**6), max_size=50))
def test_the_report_adds_up(rows: list[tuple[object, ...]], depth: int, numbers: list[int]) -> None:
    data = table(rows)
    stages = list(data.columns[:depth])
    report = Tree(data, stages).report(n % len(data) for n in numbers)
    assert list(report.columns) == [*stages, "patches", "drawn", "expected", "share"]
    assert report["patches"].sum() == len(data) and report["drawn"].sum() == len(numbers)
    assert report["expected"].sum() == pytest.approx(1) and report["share"].sum() == pytest.approx(min(len(numbers), 1))
    assert len(report) == len(data[stages].fillna(UNKNOWN).drop_duplicates()) if stages else len(report) == 1
