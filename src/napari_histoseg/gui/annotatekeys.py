"""Keys of the annotation panel. They work anywhere in the window but in text fields, while a panel is shown."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Qt
from qtpy.QtGui import QKeySequence, QShortcut  # type: ignore[attr-defined]
from qtpy.QtWidgets import QMainWindow, QWidget

from napari_histoseg.gui.annotatetools import LOOK, PLACE, TOOLS
from napari_histoseg.gui.slides import is_slide_layer

if TYPE_CHECKING:
    from napari_histoseg.gui.annotatedesk import Desk
    from napari_histoseg.gui.annotatetools import Tools

NEW_MASK, NEW_LABEL, REST, UNDO, REDO, REMOVE = "N", "C", "B", "Ctrl+Z", "Ctrl+Shift+Z", "Del"
NEXT, PREVIOUS = ".", ","


class Keys(QObject):
    """Shortcuts of a window's desk, on as long as one of its panels is shown.

    A text field keeps what is typed into it: Qt asks it before it looks for shortcuts.

    Parameters
    ----------
    desk : Desk
    tools : Tools
    step : callable
        Goes so many patches further in the list.
    """

    def __init__(self, desk: Desk, tools: Tools, step: Callable[[int], None]) -> None:
        super().__init__(desk)
        self._desk, self._tools = desk, tools
        self._shown: list[QWidget] = []
        self._stepping: list[QWidget] = []
        self._shortcuts: list[QShortcut] = []
        self._actions: dict[str, Callable[[], Any]] = {
            NEW_MASK: self.new_mask_patch,
            NEW_LABEL: lambda: tools.choose(PLACE),
            REST: desk.fill_rest,
            UNDO: desk.undo,
            REDO: desk.redo,
            REMOVE: desk.remove,
            NEXT: lambda: step(1),
            PREVIOUS: lambda: step(-1),
            "[": lambda: tools.set_brush(min(tools.brush_px - 1, round(tools.brush_px / 1.25))),
            "]": lambda: tools.set_brush(max(tools.brush_px + 1, round(tools.brush_px * 1.25))),
        }
        self._actions |= {key: partial(tools.choose, name) for name, (key, _) in TOOLS.items()}
        self._actions |= {str(value): partial(desk.set_class, value) for value in range(10)}
        self._actions |= {f"Shift+{value}": partial(desk.toggle_class, value) for value in range(10)}
        self._actions["Esc"] = lambda: tools.choose(LOOK)
        desk.viewer.layers.selection.events.active.connect(self._follow)
        desk.busy_changed.connect(self._follow)
        desk.dataset_changed.connect(self._follow)
        tools.changed.connect(self._follow)

    def new_mask_patch(self) -> None:
        """A patch to paint in, with the brush in hand."""
        self._desk.new_mask_patch()
        if self._tools.tool in (LOOK, PLACE):
            self._tools.choose("Paint")

    @property
    def in_sight(self) -> bool:
        """Whether any panel is to be seen."""
        return bool(self._shown)

    def shown(self, panel: QWidget) -> None:
        """A panel is to be seen."""
        if panel not in self._shown:
            self._shown.append(panel)
        window = main_window(panel)
        if window is not None and (not self._shortcuts or self._shortcuts[0].parent() is not window):
            self._make(window)
        self._follow()

    def hidden(self, panel: QWidget) -> None:
        """A panel is not to be seen any more."""
        if panel in self._shown:
            self._shown.remove(panel)
        if not self._shown:
            self.release()

    def lend_steps(self, other: QWidget, taken: bool) -> None:
        """Another list in sight steps with the keys of this one, or does so no more: of two shortcuts for a key Qt follows neither."""
        self._stepping = [each for each in self._stepping if each is not other] + [other] * taken
        self._follow()

    def release(self) -> None:
        """Take the shortcuts off the window."""
        for shortcut in self._shortcuts:
            shortcut.setEnabled(False)
            shortcut.setParent(None)
            shortcut.deleteLater()
        self._shortcuts = []

    def _make(self, window: QWidget) -> None:
        self.release()
        for key, action in self._actions.items():
            shortcut = QShortcut(QKeySequence(key), window)
            shortcut.setContext(Qt.ShortcutContext.WindowShortcut)
            shortcut.setAutoRepeat(key in (NEXT, PREVIOUS, "[", "]"))
            shortcut.activated.connect(lambda action=action: self._desk.do(action))
            self._shortcuts.append(shortcut)

    def _follow(self, event: Any = None) -> None:
        """On where the chosen layer is the slide or one of ours: other layers have keys of their own."""
        active = self._desk.viewer.layers.selection.active
        ours = active is None or self._desk.layers.keyed(active) or is_slide_layer(active)
        on = ours and not self._desk.busy
        for key, shortcut in zip(self._actions, self._shortcuts, strict=False):
            # Esc also gives up polygons.
            free = self._tools.tool == PLACE if key == "Esc" else not (self._stepping and key in (NEXT, PREVIOUS))
            shortcut.setEnabled(on and free)


def main_window(panel: QWidget) -> QMainWindow | None:
    """The viewer's window, also of a panel that floats in a window of its own."""
    parent: Any = panel
    while parent is not None:
        if isinstance(parent, QMainWindow):
            return parent
        parent = parent.parentWidget()
    return None
