"""Derivatives and minima of small functions in float64, to compare formulas with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def finite_differences(function: Callable[[Tensor], Tensor], point: Tensor, h: float = 1e-5) -> Tensor:
    """(f(x + h e_i) − f(x − h e_i)) / 2h for every component of a point, of the point's shape; the error is O(h²)."""
    gradient = torch.zeros_like(point)
    for index in np.ndindex(*point.shape):
        step = torch.zeros_like(point)
        step[index] = h
        gradient[index] = (function(point + step) - function(point - step)) / (2 * h)
    return gradient


def compare_gradients(formula: Tensor, autograd: Tensor, numeric: Tensor) -> list[list[str]]:
    """A row for each component of one gradient computed in three ways: its index, and the three values with five decimals.

    Raises:
        ArithmeticError: two of them differ by more than 1e-9.
    """
    found = torch.stack([formula, autograd, numeric])
    spread = (found.amax(dim=0) - found.amin(dim=0)).max().item()
    if not spread < 1e-9:
        raise ArithmeticError(f"two of the three gradients differ by {spread:.1e}, at most 1e-9 is accepted")
    indices = [str(list(index)) for index in np.ndindex(*formula.shape)]
    values = found.flatten(start_dim=1).T.tolist()
    return [[index, *(f"{round(x, 5) + 0.0:.5f}" for x in row)] for index, row in zip(indices, values, strict=True)]


def minimise(loss: Callable[[Tensor], Tensor], start: Tensor, *, tolerance: float = 1e-7) -> Tensor:
    """The local minimum that L-BFGS reaches from a point, of the point's shape.

    Args:
        loss: of a tensor like `start`, a scalar that can be differentiated.
        tolerance: the largest component that the gradient may have there.

    Raises:
        ArithmeticError: the gradient there is larger, or not a number.
    """
    parameter = start.clone().requires_grad_()
    options = {"max_iter": 2000, "tolerance_grad": 1e-12, "tolerance_change": 1e-16, "line_search_fn": "strong_wolfe"}
    optimizer = torch.optim.LBFGS([parameter], **options)  # type: ignore[arg-type]

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(parameter)
        value.backward()
        return value

    optimizer.step(closure)  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(loss(parameter), parameter)
    if not gradient.abs().max() < tolerance:
        raise ArithmeticError(f"no minimum was found: the gradient is still {gradient.abs().max():.1e}, at most {tolerance:g} is accepted")
    return parameter.detach()
