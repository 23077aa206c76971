"""Which objects to group: a labels layer of the viewer, or a file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSignalBlocker
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QComboBox, QFileDialog, QHBoxLayout, QLabel, QWidget

from napari_histoseg.errors import SettingsError
from napari_histoseg.gui.labelsource import labels_of
from napari_histoseg.gui.layers import KEY
from napari_histoseg.gui.qt import Signal
from napari_histoseg.gui.shown import result_of

if TYPE_CHECKING:
    from napari.layers import Image, Labels, Layer
    from napari.viewer import Viewer

    from napari_histoseg.methods.cells.sources import LabelImage
    from napari_histoseg.results import Result
    from napari_histoseg.slide import Slide

NONE = "None yet"
FILE, FOLDER = "From a file…", "From a folder…"
NO_NUCLEI = "No nuclei are shown. Run Nuclei first, or open a result, a label image or a GeoJSON."
FILTER = "Objects (*.geojson *.geojson.gz *.json *.png *.tif *.tiff *.npy);;All files (*)"
TIPS = {
    NONE: NO_NUCLEI,
    FILE: "A label image (TIFF, PNG, NPY; each object a number) or a GeoJSON file, for instance of QuPath.",
    FOLDER: "A result folder of this package, or an OME-Zarr label image.",
}

Choice = Any
"""A labels layer, or a path."""


class NucleiPicker(QWidget):
    """Lists what could be nuclei of a slide: results of nuclei, other labels layers, files; the newest first.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    """

    changed = Signal()
    """Something else is chosen."""

    def __init__(self, viewer: Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._fingerprint: str | None = None
        self._files: list[Path] = []
        self._listed: list[tuple[str, Choice]] = []
        self._chosen: Choice = None
        """What a person chose; None follows the newest."""
        self.combo = _Combo(self.refresh)
        self.combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(QLabel("Nuclei"))
        layout.addWidget(self.combo, 1)
        self.combo.activated.connect(self._on_activated)
        for events in (viewer.layers.events.inserted, viewer.layers.events.removed, viewer.layers.selection.events.active):
            events.connect(self.refresh)
        viewer.layers.events.inserted.connect(self._watch)
        for layer in viewer.layers:
            layer.events.name.connect(self.refresh)
        self.refresh()

    # -- what others ask ----------------------------------------------------------------------------------------------

    @property
    def choice(self) -> Choice:
        """The chosen labels layer or path; None when there is none."""
        index = self.combo.currentIndex()
        return self._listed[index][1] if 0 <= index < len(self._listed) else None

    @property
    def layer(self) -> Labels | None:
        """The chosen layer; None when a file is chosen, or nothing."""
        return None if isinstance(self.choice, Path) else self.choice

    def labels(self, image: Image, slide: Slide) -> Result | LabelImage | Path:
        """The chosen nuclei as the settings of a run want them.

        Parameters
        ----------
        image : Image
            The slide's layer.
        slide : Slide

        Raises
        ------
        SettingsError
            Nothing is chosen, or it cannot be nuclei of the slide.
        """
        self.refresh()
        choice = self.choice
        if choice is None:
            raise SettingsError(NO_NUCLEI)
        return choice if isinstance(choice, Path) else labels_of(choice, image, slide)

    def set_slide(self, fingerprint: str | None) -> None:
        """List only what could lie on this slide."""
        self._fingerprint = fingerprint
        self.refresh()

    def add_file(self, path: Path) -> None:
        """List a file or folder, and choose it."""
        if path not in self._files:
            self._files.insert(0, path)
        self._chosen = path
        self.refresh()

    # -- the list -----------------------------------------------------------------------------------------------------

    def showEvent(self, event: QShowEvent | None) -> None:
        """A run that ended turns its layer into nuclei without a word."""
        super().showEvent(event)
        self.refresh()

    def refresh(self, event: Any = None) -> None:
        """List the layers of now; the choice stays as long as it is there."""
        found = [(layer.name, layer) for layer in self._layers()] + [(path.name, path) for path in self._files]
        if found == self._listed and self.combo.count():
            return
        # Compared with ==, for napari hands plugins a new wrapper of a layer each time.
        before = self.choice
        self._listed = found
        kept = next((i for i, (_, choice) in enumerate(found) if choice == self._chosen), 0)
        with QSignalBlocker(self.combo):
            self.combo.clear()
            self.combo.addItems([name for name, _ in found] or [NONE])
            self.combo.addItems([FILE, FOLDER])
            self.combo.setCurrentIndex(kept)
        self._show_tip()
        if self.choice != before:
            self.changed.emit()

    def _layers(self) -> list[Layer]:
        """Layers that could be nuclei: results of nuclei, then labels of others, then objects that were grouped already; each newest first."""
        from napari.layers import Labels

        ranks = [(rank, layer) for layer in reversed(self._viewer.layers) if isinstance(layer, Labels) and (rank := self._rank(layer)) is not None]
        return [layer for _, layer in sorted(ranks, key=lambda pair: pair[0])]

    def _rank(self, layer: Labels) -> int | None:
        entry = layer.metadata.get(KEY, {})
        result = result_of(layer)
        if result is None:
            # What this package shows besides results is no objects: tissue, annotations, runs under way.
            return None if entry else 1
        if not result.has_objects or self._fingerprint not in (None, result.record.slide.fingerprint):
            return None
        return 0 if result.record.method == "nuclei" else 2

    def _watch(self, event: Any) -> None:
        event.value.events.name.connect(self.refresh)

    def _on_activated(self, index: int) -> None:
        title = self.combo.itemText(index)
        if index < len(self._listed):
            self._chosen = self._listed[index][1]
            self._show_tip()
            self.changed.emit()
            return
        self._stay()
        if title in (FILE, FOLDER):
            self._browse(title)

    def _browse(self, title: str) -> None:
        if title == FILE:
            chosen, _ = QFileDialog.getOpenFileName(self, "Choose objects", "", FILTER)
        else:
            chosen = QFileDialog.getExistingDirectory(self, "Choose a result or an OME-Zarr label image")
        if chosen:
            self.add_file(Path(chosen))

    def _stay(self) -> None:
        kept = next((i for i, (_, choice) in enumerate(self._listed) if choice == self._chosen), 0)
        self.combo.setCurrentIndex(kept)

    def _show_tip(self) -> None:
        choice = self.choice
        words = TIPS[NONE] if choice is None else f"The objects to group: {choice if isinstance(choice, Path) else choice.name}."
        self.combo.setToolTip(words)
        for i in range(self.combo.count()):
            self.combo.setItemData(i, TIPS.get(self.combo.itemText(i), ""), 3)


class _Combo(QComboBox):
    """Looks again before it shows its list."""

    def __init__(self, look: Any) -> None:
        super().__init__()
        self._look = partial(look)

    def showPopup(self) -> None:
        """The list as it is now."""
        self._look()
        super().showPopup()
