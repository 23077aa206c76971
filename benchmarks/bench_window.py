"""How long the window stands still while a run goes on, and how soon the first labels are seen.

    xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/bench_window.py [--side PX] [--slide FILE] [--model compact|log] [--pan] [--quick]

A timer on the main thread ticks every 5 ms; a gap is the time between two ticks. ``--pan`` moves the view all the time, as a person
does who looks around while it runs. Without a graphics card the drawing itself (llvmpipe) is part of each gap: the first row, with
no run, is what to compare with.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

WARM_S = 90.0


class Pulse:
    """Gaps between ticks of a timer on the main thread, in milliseconds."""

    def __init__(self) -> None:
        from qtpy.QtCore import QTimer

        self.gaps: list[float] = []
        self.last = time.perf_counter()
        self.timer = QTimer()
        self.timer.timeout.connect(self._tick)
        self.timer.start(5)

    def _tick(self) -> None:
        now = time.perf_counter()
        self.gaps.append(1000 * (now - self.last))
        self.last = now

    def reset(self) -> None:
        """Begin anew."""
        self.gaps, self.last = [], time.perf_counter()

    def line(self, name: str) -> str:
        """A row of the table: longest gap, how many are above 100 ms, and the 99th percentile."""
        gaps = np.array(self.gaps or [0.0])
        late = int((gaps > 100).sum())
        return f"| {name} | {gaps.max():.0f} ms | {late} | {np.percentile(gaps, 99):.0f} ms |"


def turn(seconds: float, until: Callable[[], bool] = lambda: False, each: Callable[[], None] = lambda: None) -> None:
    """Let the window live."""
    from qtpy.QtWidgets import QApplication

    app = QApplication.instance()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end and not until():
        each()
        app.processEvents()
        time.sleep(0.002)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=3072)
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--model", default="compact")
    parser.add_argument("--pan", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a tiny slide and no network: shows that the script works")
    args = parser.parse_args()
    if args.quick:
        args.side, args.model = 512, "log"
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("NAPARI_CONFIG", str(Path(folder) / "napari.yaml"))
        os.environ["HISTOSEG_CACHE"] = str(Path(folder) / "cache")
        os.environ["HISTOSEG_RESULTS"] = str(Path(folder) / "results")
        measure(args, Path(folder))


def measure(args: argparse.Namespace, folder: Path) -> None:
    """Open a slide, run, and print the gaps."""
    import napari

    from napari_histoseg._testing import he_image, write_svs
    from napari_histoseg.gui import warm
    from napari_histoseg.gui.nuclei import NucleiDock
    from napari_histoseg.gui.reader import read_one
    from napari_histoseg.gui.shown import show_layers

    path = args.slide or write_svs(folder / "s.svs", he_image(args.side, args.side, mpp=0.25), mpp=0.25)
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1500, 950)
    show_layers(viewer, read_one(Path(path)))
    dock = NucleiDock(viewer)
    viewer.window.add_dock_widget(dock, name="Nuclei")
    choices = [choice.model for choice in dock.models._choices]
    dock.models.combo.setCurrentIndex(choices.index(args.model))
    dock.models.combo.activated.emit(choices.index(args.model))
    camera = viewer.scene.camera
    camera.zoom *= 2
    turn(WARM_S, until=warm._ready.is_set)
    turn(1)
    start = np.array(camera.center)

    def look_around() -> None:
        if args.pan:
            angle = time.perf_counter()
            camera.center = tuple(start + 60 * np.array([0, np.sin(angle), np.cos(angle)]))

    pulse = Pulse()
    turn(1 if args.quick else 5, each=look_around)
    print("| | longest gap | gaps over 100 ms | 99 % of gaps |\n|---|---|---|---|")
    print(pulse.line("no run"))
    pulse.reset()
    dock.where.buttons["Whole slide"].setChecked(True)
    begun = time.perf_counter()
    dock.run_button.click()
    turn(60, until=lambda: seen(dock), each=look_around)
    first = time.perf_counter() - begun
    turn(600, until=lambda: dock.current is None, each=look_around)
    print(pulse.line("while it runs"))
    print(f"\nfirst labels after {first:.1f} s, all after {time.perf_counter() - begun:.1f} s: {dock.progress.words.text()}")
    viewer.close()


def seen(dock: object) -> bool:
    """Whether the labels layer shows anything yet."""
    run = getattr(dock, "current", None)
    if run is None:
        return True
    return run.labels is not None and bool(np.asarray(run.labels.data[len(run.labels.data) - 1]).any())


if __name__ == "__main__":
    main()
