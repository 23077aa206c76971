"""The reading benchmark runs, and the direct path is cheaper than OpenSlide."""

from __future__ import annotations

import importlib.util
import statistics
from pathlib import Path

import pytest


def test_the_direct_path_is_cheaper_than_openslide(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "bench_read.py"
    spec = importlib.util.spec_from_file_location("bench_read", path)
    assert spec is not None
    assert spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    times = bench.main(["--size", "2048", "--tiles", "30", "--rounds", "5"])
    assert capsys.readouterr().out.startswith("| reader |")
    assert statistics.median(times["napari-histoseg"]) < 0.7 * statistics.median(times["OpenSlide"])
