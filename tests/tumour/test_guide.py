"""Kinds of patches, found before a training, for its loss and for what it draws."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import napari_histoseg as hs
from napari_histoseg._testing_tumour import SMALL, write_dataset, write_slides
from napari_histoseg.methods.tumour import guide as room
from napari_histoseg.train.loop import Preparing

FEW = {**SMALL, "n_clusters": 2, "folds": 1, "refiner": "none", "val_fraction": 0}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    write_dataset(tmp_path, write_slides(tmp_path, 3))
    return tmp_path


def test_looking_for_kinds_of_patches_says_how_far_it_is(dataset: Path) -> None:
    events = list(hs.iter_train("tumour", dataset, out=dataset / "w.safetensors", **{**FEW, "guided": True}))
    said = [event for event in events if isinstance(event, Preparing) and event.words == room.WORDS]
    assert said and all(0 <= event.done < event.total for event in said)


def test_kinds_of_patches_are_drawn_evenly_after_slide_and_class(dataset: Path) -> None:
    hs.train("tumour", dataset, out=dataset / "w.safetensors", **{**FEW, "cluster_stage": True, "steps": 8})
    drawn = pd.read_csv(dataset / "w.draws.csv")
    assert set(drawn["cluster"]) == {0, 1} and drawn["drawn"].sum() == 8 * FEW["batch"]
    for _, part in drawn.groupby(["grade", "name", "label"]):
        # However many patches a kind has, all kinds of a class of a slide have the same chance.
        assert part["expected"].max() == pytest.approx(part["expected"].min())


def test_the_loss_is_balanced_on_kinds_of_patches(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_histoseg.methods.tumour import patchtask

    seen: list[set[int]] = []
    true = patchtask.cwce

    def spy(logits, label, cluster):  # type: ignore[no-untyped-def]
        seen.append(set(cluster.tolist()))
        return true(logits, label, cluster)

    monkeypatch.setattr(patchtask, "cwce", spy)
    hs.train("tumour", dataset, out=dataset / "w.safetensors", **{**FEW, "guided": True})
    assert len(seen) == FEW["steps"] and set().union(*seen) <= {0, 1}
