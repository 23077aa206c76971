"""A step of a `ClassBook` in the making, and what a step asks of the classes before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_histoseg.errors import SettingsError
from napari_histoseg.results.classes import NOT_FINER, ClassState, Moves
from napari_histoseg.results.record import ClassRecord

Assignment = Union[Mapping[int, int], "pd.Series[Any]"]
"""The part (0, 1, …) that each object of a class goes to, by id: a mapping, or a series whose index is ids."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A step in the making."""

    sentence: str
    classes: list[ClassRecord]
    merged: dict[int, int] | None = None
    moves: Moves | None = None


def find(state: ClassState, value: int) -> ClassRecord:
    """The class of a value; refused where no class that is shown has it."""
    for each in state.classes:
        if each.value == value:
            return each
    known = ", ".join(f"{c.value} ({c.name})" for c in state.classes)
    raise SettingsError(f"No class has the value {value}. The classes are: {known}.")


def check_parts(old: ClassRecord, stored: list[int], parts: list[list[int]]) -> None:
    """Refuse parts that are not the stored values of a class, each in one of them."""
    if len(stored) < 2:
        raise SettingsError(NOT_FINER.format(old.name))
    given = sorted(v for part in parts for v in part)
    if len(parts) < 2 or not all(parts) or given != stored:
        raise SettingsError(
            f"{old.name} is split into two or more parts, none of them empty, that hold each of its stored values once: "
            f"{', '.join(map(str, stored))}. Got {parts} instead."
        )


def named(state: ClassState, to: int | str) -> ClassRecord | None:
    """The class of a value, or of a name if there is one."""
    if not isinstance(to, str):
        return find(state, int(to))
    return next((c for c in state.classes if c.name == to.strip()), None)


def with_changes(state: ClassState, old: ClassRecord, **changes: Any) -> list[ClassRecord]:
    """The classes with one of them changed."""
    return [c.model_copy(update=changes) if c is old else c for c in state.classes]


def checked_name(state: ClassState, name: str, but: ClassRecord | None = None) -> str:
    """The name without space around it; refused when it is empty or another class has it."""
    name = name.strip()
    if not name:
        raise SettingsError("A class needs a name. Type one.")
    if any(c.name == name for c in state.classes if c is not but):
        raise SettingsError(f"There is a class '{name}' already. Choose another name, or merge the two.")
    return name


def free_name(classes: Sequence[ClassRecord], name: str, number: int) -> str:
    """A name that no class has: with the number behind it, or a later one."""
    taken = {c.name for c in classes}
    while f"{name} ({number})" in taken:
        number += 1
    return f"{name} ({number})"


def pairs(assignment: Assignment) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Ids, rising, and the part of each."""
    if isinstance(assignment, pd.Series):
        ids, parts = assignment.index.to_numpy(), assignment.to_numpy()
    else:
        ids, parts = np.fromiter(assignment.keys(), np.int64), np.fromiter(assignment.values(), np.int64)
    order = np.argsort(ids, kind="stable")
    return ids[order].astype(np.uint32), parts[order].astype(np.int64)


def listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def objects_in_words(n: int) -> str:
    """How many objects."""
    return "1 object" if n == 1 else f"{n:,} objects"
