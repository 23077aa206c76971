"""The dock "Tissue": map the kinds of tissue of a slide without labels, look at them and name them, learn them for other slides."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari
import numpy as np
from qtpy.QtWidgets import QWidget

from napari_histoseg.errors import DatasetError, SettingsError
from napari_histoseg.gui.annotatelayers import warm_colors
from napari_histoseg.gui.background import in_background
from napari_histoseg.gui.classdock import ClassesDock
from napari_histoseg.gui.modelpicker import ModelChoice
from napari_histoseg.gui.parts import button
from napari_histoseg.gui.slides import open_slide_by
from napari_histoseg.gui.tissuelearn import TissueLessons, show_used
from napari_histoseg.gui.training import Scored
from napari_histoseg.gui.uselabels import LabelsDialog, use_labels
from napari_histoseg.gui.warm import warm_method
from napari_histoseg.methods.tissue.config import Clustering, TissueSettings

if TYPE_CHECKING:
    from napari_histoseg.annotations.frommap import Wanted
    from napari_histoseg.results import Result

log = logging.getLogger(__name__)

NEW = "New classes of this slide"
NEW_NOTE = (
    "The tissue is clustered by what it looks like, without labels. Name the classes under Classes and save them: as a model they give "
    "the tissue of other slides the same names and colors."
)
OF_MODEL = frozenset(Clustering.model_fields)
"""Settings that a model brings along."""
LEARNING_UM = 512.0
"""Side of previews while a training needs the processor, too."""
CRF = "crf_"
"""What the names of settings of the CRF begin with."""


class TissueDock(ClassesDock):
    """Map kinds of tissue.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    METHOD = "tissue"
    NOUN = "kinds of tissue"
    SETTINGS = TissueSettings
    BASIC = ("variant", "n_classes", "mpp", "crf")
    PREVIEW_UM = 1024.0
    TABS = (
        ("Map", "Map the kinds of tissue of a view, a region or a slide."),
        ("Classes", "Look at the classes, name them, put them right, use them as labels."),
        ("Train", "Learn classes from several slides, for other slides."),
    )
    NOTHING = "No classes are shown. Run under Map, or choose the layer of a result with classes."
    SAVED = "Run gives the tissue of any slide these classes."
    training: TissueLessons

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer, [ModelChoice(NEW, "", None, None, NEW_NOTE)])
        warm_method(self.METHOD, "napari_histoseg.methods.tissue.predictor", "sklearn.cluster", "scipy.cluster.hierarchy")
        self._on_header()
        self._on_model()
        self._follow()

    # -- looks --------------------------------------------------------------------------------------------------------

    def _make_parts(self) -> None:
        self._own: dict[str, Any] = {}
        warm_colors(np.uint32)
        self.training = TissueLessons(self.viewer, self.header, self.where)
        self.labels_button = button("Use as training labels…", "Paint patches of a dataset with these classes, to be corrected and trained on.", self.use_labels)
        super()._make_parts()
        self.run_button.setToolTip("Map the kinds of tissue in the chosen place.")

    def class_parts(self) -> list[QWidget]:
        """As in other docks, with training labels."""
        return [*super().class_parts(), self.labels_button]

    def _connect(self) -> None:
        super()._connect()
        self.form.changed.connect(self._show_form)
        self.training.scored.connect(self._on_scored)

    def _show_state(self, event: Any = None) -> None:
        super()._show_state(event)
        self.labels_button.setEnabled(self.save_button.isEnabled())

    def _show_form(self) -> None:
        new = self.models.choice.weights is None
        show_used(self.form, TissueSettings, frozenset() if new else OF_MODEL | {"net_steps"})
        refine = self.form.editor("crf").isChecked()  # type: ignore[attr-defined]
        for name in (name for name in TissueSettings.model_fields if name.startswith(CRF)):
            self.form.editor(name).setEnabled(refine)

    # -- what a method says of itself ---------------------------------------------------------------------------------

    def has_found(self, result: "Result") -> bool:
        """Whether anything but glass was mapped."""
        return bool(len(result.patches))

    def settings_of(self, choice: ModelChoice) -> dict[str, Any]:
        """How the classes of a model were learned is how they are found."""
        return {} if choice.card is None else {**{name: choice.card.settings[name] for name in OF_MODEL}, "mpp": choice.card.mpp}

    def in_words(self, result: "Result") -> str:
        """The area of each class, the largest first; it takes a while on a large map."""
        from napari_histoseg.results.classmap import class_areas

        rows = class_areas(result).query("area_px > 0").sort_values("area_px", ascending=False)
        count = "1 class" if len(rows) == 1 else f"{len(rows)} classes"
        return f"{count}: " + ", ".join(f"{row['class']} {row['area_mm2']:.2g} mm² ({row['share']:.0%})" for _, row in rows.iterrows())

    def _on_model(self) -> None:
        """Show how the classes of a model were learned; with new ones, what was entered before."""
        card = self.models.choice.card
        if card is None:
            self.form.set_values(**self._own)
            self._own = {}
        else:
            try:
                entered = self.form.values().model_dump()
            except SettingsError:
                log.debug("Nothing to come back to", exc_info=True)
                entered = {}
            self._own = self._own or {name: entered[name] for name in OF_MODEL & entered.keys()}
            self.form.set_values(**{name: card.settings[name] for name in OF_MODEL & card.settings.keys()})
        self._show_form()

    # -- runs ---------------------------------------------------------------------------------------------------------

    def _on_finished(self, result: Any) -> None:
        preview = self._request_now().preview
        self.progress.rest("Measuring areas…")

        def measured(words: str) -> None:
            if not self.busy:
                self.progress.rest(f"Preview: {words}; it is not kept." if preview else f"Done: {words}. Result: {result.path}")

        in_background("Measuring areas", lambda: self.in_words(result), measured, self._problem, self)

    def _on_scored(self, scored: Scored) -> None:
        if self.training.watch.isChecked():
            self.map_view(scored, LEARNING_UM)

    # -- training labels ----------------------------------------------------------------------------------------------

    def use_labels(self) -> None:
        """Ask which classes become training labels, and where."""
        result = self.result
        if result is None:
            return
        dialog = LabelsDialog([c for c in result.classes if c.value], self.folder.folder, self)
        if dialog.exec():
            self.use_labels_in(result, *dialog.values())

    def use_labels_in(self, result: "Result", folder: Path, wanted: "Wanted") -> None:
        """Paint patches of a dataset with classes of a result."""
        self._try(lambda: self._use_labels(result, folder, wanted))

    def _use_labels(self, result: "Result", folder: Path, wanted: "Wanted") -> None:
        slide = open_slide_by(result.record.slide.fingerprint, self.viewer.layers)
        if slide is None:
            raise DatasetError(f"The slide {result.record.slide.name} of this map is not open. Open it, for its patches lie on it.")

        def refused(sentence: str) -> None:
            self.progress.rest()
            self._problem(sentence)

        job = use_labels(self.viewer, result, slide, folder, wanted, self.progress.rest, refused, self)
        job.cancelled.connect(lambda: self.progress.rest("Cancelled. Nothing was painted."))
        self.progress.wait("Painting patches…")
        self._wait_for(job)
