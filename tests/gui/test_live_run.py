"""A run of a class map in the window, whose classes are known only once the slide was seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import napari
import numpy as np
import pytest

from napari_histoseg._testing_clusters import slide_record
from napari_histoseg.gui.inspectorcolors import rgba
from napari_histoseg.gui.live_run import LiveRun, Request
from napari_histoseg.methods.settings import RunSettings
from napari_histoseg.predict.events import Finished, Fitting, RunEvent, Started, TileDone
from napari_histoseg.results import ClassRecord, ResultStore, RunRecord
from napari_histoseg.slide import Box, Slide

CLASSES = [ClassRecord(value=1, name="a", color="#102030"), ClassRecord(value=2, name="b", color="#405060")]


def engine(method: str, slide: Slide, *, out: Path, **others: Any) -> Iterator[RunEvent]:
    """A run of one tile with the values 1 to 3, where 3 is of class 1."""
    frame = Box(0, 0, slide.width, slide.height)
    record = RunRecord(method=method, slide=slide_record(slide), mpp=0.5, frame=frame, tile_px=1024, halo_px=0, n_tiles=1)
    store = ResultStore.create(out, record, ("labels", "patches"))
    yield Started(store.path, 1, 0, 0.5, frame, "cpu", "float32", store)
    yield Fitting(1, 1)
    store.settle(CLASSES, {3: 1})
    values = np.arange(frame.area, dtype=np.uint32).reshape(frame.shape) % 4
    store.add(0, frame, labels=(frame, values))
    store.commit()
    yield TileDone(0, frame, 1, 1, 0, 0.1)
    yield Finished(store.finish(), 0.1)


@pytest.mark.parametrize("again", [False, True])
def test_the_layer_gets_the_classes_as_soon_as_they_are_known(
    viewer: napari.Viewer, slide: Slide, tmp_path: Path, again: bool, qtbot: Any
) -> None:
    requests = [Request("tissue", "Tissue", slide, tmp_path / str(i), None, None, None, RunSettings(), preview=again) for i in range(1 + again)]
    for request in requests:
        run = LiveRun(viewer, viewer.layers[0], request, engine)
        with qtbot.waitSignal(run.done, timeout=30_000):
            run.start()
    layer = run.labels
    assert layer is not None
    for value, color in {1: "#102030", 2: "#405060", 3: "#102030"}.items():
        np.testing.assert_allclose(layer.colormap.map(value), rgba(color), atol=1e-6)
    assert layer.features.set_index("index")["class"].to_dict() == {0: "background", 1: "a", 2: "b", 3: "a"}
    assert layer.metadata["histoseg"]["result"].class_of[3].name == "a"
