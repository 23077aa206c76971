"""How loops over pixels are compiled, for every room."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

_F = TypeVar("_F", bound=Callable[..., Any])


def kernel(function: _F) -> _F:
    """Compile on first call, keep on disk, and let other threads run meanwhile."""
    return cast(_F, numba.njit(cache=True, nogil=True)(function))
