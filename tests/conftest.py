"""Fixtures that all tests share; nothing that a test writes reaches the user's own folders."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

_HOME = tempfile.mkdtemp(prefix="histoseg-tests-")
# Set before anything imports napari or the package: both read them early.
os.environ["NAPARI_CONFIG"] = str(Path(_HOME) / "napari.yaml")
os.environ["HISTOSEG_CACHE"] = str(Path(_HOME) / "cache")
os.environ["HISTOSEG_RESULTS"] = str(Path(_HOME) / "results")

import pytest  # noqa: E402


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
