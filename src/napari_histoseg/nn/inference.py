"""Making a trained network fast to run, without changing what it computes."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def prepared(network: nn.Module, device: torch.device, precision: torch.dtype) -> nn.Module:
    """The network for inference: batch norm folded into the convolutions, channels last, on its device and precision."""
    network = network.eval()
    fold_batch_norm(network)
    network = network.to(device, precision).requires_grad_(False)
    return channels_last(network)


def channels_last(network: nn.Module) -> nn.Module:
    """The network with its weights laid out for channels-last input, which convolutions are faster on."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def fold_batch_norm(network: nn.Module) -> None:
    """Fold every batch norm that follows a convolution in a ``Sequential`` into it, in place."""
    for module in network.modules():
        if not isinstance(module, nn.Sequential):
            continue
        for i in range(len(module) - 1):
            convolution, norm = module[i], module[i + 1]
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module[i], module[i + 1] = fuse_conv_bn_eval(convolution, norm), nn.Identity()


def to_input(images: NDArray[np.uint8], device: torch.device, precision: torch.dtype) -> Tensor:
    """(n, h, w, 3) uint8 → (n, 3, h, w) in 0–1, channels last in memory; the bytes travel, not the floats."""
    tensor = torch.from_numpy(np.ascontiguousarray(images)).to(device, non_blocking=True)
    return tensor.permute(0, 3, 1, 2).to(precision).div_(255)


@cache
def keep_freed_memory() -> bool:
    """Ask the C library to keep freed memory: large activations else cost a page fault every 4 kB, half the time on a CPU.

    Only on Linux with glibc, once a process; elsewhere nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        trim_threshold, mmap_max = -1, -4
        return bool(libc.mallopt(mmap_max, 0)) and bool(libc.mallopt(trim_threshold, 2**31 - 1))
    except (OSError, AttributeError):
        return False
