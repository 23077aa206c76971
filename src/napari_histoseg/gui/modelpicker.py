"""Which model: the weights that ship, weights from a file, or no network; with the model card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QComboBox, QFileDialog, QHBoxLayout, QLabel, QVBoxLayout, QWidget
from superqt import QCollapsible

from napari_histoseg.errors import HistosegError
from napari_histoseg.gui.qt import Signal

if TYPE_CHECKING:
    from napari_histoseg.nn.weights import ModelCard

NONE = "None yet"
FROM_FILE = "From a file…"


@dataclass(frozen=True)
class ModelChoice:
    """A line of the list: the settings' model name, the weights (None are those that ship), its card."""

    title: str
    model: str
    weights: Path | None = None
    card: ModelCard | None = None
    note: str = ""


class ModelPicker(QWidget):
    """Lists the models of a method and shows the card of the chosen one.

    Parameters
    ----------
    method : str
        Whose weights are accepted.
    choices : list of ModelChoice
    """

    message = Signal(str)
    changed = Signal()

    def __init__(self, method: str, choices: list[ModelChoice], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._method = method
        self._choices = list(choices)
        self.combo = QComboBox()
        self.combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.card = QLabel()
        self.card.setWordWrap(True)
        self.card.setTextInteractionFlags(self.card.textInteractionFlags().TextSelectableByMouse)
        self.about = QCollapsible("About this model")
        self.about.setDuration(0)
        self.about.addWidget(self.card)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        row = QHBoxLayout()
        row.addWidget(QLabel("Model"))
        row.addWidget(self.combo, 1)
        layout.addLayout(row)
        layout.addWidget(self.about)
        self._fill(0)
        self.combo.activated.connect(self._on_activated)

    def _fill(self, index: int) -> None:
        self.combo.clear()
        # Without a model the line "From a file…" would be chosen already, and choosing it would do nothing.
        titles = [choice.title for choice in self._choices] or [NONE]
        self.combo.addItems([*titles, FROM_FILE])
        self.combo.setCurrentIndex(index)
        self._last = index
        self._show()

    @property
    def any(self) -> bool:
        """Whether there is a model."""
        return bool(self._choices)

    @property
    def choices(self) -> tuple[ModelChoice, ...]:
        """All that are listed."""
        return tuple(self._choices)

    @property
    def choice(self) -> ModelChoice:
        """The chosen model; see `any`."""
        return self._choices[self._last]

    def set_choices(self, choices: list[ModelChoice]) -> None:
        """List other models, and choose the last."""
        self._choices = list(choices)
        self._fill(max(len(choices) - 1, 0))
        self.changed.emit()

    def add_file(self, path: Path) -> None:
        """Add weights from a file and choose them; what is wrong with them is said in `message`."""
        from napari_histoseg.nn.weights import read_card

        try:
            card = read_card(path, self._method)
        except HistosegError as error:
            self.message.emit(str(error))
            self.combo.setCurrentIndex(self._last)
            return
        # A file that was written anew is listed once, as it is now.
        self._choices = [choice for choice in self._choices if choice.weights != path]
        self._choices.append(ModelChoice(f"{card.name} ({path.name})", card.architecture, path, card))
        self._fill(len(self._choices) - 1)
        self.changed.emit()

    def _on_activated(self, index: int) -> None:
        if index < max(len(self._choices), 1):
            self._last = index
            self._show()
            self.changed.emit()
            return
        chosen, _ = QFileDialog.getOpenFileName(self, "Choose weights", "", "Weights (*.safetensors)")
        if chosen:
            self.add_file(Path(chosen))
        else:
            self.combo.setCurrentIndex(self._last)

    def _show(self) -> None:
        self.about.setVisible(self.any)
        if not self.any:
            self.combo.setToolTip("Train a model, or choose its file.")
            return
        choice = self.choice
        text = choice.note if choice.card is None else card_text(choice.card)
        self.card.setText(text)
        self.combo.setToolTip(text)


def card_text(card: ModelCard) -> str:
    """A model card in a few lines of rich text: what, pixel size, data and licenses, scores."""
    lines = [f"<b>{card.name}</b>", card.summary, f"Pixel size: {card.mpp:g} µm/px. Network: {card.architecture}."]
    if scores := _numbers(card.scores):
        lines.append(f"Held-out scores: {scores}.")
    for data in card.data:
        name = data.get("title") or data.get("name") or data.get("path") or "unnamed data"
        known = [str(data[key]) for key in ("source", "license") if data.get(key)]
        lines.append(f"Trained on {name}" + (f" ({'; '.join(known)})." if known else "."))
    if card.license:
        lines.append(f"License: {card.license.rstrip('.')}.")
    return "<br>".join(line for line in lines if line)


SCORES = {"aji": "AJI", "pq": "PQ", "f1_50": "F1", "dice": "Dice"}


def _numbers(scores: dict[str, Any]) -> str:
    """The overall scores of the held-out data, by the names that people know."""
    found = scores.get("validation", scores)
    return ", ".join(f"{title} {found[key]:.2f}" for key, title in SCORES.items() if isinstance(found.get(key), float))
