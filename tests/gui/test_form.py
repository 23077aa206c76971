"""Forms made from settings models."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import Field
from qtpy.QtWidgets import QCheckBox, QComboBox, QDoubleSpinBox, QLabel, QLineEdit, QSpinBox

from napari_histoseg.errors import SettingsError
from napari_histoseg.gui.form import SettingsForm
from napari_histoseg.methods.nuclei.config import NucleiSettings, NucleiTraining
from napari_histoseg.methods.settings import Settings


class Every(Settings):
    """A field of every kind."""

    count: int = Field(3, ge=1, le=9, multiple_of=2, title="Count", description="How many.")
    share: float = Field(0.25, gt=0, lt=1, title="Share")
    tiny: float = Field(1e-3, gt=0, le=1)
    way: Literal["here", "there"] = Field("there", title="Way")
    on: bool = Field(True, title="On")
    name: str = Field("x", title="Name")
    maybe: str | None = Field(None, title="Maybe")


@pytest.fixture
def form(qtbot: Any) -> SettingsForm:
    made = SettingsForm(Every, basic=("share",))
    qtbot.addWidget(made)
    made.show()
    return made


@pytest.mark.parametrize(
    ("name", "kind"),
    [("count", QSpinBox), ("share", QDoubleSpinBox), ("way", QComboBox), ("on", QCheckBox), ("name", QLineEdit), ("maybe", QLineEdit)],
)
def test_each_type_has_its_widget(form: SettingsForm, name: str, kind: type) -> None:
    assert isinstance(form.editor(name), kind)


def test_defaults_are_the_models(form: SettingsForm) -> None:
    assert form.values(count=4) == Every(count=4)


def test_titles_and_descriptions_are_shown(form: SettingsForm) -> None:
    assert {"Share", "Count", "Way"} <= {label.text() for label in form.findChildren(QLabel)}
    assert form.editor("count").toolTip() == "How many."


def test_bounds_and_steps_are_the_models(form: SettingsForm) -> None:
    count: Any = form.editor("count")
    assert (count.minimum(), count.maximum(), count.singleStep()) == (1, 9, 2)


def test_only_the_basic_fields_are_seen_at_first(form: SettingsForm) -> None:
    folded = form.more.content()
    assert form.editor("share").isVisible()
    assert not folded.isAncestorOf(form.editor("share"))
    assert folded.isAncestorOf(form.editor("count"))
    assert not form.more.isExpanded()


def test_what_is_entered_comes_out(form: SettingsForm) -> None:
    form.set_values(count=8, share=0.5, way="here", on=False, name="y", maybe="z", tiny=0.25)
    assert form.values() == Every(count=8, share=0.5, way="here", on=False, name="y", maybe="z", tiny=0.25)


def test_a_problem_is_a_sentence_at_the_bottom_until_it_is_gone(form: SettingsForm) -> None:
    form.set_values(share=0.0, count=4)
    with pytest.raises(SettingsError):
        form.values()
    assert "'share'" in form.problem.text()
    assert "greater than 0" in form.problem.text()
    form.set_values(share=0.1)
    form.values()
    assert not form.problem.isVisible()


def test_a_change_is_announced(form: SettingsForm, qtbot: Any) -> None:
    with qtbot.waitSignal(form.changed):
        form.set_values(way="here")


@pytest.mark.parametrize("model", [NucleiSettings, NucleiTraining])
def test_the_packages_settings_make_the_round_trip(qtbot: Any, model: type[Settings]) -> None:
    form = SettingsForm(model)
    qtbot.addWidget(form)
    assert form.values() == model()
