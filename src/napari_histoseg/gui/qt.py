"""What type checkers do not see in qtpy."""

from __future__ import annotations

from qtpy.QtCore import Signal  # type: ignore[attr-defined]

__all__ = ["Signal"]
