"""``python -m napari_histoseg`` is ``histoseg``."""

from napari_histoseg.cli import main

if __name__ == "__main__":
    main()
