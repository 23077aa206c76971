"""The dock "Nuclei"."""

from typing import TYPE_CHECKING, Any

import napari

from napari_histoseg.gui.edit import EditBar
from napari_histoseg.gui.modelpicker import ModelChoice
from napari_histoseg.gui.models import nuclei_models
from napari_histoseg.gui.parts import group
from napari_histoseg.gui.rundock import RunDock
from napari_histoseg.methods.nuclei.config import NucleiSettings

if TYPE_CHECKING:
    from napari_histoseg.results import Result


class NucleiDock(RunDock):
    """Find nuclei in the view, in drawn regions, in the tissue or on the whole slide, and correct them.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    METHOD = "nuclei"
    NOUN = "nuclei"
    SETTINGS = NucleiSettings
    BASIC = ("threshold", "min_area_um2")
    HIDDEN = ("model",)

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer, nuclei_models())

    def _make_parts(self) -> None:
        self.edit = EditBar(self.viewer)

    def _lay_out(self) -> None:
        self.show_parts(self.header, *self.run_parts(), group("Correct", self.edit), *self.result_parts())

    def _connect(self) -> None:
        super()._connect()
        self.edit.problem.connect(self._problem)
        self.edit.said.connect(self.progress.say)

    @property
    def result(self) -> "Result | None":
        """The result that is corrected."""
        return self.edit.result

    def settings_of(self, choice: ModelChoice) -> dict[str, Any]:
        """The network, or none."""
        return {"model": choice.model}
