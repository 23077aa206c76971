#!/usr/bin/env bash
# Set everything up, then pass the tests: style, types, manifest, docs, units, conformance, and the window under Xvfb.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash tools/setup.sh
echo "== style"
.venv/bin/ruff check .
echo "== types"
.venv/bin/mypy
echo "== manifest"
.venv/bin/npe2 validate --imports src/napari_histoseg/napari.yaml
echo "== tests"
# One worker for each processor, each with its own display; `-n 0` runs all in one process.
.venv/bin/python -m pytest -n logical --maxprocesses 4 --dist worksteal "$@"
