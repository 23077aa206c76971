"""Progress with time left and objects so far, and the message line."""

from __future__ import annotations

from qtpy.QtWidgets import QLabel, QProgressBar, QVBoxLayout, QWidget

from napari_histoseg.gui.jobs import Progress


class ProgressPanel(QWidget):
    """A bar, and a line of words under it."""

    def __init__(self, noun: str = "nuclei", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._noun = noun
        self.bar = QProgressBar()
        self.bar.setTextVisible(True)
        self.words = QLabel()
        self.words.setWordWrap(True)
        self.message = QLabel()
        self.message.setObjectName("histoseg-message")
        self.message.setWordWrap(True)
        self.message.setTextInteractionFlags(self.message.textInteractionFlags().TextSelectableByMouse)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (self.bar, self.words, self.message):
            layout.addWidget(widget)
        self.rest()

    def rest(self, words: str = "") -> None:
        """Nothing is running."""
        self.bar.hide()
        self.words.setText(words)
        self.words.setVisible(bool(words))

    def wait(self, words: str) -> None:
        """Something is running whose length is not known yet."""
        self.bar.setRange(0, 0)
        self.bar.show()
        self.words.setText(words)
        self.words.show()

    def show_progress(self, progress: Progress, what: str = "") -> None:
        """Tiles done, time left, objects so far; or ``what`` is done, where there are no tiles."""
        # setValue would repaint at once, and with it the canvas; this way both are painted together, later.
        self.bar.setUpdatesEnabled(False)
        self.bar.setRange(0, max(progress.total, 1))
        self.bar.setValue(progress.done)
        self.bar.setFormat("%p %")
        self.bar.setUpdatesEnabled(True)
        self.bar.show()
        parts = [what] if what else [f"{progress.done:,} of {progress.total:,} tiles"]
        if progress.objects is not None:
            parts.append(f"{progress.objects:,} {self._noun}")
        if progress.seconds_left is not None and progress.done < progress.total:
            parts.append(f"{duration(progress.seconds_left)} left")
        self.words.setText(" · ".join(parts))
        self.words.show()

    def say(self, sentence: str, problem: bool = False) -> None:
        """Put a sentence on the message line; a problem in the warning color."""
        self.message.setStyleSheet("color: #ff8c66;" if problem else "")
        self.message.setText(sentence)
        self.message.setVisible(bool(sentence))


def duration(seconds: float) -> str:
    """A time span as people say it: ``8 s``, ``3 min``, ``1 h 20 min``."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
