"""How fast the inspector of classes is with many objects, and how long the window stands still meanwhile.

    xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/inspector_speed.py [--objects N] [--quick]

The median of several runs in a real window, without a graphics card too (llvmpipe draws then, and is part of each number). "Opens": from
`show_result` until list, colors and map are there. The others: from the action until the canvas was drawn with it. A gap is the time
between two ticks of a timer on the main thread.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

GOALS = {"opens": 3.0, "lasso, until objects stand out": 0.3, "recolor a class": 0.5}
"""Seconds, for 200,000 objects."""


class Watch:
    """The longest gap between ticks of a timer on the main thread, in milliseconds."""

    def __init__(self) -> None:
        from qtpy.QtCore import QTimer

        self.longest = 0.0
        self._last = time.perf_counter()
        self._timer = QTimer()
        self._timer.timeout.connect(self.tick)
        self._timer.start(5)

    def tick(self) -> None:
        """Called by the timer, and at the end of what is measured."""
        now = time.perf_counter()
        self.longest = max(self.longest, 1000 * (now - self._last))
        self._last = now

    def reset(self) -> None:
        """Begin anew."""
        self.longest, self._last = 0.0, time.perf_counter()


def turn(until: Callable[[], bool], seconds: float = 120.0) -> None:
    """Let the window live until something is so."""
    from qtpy.QtWidgets import QApplication

    end = time.perf_counter() + seconds
    while not until():
        if time.perf_counter() > end:
            raise TimeoutError("The window did not get that far.")
        QApplication.processEvents()
        time.sleep(0.001)


def rest(seconds: float) -> None:
    """Let the window come to rest."""
    end = time.perf_counter() + seconds
    turn(lambda: time.perf_counter() > end)


class Timed:
    """Runs actions in a window and keeps how long they took."""

    def __init__(self, viewer: Any) -> None:
        self.viewer = viewer
        self.watch = Watch()
        self.seconds: dict[str, list[float]] = {}
        self.gaps: dict[str, list[float]] = {}

    def run(self, name: str, action: Callable[[], Any], until: Callable[[], bool] = lambda: True) -> None:
        """Do something, wait until it is done, and draw the canvas."""
        rest(0.3)
        self.watch.reset()
        begun = time.perf_counter()
        action()
        turn(until)
        self.viewer.screenshot(flash=False)
        self.seconds.setdefault(name, []).append(time.perf_counter() - begun)
        self.watch.tick()
        self.gaps.setdefault(name, []).append(self.watch.longest)

    def table(self, whole: bool) -> str:
        """Rows of markdown; goals are for the whole number of objects."""
        lines = ["| | s | goal s | longest gap ms |", "|---|---|---|---|"]
        for name, seconds in self.seconds.items():
            goal = f"{GOALS[name]:.1f}" if whole and name in GOALS else "–"
            lines.append(f"| {name} | {np.median(seconds):.2f} | {goal} | {np.median(self.gaps[name]):.0f} |")
        return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few objects, once: shows that the script works")
    args = parser.parse_args()
    if args.quick:
        args.objects, args.rounds = 3000, 1
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("NAPARI_CONFIG", str(Path(folder) / "napari.yaml"))
        os.environ["HISTOSEG_CACHE"] = str(Path(folder) / "cache")
        measure(args.objects, args.rounds, Path(folder))


def measure(objects: int, rounds: int, folder: Path) -> None:
    """Make a result, inspect it in a window, and print the table."""
    import napari

    from napari_histoseg._testing_clusters import large_cluster_result
    from napari_histoseg.gui.inspector import ClusterInspector
    from napari_histoseg.gui.jobs import stop_all
    from napari_histoseg.gui.layers import result_layers
    from napari_histoseg.gui.shown import show_layers
    from napari_histoseg.results import open_result

    path = large_cluster_result(folder / "cells", objects).path
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1500, 950)
    layer = show_layers(viewer, result_layers(open_result(path)))[-1]
    panel = ClusterInspector(viewer)
    viewer.window.add_dock_widget(panel, name="Inspector")
    panel.tabs.setCurrentWidget(panel.map)
    rest(1.0)
    timed = Timed(viewer)
    for _ in range(rounds):
        panel.clear()
        result = open_result(path)
        timed.run("opens", lambda result=result: panel.show_result(result, layer, None), lambda: len(panel.map.points.points) == objects)
    actions(timed, panel, rounds)
    print(f"{objects:,} objects in {len(panel.desk.classes)} classes, median of {rounds}\n")
    print(timed.table(objects >= 200_000))
    stop_all(60)
    viewer.close()


def actions(timed: Timed, panel: Any, rounds: int) -> None:
    """What people do in the panel."""
    desk, points = panel.desk, panel.map.points
    book = desk.require()
    corners = np.array([[0.2, 0.2], [0.8, 0.25], [0.7, 0.8], [0.25, 0.7]]) * (points.width(), points.height())
    for number in range(rounds):
        shifted = corners + number
        timed.run("lasso, until objects stand out", lambda c=shifted: points.lassoed.emit(points.inside(c), False), lambda: len(desk.chosen) > 0)
        timed.run("choose none", lambda: desk.choose([]))
        timed.run("recolor a class", lambda n=number: book.recolor(1, f"#{n * 40:02x}80ff"))
        timed.run("rename a class", lambda n=number: book.rename(2, f"name {n}"))
        timed.run("merge two classes", lambda: desk.merge([3, 4]))
        timed.run("undo", desk.undo)
        desk.choose(np.flatnonzero(desk.values == 5)[:20])
        timed.run("say what 20 objects are", lambda: desk.assign(6))
        desk.undo()
    values = desk.values.copy()
    for value in (1, 2, 5):
        desk.choose(np.flatnonzero(values == value)[:20])
        desk.assign(value)
    timed.run("learn from 60 corrections", desk.learn, lambda: not desk.work.running)
    desk.look_at(2)
    timed.run("split a class", lambda: desk.split(3), lambda: not desk.work.running)


if __name__ == "__main__":
    main()
