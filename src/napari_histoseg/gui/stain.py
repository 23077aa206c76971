"""The dock "Stain"."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import napari
from napari.layers import Image
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QGridLayout, QScrollArea, QVBoxLayout, QWidget

from napari_histoseg.errors import HistosegError, PixelSizeError, RegionError, SettingsError
from napari_histoseg.gui.background import in_background
from napari_histoseg.gui.folders import FolderPicker
from napari_histoseg.gui.header import SlideHeader
from napari_histoseg.gui.layers import KEY, LayerData
from napari_histoseg.gui.parts import button, group
from napari_histoseg.gui.prepare import prepare
from napari_histoseg.gui.progress import ProgressPanel
from napari_histoseg.gui.qt import Signal
from napari_histoseg.gui.rundock import engine
from napari_histoseg.gui.shown import add_in_turns
from napari_histoseg.gui.stainchoice import TITLES, StainChoice
from napari_histoseg.gui.stainfit import Latest, Look, look, normalizer_of, stain_of, target_name
from napari_histoseg.gui.stainlate import Colorist
from napari_histoseg.gui.stainlayers import find_normalized, normalized_layer, read_ahead, stain_layers
from napari_histoseg.gui.stainnew import NewReference
from napari_histoseg.gui.stainplot import DensityPlot, QualityLight, Swatches, cloud_of, vectors_of
from napari_histoseg.gui.stainview import SplitView
from napari_histoseg.gui.stainwrite import StainWriter
from napari_histoseg.gui.warm import warm_up
from napari_histoseg.gui.where import view_box
from napari_histoseg.predict.events import RunEvent
from napari_histoseg.slide import Slide

log = logging.getLogger(__name__)

FOLLOW_MS = 120
"""The preview follows the view this often."""


class StainDock(QScrollArea):
    """Bring a slide's colors to a reference, see it before it is applied, take the stains apart.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    previewed = Signal(object)
    """A new `Look` is shown."""

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        warm_up(napari_viewer)
        self.viewer = napari_viewer
        self.engine: Callable[..., Iterator[RunEvent]] = engine
        self.shown: Look | None = None
        self.header = SlideHeader(napari_viewer, stain=False)
        self.choice = StainChoice()
        self.new = NewReference(napari_viewer, self.header, self.choice)
        self.view = SplitView()
        self.light = QualityLight()
        self.swatches = Swatches()
        self.plot = DensityPlot()
        self.folder = FolderPicker()
        self.progress = ProgressPanel("tiles")
        self._latest = Latest("Stain preview", self)
        self._levels: dict[int, tuple[Slide, list[Any]]] = {}
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(FOLLOW_MS)
        self._make_buttons()
        self.writer = StainWriter(self)
        self._lay_out()
        self._connect()
        self.show_state()

    # -- looks --------------------------------------------------------------------------------------------------------

    def _make_buttons(self) -> None:
        self.apply_button = button("Apply", "Add a layer that shows the slide in these colors. Nothing is written; other docks can read it.", self.apply)
        self.apply_button.setDefault(True)
        self.separate_button = button("Separate stains", "Add hematoxylin, eosin and what is left as layers of optical density.", self.separate)
        self.write_button = button("Write to disk…", "Write the whole slide in these colors, as OME-Zarr.", self.write)
        self.cancel_button = button("Cancel", "Stop writing after the tile in hand; what is done stays, and writing can go on.", self.cancel)
        self.export_button = button("Export…", "What was written, as one pyramidal OME-TIFF.", self.export)

    def _lay_out(self) -> None:
        inside = QWidget()
        layout = QVBoxLayout(inside)
        layout.setContentsMargins(8, 8, 8, 8)
        layout.addWidget(self.header)
        layout.addWidget(group("Colors", self.choice, self.new))
        layout.addWidget(group("Preview", self.view, self.light), 1)
        layout.addWidget(group("Stains", self.swatches, self.plot))
        buttons = QGridLayout()
        for i, each in enumerate((self.apply_button, self.separate_button)):
            buttons.addWidget(each, 0, i)
        layout.addLayout(buttons)
        layout.addWidget(self.folder)
        last = QGridLayout()
        for i, each in enumerate((self.write_button, self.cancel_button, self.export_button)):
            last.addWidget(each, 0, i)
        layout.addLayout(last)
        layout.addWidget(self.progress)
        self.setWidget(inside)
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setMinimumWidth(340)

    def _connect(self) -> None:
        self.header.message.connect(self.problem)
        self.new.problem.connect(self.problem)
        self.new.said.connect(self.progress.say)
        self.header.changed.connect(self.show_state)
        self.header.changed.connect(self.follow)
        self.choice.changed.connect(self._on_choice)
        self.view.resized.connect(self.follow)
        self._timer.timeout.connect(self._look)
        camera = self.viewer.scene.camera
        camera.events.center.connect(self.follow)
        camera.events.zoom.connect(self.follow)
        self.viewer.layers.events.removed.connect(self.show_state)

    def show_state(self, event: Any = None) -> None:
        """Buttons that can be pressed now."""
        there = self.header.layer is not None
        refused = self.shown is not None and self.shown.normalizer.quality.light == "refused"
        self.apply_button.setEnabled(there and not refused and self.choice.line is not None)
        self.separate_button.setEnabled(there)
        self.write_button.setEnabled(self.apply_button.isEnabled() and not self.writer.running)
        self.cancel_button.setEnabled(self.writer.running)
        self.export_button.setEnabled(self.writer.result is not None and not self.writer.running)
        if not there:
            self.shown = None
            self.view.show_words("No slide is open.")
            self.light.show_words("")

    def problem(self, sentence: str) -> None:
        """Put a sentence on the message line, as a problem."""
        self.progress.say(sentence, problem=True)

    # -- preview ------------------------------------------------------------------------------------------------------

    def showEvent(self, event: Any) -> None:
        """Seen again: look."""
        super().showEvent(event)
        self.follow()

    def hideEvent(self, event: Any) -> None:
        """Nobody looks: compute nothing."""
        super().hideEvent(event)
        self._timer.stop()

    def follow(self, event: Any = None) -> None:
        """Soon, look at the view again; at most a few times a second."""
        if self.isVisible() and not self._timer.isActive():
            self._timer.start()

    def _on_choice(self) -> None:
        self.progress.say("")
        self.show_state()
        self.follow()

    def _look(self) -> None:
        layer, wanted = self.header.layer, self.choice.value
        if layer is None or wanted is None:
            if layer is not None:
                self.view.show_words("There is no reference. Add one: a layer, a region, or a file.")
            return
        try:
            slide = self.header.slide()
            box = view_box(self.viewer, layer, slide)
        except RegionError as error:
            self.view.show_words(str(error))
            return
        except HistosegError as error:
            self.problem(str(error))
            return
        if self.shown is None:
            self.light.show_words("Measuring the slide's stain…")
        size, given = self.view.wanted_px, self._given(layer, slide)
        self._latest.ask(lambda: look(slide, given(), box, size, *wanted), self._on_look, self._on_no_look)

    def _given(self, layer: Image, slide: Slide) -> Callable[[], list[Any]]:
        """The slide's pyramid as scanned: the layer's own where it shows that, so that what is decoded is decoded once."""
        entry = layer.metadata.get(KEY, {})
        if slide.stain is None and "facts" in entry:
            data = list(layer.data) if layer.multiscale else [layer.data]
            return lambda: data

        def levels() -> list[Any]:
            if id(slide) not in self._levels:
                self._levels[id(slide)] = slide, list(slide.unstained.pyramid())
            return self._levels[id(slide)][1]

        return levels

    def _on_look(self, found: Look) -> None:
        wanted = self.choice.value
        self.shown = found
        self.view.show_pictures(found.before, found.after)
        normalizer, method = found.normalizer, str(wanted[1]) if wanted else "macenko"
        used = normalizer.method
        self.light.show_quality(normalizer.quality, TITLES.get(str(used), "nothing is changed"))
        self.swatches.show_stains("Slide", found.source, method)
        self.swatches.show_stains("Reference", found.target, method)
        cloud = cloud_of(found.before, found.source.white)
        cloud.slide = vectors_of(found.source, method)
        cloud.reference = None if found.target is None else vectors_of(found.target, method)
        self.plot.show_cloud(cloud)
        self.show_state()
        self.previewed.emit(found)

    def _on_no_look(self, sentence: str) -> None:
        self.shown = None
        self.view.show_words("")
        self.light.show_words("")
        self.problem(sentence)

    # -- what is made of it -------------------------------------------------------------------------------------------

    def chosen(self) -> tuple[Slide, Image, Any, str]:
        """The slide as scanned, its layer, target and method.

        Raises
        ------
        HistosegError
            When no slide is open, or there is no reference.
        """
        slide, layer, wanted = self.header.slide(), self.header.layer, self.choice.value
        assert layer is not None
        if wanted is None:
            raise SettingsError("There is no reference to bring the colors to. Add one: a layer, a region, or a file.")
        return slide.unstained, layer, *wanted

    def attempt(self, action: Callable[[], None]) -> None:
        """Do something that may be refused; the reason goes on the message line."""
        self.progress.say("")
        try:
            action()
        except PixelSizeError as error:
            self.header.ask_pixel_size()
            self.problem(str(error))
        except HistosegError as error:
            log.debug("Refused", exc_info=True)
            self.problem(str(error))

    def apply(self) -> None:
        """Add the normalized slide as a lazy layer at the same place."""
        self.attempt(self._apply)

    def _apply(self) -> None:
        slide, layer, target, method = self.chosen()
        if not prepare(slide):
            return
        box, canvas = self._seen(layer, slide)

        def work() -> tuple[Slide, LayerData]:
            normalizer = normalizer_of(slide, target, method)
            if normalizer.quality.light == "refused":  # type: ignore[attr-defined]
                raise SettingsError(normalizer.quality.reason)  # type: ignore[attr-defined]
            stained = slide.with_stain(normalizer)
            made = normalized_layer(stained, layer, f"{slide.name} as {target_name(normalizer)}")
            read_ahead(made[0] if made[1]["multiscale"] else [made[0]], box, canvas)
            return stained, made

        self._make(f"Normalizing {slide.name}", work, self._on_applied)

    def _on_applied(self, made: tuple[Slide, LayerData]) -> None:
        stained, data = made
        if (there := find_normalized(self.viewer, stained)) is not None:
            there.visible = True
            self.viewer.layers.selection.active = there
            self.progress.say(f"The layer '{there.name}' shows this already.")
            return
        layer = add_in_turns(self.viewer, data, self)
        if stained.stain is not None and stained.stain.halo_px:
            Colorist(self.viewer, layer, data[0] if data[1]["multiscale"] else [data[0]], self)
        self.progress.say(f"Added '{layer.name}'. Other docks can read it as their slide; to take it back, delete the layer.")

    def separate(self) -> None:
        """Add hematoxylin, eosin and residual as lazy layers."""
        self.attempt(self._separate)

    def _separate(self) -> None:
        slide, layer = self.header.slide().unstained, self.header.layer
        assert layer is not None
        if not prepare(slide):
            return
        box, canvas = self._seen(layer, slide)

        def work() -> list[LayerData]:
            made = stain_layers(slide, layer, stain_of(slide))
            read_ahead(made[0][0] if made[0][1]["multiscale"] else [made[0][0]], box, canvas)
            return made

        self._make(f"Separating the stains of {slide.name}", work, self._add_all)

    def _add_all(self, layers: list[LayerData]) -> None:
        """One after the other, so that the window answers in between."""
        if not layers:
            self.progress.say("Hematoxylin is shown; eosin and residual are hidden layers above it.")
            return
        names = [layer.name for layer in self.viewer.layers]
        first, rest = layers[0], layers[1:]
        if first[1]["name"] in names:
            self._add_all(rest)
            return
        chosen = self.viewer.layers.selection.active
        add_in_turns(self.viewer, first, self, lambda: self._add_all(rest))
        if not first[1]["visible"]:
            self.viewer.layers.selection.active = chosen

    def _make(self, title: str, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        self.progress.say(f"{title}…")
        self.apply_button.setEnabled(False)
        self.separate_button.setEnabled(False)

        def ready(value: Any) -> None:
            self.progress.say("")
            self.show_state()
            done(value)

        def failed(sentence: str) -> None:
            self.show_state()
            self.problem(sentence)

        in_background(title, work, ready, failed, self)

    def _seen(self, layer: Image, slide: Slide) -> tuple[Any, tuple[int, int]]:
        height, width = (int(v) for v in self.viewer.canvas.size)
        try:
            return view_box(self.viewer, layer, slide), (width, height)
        except RegionError:
            return slide.bounds, (width, height)

    # -- files --------------------------------------------------------------------------------------------------------

    def write(self) -> None:
        """Write the normalized slide into a new folder, or go on with it."""
        self.attempt(self.writer.start)

    def cancel(self) -> None:
        """Stop writing after the tile in hand."""
        self.writer.cancel()

    def export(self) -> None:
        """Choose a file and write what was written into it, as OME-TIFF."""
        self.attempt(self.writer.export)

    def add_file(self, path: Path) -> None:
        """Add a reference from a file; what is wrong with it is said on the message line."""
        self.new.add_file(path)
