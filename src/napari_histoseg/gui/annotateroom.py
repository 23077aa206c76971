"""What all annotation panels of one window share, for as long as there is one."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject
from qtpy.QtWidgets import QWidget

from napari_histoseg.gui.annotatedesk import Desk
from napari_histoseg.gui.annotatekeys import Keys, main_window
from napari_histoseg.gui.annotatelist import PatchModel
from napari_histoseg.gui.annotatetools import Tools

if TYPE_CHECKING:
    from napari.viewer import Viewer


class Room(QObject):
    """The desk of a window with its tools, keys and list.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.window = viewer.window
        self.desk = Desk(viewer, self)
        self.tools = Tools(self.desk)
        self.patches = PatchModel(self.desk)
        self.keys = Keys(self.desk, self.tools, self.step)
        self._panels: weakref.WeakSet[QWidget] = weakref.WeakSet()
        self._known: set[int] = set()

    def join(self, panel: QWidget) -> None:
        """A panel is made, or in the window again."""
        self._panels.add(panel)
        ROOMS.add(self)
        window = main_window(panel)
        if window is not None and id(window) not in self._known:
            self._known.add(id(window))
            # When the window goes, everything of Qt's goes with it; what is left to do must not touch it.
            window.destroyed.connect(self._abandon)

    def leave(self, panel: QWidget) -> None:
        """A panel was closed. With the last one the dataset is left, so that other windows can open it."""
        if panel not in self._panels:
            # It left already; layers are taken away once.
            return
        self._panels.discard(panel)
        if not self._panels:
            ROOMS.discard(self)
            self.desk.close()
            self.desk.layers.take_away()

    def _abandon(self) -> None:
        self._panels.clear()
        ROOMS.discard(self)
        self.desk.abandon()

    def step(self, rows: int) -> None:
        """Go to the patch so many rows further."""
        n = self.patches.rowCount()
        if n:
            row = self.patches.row_of(self.desk.chosen)
            self.desk.go_to(self.patches.id_at((row + rows) % n if row >= 0 else 0))


ROOMS: weakref.WeakSet[Room] = weakref.WeakSet()
"""Of the windows that are open; panels keep theirs alive."""


def room_of(viewer: Viewer) -> Room:
    """The room of a viewer's window, made when there is none."""
    window: Any = viewer.window
    # napari hands plugins a stand-in for the viewer: equal windows are the same one.
    for room in list(ROOMS):
        if room.window == window:
            return room
    made = Room(viewer)
    ROOMS.add(made)
    return made
