"""Loss of the stain transfer network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

NO_CLASS = -1
"""Class of a picture that nobody labeled."""


def transfer_loss(output: Tensor, batch: Mapping[str, Tensor], class_weight: float) -> Tensor:
    """Mean squared error of a* and b* plus ``class_weight`` times the cross-entropy of the labeled pictures (paper §3.1).

    Parameters
    ----------
    output : (n, 2 + classes, h, w)
        As :meth:`StainNetwork.forward` gives it.
    batch : mapping
        ``ab`` (n, 2, h, w) in units of 50; ``category`` (n,) int64, -1 where there is none.
    class_weight : float
        λ; 1/300 to 1/30 in the paper.
    """
    loss = functional.mse_loss(output[:, :2], batch["ab"])
    category = batch["category"]
    labeled = category != NO_CLASS
    if output.shape[1] == 2 or not class_weight or not torch.any(labeled):
        return loss
    scores = output[:, 2:, 0, 0]
    return loss + class_weight * functional.cross_entropy(scores[labeled], category[labeled])
