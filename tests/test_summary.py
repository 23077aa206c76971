"""The summary of a result counts what a person named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from napari_histoseg.cli import _one_line
from napari_histoseg.results import ClassRecord, Result, ResultStore, RunRecord, SlideRecord
from napari_histoseg.results.classbook import ClassBook
from napari_histoseg.slide import Box, Slide, open_slide
from napari_histoseg.summary import summarize

FRAME = Box(0, 0, 100, 100)


@pytest.fixture
def slide() -> Slide:
    """A picture of 100 by 100 µm."""
    return open_slide(np.full((100, 100, 3), 180, np.uint8), mpp=1.0)


def stored(path: Path, slide: Slide, objects: pd.DataFrame | None, n_classes: int = 3) -> Result:
    """Values 1 (60 %) and 2 (40 %) as a map, or objects."""
    values = np.ones((100, 100), np.uint32)
    values[60:] = 2
    classes = [ClassRecord(value=v, name=f"kind {v}") for v in range(1, n_classes + 1)]
    about = SlideRecord(name="s", fingerprint=slide.fingerprint(), width=100, height=100, mpp=1.0)
    record = RunRecord(method="cells", slide=about, mpp=1.0, frame=FRAME, tile_px=100, halo_px=0, n_tiles=1, classes=classes)
    store = ResultStore.create(path, record, ("labels",) if objects is None else ("labels", "objects"))
    store.add(0, FRAME, labels=(FRAME, values), objects=objects)
    return store.finish()


def objects() -> pd.DataFrame:
    """Four objects."""
    names = ["kind 1", "kind 2", "kind 2", "kind 3"]
    return pd.DataFrame({"id": range(1, 5), "centroid_x_um": 5.0, "centroid_y_um": 5.0, "class": names, "cluster": [1, 2, 2, 3]})


def test_objects_are_counted_by_class(tmp_path: Path, slide: Slide) -> None:
    result = stored(tmp_path / "r", slide, objects())
    book = ClassBook(result)
    book.merge([1, 3])
    book.rename(2, "lymphocyte")
    found = summarize(slide, result, 1.0)
    assert found["classes"] == {"kind 1": {"objects": 2, "share": 0.5}, "lymphocyte": {"objects": 2, "share": 0.5}}
    assert "4 objects, 0.01 mm², 400 per mm², kind 1 2, lymphocyte 2, 1.0 s" in _one_line(found)


def test_objects_of_one_class_are_not_listed_by_class(tmp_path: Path, slide: Slide) -> None:
    assert "classes" not in summarize(slide, stored(tmp_path / "r", slide, objects(), n_classes=1), 1.0)


def test_areas_of_merged_classes_are_together(tmp_path: Path, slide: Slide) -> None:
    result = stored(tmp_path / "r", slide, None)
    assert {name: row["share"] for name, row in summarize(slide, result, 1.0)["classes"].items()} == {"kind 1": 0.6, "kind 2": 0.4, "kind 3": 0.0}
    ClassBook(result).merge([3, 2, 1])
    found = summarize(slide, result, 1.0)
    assert found["classes"] == {"kind 3": {"area_mm2": pytest.approx(0.01), "share": 1.0}}
    assert "0.01 mm², kind 3 0.01 mm²" in _one_line(found)
