"""Pixel sizes that a person stated, remembered by the slide's fingerprint."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from napari_histoseg.slide import Slide
from napari_histoseg.slide.cache import cache_root

log = logging.getLogger(__name__)


def _file() -> Path:
    return cache_root() / "pixel_sizes.json"


def _load() -> dict[str, float]:
    try:
        stored = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(k): float(v) for k, v in stored.items()} if isinstance(stored, dict) else {}


def remember(slide: Slide) -> None:
    """Keep the slide's pixel size for the next time that it is opened."""
    sizes = {**_load(), slide.fingerprint(): slide.require_mpp()}
    file = _file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps(sizes, indent=1), encoding="utf-8")
        partial.replace(file)
    except OSError as error:
        # Not remembering costs the person one number next time, no more.
        log.warning("The pixel size of %s could not be remembered in %s: %s", slide.name, file, error)


def with_remembered(slide: Slide) -> Slide:
    """The slide with the pixel size that was stated for it before, where the file has none."""
    if slide.mpp is not None:
        return slide
    mpp = _load().get(slide.fingerprint())
    return slide if mpp is None else slide.with_mpp(mpp)
