"""napari's reader for slides and for results of this package."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from napari_histoseg.errors import HistosegError

if TYPE_CHECKING:
    from napari_histoseg.gui.layers import LayerData

log = logging.getLogger(__name__)

SLIDES = {".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".vms", ".vmu", ".dcm"}
IMAGES = {".png", ".jpg", ".jpeg"}
NOTHING: list[tuple[None]] = [(None,)]
"""Tells napari that the file was dealt with but brings no layer."""

Read = Callable[[str | Sequence[str]], "list[LayerData] | list[tuple[None]]"]


def get_reader(path: str | Sequence[str]) -> Read | None:
    """The reader for these paths, or None when one of them is neither a slide nor a result."""
    paths = [path] if isinstance(path, str) else [str(p) for p in path]
    return read if paths and all(_ours(Path(p)) for p in paths) else None


def _ours(path: Path) -> bool:
    if not path.is_dir():
        return path.suffix.lower() in SLIDES | IMAGES
    if is_result(path):
        return True
    return any((path / name).is_file() for name in (".zgroup", ".zattrs", "zarr.json")) or any(path.glob("*.dcm"))


def is_result(path: Path) -> bool:
    """Whether a folder is a result of this package."""
    return (path / "run.json").is_file()


def read(path: str | Sequence[str]) -> list[LayerData] | list[tuple[None]]:
    """Open slides and results as layers. What is wrong with a file is shown as one plain message."""
    from napari.utils.notifications import show_error

    paths = [path] if isinstance(path, str) else list(path)
    layers: list[LayerData] = []
    for one in paths:
        try:
            layers += read_one(Path(one))
        except HistosegError as error:
            log.debug("%s was not opened", one, exc_info=True)
            show_error(str(error))
    return layers or NOTHING


def read_one(path: Path) -> list[LayerData]:
    """The layers of one slide, or of one result together with its slide.

    Raises
    ------
    HistosegError
        When the file is no slide, or the result is damaged or of another version.
    """
    from napari_histoseg.gui.layers import slide_layer
    from napari_histoseg.gui.pixelsize import with_remembered
    from napari_histoseg.gui.prepare import prepare
    from napari_histoseg.slide import open_slide

    if is_result(path):
        return _read_result(path)
    slide = with_remembered(open_slide(path))
    return [slide_layer(slide)] if prepare(slide) else []


def _read_result(path: Path) -> list[LayerData]:
    from napari_histoseg.gui.layers import result_layers, slide_layer
    from napari_histoseg.results import open_result

    result = open_result(path)
    record = result.record
    layers: list[LayerData] = []
    if record.slide.path and Path(record.slide.path).exists() and not _is_open(record.slide.fingerprint):
        from napari_histoseg.slide import open_slide

        # The pixel size that the run used, so that labels and slide agree even when the file has none.
        stated = record.slide.mpp if record.slide.mpp_source != "file" else None
        layers.append(slide_layer(open_slide(record.slide.path, mpp=stated)))
    return layers + result_layers(result)


def _is_open(fingerprint: str) -> bool:
    """Whether the slide is already a layer of the current viewer."""
    from napari import current_viewer

    from napari_histoseg.gui.layers import KEY

    viewer = current_viewer()
    slides = [layer.metadata.get(KEY, {}).get("slide") for layer in viewer.layers] if viewer else []
    return any(slide is not None and slide.fingerprint() == fingerprint for slide in slides)
