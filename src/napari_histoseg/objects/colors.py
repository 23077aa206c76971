"""Colors of classes."""

from __future__ import annotations

import colorsys
from collections.abc import Collection
from typing import Any

PALETTE = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#42d4f4", "#f032e6", "#bfef45", "#469990", "#9a6324")
"""Easily told apart, also over H&E."""
_GOLDEN = 0.618033988749895


def next_color(taken: Collection[str]) -> str:
    """A color ``#rrggbb`` that is not among those taken, well apart from the first ones."""
    used = {color.lower() for color in taken}
    if free := [color for color in PALETTE if color not in used]:
        return free[0]
    for step in range(len(used) + 1):
        red, green, blue = colorsys.hsv_to_rgb((0.05 + step * _GOLDEN) % 1, 0.55 + 0.4 * (step % 2), 0.75)
        color = f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"
        if color not in used:
            break
    return color


def numbered_classes(count: int) -> tuple[dict[str, Any], ...]:
    """Classes 1 to ``count`` that nobody named yet, each with a color of its own: ``value``, ``name``, ``color``."""
    colors: list[str] = []
    for _ in range(count):
        colors.append(next_color(colors))
    return tuple({"value": k + 1, "name": f"cluster {k + 1}", "color": color} for k, color in enumerate(colors))
