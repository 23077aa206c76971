"""What the words of a command line mean."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_histoseg.errors import RegionError, SettingsError, WeightsError

if TYPE_CHECKING:
    import shapely


def parse_settings(pairs: Sequence[str], **more: Any) -> dict[str, Any]:
    """``("threshold=0.4", "model=log")`` → settings; values are JSON where they parse, text elsewhere.

    ``more`` are options of their own; those that are None were not given.

    Raises
    ------
    SettingsError
        A pair has no ``=``, or a setting is given twice.
    """
    settings: dict[str, Any] = {}
    given = [pair.partition("=") for pair in pairs]
    for key, equals, text in given:
        if not key or not equals:
            raise SettingsError(f"--set takes KEY=VALUE, for example threshold=0.4. Got {key + equals + text!r}.")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        if key in settings or more.get(key) is not None:
            raise SettingsError(f"The setting '{key}' is given twice. Give it once.")
        settings[key] = value
    return settings | {key: value for key, value in more.items() if value is not None}


def weights_file(name: str) -> Path:
    """A file, or the shipped weights of that name.

    Raises
    ------
    WeightsError
        No weights of that name ship.
    """
    import napari_histoseg as hs

    if Path(name).exists() or Path(name).suffix:
        return Path(name)
    shipped = {row["name"]: Path(row["path"]) for row in hs.list_weights()}
    if name not in shipped:
        known = ", ".join(shipped) or "none"
        raise WeightsError(f"There are no weights called '{name}'. Give a .safetensors file, or one that ships: {known}.")
    return shipped[name]


def polygons(path: Path) -> shapely.Geometry:
    """All polygons of a GeoJSON file as one geometry, level-0 pixels.

    Raises
    ------
    DatasetError
        The file is no GeoJSON.
    RegionError
        It holds no polygon.
    """
    import shapely

    from napari_histoseg.annotations.geojson import read_geojson

    shapes = [region.geometry for region in read_geojson(path)]
    if not shapes:
        raise RegionError(f"{path} holds no polygon. Draw at least one region with an area.")
    return shapely.union_all(shapes)


def how_to_resume(given: Sequence[str], state: Path) -> str:
    """What to say after Ctrl-C: the same command with ``--resume``, when there is something to go on with."""
    if not state.exists():
        return "interrupted; nothing was kept."
    words = [word for word in given if word not in ("--overwrite", "--resume")]
    return f"interrupted; what is done is kept. Go on with: {shlex.join(['histoseg', *words, '--resume'])}"
