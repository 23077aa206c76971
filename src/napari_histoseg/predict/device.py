"""Where and how precisely a network runs."""

from __future__ import annotations

import torch

from napari_histoseg.errors import SettingsError


def choose_device(wanted: str = "auto") -> torch.device:
    """The torch device for a setting: ``auto`` prefers cuda, then mps, then cpu.

    Raises
    ------
    SettingsError
        If a device is asked for that this machine does not have.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(name for name, there in available.items() if there))
    if not available.get(wanted, False):
        there = ", ".join(name for name, ok in available.items() if ok)
        raise SettingsError(f"The device '{wanted}' is not available on this machine. Use device=auto or one of: {there}.")
    return torch.device(wanted)


def cpu_has_bfloat16() -> bool:
    """Whether the processor computes in bfloat16 (AVX512-BF16 or AMX); elsewhere bfloat16 is slower than float32."""
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        check = getattr(torch.cpu, name, None)
        if check is not None and check():
            return True
    return False


def choose_precision(wanted: str, device: torch.device) -> torch.dtype:
    """``auto`` takes bfloat16 where the hardware computes in it, float32 elsewhere."""
    if wanted == "float32":
        return torch.float32
    if wanted == "bfloat16":
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if device.type == "cpu" and cpu_has_bfloat16() else torch.float32
