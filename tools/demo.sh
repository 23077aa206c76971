#!/usr/bin/env bash
# Set everything up, then find the nuclei of a sample slide: a table, a QuPath file and a picture in histoseg-demo/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash tools/setup.sh
.venv/bin/histoseg demo --out histoseg-demo
