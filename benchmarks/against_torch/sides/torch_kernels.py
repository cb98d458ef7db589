"""torch's convolution and attention, as calls that run them once."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch


def convolution(
    x: np.ndarray, kernel: np.ndarray, dy: np.ndarray, backward: bool
) -> Callable[[], Any]:
    """torch's, in its own layout."""
    x_, dy_ = (torch.from_numpy(a.transpose(0, 3, 1, 2).copy()) for a in (x, dy))
    weight = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
    if backward:
        return lambda: torch.nn.grad.conv2d_input(list(x_.shape), weight, dy_, padding=1)
    return torch.no_grad()(lambda: torch.nn.functional.conv2d(x_, weight, padding=1))


def attention(qkv: np.ndarray, backward: bool) -> Callable[[], Any]:
    """torch's fused kernel."""
    leaves = [torch.from_numpy(x.transpose(0, 2, 1, 3).copy()).requires_grad_() for x in qkv]
    attend = torch.nn.functional.scaled_dot_product_attention
    if backward:
        return lambda: torch.autograd.grad(attend(*leaves).square().sum(), leaves)
    return torch.no_grad()(lambda: attend(*leaves))
