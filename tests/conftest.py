"""Fixtures that all tests share; nothing that a test writes reaches the user's own folders."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from pathlib import Path
from typing import Any

_HOME = tempfile.mkdtemp(prefix="histoseg-tests-")
# Set before anything imports napari or the package: both read them early.
os.environ["NAPARI_CONFIG"] = str(Path(_HOME) / "napari.yaml")
os.environ["HISTOSEG_CACHE"] = str(Path(_HOME) / "cache")
os.environ["HISTOSEG_RESULTS"] = str(Path(_HOME) / "results")

# A shell that starts the tests in the background lets them ignore interrupts, and Python leaves that as it is.
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

# How long an example takes says more about the machine than about the code.
settings.register_profile("patient", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: list[Any]) -> None:
    """Workers share the processor, and so compute on one thread each; each compiles for itself.

    Two processes that compile one function for different types at a time can mix up the entries of one cache of numba.
    """
    kernels = Path(os.environ.get("NUMBA_CACHE_DIR") or Path(__file__).parents[1] / ".pytest_cache" / "numba")
    for number, spec in enumerate(specs):
        spec.env.setdefault("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
        spec.env["NUMBA_CACHE_DIR"] = str(kernels.absolute() / f"worker-{number}")


def pytest_sessionfinish() -> None:
    """Remove what the tests wrote."""
    import shutil

    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data: ``HISTOSEG_DATA``, or ``../shared/data`` beside the repository; skips when absent."""
    named = os.environ.get("HISTOSEG_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real data are not there: {folder} (name their folder in HISTOSEG_DATA)")
    return folder
