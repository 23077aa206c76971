"""What share of each class blocks of a coarse label hold: stated, measured in painted blocks, or the paper's Table 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_histoseg.annotations.blocks import coarse_name
from napari_histoseg.annotations.dataset import PatchDataset, Statistic
from napari_histoseg.errors import DatasetError

BACKGROUND = 0
LEAST_RHO = 0.005
"""Standard deviation of measured shares that all agree."""
SLACK = 0.005
"""Rounding of percentages that sum to 100."""
ASKED = 10
"""Painted blocks a coarse label that a table is measured from; the paper's are 10 to 12."""
FEWEST = 2
"""A standard deviation takes two."""
FAR, MANY_ERRORS = 0.15, 4.0
"""Stated and measured shares contradict each other when they differ by more than both: absolutely, and in standard errors."""

PAPER_EDGES = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
"""The ten bins of tumour probability of Zhao et al. 2020 (Table 1)."""
PAPER_SHARES = ((0.0, 0.1), (1.0, 0.4), (2.0, 0.4), (5.0, 0.8), (6.0, 1.0), (8.0, 1.0), (10.0, 1.0), (10.0, 1.0), (20.0, 2.0), (70.0, 5.0))
"""Mean and standard deviation, in percent, of the share of cancer in each bin (Table 1); the rest is not cancer."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """Shares by coarse label.

    Attributes
    ----------
    coarse : tuple of int
        The coarse labels, in order.
    values : tuple of int
        The class values, in order; 0 is background.
    eta, rho : (coarse, classes) float64
        Mean and standard deviation of the share of each class in blocks of each label, 0–1.
    """

    coarse: tuple[int, ...]
    values: tuple[int, ...]
    eta: Numbers
    rho: Numbers

    def statistics(self) -> list[Statistic]:
        """As a dataset lists them."""
        return [
            statistic(c, v, float(self.eta[i, j]), float(self.rho[i, j])) for i, c in enumerate(self.coarse) for j, v in enumerate(self.values)
        ]


def statistic(coarse: int, value: int, eta: float, rho: float) -> Statistic:
    """The share of a class in blocks of a coarse label."""
    return Statistic.model_validate({"coarse": coarse, "class": value, "eta": eta, "rho": rho})


def stated(dataset: PatchDataset, needed: Sequence[int]) -> Table:
    """The table that a dataset states, for the coarse labels that are needed.

    Where background (value 0) is left out it has the rest. Shares of a label sum to 100 %.

    Raises
    ------
    DatasetError
        Names every problem at once: labels without a row, classes that are not listed, sums, rows that repeat.
    """
    problems: list[str] = []
    known = {c.value for c in dataset.classes} | {BACKGROUND}
    rows: dict[tuple[int, int], Statistic] = {}
    for row in dataset.statistics:
        if row.class_value not in known:
            problems.append(f"The table names the class value {row.class_value}, which is no class. Add the class, or remove the row.")
        if (row.coarse, row.class_value) in rows:
            problems.append(f"The table states class {row.class_value} of the coarse label '{coarse_name(dataset, row.coarse)}' twice.")
        rows[row.coarse, row.class_value] = row
    values = tuple(sorted({v for _, v in rows} | {BACKGROUND}))
    etas, rhos = [], []
    for label in needed:
        eta, rho = _row(rows, label, values, coarse_name(dataset, label), problems)
        etas.append(eta)
        rhos.append(rho)
    if problems:
        raise DatasetError(f"The table of {dataset.folder} cannot be used: " + " ".join(problems))
    return Table(tuple(needed), values, np.array(etas), np.array(rhos))


def _row(rows: Mapping[tuple[int, int], Statistic], label: int, values: Sequence[int], name: str, problems: list[str]) -> tuple[list[float], list[float]]:
    own = {v: rows[label, v] for v in values if (label, v) in rows}
    if not own:
        problems.append(f"The coarse label '{name}' has blocks and no shares in the table. State them, or measure them in painted blocks.")
        return [0.0] * len(values), [1.0] * len(values)
    total = sum(row.eta for row in own.values())
    if total > 1 + SLACK or (BACKGROUND in own and total < 1 - SLACK):
        problems.append(f"The shares of the coarse label '{name}' sum to {total:.1%}. They sum to 100 %: correct one of them.")
    rest = statistic(label, BACKGROUND, float(np.clip(1 - total, 0, 1)), _rest([row.rho for row in own.values()]))
    # A class that is not stated beside others that make up all of the block is not in it.
    nothing = statistic(label, BACKGROUND, 0.0, LEAST_RHO)
    every = [own.get(v) or (rest if v == BACKGROUND else nothing) for v in values]
    return [row.eta for row in every], [row.rho for row in every]


def _rest(rhos: Sequence[float]) -> float:
    """Standard deviation of what is left beside shares that vary by themselves."""
    return float(min(1.0, np.sqrt(np.square(rhos).sum())))


def paper_table(values: Sequence[int]) -> Table:
    """Table 1 of the paper, for coarse labels 0 to 9 and two classes: background and one other.

    Raises
    ------
    DatasetError
        There are more classes than that.
    """
    if len(values) != 2 or BACKGROUND not in values:
        raise DatasetError(f"The paper's table is for one class beside background, and there are the classes {list(values)}. State the shares yourself.")
    mean, spread = np.array(PAPER_SHARES).T / 100
    return Table(tuple(range(len(mean))), tuple(sorted(values)), np.stack([1 - mean, mean], 1), np.stack([spread, spread], 1))


def measured(shares: Mapping[int, Numbers], values: Sequence[int], names: Mapping[int, str]) -> Table:
    """The table of painted blocks.

    Parameters
    ----------
    shares : mapping of int to (blocks, classes) array
        Of each coarse label: the share of each class in each painted block.
    values : sequence of int
        The class values.
    names : mapping of int to str
        What the coarse labels are called.

    Raises
    ------
    DatasetError
        A coarse label has fewer than two painted blocks.
    """
    few = [f"'{names[label]}' has {len(rows)}" for label, rows in sorted(shares.items()) if len(rows) < FEWEST]
    if few:
        raise DatasetError(f"A coarse label needs at least {FEWEST} painted blocks, and {ASKED} are better, but {', '.join(few)}. Paint more of them, or state the shares.")
    labels = sorted(shares)
    eta = np.array([shares[label].mean(0) for label in labels])
    rho = np.array([np.maximum(shares[label].std(0, ddof=1), LEAST_RHO) for label in labels])
    return Table(tuple(labels), tuple(values), eta, rho)


def contradictions(table: Table, shares: Mapping[int, Numbers], class_names: Mapping[int, str], coarse_names: Mapping[int, str]) -> list[str]:
    """A sentence for each share that painted blocks contradict; arguments as for `measured`."""
    found = []
    for i, label in enumerate(table.coarse):
        rows = shares.get(label)
        if rows is None or len(rows) < FEWEST:
            continue
        error = np.hypot(rows.std(0, ddof=1), table.rho[i]) / np.sqrt(len(rows))
        off = np.abs(rows.mean(0) - table.eta[i])
        for j, value in enumerate(table.values):
            if value != BACKGROUND and off[j] > max(FAR, MANY_ERRORS * error[j]):
                found.append(
                    f"{len(rows)} painted blocks of '{coarse_names[label]}' hold {rows[:, j].mean():.0%} {class_names[value]}, and the table says {table.eta[i, j]:.0%}. Correct the table, or measure it in the painted blocks."
                )
    return found
