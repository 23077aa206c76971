"""Interactive analysis of H&E whole-slide images: a napari plugin, a Python library and a command line."""
