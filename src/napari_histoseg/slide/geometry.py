"""Integer boxes and the conversions between micrometers and pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Box:
    """A half-open rectangle of pixels: ``x <= column < x + width``, ``y <= row < y + height``.

    The frame (level-0 pixels, pixels of a level, or working pixels at some µm/px) is named by whoever holds
    the box.
    """

    x: int
    y: int
    width: int
    height: int

    @property
    def right(self) -> int:
        """First column past the box."""
        return self.x + self.width

    @property
    def bottom(self) -> int:
        """First row past the box."""
        return self.y + self.height

    @property
    def shape(self) -> tuple[int, int]:
        """``(height, width)``, as an array has it."""
        return self.height, self.width

    @property
    def area(self) -> int:
        """Number of pixels; 0 for an empty box."""
        return 0 if self.empty else self.width * self.height

    @property
    def empty(self) -> bool:
        """Whether the box holds no pixel."""
        return self.width <= 0 or self.height <= 0

    @property
    def slices(self) -> tuple[slice, slice]:
        """``(rows, columns)`` to cut the box out of an array of its own frame."""
        return slice(self.y, self.bottom), slice(self.x, self.right)

    def intersect(self, other: Box) -> Box:
        """The pixels of both boxes; empty (width and height 0) when they do not meet."""
        x, y = max(self.x, other.x), max(self.y, other.y)
        width, height = min(self.right, other.right) - x, min(self.bottom, other.bottom) - y
        if width <= 0 or height <= 0:
            return Box(x, y, 0, 0)
        return Box(x, y, width, height)

    def union(self, other: Box) -> Box:
        """The smallest box around both."""
        x, y = min(self.x, other.x), min(self.y, other.y)
        return Box(x, y, max(self.right, other.right) - x, max(self.bottom, other.bottom) - y)

    def shifted(self, dx: int, dy: int) -> Box:
        """The box moved by ``dx`` columns and ``dy`` rows."""
        return Box(self.x + dx, self.y + dy, self.width, self.height)

    def relative_to(self, other: Box) -> Box:
        """The box in the frame whose origin is ``other``'s upper left corner."""
        return self.shifted(-other.x, -other.y)

    def padded(self, n: int) -> Box:
        """The box grown by ``n`` pixels on every side."""
        return Box(self.x - n, self.y - n, self.width + 2 * n, self.height + 2 * n)

    def contains_point(self, x: float, y: float) -> bool:
        """Whether the point lies in the half-open box."""
        return self.x <= x < self.right and self.y <= y < self.bottom

    def scaled(self, factor: float, inside: bool = False) -> Box:
        """The box in a frame whose pixels are ``factor`` times as many per length.

        Parameters
        ----------
        factor : float
            Target pixels per pixel of this frame.
        inside : bool
            Round inwards (only whole target pixels) instead of outwards (every touched pixel).
        """
        # A millionth of a pixel forgives the float error of factors such as 1/3.
        eps = 1e-6 if inside else -1e-6
        low, high = (math.ceil, math.floor) if inside else (math.floor, math.ceil)
        x, y = low(self.x * factor - eps), low(self.y * factor - eps)
        right, bottom = high(self.right * factor + eps), high(self.bottom * factor + eps)
        return Box(x, y, max(right - x, 0), max(bottom - y, 0))


def um_to_px(um: float, mpp: float) -> float:
    """Length in pixels of ``um`` micrometers at ``mpp`` µm/px."""
    return um / mpp


def px_to_um(px: float, mpp: float) -> float:
    """Length in micrometers of ``px`` pixels at ``mpp`` µm/px."""
    return px * mpp
