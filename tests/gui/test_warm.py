"""What is prepared when a dock opens does not stop the window later."""

from __future__ import annotations

import gc
import threading

import pytest

from napari_histoseg.gui import warm


@pytest.mark.parametrize("error", [None, ImportError("no torch")])
def test_nothing_is_collected_while_modules_are_imported(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(warm, "_ready", threading.Event())

    def imported(name: str) -> None:
        seen.append(gc.isenabled())
        if error is not None:
            raise error

    monkeypatch.setattr(warm.importlib, "import_module", imported)
    monkeypatch.setattr(warm, "_compile_elsewhere", lambda: lambda: seen.append(gc.isenabled()))
    monkeypatch.setattr(gc, "freeze", lambda: seen.append(gc.isenabled()))
    warm._prepare()
    assert seen == ([False, False, True] if error is None else [False])
    assert gc.isenabled() and warm._ready.is_set()
