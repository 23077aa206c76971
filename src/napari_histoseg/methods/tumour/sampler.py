"""Drawing patches down a tree of labels: at each stage every branch is as likely as any other (§2.3 of the paper)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

UNKNOWN = "not stated"


class Tree:
    """Rows under nested labels.

    Parameters
    ----------
    rows : DataFrame
        A row a patch.
    stages : sequence of str
        Columns, from the root to the leaves; any number. Rows without a value are a branch of their own.
    """

    def __init__(self, rows: pd.DataFrame, stages: Sequence[str]) -> None:
        self.stages = tuple(stages)
        self._rows = rows[list(stages)].astype(object).where(rows[list(stages)].notna(), UNKNOWN).reset_index(drop=True)
        self._root = _grown(self._rows, np.arange(len(rows)), self.stages)

    def draw(self, rng: np.random.Generator) -> int:
        """Number of a row, from 0."""
        node = self._root
        while isinstance(node, list):
            node = node[int(rng.integers(len(node)))]
        return int(node[int(rng.integers(len(node)))])

    def chances(self) -> NDArray[np.float64]:
        """Probability of each row."""
        found = np.zeros(len(self._rows))
        _share(self._root, 1.0, found)
        return found

    def report(self, drawn: Iterable[int]) -> pd.DataFrame:
        """How often each branch was drawn: the stages' columns, ``patches`` in it, ``drawn``, and ``expected`` share and ``share``."""
        counts = np.bincount(np.fromiter(drawn, np.int64), minlength=len(self._rows))
        table = self._rows.assign(patches=1, drawn=counts, expected=self.chances())
        grouped = table.groupby(list(self.stages), sort=True, as_index=False).sum() if self.stages else table.sum().to_frame().T
        return grouped.assign(share=grouped["drawn"] / max(int(counts.sum()), 1))


Node = list["Node"] | NDArray[np.int64]


def _grown(rows: pd.DataFrame, which: NDArray[np.int64], stages: Sequence[str]) -> Node:
    if not stages:
        return which
    values = rows[stages[0]].to_numpy()[which]
    # By name, so that the order of slides in a dataset changes nothing.
    return [_grown(rows, which[values == value], stages[1:]) for value in sorted(set(values), key=str)]


def _share(node: Node, chance: float, found: NDArray[np.float64]) -> None:
    if not isinstance(node, list):
        found[node] = chance / len(node)
        return
    for child in node:
        _share(child, chance / len(node), found)
