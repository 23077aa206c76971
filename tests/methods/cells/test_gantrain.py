"""Training from several seeds: one network, one curve, nothing left behind."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from napari_histoseg.methods.cells.config import CellsTraining
from napari_histoseg.methods.cells.gantrain import gan_events
from napari_histoseg.train.loop import Validated


def test_the_best_seed_s_network_and_curve_are_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    crops = (rng.integers(0, 60, (90, 40, 40, 3)) + 150 * rng.integers(0, 2, (90, 1, 1, 1))).astype(np.uint8)
    settings = CellsTraining.parse(
        {"method": "infogan", "n_classes": 2, "repeats": 3, "steps": 2, "validate_every": 1, "batch": 8, "width": 4, "critic_steps": 1, "start_steps": 0}
    )
    events = gan_events(settings, crops, tmp_path / "w.safetensors", False, lambda: False)
    scores: list[float] = []
    while True:
        try:
            event = next(events)
        except StopIteration as ended:
            network, kept = ended.value
            break
        if isinstance(event, Validated):
            scores.append(event.scores["score"])
    assert len(scores) == 6 and kept["score"] == max(scores)
    assert network.classes == 2 and not network.training
    assert [path.name for path in tmp_path.iterdir()] == ["w.curve.csv"]
    rows = list(csv.DictReader((tmp_path / "w.curve.csv").open()))
    best = scores.index(max(scores)) // 2
    assert [float(row["score"]) for row in rows] == [float(f"{score:.5g}") for score in scores[2 * best : 2 * best + 2]]
    assert {"loss_critic distance", "loss_mutual information", "loss_class balance"} <= set(rows[0])
