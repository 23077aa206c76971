"""The window: the only room that imports Qt or napari. A thin shell around slides, runs and results."""
