"""Training the generative network on nuclei that were looked at, in a run or by itself."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histoseg.errors import SettingsError
from napari_histoseg.methods.cells.config import CellsSettings, CellsTraining
from napari_histoseg.methods.cells.fitted import Fitted, Seen
from napari_histoseg.methods.cells.gan import CROP_PX, InfoGan
from napari_histoseg.methods.cells.gantask import GanTask, classify
from napari_histoseg.methods.cells.grouping import MOST_AXES, Axes
from napari_histoseg.nn.weights import load_into
from napari_histoseg.objects.colors import numbered_classes
from napari_histoseg.train.loop import StepDone, Trained, TrainEvent, fit, never

VALIDATIONS = 4
FEWEST = 64
CURVE = ".curve.csv"


def learn_gan(seen: list[Seen], settings: CellsSettings, goal: NDArray[np.float64]) -> Generator[tuple[int, int] | str, None, Fitted]:
    """Train on the nuclei of one slide, inside its run: (step, steps) as it goes on."""
    crops = np.concatenate([s.crops[s.look.own] for s in seen])
    shared = {name: getattr(settings, name) for name in ("method", "n_classes", "seed", "device", "precision")}
    every = max(settings.gan_steps // VALIDATIONS, 1)
    training = CellsTraining.parse({**shared, "crop_px": settings.crop_px, "steps": settings.gan_steps, "validate_every": every})
    with tempfile.TemporaryDirectory() as folder:
        events = gan_events(training, crops, Path(folder) / "gan.safetensors", False, never)
        while True:
            try:
                event = next(events)
            except StopIteration as ended:
                network = ended.value[0]
                break
            if isinstance(event, StepDone):
                yield event.step, event.steps
    return with_gan(network, settings, crops, goal)


def gan_events(
    settings: CellsTraining, crops: NDArray[np.uint8], out: Path, resume: bool, stop: Callable[[], bool]
) -> Generator[TrainEvent, None, tuple[InfoGan, dict[str, float]]]:
    """Train from one or several seeds, and return the network with the best score, and its scores."""
    if settings.crop_px != CROP_PX:
        raise SettingsError(f"The generative network is for pictures of {CROP_PX} px. Got crop_px {settings.crop_px} instead; leave it at {CROP_PX}.")
    if len(crops) < FEWEST:
        raise SettingsError(f"There are {len(crops)} nuclei, too few to train a generative network: it needs {FEWEST}. Choose another method, or a larger region.")
    order = np.random.default_rng(settings.seed).permutation(len(crops))
    held = max(1, round(settings.val_fraction * len(crops)))
    train, val = crops[np.sort(order[held:])], crops[np.sort(order[:held])]
    best: tuple[InfoGan, dict[str, float]] | None = None
    for repeat in range(settings.repeats):
        one = settings.replace(seed=settings.seed + repeat)
        task = GanTask(one, train, val, {"mpp": settings.mpp})
        weights = out.with_name(f"{out.stem}.gan{repeat}.safetensors")
        for event in fit(task, weights, resume=resume, stop=stop):
            if not isinstance(event, Trained):
                yield event
                continue
            if best is None or event.scores["score"] > best[1]["score"]:
                network = task.network()
                load_into(network, weights)
                best = network.eval(), dict(event.scores)
                # The curve that stays is that of the network that does.
                weights.with_suffix(CURVE).replace(out.with_suffix(CURVE))
        for done in (weights, weights.with_suffix(CURVE)):
            done.unlink(missing_ok=True)
        if stop():
            break
    assert best is not None
    return best


def with_gan(network: InfoGan, settings: CellsSettings, crops: NDArray[np.uint8], goal: NDArray[np.float64]) -> Fitted:
    """A fitted model whose classes a network says; its features, brought to a few axes, are the embedding."""
    features: Any = classify(network, crops)[1]
    axes = Axes.fit(features, MOST_AXES, each_scaled=False, seed=settings.seed)
    return Fitted(settings, goal, axes, axes, gan=network, classes=numbered_classes(network.classes))
