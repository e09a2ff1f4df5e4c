"""Plausible wrong answers to `01_weights`, each named after its misconception; the checks must refuse all of them."""

import itertools
import math

import torch


def normalised(values):
    return [value / sum(values) for value in values]


def indifferent_groups(p_old, log_weight, N):
    expected = [0.0] * len(p_old)
    for group in itertools.product(range(len(p_old)), repeat=N):
        total = sum(math.exp(log_weight[o]) for o in group)
        for o in group:
            expected[o] += math.exp(log_weight[o]) / total / len(p_old) ** N
    return expected


def smallest_coefficient(log_weight, wanted):
    return 1e-9


def bisection_without_a_look_at_one(log_weight, wanted):
    values, low, high = torch.tensor(log_weight, dtype=torch.float64), 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        enough = 1 / (len(values) * ((middle * values).softmax(dim=0) ** 2).sum()) >= wanted
        low, high = (middle, high) if enough else (low, middle)
    return low


WRONG = {
    "tilted": {
        "α multiplies the reward": lambda p, r, alpha: normalised([q * math.exp(min(x * alpha, 700)) for q, x in zip(p, r, strict=True)]),
        "the reference does not matter": lambda p, r, alpha: torch.softmax(torch.tensor(r, dtype=torch.float64) / alpha, 0),
        "not normalised": lambda p, r, alpha: [q * math.exp(min(x / alpha, 700)) for q, x in zip(p, r, strict=True)],
        "exponentials before the ratio overflow": lambda p, r, alpha: normalised(
            [q * math.exp(x / alpha) for q, x in zip(p, r, strict=True)]
        ),
    },
    "group_weights": {
        "the ratio inverted": lambda r, ref, old, alpha: (r / alpha + old - ref).softmax(dim=-1),
        "one softmax over all prompts": lambda r, ref, old, alpha: (r / alpha + ref - old).flatten().softmax(dim=0).reshape(r.shape),
        "a softmax over prompts": lambda r, ref, old, alpha: (r / alpha + ref - old).softmax(dim=0),
        "p_old forgotten": lambda r, ref, old, alpha: (r / alpha + ref).softmax(dim=-1),
        "α divides everything": lambda r, ref, old, alpha: ((r + ref - old) / alpha).softmax(dim=-1),
    },
    "ess": {
        "a number of rollouts, not a share": lambda w: 1 / (w**2).sum(dim=-1),
        "one number for all prompts": lambda w: 1 / (w.numel() * (w**2).mean()),
        "counts weights above 0": lambda w: (w > 0).double().mean(dim=-1),
    },
    "limits": {
        "uniform over the best answers": lambda p, r: (normalised([float(x == max(r)) for x in r]), p),
        "only one best answer": lambda p, r: ([float(i == r.index(max(r))) for i in range(len(r))], p),
        "uniform for α → ∞": lambda p, r: (normalised([q * (x == max(r)) for q, x in zip(p, r, strict=True)]), [1 / len(p)] * len(p)),
        "the two limits exchanged": lambda p, r: (p, normalised([q * (x == max(r)) for q, x in zip(p, r, strict=True)])),
    },
    "coefficient": {
        "a c with a sufficient ESS, but not the largest": smallest_coefficient,
        "never exactly 1": bisection_without_a_look_at_one,
        "the wanted ESS itself": lambda log_weight, wanted: wanted,
    },
    "expected_weight": {
        "unbiased": lambda p, ell, N: normalised([q * math.exp(x) for q, x in zip(p, ell, strict=True)]),
        "all groups equally likely": indifferent_groups,
        "the weights average to p_old": lambda p, ell, N: p,
    },
    "buffer_weights": {
        "the current policy in the denominator": lambda r, ref, pol, t, alpha: (r / alpha + ref - pol[-1]).softmax(dim=-1),
        "the first policy for all": lambda r, ref, pol, t, alpha: (r / alpha + ref - pol[0]).softmax(dim=-1),
        "no correction for staleness": lambda r, ref, pol, t, alpha: (r / alpha).softmax(dim=-1),
        "groups of one round in one softmax": lambda r, ref, pol, t, alpha: (
            (r / alpha + ref - pol[t, torch.arange(len(t))]).flatten().softmax(dim=0).reshape(r.shape)
        ),
    },
}
