"""Every method is a package with the same doors, and none of them is opened before somebody goes through."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from inspect import signature

import pytest

from napari_histoseg import methods
from napari_histoseg.methods.base import MethodPackage


@pytest.mark.parametrize("name", methods.names())
def test_a_method_has_the_modules_that_its_frame_opens(name: str) -> None:
    method = methods.get(name)
    assert isinstance(method, MethodPackage) and method.spec.name == name
    if type(method).load is MethodPackage.load:
        load = import_module(f"napari_histoseg.methods.{name}.predictor").load
        assert list(signature(load).parameters) == ["settings", "weights", "device", "precision"]
    if method.spec.training is not None:
        train = import_module(f"napari_histoseg.methods.{name}.train").task_from_dataset
        assert list(signature(train).parameters)[1:] == ["settings"]


def test_having_all_methods_opens_none() -> None:
    code = "import sys; from napari_histoseg import methods; [methods.get(n).spec.settings() for n in methods.names()]; print([m for m in sys.modules if m == 'torch' or m.endswith(('predictor', '.train'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
