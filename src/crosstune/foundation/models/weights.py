"""Weights: a hash that says whether two models hold the same ones."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def weights_fingerprint(model: nn.Module) -> str:
    """A hash of every parameter's name, shape, dtype and bits.

    Args:
        model: Any model.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, value in model.named_parameters():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        flat = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(flat.numpy().data)
    return digest.hexdigest()[:16]
