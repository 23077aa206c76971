"""Every benchmark works in its smallest form and prints its tables. How fast anything is, is not asserted here."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py"))

Table = list[list[str]]

#: What tables have to hold: the words of their header, and first cells below it. Every other script in the folder is run all the same,
#: with ``--quick``, and has to print some table.
TABLES: dict[str, list[tuple[str, set[str]]]] = {
    "bench_memory.py": [("slide (px) · working µm/px · nuclei · s · peak memory (GiB)", {"512 × 512"})],
    "bench_nuclei.py": [("set · µm/px · images · method · AJI · PQ · F1_50 · DICE · s", {"generated"})],
    "bench_nuclei_decode.py": [
        (" · median ms · quartiles · best · ", {"scikit-image and SciPy", "offset votes", "boundary classes"}),
        (
            " · median ms · quartiles · best · ",
            {"votes → labels", "classes → labels", "labels → table and outlines", "labels → outlines", "outlines → WKB"},
        ),
    ],
    "bench_pipeline.py": [(" · tiles/s median · min · max", {"network alone", "whole pipeline", "ratio, paired rounds"})],
    "bench_read.py": [
        (
            "reader · ms per 256 px box, median (least to most) · relative",
            {"napari-histoseg", "OpenSlide", "tifffile (zarr)"},
        )
    ],
    "bench_stain.py": [
        ("apply, measured before · ms a megapixel", {"copy", "macenko (table)", "separate into 3 stains"}),
        ("apply to a tile of 512² · ms", {"macenko", "vahadane", "reinhard"}),
        ("the first tile of 512² of a slide · ms", {"macenko", "vahadane", "reinhard"}),
        ("end to end, 0.3 megapixels · ms a megapixel", {"numpy Macenko, measure and apply"}),
    ],
    "stain_quality.py": [
        (
            "target · method · correlation · Hellinger · Euclidean · SSIM of H · glass · seam · pictures · fell back",
            {"left"},
        ),
        ("model · target · method · dice · aji · sensitivity · pictures", {"log"}),
    ],
    "bench_window.py": [(" · longest gap · gaps over 100 ms · 99 % of gaps", {"no run", "while it runs"})],
}
#: These open a window, so they get a process of their own.
WINDOWS = {"bench_window.py", "inspector_speed.py"}


def tables(printed: str) -> list[Table]:
    """The markdown tables in a text: header and rows, as cells; the line below the header has to be there."""
    found: list[Table] = []
    inside = False
    for line in printed.splitlines():
        row = [cell.strip() for cell in line.strip()[1:-1].split("|")] if line.startswith("|") else []
        if row and not inside:
            found.append([])
        if row:
            found[-1].append(row)
        inside = bool(row)
    for table in found:
        assert all(cell and set(cell) <= set("-:") for cell in table.pop(1)), printed
    return found


def in_this_process(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What a script prints, as if called from the command line."""
    monkeypatch.setattr(sys, "argv", [name, "--quick"])
    runpy.run_path(str(FOLDER / name), run_name="__main__")
    return capsys.readouterr().out


def in_a_window(name: str) -> str:
    """What a script prints that opens a window of its own."""
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        pytest.skip("there is no display (install Xvfb)")
    done = subprocess.run([sys.executable, FOLDER / name, "--quick"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_benchmark_has_gone() -> None:
    assert set(TABLES) <= set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_prints_its_tables(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    printed = in_a_window(name) if name in WINDOWS else in_this_process(name, monkeypatch, capsys)
    made = tables(printed)
    wanted = TABLES.get(name, [(" · ".join(table[0]), set()) for table in made])
    assert made and [" · ".join(table[0]) for table in made] == [header for header, _ in wanted]
    for (header, *rows), (_, names) in zip(made, wanted, strict=True):
        assert rows and names <= {row[0] for row in rows}
        for row in rows:
            assert len(row) == len(header)
            assert re.search(r"\d", "".join(row[1:])), f"no number in {row}"
            assert not re.search(r"\b(nan|inf|none)\b", " ".join(row[1:]).lower()), f"no finite number in {row}"
