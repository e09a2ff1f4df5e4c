"""Checks of `03_losses`: gradients by finite differences, stationary points by a test that the loss is flat there."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from exercise_checks.common import require, same, uniform


def check_real_weight(f: Callable) -> None:
    """By the definitions, in plain Python; every kind but `none` sums to 0."""
    for N, alpha in ((3, 0.5), (5, 2.0)):
        reward, log_ratio = uniform(N, key="reward"), uniform(N, key="ratio", low=-1)
        w = shares([math.exp(r / alpha + q) for r, q in zip(reward, log_ratio, strict=True)])
        inverted = shares([math.exp(-r / alpha + q) for r, q in zip(reward, log_ratio, strict=True)])
        for kind, base in (("none", [0.0] * N), ("uniform", [1 / N] * N), ("negative", inverted)):
            want = [a - b for a, b in zip(w, base, strict=True)]
            same(f(kind, reward, log_ratio, alpha), want, f"w − w_base with the baseline {kind!r}", reward=reward, alpha=alpha)
    given: dict[str, Any] = {"reward": torch.tensor([0.0, 2000.0]), "log_ratio": torch.zeros(2), "alpha": 1.0}
    for kind, want in (("none", [0.0, 1.0]), ("uniform", [-0.5, 0.5]), ("negative", [-1.0, 1.0])):
        same(f(kind, *given.values()), want, f"w − w_base with the baseline {kind!r}", **given)


def shares(values: list[float]) -> list[float]:
    """Values divided by their sum."""
    return [value / sum(values) for value in values]


def finite_difference(function: Callable, point: torch.Tensor, step: float = 1e-5) -> torch.Tensor:
    """Central differences of a scalar function, in every coordinate."""
    eye = torch.eye(len(point), dtype=torch.float64) * step
    return torch.stack([(function(point + e) - function(point - e)) / (2 * step) for e in eye])


def check_wdce_gradient(f: Callable) -> None:
    """Finite differences of −Σ w_n log p_θ(o_n), also for weights that do not sum to 1, and with an answer drawn twice."""
    for answers, weight in (([0, 2, 1], [0.5, 0.3, 0.2]), ([3, 3, 0, 1], [0.2, 0.1, -0.1, -0.2]), ([1, 2], [0.9, -0.4])):
        theta = uniform(4, key="theta", low=-1)

        def loss(t, answers=answers, weight=weight):
            return -(torch.tensor(weight, dtype=torch.float64) * t.log_softmax(dim=0)[answers]).sum()

        same(f(theta, answers, weight), finite_difference(loss, theta), "the gradient", tolerance=1e-6, answers=answers, weight=weight)


def check_baseline_gradient(f: Callable) -> None:
    """Finite differences of the expected baseline term, (1/N) E Σ_n log p_θ(o_n) with o_n ~ p_old: N drops out."""
    for p_old, logits in (([0.5, 0.3, 0.2], [0.0, 1.0, -1.0]), ([0.25, 0.25, 0.5], [math.log(0.25), math.log(0.25), math.log(0.5)])):
        theta = torch.tensor(logits, dtype=torch.float64)

        def term(t, p_old=p_old):
            return torch.tensor(p_old, dtype=torch.float64) @ t.log_softmax(dim=0)

        p_theta = theta.softmax(dim=0).tolist()
        same(f(p_old, p_theta), finite_difference(term, theta), "the gradient", tolerance=1e-6, p_old=p_old, p_theta=p_theta)


def check_wddo_delta(f: Callable) -> None:
    """The loss, with one Δ for each different answer, is flat there and nowhere lower nearby."""
    for answers, weight in (
        ([0, 1, 2], [0.7, 0.2, 0.1]),
        ([0, 0, 1, 2], [0.3, 0.3, 0.1, 0.3]),
        ([1, 0, 1, 1, 2], [0.2, 0.1, 0.1, 0.1, 0.5]),
    ):
        given: dict[str, Any] = {"answers": answers, "weight": weight}
        got = torch.as_tensor(f(answers, weight), dtype=torch.float64)
        require(got.shape == (len(answers),), "one Δ for each rollout is expected", **given)
        kinds = sorted(set(answers))
        first = got[[answers.index(kind) for kind in kinds]]
        same(got, first[[kinds.index(a) for a in answers]], "two rollouts with the same answer have different Δ: one of them", **given)

        def loss(delta, answers=answers, weight=weight, kinds=kinds):
            each = delta[[kinds.index(a) for a in answers]]
            positive = torch.tensor(weight, dtype=torch.float64) * torch.nn.functional.logsigmoid(each)
            return -positive.sum() - torch.nn.functional.logsigmoid(-each).mean()

        gradient = finite_difference(loss, first)
        require(bool((gradient.abs() < 1e-6).all()), "the loss is not flat at your Δ", **given)


def check_negative_fixed_point(f: Callable) -> None:
    """At the fixed point the expected direction p* − s·p⁻ − (1 − s)·p is 0; None where no distribution with full support has that."""
    p_ref = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    reward = torch.tensor([0.0, 1.0, 0.5, 2.0], dtype=torch.float64)
    for alpha, strength in ((1.0, 0.0), (1.0, 0.1), (4.0, 0.5), (1.0, 0.9), (0.5, 0.3), (4.0, 1.0)):
        given: dict[str, Any] = {"p_ref": p_ref, "reward": reward, "alpha": alpha, "strength": strength}
        up, down = (p_ref * (sign * reward / alpha).exp() for sign in (1, -1))
        pull = up / up.sum() - strength * down / down.sum()
        got = f(p_ref, reward, alpha, strength)
        if strength == 1 or bool((pull <= 0).any()):
            require(got is None, "there is no fixed point that gives every answer a chance; None is expected", **given)
        else:
            require(got is not None, "there is a fixed point", **given)
            got = torch.as_tensor(got, dtype=torch.float64)
            same(pull - (1 - strength) * got, torch.zeros(4), "the expected direction at your fixed point", **given)
