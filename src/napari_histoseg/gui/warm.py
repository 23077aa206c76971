"""Imports that take seconds, done while the person is still looking around."""

from __future__ import annotations

import importlib
import logging
import threading

log = logging.getLogger(__name__)

_started = threading.Event()


def warm_up() -> None:
    """Import the engine on a thread, once; a run started meanwhile waits for it."""
    if not _started.is_set():
        _started.set()
        threading.Thread(target=_import, name="histoseg-warm-up", daemon=True).start()


def _import() -> None:
    try:
        importlib.import_module("napari_histoseg.predict.run")
    except ImportError:
        # The run will say what is missing, as a sentence.
        log.debug("The engine could not be imported", exc_info=True)
