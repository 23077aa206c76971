"""What a slide can be made to look like: profiles that ship, saved ones, ones measured now, and trained styles.

One list for the dock "Stain" and for every dock's header.
"""

from __future__ import annotations

import functools
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import platformdirs
from qtpy.QtCore import QObject

from napari_histoseg.errors import HistosegError, SettingsError, StorageError
from napari_histoseg.gui.folders import safe_name
from napari_histoseg.gui.qt import Signal
from napari_histoseg.slide import Slide, open_slide
from napari_histoseg.slide.stain import (
    METHODS,
    StainProfile,
    builtin_profiles,
    load_profile,
    measure_slide,
    save_profile,
)

log = logging.getLogger(__name__)

STYLE = ".safetensors"
NEURAL = "neural"
Kind = Literal["ships", "saved", "measured", "style"]
KINDS: tuple[Kind, ...] = ("ships", "style", "saved", "measured")


@dataclass(frozen=True)
class Reference:
    """A line of the list.

    Parameters
    ----------
    name : str
    target : StainProfile or Path
        A path is a trained style.
    kind : {"ships", "saved", "measured", "style"}
    note : str
        For the tip.
    """

    name: str
    target: StainProfile | Path
    kind: Kind
    note: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """The same for the same line of a list that was read again."""
        return self.kind, self.name


def profiles_folder() -> Path:
    """Where saved profiles are: ``HISTOSEG_PROFILES``, else a folder with the user's settings."""
    named = os.environ.get("HISTOSEG_PROFILES")
    return Path(named) if named else platformdirs.user_config_path("napari-histoseg", appauthor=False) / "stain profiles"


@functools.cache
def shipped_styles() -> tuple[Reference, ...]:
    """The trained styles that ship; where there is none, the window does not offer the neural method."""
    from napari_histoseg.gui.models import shipped_card
    from napari_histoseg.methods.stain import config

    found = []
    for path in sorted((Path(config.__file__).parent / "weights").glob(f"*{STYLE}")):
        try:
            card = shipped_card(path)
        except (OSError, ValueError) as error:
            log.warning("The stain style %s cannot be read: %s", path, error)
            continue
        found.append(Reference(card.name, path, "style", card.summary))
    return tuple(found)


def stain_methods() -> tuple[str, ...]:
    """The methods to offer."""
    return (*METHODS, NEURAL) if shipped_styles() else METHODS


class References(QObject):
    """The list. ``changed`` says that it is another one now, ``added`` which line is new."""

    changed = Signal()
    added = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self._measured: list[Reference] = []
        self._saved = _read_saved()

    def all(self) -> list[Reference]:
        """What ships, styles, saved profiles, and what was measured in this session, in this order."""
        ships = [Reference(name, profile, "ships", about(profile)) for name, profile in builtin_profiles().items()]
        own = sorted((*shipped_styles(), *self._measured), key=lambda line: KINDS.index(line.kind))
        styles = [line for line in own if line.kind == "style"]
        return [*ships, *styles, *self._saved, *(line for line in own if line.kind == "measured")]

    def add(self, target: StainProfile | Path, name: str = "") -> Reference:
        """Add a measured profile, or a style from a file, for this session."""
        if isinstance(target, Path):
            line = Reference(self._free(name or target.stem), target, "style", str(target))
        else:
            line = Reference(self._free(name or target.name or "picture"), target, "measured", about(target))
        self._measured.append(line)
        self.changed.emit()
        self.added.emit(line)
        return line

    def save(self, line: Reference, name: str) -> Path:
        """Keep a profile under a name, as a small JSON file that can be passed on.

        Raises
        ------
        SettingsError
            When the name is empty or taken, or the line is a style.
        StorageError
            When the file cannot be written.
        """
        if isinstance(line.target, Path):
            raise SettingsError(f"'{line.name}' is a trained style, which is a file already: {line.target}. Only profiles are saved here.")
        if not name.strip():
            raise SettingsError("A profile needs a name. Type one.")
        if name in {other.name for other in self.all() if other.kind in ("ships", "saved")}:
            raise SettingsError(f"There is a profile named '{name}' already. Choose another name.")
        path = profiles_folder() / f"{safe_name(name)}.json"
        if path.exists():
            raise SettingsError(f"{path} exists already. Choose another name.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"The folder {path.parent} cannot be made: {error.strerror}. Make it, or name another in HISTOSEG_PROFILES.") from error
        save_profile(line.target.renamed(name.strip()), path)
        self._saved = _read_saved()
        self.changed.emit()
        self.added.emit(next(x for x in self._saved if x.name == name.strip()))
        return path

    def _free(self, name: str) -> str:
        taken, number, free = {line.name for line in self.all()}, 1, name
        while free in taken:
            number += 1
            free = f"{name} {number}"
        return free


@functools.cache
def references() -> References:
    """The list of this program."""
    return References()


def _read_saved() -> list[Reference]:
    found = []
    for path in sorted(profiles_folder().glob("*.json")):
        try:
            profile = load_profile(path)
        except HistosegError as error:
            log.warning("A saved stain profile was left out: %s", error)
            continue
        found.append(Reference(profile.name or path.stem, profile, "saved", f"{about(profile)}\n{path}".strip()))
    return found


def about(profile: StainProfile) -> str:
    """Note, source and license of a profile, a line each, and what is wrong with it."""
    license = f"License: {profile.license}" if profile.license else ""
    return "\n".join(text for text in (profile.note, profile.source, license, *profile.problems) if text)


def from_file(path: Path) -> StainProfile | Path:
    """The profile in a JSON file, the style in weights, or the profile of a picture or slide, which is measured.

    Raises
    ------
    HistosegError
        When the file is none of these.
    """
    if path.suffix == STYLE:
        from napari_histoseg.nn.weights import read_card

        read_card(path, "stain")
        return path
    if path.suffix == ".json":
        return load_profile(path)
    with open_slide(path) as slide:
        return measure_slide(slide, name=path.stem)


def from_region(slide: Slide, region: Any, largest_px: int = 4_000_000) -> StainProfile:
    """The profile of a drawn region: a `Box` or a polygon in level-0 pixels. What is outside a polygon is not looked at."""
    import numpy as np

    from napari_histoseg.slide import Box
    from napari_histoseg.slide.stain import measure

    if not isinstance(region, Box):
        left, top, right, bottom = (round(v) for v in region.bounds)
        box = Box(left, top, max(right - left, 1), max(bottom - top, 1))
    else:
        box = region
    level = slide.level_for(max((box.area / largest_px) ** 0.5, 1.0))
    downsample = slide.levels[level].downsample
    place = box.scaled(1 / downsample).intersect(slide.levels[level].bounds)
    if place.area > 4 * largest_px:
        side = int((4 * largest_px) ** 0.5)
        width, height = min(place.width, side), min(place.height, side)
        place = Box(place.x + (place.width - width) // 2, place.y + (place.height - height) // 2, width, height)
    pixels = slide.read(level, place)
    if not isinstance(region, Box):
        import shapely

        x, y = (np.arange(n) + start + 0.5 for n, start in ((place.width, place.x), (place.height, place.y)))
        inside = shapely.contains_xy(region, x[None] * downsample, y[:, None] * downsample)
        pixels = np.where(inside[..., None], pixels, np.uint8(255))
    return measure(pixels, name=f"region of {slide.name}")
