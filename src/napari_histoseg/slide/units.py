"""Units of length as image files write them."""

from __future__ import annotations

_UM = {
    "nm": 1e-3,
    "nanometer": 1e-3,
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "micrometre": 1.0,
    "mm": 1e3,
    "millimeter": 1e3,
    "cm": 1e4,
    "centimeter": 1e4,
    "m": 1e6,
    "meter": 1e6,
    "inch": 25400.0,
    "in": 25400.0,
}


def to_um(unit: str | None) -> float | None:
    """Micrometers in one ``unit``; None for units that are no length (such as ``pixel``)."""
    return _UM.get((unit or "").strip().lower() if (unit or "") not in _UM else str(unit))
