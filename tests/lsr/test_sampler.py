"""Groups of blocks."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from napari_histoseg.methods.lsr.sampler import Groups


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 8), st.integers(1, 12), st.integers(0, 99))
def test_a_group_has_one_label_and_repeats_a_block_only_when_it_must(labels: list[int], groups: int, size: int, seed: int) -> None:
    coarse = np.array(labels)
    drawn = Groups(coarse).draw(np.random.default_rng(seed), groups, size).reshape(groups, size)
    for group in drawn:
        (label,) = set(coarse[group])
        times = np.bincount(group, minlength=len(coarse))[coarse == label]
        assert times.max() - times.min() <= 1
    kinds = [coarse[group[0]] for group in drawn]
    counts = np.unique(kinds, return_counts=True)[1]
    assert len(counts) == min(groups, len(set(labels))) and counts.max() - counts.min() <= 1


def test_a_rare_label_is_drawn_as_often_as_others() -> None:
    coarse = np.array([0] * 997 + [1] * 3)
    sampler, rng = Groups(coarse), np.random.default_rng(0)
    kinds = [coarse[sampler.draw(rng, 1, 15)[0]] for _ in range(400)]
    assert 0.4 < np.mean(kinds) < 0.6


def test_the_same_seed_draws_the_same_blocks() -> None:
    sampler = Groups([0, 0, 0, 1, 1, 2, 2, 2])
    a, b = (sampler.draw(np.random.default_rng(7), 3, 2) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    assert (a != sampler.draw(np.random.default_rng(8), 3, 2)).any()
