"""``python -m napari_histoseg`` is ``histoseg``."""

import sys

from napari_histoseg.cli import main

if __name__ == "__main__":
    sys.exit(main())
