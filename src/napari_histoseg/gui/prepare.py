"""Reduced levels for flat giant images, built once before they are shown."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from qtpy.QtCore import QCoreApplication, QEventLoop, Qt
from qtpy.QtWidgets import QProgressDialog

from napari_histoseg.gui.background import in_background

if TYPE_CHECKING:
    from napari_histoseg.slide import Slide


class _Stopped(Exception):
    """The person stopped the building."""


def prepare(slide: Slide) -> bool:
    """Build the reduced levels that a flat giant image lacks, with a progress dialog.

    Returns
    -------
    bool
        Whether the slide can be shown; False when the person stopped it.

    Raises
    ------
    HistosegError
        When the slide cannot be read or the cache not be written.
    """
    if not slide.needs_cache:
        return True
    if QCoreApplication.instance() is None:
        slide.build_cache()
        return True
    return _with_dialog(slide)


def _with_dialog(slide: Slide) -> bool:
    text = f"{slide.name} has no reduced levels. They are built once and kept."
    dialog = QProgressDialog(text, "Stop", 0, 100)
    dialog.setWindowTitle("Preparing the slide")
    dialog.setWindowModality(Qt.WindowModality.ApplicationModal)
    dialog.setMinimumDuration(0)
    stop, state, problems = threading.Event(), {"percent": 0}, list[BaseException]()

    def report(done: int, total: int) -> None:
        state["percent"] = round(100 * done / max(total, 1))
        if stop.is_set():
            raise _Stopped

    def build() -> bool:
        try:
            slide.build_cache(report)
        except _Stopped:
            return False
        except BaseException as error:
            problems.append(error)
        return True

    outcome = list[bool]()
    dialog.canceled.connect(stop.set)
    in_background(f"Preparing {slide.name}", build, outcome.append, lambda _: outcome.append(False))
    while not outcome:
        QCoreApplication.processEvents(QEventLoop.ProcessEventsFlag.AllEvents, 100)
        if not stop.is_set():
            dialog.setValue(min(state["percent"], 99))
    dialog.close()
    if problems:
        raise problems[0]
    return outcome[0]
