"""Rewards of a round's answers, by the task's reward function or by one of the user's own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from numbers import Complex, Real
from typing import Any

import torch
from torch import Tensor

from dmpo_ref.config import shorten
from dmpo_ref.tasks.base import Task

LARGEST = 1e30  # the spread of a group of larger rewards may not be finite


def score_answers(
    task: Task, items: list[Any], texts: list[list[str]], reward: Callable[[Any, str], float] | None = None, *, own: int | None = None
) -> tuple[Tensor, dict[str, float]]:
    """Rewards [G, N] float64 of N answers to each of G items, and the mean of each component as a metric.

    Args:
        reward: instead of the task's reward, a function of the item and the answer's text.
        own: how many answers to each item, the first ones, the policy gave; the metrics are means over these. None: all.

    Raises:
        ValueError: a reward that is not a finite number, or above `LARGEST`.
    """

    def components(item: Any, text: str) -> dict[str, float]:
        if reward is not None:
            return {"custom": as_number(reward(item, text), text)}
        parts = task.reward(item, text)
        if not isinstance(parts, Mapping):
            expected = "a task's reward returns a dictionary of its parts, such as {'solved': 1.0}"
            raise ValueError(f"{returned(parts, text)}; {expected}")
        return {name: as_number(value, text, f" as {name!r}") for name, value in parts.items()}

    scores = [[components(item, text) for text in row] for item, row in zip(items, texts, strict=True)]
    total = torch.tensor([[sum(parts.values()) for parts in row] for row in scores], dtype=torch.float64)
    by_name: dict[str, list[float]] = defaultdict(list)
    for parts in (parts for row in scores for parts in row[:own]):
        for name, value in parts.items():
            by_name[name].append(value)
    return total, {f"reward/{name}": sum(values) / len(values) for name, values in by_name.items()}


def as_number(value: Any, text: str, part: str = "") -> float:
    """The value that a reward returned for an answer, or for one part of it; ValueError unless it is a number."""
    try:
        number = plain_float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last from tensors that are complex or have no data
        raise ValueError(f"{returned(value, text, part)}; return a number") from None
    if not abs(number) <= LARGEST:
        raise ValueError(f"{returned(number, text, part)}; return a finite number, at most {LARGEST:.0e} in size")
    return number


def plain_float(value: Any) -> float:
    """A number of any type as a float; unlike `float`, no text, and no complex number of NumPy, whose imaginary part would be lost."""
    if isinstance(value, (str, bytes, bytearray)) or (isinstance(value, Complex) and not isinstance(value, Real)):
        raise TypeError
    return float(value)


def returned(value: Any, text: str, part: str = "") -> str:
    """What a reward returned, in words."""
    return f"reward(item, text) returned {shorten(repr(value), 60)}{part} for the answer {text[:40]!r}"
