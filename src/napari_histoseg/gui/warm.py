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
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Labels

from napari_histoseg.gui.layers import object_colors

if TYPE_CHECKING:
    from napari.viewer import Viewer

log = logging.getLogger(__name__)

_ready = threading.Event()
_thread: list[threading.Thread] = []
_methods: dict[str, threading.Thread] = {}
"""What prepares for single methods, by their name."""
WAIT_S = 60.0


def warm_up(viewer: Viewer) -> None:
    """Prepare for runs, once a process; called when a dock opens, where a wait is expected."""
    if not _thread:
        _show_labels_once(viewer)
        _thread.append(threading.Thread(target=_prepare, name="histoseg-warm-up", daemon=True))
        _thread[0].start()


def wait_until_warm(method: str = "") -> None:
    """Called by a run before it loads its model: what `warm_up` began is not done twice."""
    if _thread:
        _ready.wait(WAIT_S)
    if method in _methods:
        _methods[method].join(WAIT_S)


def warm_method(name: str, *modules: str) -> None:
    """Prepare for a method whose package has kernels of its own, and import modules that it needs; once a process, after `warm_up`."""
    if _thread and name not in _methods:
        _methods[name] = threading.Thread(target=_prepare_method, args=(name, modules), name=f"histoseg-warm-up-{name}", daemon=True)
        _methods[name].start()


def _prepare_method(name: str, modules: Sequence[str]) -> None:
    _ready.wait(WAIT_S)
    gc.disable()
    try:
        compiling = _compile_elsewhere(name)
        for each in modules:
            importlib.import_module(each)
        gc.freeze()
        gc.enable()
        if compiling is not None:
            compiling()
    except (ImportError, OSError, subprocess.SubprocessError):
        # As above: the run does it for itself.
        log.debug("The method '%s' was not prepared", name, exc_info=True)
    finally:
        gc.enable()


def _show_labels_once(viewer: Viewer) -> None:
    """Make napari load what its first labels layer needs, a second's worth, now and not when a run shows its first tile.

    Nothing is drawn in between, so that nobody sees it.
    """
    if any(isinstance(layer, Labels) for layer in viewer.layers) or not len(viewer.layers):
        return
    chosen = viewer.layers.selection.active
    pixels = np.zeros((4, 4), np.uint32)
    layer = viewer.add_labels([pixels, pixels[::2, ::2]], multiscale=True, colormap=object_colors(), units=viewer.layers[0].units[-2:])
    viewer.layers.selection.active = layer
    viewer.layers.remove(layer)
    viewer.layers.selection.active = chosen


def _prepare() -> None:
    # What is imported is no garbage, and looking through it for some would stop the window again and again.
    gc.disable()
    try:
        compiling = _compile_elsewhere()
        importlib.import_module("napari_histoseg.predict.run")
        # Everything imported by now stays for good. Garbage collection need not visit it again: with torch loaded it
        # would stop the window for a third of a second each time, and napari collects whenever a layer is removed.
        gc.freeze()
        gc.enable()
        if compiling is not None:
            compiling()
    except (ImportError, OSError, subprocess.SubprocessError):
        # The run does for itself what is missing, and says what it cannot do.
        log.debug("The engine was not prepared", exc_info=True)
    finally:
        gc.enable()
        _ready.set()


def _compile_elsewhere(method: str = "nuclei") -> Callable[[], None] | None:
    """Start compiling a method's kernels in another process unless numba's cache has them; returns what waits for it."""
    from napari_histoseg.slide.cache import cache_root

    marker = cache_root() / f"kernels-{method}-{_state(method)}"
    if marker.exists():
        return None
    code = f"from napari_histoseg.methods.{method}.warm import warm_up; warm_up()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def finish() -> None:
        if process.wait(WAIT_S) == 0:
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()

    return finish


def _state(method: str) -> str:
    """Changes with the source of a method's kernels, and with numba."""
    import hashlib
    from importlib.metadata import version
    from pathlib import Path

    from napari_histoseg.methods import nuclei

    digest = hashlib.sha256(f"{version('numba')} {sys.version}".encode())
    for file in sorted(Path(nuclei.__file__).parents[1].joinpath(method).glob("*.py")):
        digest.update(f"{file} {file.stat().st_mtime_ns}".encode())
    return digest.hexdigest()[:16]
