"""Checks of `01_weights`: the target, importance weights, effective sample size, groups and stale samples."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch

from exercise_checks.common import require, same, uniform


def check_tilted(f: Callable) -> None:
    """The odds of any two answers under p* are their odds under p_ref times e^{(difference of rewards)/α}."""
    for p_ref, reward, alpha in (
        ([0.5, 0.25, 0.25], [0.0, 0.2, 0.1], 0.1),
        ([0.7, 0.2, 0.1], [1.0, 1.0, 1.0], 0.5),
        ([0.6, 0.3, 0.1], [0.0, -1.0, 2.5], 2.0),
        ([0.9, 0.1], [900.0, 901.0], 1.0),
    ):
        given: dict[str, Any] = {"p_ref": p_ref, "reward": reward, "alpha": alpha}
        p = torch.as_tensor(f(p_ref, reward, alpha), dtype=torch.float64)
        same(p.sum(), 1.0, "the sum of p*", **given)
        for a, b in itertools.combinations(range(len(p_ref)), 2):
            odds = p_ref[a] / p_ref[b] * math.exp((reward[a] - reward[b]) / alpha)
            same(p[a] / p[b], odds, f"p*({a})/p*({b})", **given)
    for best in range(3):  # a gap that no exponential of a difference survives unless the largest is subtracted
        given = {"p_ref": [0.5, 0.3, 0.2], "reward": [3000.0 * (o == best) for o in range(3)], "alpha": 1.0}
        same(f(*given.values()), [float(o == best) for o in range(3)], "p*", **given)


def check_group_weights(f: Callable) -> None:
    """Within a prompt log w_n − log w_k = ℓ_n − ℓ_k; each prompt's weights sum to 1, however far apart prompts or rollouts are."""
    reward, log_ref, log_old = uniform(3, 4, key="reward"), uniform(3, 4, key="ref", low=-5), uniform(3, 4, key="old", low=-5)
    reward[1] += 4000  # an easy prompt: all its rollouts are good, so good that the others vanish in a softmax over all
    for alpha in (0.3, 2.0):
        got = torch.as_tensor(f(reward, log_ref, log_old, alpha), dtype=torch.float64)
        same(got.sum(dim=-1), [1.0] * 3, "the sum over the rollouts of each prompt", alpha=alpha, reward=reward)
        for g, n in itertools.product(range(3), range(1, 4)):
            gap = (reward[g, n] - reward[g, 0]) / alpha + (log_ref[g, n] - log_ref[g, 0]) - (log_old[g, n] - log_old[g, 0])
            given: dict[str, Any] = {"reward": reward[g], "log_ref": log_ref[g], "log_old": log_old[g], "alpha": alpha}
            same(got[g, n].log() - got[g, 0].log(), gap, f"log w_{n} − log w_0", **given)
    lone: dict[str, Any] = {
        "reward": torch.eye(2, 4, dtype=torch.float64) * 3000,
        "log_ref": log_ref[:2],
        "log_old": log_old[:2],
        "alpha": 1.0,
    }
    same(f(*lone.values()), torch.eye(2, 4), "the weights of groups with one very good rollout", **lone)


def check_ess(f: Callable) -> None:
    """k equal weights among N give k/N; in general an exact computation with fractions."""
    for k, N in ((1, 4), (3, 4), (5, 8), (8, 8)):
        same(f(torch.tensor([[1 / k] * k + [0.0] * (N - k)])), [k / N], f"the ESS of {k} equal weights among {N}", tolerance=1e-6)
    parts = [[Fraction(1, 2), Fraction(1, 3), Fraction(1, 6)], [Fraction(1, 10), Fraction(1, 10), Fraction(8, 10)]]
    want = [float(1 / (3 * sum(w * w for w in row))) for row in parts]
    weight = torch.tensor([[float(w) for w in row] for row in parts], dtype=torch.float64)
    same(f(weight), want, "the ESS of each prompt", weight=weight)


def check_limits(f: Callable) -> None:
    """p* at temperatures so low, and so high, that it equals the limit in float64."""
    for p_ref, reward in (([0.1, 0.2, 0.3, 0.4], [2.0, 0.0, 2.0, 1.0]), ([0.5, 0.3, 0.2], [0.0, 1.0, 3.0]), ([0.25, 0.75], [1.0, 1.0])):
        log_ref, r = torch.tensor(p_ref, dtype=torch.float64).log(), torch.tensor(reward, dtype=torch.float64)
        cold, hot = f(p_ref, reward)
        same(cold, (log_ref + r / 1e-3).softmax(dim=0), "p* for α → 0", p_ref=p_ref, reward=reward)
        same(hot, (log_ref + r / 1e12).softmax(dim=0), "p* for α → ∞", p_ref=p_ref, reward=reward)
    for reward, best in (
        ([-1.0, -1.0 - 1e-9, -1.0], [0.25, 0, 0.75]),
        ([3.0, 3.0 - 1e-9, 3.0], [0.25, 0, 0.75]),
        ([1e300, 0.0, 1.0], [1, 0, 0]),
    ):  # no α is small enough for both
        for limit, got, want in zip(("0", "∞"), f([0.2, 0.2, 0.6], reward), (best, [0.2, 0.2, 0.6]), strict=True):
            same(got, want, f"p* for α → {limit}", p_ref=[0.2, 0.2, 0.6], reward=reward)


def check_coefficient(f: Callable) -> None:
    """softmax(c·ℓ) has the wanted ESS, computed here in plain Python; c is 1 where its ESS is large enough."""
    cases = [(3.0, 0.5, 0), (8.0, 0.3, 0), (8.0, 0.9, 0), (0.5, 0.5, 0), (40.0, 0.2, 0), (40.0, 0.1, 0), (3.0, 0.5, 900), (3.0, 0.5, -900)]
    for number, (spread, wanted, offset) in enumerate(cases):
        log_weight = uniform(8, key=f"coefficient {number}", low=offset, high=offset + spread).tolist()
        given = {"wanted": wanted, "log_weight": log_weight}
        c = float(f(log_weight, wanted))
        require(0 < c <= 1, "c is not in (0, 1]", **given)
        if plain_ess(log_weight, 1.0) >= wanted:
            require(c == 1, "with c = 1 the ESS is already large enough, but c is not 1", **given)
        else:
            same(plain_ess(log_weight, c), wanted, "the ESS at your c", tolerance=1e-6, **given)


def plain_ess(log_weight: list[float], c: float) -> float:
    """1/(N Σ w²) of w = softmax(c ℓ)."""
    unnormalised = [math.exp(c * (value - max(log_weight))) for value in log_weight]
    return sum(unnormalised) ** 2 / (len(unnormalised) * sum(u * u for u in unnormalised))


def check_expected_weight(f: Callable) -> None:
    """A sum over the counts of the answers (multinomial), not over the groups themselves."""
    for p_old, log_weight, N in (
        ([0.5, 0.5], [0.0, math.log(3)], 2),
        ([0.7, 0.2, 0.1], [0.0, 1.0, 2.0], 3),
        ([0.6, 0.3, 0.1], [0.5, 0.5, 0.5], 4),
        ([0.5, 0.3, 0.2], [0.0, 900.0, 900.0 + math.log(3)], 2),
    ):
        C = len(p_old)
        want = [0.0] * C
        for counts in itertools.product(range(N + 1), repeat=C):
            if sum(counts) == N:
                chance = math.factorial(N) * math.prod(p**k / math.factorial(k) for p, k in zip(p_old, counts, strict=True))
                top = max(value for k, value in zip(counts, log_weight, strict=True) if k)
                each = [k * math.exp(value - top) if k else 0.0 for k, value in zip(counts, log_weight, strict=True)]
                for o in range(C):
                    want[o] += chance * each[o] / sum(each)
        same(f(p_old, log_weight, N), want, "the expected weight of an answer", p_old=p_old, log_weight=log_weight, N=N)


def check_buffer_weights(f: Callable) -> None:
    """Each group is weighted with the policy that drew it: one group after the other, by the definition."""
    T, G, N = 3, 4, 5
    reward, log_ref, log_policy = uniform(G, N, key="r"), uniform(G, N, key="s", low=-4), uniform(T, G, N, key="t", low=-4)
    round_of, alpha = torch.tensor([2, 0, 1, 0]), 0.4
    reward[1] += 4000  # an easy prompt; its round has another group
    got = torch.as_tensor(f(reward, log_ref, log_policy, round_of, alpha), dtype=torch.float64)
    same(got.sum(dim=-1), [1.0] * G, "the sum over the rollouts of each group", alpha=alpha, reward=reward)
    for g in range(G):
        drawn_by = int(round_of[g])
        ratio = [math.exp((reward[g, n] - reward[g, 0]) / alpha + log_ref[g, n] - log_policy[drawn_by, g, n]) for n in range(N)]
        same(
            got[g],
            [x / sum(ratio) for x in ratio],
            f"the weight of a group of round {drawn_by} in a buffer of {T} rounds",
            round_of=round_of,
            reward=reward[g],
        )
