"""Keys for painting blocks. They work anywhere in the window but in text fields, while blocks are the chosen layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Qt
from qtpy.QtGui import QKeySequence, QShortcut  # type: ignore[attr-defined]

from napari_histoseg.gui.annotatekeys import REDO, REMOVE, UNDO, main_window

if TYPE_CHECKING:
    from qtpy.QtWidgets import QWidget

    from napari_histoseg.gui.lsrpaint import GridDesk


class GridKeys(QObject):
    """Shortcuts of a grid, beside those of the annotation panel, which are off while these are on.

    Parameters
    ----------
    grids : GridDesk
    """

    def __init__(self, grids: GridDesk) -> None:
        super().__init__(grids)
        self._grids = grids
        layers = grids.layers
        self._shortcuts: list[QShortcut] = []
        self._actions: dict[str, Callable[[], Any]] = {
            "0": partial(grids.take, None),
            REMOVE: partial(grids.take, None),
            UNDO: grids.undo,
            REDO: grids.redo,
            "[": lambda: layers.set_brush(layers.brush - 1),
            "]": lambda: layers.set_brush(layers.brush + 1),
            "Esc": grids.lay_down,
        }
        self._actions |= {str(number): partial(grids.take_nth, number) for number in range(1, 10)}
        grids.desk.viewer.layers.selection.events.active.connect(self.follow)
        grids.desk.busy_changed.connect(self.follow)
        grids.changed.connect(self.follow)

    def make(self, panel: QWidget) -> None:
        """The panel is to be seen."""
        window = main_window(panel)
        if window is None or (self._shortcuts and self._shortcuts[0].parent() is window):
            self.follow()
            return
        self.release()
        for key, action in self._actions.items():
            shortcut = QShortcut(QKeySequence(key), window)
            shortcut.setContext(Qt.ShortcutContext.WindowShortcut)
            shortcut.setAutoRepeat(key in ("[", "]"))
            shortcut.activated.connect(lambda action=action: self._grids.desk.do(action))
            self._shortcuts.append(shortcut)
        self.follow()

    def release(self) -> None:
        """Take the shortcuts off the window."""
        for shortcut in self._shortcuts:
            shortcut.setEnabled(False)
            shortcut.setParent(None)
            shortcut.deleteLater()
        self._shortcuts = []

    def follow(self, event: Any = None) -> None:
        """On while blocks are the chosen layer."""
        on = self._grids.layers.chosen and self._grids.current is not None and not self._grids.desk.busy
        for shortcut in self._shortcuts:
            shortcut.setEnabled(on)
