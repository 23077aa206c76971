"""A real window over a synthetic slide, with the real engine and the model that needs no weights."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import napari
import numpy as np
import pytest

from napari_histoseg._testing import he_tissue
from napari_histoseg.gui import jobs, rundock
from napari_histoseg.gui.nuclei import NucleiDock
from napari_histoseg.gui.shown import show_layers
from napari_histoseg.slide import Slide, open_slide

MPP = 0.5
WIDTH, HEIGHT = 640, 512
PATIENCE_MS = 120_000
"""The shortest time after which waiting fails."""


@pytest.fixture(autouse=True, scope="module")
def lean() -> None:
    """What was set aside and has become garbage since goes before each file."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test has its own folders, imports nothing ahead, and leaves no job behind."""
    # napari looks for garbage around every window. All that was there before is set aside, or it would look through all
    # modules each time, and through what it keeps of each earlier window.
    gc.collect()
    gc.freeze()
    monkeypatch.setenv("HISTOSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HISTOSEG_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(rundock, "warm_up", lambda viewer: None)
    # Behind everything else on a busy machine a run would not end in the time that it is waited for.
    monkeypatch.setattr(jobs, "_step_back", lambda: None)
    yield
    assert jobs.stop_all(PATIENCE_MS / 1000)
    jobs.RUNNING.clear()


@pytest.fixture
def qtbot(qtbot: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Has patience: what is waited for comes late on a machine that is busy, and waiting ends as soon as it comes."""

    def patient(wait: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, timeout=0, **keywords: wait(*args, timeout=max(timeout, PATIENCE_MS), **keywords)

    for name in ("waitUntil", "waitSignal", "waitSignals", "waitExposed", "wait_exposed", "waitActive"):
        monkeypatch.setattr(qtbot, name, patient(getattr(qtbot, name)))
    return qtbot


@pytest.fixture(scope="session")
def scene() -> tuple[np.ndarray, np.ndarray]:
    """A synthetic H&E image and the labels of its nuclei."""
    return he_tissue(WIDTH, HEIGHT, seed=3, mpp=MPP)


@pytest.fixture
def slide(scene: tuple[np.ndarray, np.ndarray]) -> Slide:
    """The scene as a slide with a pixel size."""
    return open_slide(scene[0], mpp=MPP)


@pytest.fixture
def viewer(make_napari_viewer: Callable[..., napari.Viewer], slide: Slide) -> napari.Viewer:
    """A shown viewer with the slide."""
    from napari_histoseg.gui.layers import slide_layer

    made = make_napari_viewer(show=True)
    show_layers(made, [slide_layer(slide)])
    return made


class GatedEngine:
    """An engine, `iter_run` where none is given, that passes an event for each permit. Keeps what it was called with."""

    def __init__(self, engine: Callable[..., Any] | None = None) -> None:
        self.engine = engine
        self.permits = threading.Semaphore(10**6)
        self.calls: list[dict[str, Any]] = []
        self.passed = 0
        self.waiting, self.closed = threading.Event(), threading.Event()

    def hold(self, events: int) -> None:
        """Let so many events through and then wait."""
        self.permits = threading.Semaphore(events)

    def __call__(self, *args: Any, **keywords: Any) -> Iterator[Any]:
        from napari_histoseg.predict.run import iter_run

        self.calls.append({"slide": args[1], **keywords})
        try:
            with closing((self.engine or iter_run)(*args, **keywords)) as events:
                for event in events:
                    if not self.permits.acquire(blocking=False):
                        self.waiting.set()
                        assert self.permits.acquire(timeout=PATIENCE_MS / 1000)
                        self.waiting.clear()
                    self.passed += 1
                    yield event
        finally:
            self.closed.set()


@pytest.fixture
def engine() -> GatedEngine:
    """The engine of runs, that can be held."""
    return GatedEngine()


@pytest.fixture
def trainer() -> GatedEngine:
    """The engine of trainings, that can be held."""
    from napari_histoseg.gui import training

    return GatedEngine(training.trainer)


@pytest.fixture
def dock(viewer: napari.Viewer, engine: GatedEngine) -> NucleiDock:
    """The dock in the window, set to blob detection in small tiles."""
    made = NucleiDock(viewer)
    viewer.window.add_dock_widget(made, name="Nuclei")
    choose_blobs(made)
    made.engine = engine
    return made


def choose_blobs(dock: NucleiDock) -> None:
    """Choose the model without a network."""
    names = [choice.model for choice in dock.models._choices]
    dock.models.combo.setCurrentIndex(names.index("log"))
    dock.models.combo.activated.emit(names.index("log"))
    dock.form.set_values(tile_px=128, device="cpu")


@pytest.fixture
def finished(dock: NucleiDock, qtbot: Any) -> NucleiDock:
    """The dock after a run on the whole slide."""
    dock.where.buttons["Whole slide"].setChecked(True)
    dock.run_button.click()
    qtbot.waitUntil(lambda: dock.current is None, timeout=60_000)
    assert dock.edit.result is not None, dock.progress.message.text()
    return dock
