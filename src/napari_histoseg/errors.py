"""The package's own exceptions.

Every message says what was given, the rule, and what to do. Each class also inherits the built-in exception that
fits, so that code which knows nothing of this package still catches the right thing. ``exit_code`` is what the
command line returns: 2 for wrong arguments or input, 1 for a run that failed.
"""

from __future__ import annotations


class HistosegError(Exception):
    """Base of all errors that this package raises on purpose."""

    exit_code: int = 1


class SlideError(HistosegError, OSError):
    """A file is not a slide, is damaged, or cannot be read."""

    exit_code = 2


class PixelSizeError(HistosegError, ValueError):
    """The pixel size (µm/px) is missing, impossible, or out of a model's reach."""

    exit_code = 2


class RegionError(HistosegError, ValueError):
    """A region lies outside the slide or is empty."""

    exit_code = 2


class SettingsError(HistosegError, ValueError):
    """A setting is unknown or has an impossible value."""

    exit_code = 2


class WeightsError(HistosegError, ValueError):
    """A weights file is damaged, foreign, or made for another method."""

    exit_code = 2


class DatasetError(HistosegError, ValueError):
    """A patch dataset is incomplete or contradicts itself."""

    exit_code = 2


class ResultError(HistosegError, OSError):
    """A result folder exists already, is in use, or was made by another version."""

    exit_code = 2


class StorageError(HistosegError, OSError):
    """Writing failed: the disk is full or the folder is read-only."""


class TileError(HistosegError, OSError):
    """One part of a slide could not be decoded."""


class RunError(HistosegError, RuntimeError):
    """A run could not be finished."""
