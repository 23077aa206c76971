"""Layers that are added in several turns of the event loop."""

from __future__ import annotations

import napari
import numpy as np
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QObject

from napari_histoseg.gui.shown import add_in_turns


def test_a_layer_added_in_turns_ends_up_as_one_added_at_once(viewer: napari.Viewer, qtbot: QtBot) -> None:
    pixels = np.zeros((8, 8), np.uint32)
    owner, ended = QObject(), []
    layer = add_in_turns(viewer, (pixels, {"name": "in turns"}, "labels"), owner, lambda: ended.append(1))
    assert layer in viewer.layers
    assert not layer.visible
    qtbot.waitUntil(lambda: bool(ended))
    at_once = viewer.add_labels(pixels)
    assert layer.visible
    assert [o.visible for o in layer._overlays.values()] == [o.visible for o in at_once._overlays.values()]


def test_a_hidden_layer_stays_hidden(viewer: napari.Viewer, qtbot: QtBot) -> None:
    owner, ended = QObject(), []
    layer = add_in_turns(viewer, (np.zeros((8, 8)), {"visible": False}, "image"), owner, lambda: ended.append(1))
    qtbot.waitUntil(lambda: bool(ended))
    assert not layer.visible


def test_removing_the_layer_meanwhile_ends_it(viewer: napari.Viewer, qtbot: QtBot) -> None:
    owner, ended = QObject(), []
    layer = add_in_turns(viewer, (np.zeros((8, 8), np.uint32), {}, "labels"), owner, lambda: ended.append(1))
    viewer.layers.remove(layer)
    qtbot.waitUntil(lambda: bool(ended))
    assert not layer.visible
