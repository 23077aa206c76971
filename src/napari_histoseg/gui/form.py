"""A settings model as a form, for any method: titles, units, bounds and tips come from the model's fields."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QLabel,
    QLineEdit,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from napari_histoseg.errors import SettingsError
from napari_histoseg.gui.qt import Signal
from napari_histoseg.methods.settings import Settings

LARGEST = 2**31 - 1

Editor = tuple[QWidget, Callable[[], Any], Callable[[Any], None], Any]
"""Widget, how to read it, how to write it, the signal of a change."""


class SettingsForm(QWidget):
    """Shows and returns the settings of one model.

    Parameters
    ----------
    model : type of Settings
    basic : sequence of str
        Fields that are always seen; the others are folded under "More settings".
    hidden : sequence of str
        Fields that another part of the window sets.
    """

    changed = Signal()

    def __init__(
        self, model: type[Settings], basic: Sequence[str] = (), hidden: Sequence[str] = (), parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._model = model
        self._editors: dict[str, Editor] = {}
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        first, more = _form_layout(), _form_layout()
        layout.addLayout(first)
        self.more = QCollapsible("More settings")
        self.more.setDuration(0)
        inside = QWidget()
        inside.setLayout(more)
        self.more.addWidget(inside)
        layout.addWidget(self.more)
        self.problem = QLabel()
        self.problem.setObjectName("histoseg-problem")
        self.problem.setWordWrap(True)
        self.problem.hide()
        layout.addWidget(self.problem)
        shown = [*basic, *(name for name in model.model_fields if name not in basic)]
        for name in shown:
            if name not in hidden:
                self._add(name, model.model_fields[name], first if name in basic else more)
        self.more.setVisible(more.rowCount() > 0)

    def _add(self, name: str, info: FieldInfo, layout: QFormLayout) -> None:
        widget, read, write, signal = editor_for(info)
        widget.setObjectName(name)
        widget.setToolTip(info.description or "")
        write(info.get_default(call_default_factory=True))
        signal.connect(lambda *_: self.changed.emit())
        label = QLabel(info.title or name.replace("_", " ").capitalize())
        label.setToolTip(info.description or "")
        layout.addRow(label, widget)
        self._editors[name] = (widget, read, write, signal)

    def editor(self, name: str) -> QWidget:
        """The widget of a field."""
        return self._editors[name][0]

    def set_values(self, **values: Any) -> None:
        """Write some fields."""
        for name, value in values.items():
            self._editors[name][2](value)

    def values(self, **others: Any) -> Settings:
        """The settings as entered, validated; ``others`` are the hidden fields.

        Raises
        ------
        SettingsError
            Says every problem; the same text is shown at the bottom of the form.
        """
        entered = {name: read() for name, (_, read, _, _) in self._editors.items()}
        try:
            settings = self._model.parse({**entered, **others})
        except SettingsError as error:
            self.problem.setText(str(error))
            self.problem.show()
            raise
        self.problem.hide()
        return settings


def _form_layout() -> QFormLayout:
    layout = QFormLayout()
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setVerticalSpacing(4)
    layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    return layout


def editor_for(info: FieldInfo) -> Editor:
    """The widget that fits a field's type and bounds."""
    kind: Any = info.annotation
    if kind is bool:
        box = QCheckBox()
        return box, box.isChecked, box.setChecked, box.toggled
    if get_origin(kind) is Literal:
        return _combo([str(value) for value in get_args(kind)])
    if kind is int:
        return _whole(info)
    if kind is float:
        return _real(info)
    return _text(nullable=type(None) in get_args(kind))


def _combo(values: list[str]) -> Editor:
    combo = QComboBox()
    combo.addItems(values)
    return combo, combo.currentText, combo.setCurrentText, combo.currentTextChanged


def _whole(info: FieldInfo) -> Editor:
    low, high, step = _bounds(info)
    spin = QSpinBox()
    spin.setRange(int(max(low, -LARGEST)), int(min(high, LARGEST)))
    spin.setSingleStep(int(step or 1))
    spin.setKeyboardTracking(False)
    return spin, spin.value, spin.setValue, spin.valueChanged


def _real(info: FieldInfo) -> Editor:
    low, high, step = _bounds(info)
    default = float(info.get_default(call_default_factory=True) or 0)
    spin = QDoubleSpinBox()
    # Bounds that a value may not reach are reachable here: the model then says the rule in words.
    spin.setRange(max(low, -1e9), min(high, 1e9))
    spin.setDecimals(6 if 0 < abs(default) < 1e-2 else 3 if high <= 10 else 2)
    spin.setSingleStep(step or (0.05 if high <= 1 else 1.0))
    spin.setKeyboardTracking(False)
    return spin, spin.value, spin.setValue, spin.valueChanged


def _text(nullable: bool) -> Editor:
    line = QLineEdit()

    def read() -> str | None:
        return line.text() or (None if nullable else "")

    def write(value: Any) -> None:
        line.setText("" if value is None else str(value))

    return line, read, write, line.textChanged


def _bounds(info: FieldInfo) -> tuple[float, float, float | None]:
    low, high, step = float("-inf"), float("inf"), None
    for rule in info.metadata:
        if isinstance(rule, annotated_types.Ge):
            low = float(rule.ge)  # type: ignore[arg-type]
        elif isinstance(rule, annotated_types.Gt):
            low = float(rule.gt)  # type: ignore[arg-type]
        elif isinstance(rule, annotated_types.Le):
            high = float(rule.le)  # type: ignore[arg-type]
        elif isinstance(rule, annotated_types.Lt):
            high = float(rule.lt)  # type: ignore[arg-type]
        elif isinstance(rule, annotated_types.MultipleOf):
            step = float(rule.multiple_of)  # type: ignore[arg-type]
    return low, high, step
