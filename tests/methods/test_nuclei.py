"""Nuclei keeps what every method keeps, with its network and without."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_spec = importlib.util.spec_from_file_location("conformance", Path(__file__).with_name("conformance.py"))
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)


class TestCompact(_module.Conformance):
    method = "nuclei"


class TestUNet(_module.Conformance):
    method = "nuclei"
    fast = {"model": "unet"}


class TestLog(_module.Conformance):
    method = "nuclei"
    fast = {"model": "log"}
