"""What takes seconds once, done while the person is still looking around, so that a run never stops the window.

Importing torch and compiling kernels keep Python's lock for hundreds of milliseconds at a time. The import is done on a
thread when a dock opens; the compilation in another process, which leaves the kernels in numba's cache on disk.
"""

from __future__ import annotations

import gc
import importlib
import logging
import subprocess
import sys
import threading

log = logging.getLogger(__name__)

_started = threading.Event()
_lock = threading.Lock()


def warm_up() -> None:
    """Prepare for runs, once a process; a run that is started meanwhile waits where it has to."""
    with _lock:
        if _started.is_set():
            return
        _started.set()
    threading.Thread(target=_prepare, name="histoseg-warm-up", daemon=True).start()


def _prepare() -> None:
    _compile_elsewhere()
    try:
        importlib.import_module("napari_histoseg.predict.run")
    except ImportError:
        # The run will say what is missing, as a sentence.
        log.debug("The engine could not be imported", exc_info=True)
    # Everything imported by now stays for good. Garbage collection need not visit it again: with torch loaded it would
    # stop the window for a third of a second each time, and napari collects whenever a layer is removed.
    gc.freeze()


def _compile_elsewhere() -> None:
    """Compile the kernels in another process unless numba's cache has them."""
    from napari_histoseg.slide.cache import cache_root

    marker = cache_root() / f"kernels-{_state()}"
    if marker.exists():
        return
    code = "from napari_histoseg.methods.nuclei.warm import warm_up; warm_up()"
    try:
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    except (OSError, subprocess.SubprocessError):
        # The first run then compiles for itself, and the window stutters once.
        log.debug("The kernels were not compiled ahead", exc_info=True)


def _state() -> str:
    """Changes with the kernels' source and with numba."""
    import hashlib
    from importlib.metadata import version
    from pathlib import Path

    from napari_histoseg.methods.nuclei import config

    digest = hashlib.sha256(f"{version('numba')} {sys.version}".encode())
    for file in sorted(Path(config.__file__).parent.glob("*.py")):
        digest.update(f"{file} {file.stat().st_mtime_ns}".encode())
    return digest.hexdigest()[:16]

