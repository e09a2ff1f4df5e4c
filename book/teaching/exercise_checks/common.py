"""What several checks need: comparing numbers, one-line messages, a model small enough to enumerate."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dmpo_ref.masking import stream

State = tuple[int | None, ...]


class Wrong(Exception):
    """A property that a solution does not have, and the input that shows it."""


class Asked:
    """A solution as the checks call it: on copies, so that it may change them. What it was last asked stays, for messages."""

    def __init__(self, solution: Callable) -> None:
        code = getattr(solution, "__code__", None)
        self.solution, self.names = solution, code.co_varnames[: code.co_argcount] if code else ()
        self.given: dict[str, Any] = {}
        self.returned: Any = None

    def __call__(self, *args: Any) -> Any:
        names = self.names if len(self.names) == len(args) else [f"argument {i}" for i in range(1, len(args) + 1)]
        self.given = dict(zip(names, args, strict=True))
        try:
            self.returned = self.solution(*(copy.deepcopy(x) if isinstance(x, (Tensor, list)) else x for x in args))
        except NotImplementedError:
            raise
        except Exception as error:  # whatever a student's function can raise
            raise Wrong(f"raised {told(error)} for {show(self.given)}") from error
        return self.returned


class SmallModel:
    """A mask predictor for n positions with A values each; its conditionals are random and are not those of any joint distribution.

    `model(state)` takes a tuple with a value, or None where the position is hidden, and returns for every position its A
    probabilities. `calls` counts the calls.
    """

    def __init__(self, n: int, A: int = 2, seed: int = 0) -> None:
        self.n, self.A, self.seed, self.calls = n, A, seed, 0

    def __repr__(self) -> str:
        return f"SmallModel({self.n}, {self.A}, seed={self.seed})"

    def __call__(self, state: State) -> list[list[float]]:
        if len(state) != self.n:
            raise ValueError(f"the state {state} has {len(state)} positions; the model has {self.n}")
        self.calls += 1
        key = "".join("_" if value is None else str(value) for value in state)
        raw = torch.rand(self.n, self.A, generator=stream(self.seed, "small model", key), dtype=torch.float64) + 0.15
        return (raw / raw.sum(dim=-1, keepdim=True)).tolist()


def answers_of(n: int, A: int = 2) -> list[tuple[int, ...]]:
    """All A^n answers."""
    return list(itertools.product(range(A), repeat=n))


def token_loss(model: SmallModel, answer: Sequence[int], hidden: Sequence[int]) -> float:
    """Σ over the hidden positions of −log π(answer_d | what is not hidden), in nats."""
    probability = model(tuple(None if d in hidden else value for d, value in enumerate(answer)))
    return sum(-math.log(probability[d][answer[d]]) for d in hidden)


def path_losses(model: SmallModel, answer: Sequence[int]) -> list[float]:
    """−log p(o; σ) of every order σ: the token placed i-th is scored with the i − 1 before it visible. n! values, in nats."""
    known: dict[tuple[int, frozenset], float] = {}
    losses = []
    for order in itertools.permutations(range(model.n)):
        total = 0.0
        for i, d in enumerate(order):
            key = d, frozenset(order[:i])
            if key not in known:
                known[key] = -math.log(model(tuple(answer[j] if j in key[1] else None for j in range(model.n)))[d][answer[d]])
            total += known[key]
        losses.append(total)
    return losses


def same(got: Any, want: Any, what: str, *, tolerance: float = 1e-8, **given: Any) -> None:
    """Raise `Wrong` unless two numbers, or lists or tensors of numbers, agree; the message does not give the expected value."""
    where = f" for {show(given)}" if given else ""
    want = torch.as_tensor(want, dtype=torch.float64)
    try:
        got = torch.as_tensor(got, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise Wrong(f"{what}: numbers of shape {list(want.shape)} are expected, not {type(got).__name__},{where}") from error
    if got.shape != want.shape:
        raise Wrong(f"{what}: shape {list(want.shape)} is expected, not {list(got.shape)},{where}")
    if got.isnan().any():
        raise Wrong(f"{what} is not a number{where}")
    off = ((got - want).abs() > tolerance * want.abs().clamp(min=1)).flatten()
    if off.any():
        first = int(off.nonzero()[0])
        entry = f" (entry {first})" if want.ndim else ""
        side = "large" if got.flatten()[first] > want.flatten()[first] else "small"
        raise Wrong(f"{what} is too {side}{entry}{where}")


def require(condition: bool, what: str, **given: Any) -> None:
    """Raise `Wrong(what)` unless the condition holds."""
    if not condition:
        raise Wrong(what + (f" for {show(given)}" if given else ""))


def told(error: Exception) -> str:
    """Kind and text of an exception, in one short line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:100]


def show(given: dict[str, Any]) -> str:
    """Names and values in one line, numbers with four digits."""
    text = ", ".join(f"{name}={show_value(value)}" for name, value in given.items())
    return text if len(text) <= 180 else text[:179] + "…"


def show_value(value: Any) -> str:
    """A value in a message: short, tensors as lists; numbers with four digits, with all where those would look exact and are not."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, float):
        off = abs(float(short := f"{value:.4g}") - value)
        return repr(value) if 0 < off < 1e-6 * abs(value) else short
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(show_value(part) for part in value)}]"
    return repr(f"{value[:59]}…" if isinstance(value, str) and len(value) > 60 else value)


def uniform(*shape: int, key: str, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Seeded uniforms, float64."""
    return low + (high - low) * torch.rand(*shape, generator=stream(0, "exercise", key), dtype=torch.float64)
