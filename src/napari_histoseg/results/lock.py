"""One writer per result folder."""

from __future__ import annotations

import json
import os
import socket
import uuid
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

from napari_histoseg.errors import ResultError

NAME = ".lock"


class Lock:
    """The right to write into a result folder, held until `release`, garbage collection or the end of Python.

    A lock whose process has ended on this machine is taken over; one of another machine is not, because
    nothing can be known about that process.

    Raises
    ------
    ResultError
        Another run holds the lock.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._token = json.dumps(
            {
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "started": _started(os.getpid()),
                "token": uuid.uuid4().hex,
            }
        )
        self._acquire(folder)
        self._finalizer = weakref.finalize(self, _release, self._path, self._token)

    def release(self) -> None:
        """Give the folder free; a second call does nothing."""
        self._finalizer()

    def _acquire(self, folder: Path) -> None:
        for _ in range(10):
            if self._create():
                return
            held = _read(self._path)
            if held is None:
                continue
            if _alive(held):
                raise in_use(folder, held)
            self._drop_stale(held)
        raise ResultError(f"{folder} could not be locked: other runs keep taking it. Wait for them to end.")

    def _create(self) -> bool:
        # A finished file is linked into place, so that no other process can read a half-written lock.
        private = self._path.with_name(f"{NAME}.{uuid.uuid4().hex}")
        descriptor = os.open(private, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(self._token)
            return _link_exclusive(private, self._path, self._token)
        finally:
            private.unlink(missing_ok=True)

    def _drop_stale(self, stale: dict[str, Any]) -> None:
        # Moving the lock aside is atomic: of two processes that found it stale, one moves it. Should that be
        # a new lock which a third process took meanwhile, it is put back.
        aside = self._path.with_name(f"{NAME}.{uuid.uuid4().hex}")
        try:
            os.rename(self._path, aside)
        except FileNotFoundError:
            return
        if _read(aside) != stale:
            with suppress(OSError):
                os.link(aside, self._path)
        aside.unlink(missing_ok=True)


def holder(folder: Path) -> int | None:
    """Process number of the living writer of a result folder; None when nobody writes."""
    held = _read(folder / NAME)
    return int(held.get("pid", 0)) if held is not None and _alive(held) else None


def in_use(folder: Path, held: dict[str, Any]) -> ResultError:
    """The error for a folder that a living process holds."""
    pid, host = held.get("pid"), held.get("host")
    elsewhere = host != socket.gethostname()
    where = f"process {pid} on {host}" if elsewhere else f"process {pid}"
    hint = f" If that run has ended, delete {folder / NAME}." if elsewhere else ""
    return ResultError(f"{folder} is in use by another run ({where}). Wait until it ends, or choose another folder.{hint}")


def _link_exclusive(private: Path, path: Path, text: str) -> bool:
    try:
        os.link(private, path)
    except FileExistsError:
        return False
    except OSError:
        # File systems without hard links: plain exclusive creation, which is nearly as good.
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    return True


def _release(path: Path, token: str) -> None:
    with suppress(OSError):
        if path.read_text(encoding="utf-8") == token:
            path.unlink()


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _alive(held: dict[str, Any]) -> bool:
    pid = held.get("pid")
    if not isinstance(pid, int):
        return False
    if held.get("host") != socket.gethostname():
        return True
    if not _exists(pid):
        return False
    started = _started(pid)
    # The number of a dead process may have gone to another one, which started later.
    return started is None or held.get("started") is None or started == held["started"]


def _exists(pid: int) -> bool:
    if os.name == "nt":
        import ctypes

        kernel = ctypes.windll.kernel32  # type: ignore[attr-defined, unused-ignore]
        handle = kernel.OpenProcess(0x1000, False, pid)
        if not handle:
            return False
        code = ctypes.c_ulong()
        kernel.GetExitCodeProcess(handle, ctypes.byref(code))
        kernel.CloseHandle(handle)
        return code.value == 259  # STILL_ACTIVE
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _started(pid: int) -> str | None:
    """When the process started, in the kernel's count; None without /proc, or for a dead process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    return text.rpartition(")")[2].split()[19]
