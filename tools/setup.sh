#!/usr/bin/env bash
# Make .venv in this checkout and install the package with everything into it. Source or run; can be repeated.
# Missing system packages are installed when this may be done (root, or sudo without a password) and otherwise named.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PACKAGES=(python3-venv xvfb xauth libgl1 libegl1 libglib2.0-0 libdbus-1-3 libfontconfig1 libxkbcommon-x11-0 libxcb-cursor0
  libxcb-icccm4 libxcb-image0 libxcb-keysyms1 libxcb-randr0 libxcb-render-util0 libxcb-shape0 libxcb-xkb1 libx11-xcb1
  fonts-dejavu-core)

system_packages() {
  command -v dpkg-query >/dev/null || { echo "Not a Debian system: install an X server (Xvfb) and the libraries of Qt 6 yourself."; return 0; }
  local missing=() name
  for name in "${PACKAGES[@]}"; do
    # python3-venv is for Debian's own Python; any Python that can make environments will do.
    if [ "$name" = python3-venv ] && python3 -c 'import ensurepip, venv' 2>/dev/null; then continue; fi
    dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q 'install ok installed' || missing+=("$name")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  local root=()
  if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then root=(sudo -n); else
      echo "These system packages are missing. Install them, then run this again:" >&2
      echo "  apt-get install ${missing[*]}" >&2
      exit 2
    fi
  fi
  echo "Installing system packages: ${missing[*]}"
  "${root[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

environment() {
  # An environment that was left half-made has no pip.
  .venv/bin/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { rm -rf .venv; python3 -m venv .venv; }
  # torch first, in its CPU build: later ranges that it satisfies bring no larger one. Where PyTorch's own index cannot be
  # reached, the usual index has to do, which on Linux brings several gigabytes for graphics cards.
  if ! .venv/bin/python -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)'; then
    .venv/bin/pip install -q --no-deps --retries 0 --timeout 15 --index-url https://download.pytorch.org/whl/cpu torch==2.13.0 \
      2>/dev/null || .venv/bin/pip install -q torch==2.13.0
  fi
  .venv/bin/pip install -q -e '.[all,test,lint]'
}

system_packages
environment
