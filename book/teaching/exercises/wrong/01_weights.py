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


def shifted(log_weight, shift=0.0):
    """Weights by exponentials of ℓ − shift, each row divided by its sum."""
    unnormalised = (log_weight - shift).exp()
    return unnormalised / unnormalised.sum(dim=-1, keepdim=True)


def all_then_rows(log_weight):
    """A softmax over all prompts, then each row divided by its sum: right until a row underflows."""
    weight = log_weight.flatten().softmax(dim=0).reshape(log_weight.shape)
    return weight / weight.sum(dim=-1, keepdim=True)


def drawn_by(policy, round_of):
    return policy[round_of, torch.arange(len(round_of))]


def numeric_limit(p_ref, reward, alpha):
    log_ref, reward = (torch.tensor(values, dtype=torch.float64) for values in (p_ref, reward))
    return (log_ref.log() + reward / alpha).softmax(dim=0), p_ref


def best(p_ref, reward, is_best):
    return normalised([p * is_best(r) for p, r in zip(p_ref, reward, strict=True)]), p_ref


def in_groups(p_old, weight, N):
    """Right as long as no weight is infinite and no group has weights of 0 only."""
    expected = [0.0] * len(p_old)
    for group in itertools.product(range(len(p_old)), repeat=N):
        for o in group:
            expected[o] += math.prod(p_old[x] for x in group) * weight[o] / sum(weight[x] for x in group)
    return expected


def groups_without_order(p_old, log_weight, N):
    expected = [0.0] * len(p_old)
    for group in itertools.combinations_with_replacement(range(len(p_old)), N):
        total = sum(math.exp(log_weight[o]) for o in group)
        for o in group:
            expected[o] += math.prod(p_old[o] for o in group) * math.exp(log_weight[o]) / total
    return expected


def bisection(log_weight, wanted, halvings=50, shift=None):
    def ess(c):
        unnormalised = [math.exp(c * (value - (max(log_weight) if shift is None else shift))) for value in log_weight]
        return sum(unnormalised) ** 2 / (len(unnormalised) * sum(u * u for u in unnormalised))

    low, high = 0.0, 1.0
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (middle, high) if ess(middle) >= wanted else (low, middle)
    return 1.0 if ess(1.0) >= wanted else low


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
        "the mean subtracted, not the largest": lambda p, r, alpha: normalised(
            [q * math.exp((x - sum(r) / len(r)) / alpha) for q, x in zip(p, r, strict=True)]
        ),
        "the first reward subtracted, not the largest": lambda p, r, alpha: normalised(
            [q * math.exp((x - r[0]) / alpha) for q, x in zip(p, r, strict=True)]
        ),
    },
    "group_weights": {
        "the ratio inverted": lambda r, ref, old, alpha: (r / alpha + old - ref).softmax(dim=-1),
        "one softmax over all prompts": lambda r, ref, old, alpha: (r / alpha + ref - old).flatten().softmax(dim=0).reshape(r.shape),
        "a softmax over prompts": lambda r, ref, old, alpha: (r / alpha + ref - old).softmax(dim=0),
        "p_old forgotten": lambda r, ref, old, alpha: (r / alpha + ref).softmax(dim=-1),
        "α divides everything": lambda r, ref, old, alpha: ((r + ref - old) / alpha).softmax(dim=-1),
        "one softmax over all prompts, then rows": lambda r, ref, old, alpha: all_then_rows(r / alpha + ref - old),
        "exponentials overflow": lambda r, ref, old, alpha: shifted(r / alpha + ref - old),
        "the largest of all prompts subtracted": lambda r, ref, old, alpha: shifted(r / alpha + ref - old, (r / alpha + ref - old).max()),
        "the mean subtracted": lambda r, ref, old, alpha: shifted(
            r / alpha + ref - old, (r / alpha + ref - old).mean(dim=-1, keepdim=True)
        ),
        "rewards divided by their spread": lambda r, ref, old, alpha: (r / r.std(dim=-1, keepdim=True) / alpha + ref - old).softmax(dim=-1),
    },
    "ess": {
        "a number of rollouts, not a share": lambda w: 1 / (w**2).sum(dim=-1),
        "one number for all prompts": lambda w: 1 / (w.numel() * (w**2).mean()),
        "counts weights above 0": lambda w: (w > 0).double().mean(dim=-1),
        "from the largest weight": lambda w: 1 / (w.shape[-1] * w.amax(dim=-1)),
        "from the entropy": lambda w: torch.special.entr(w).sum(dim=-1).exp() / w.shape[-1],
    },
    "limits": {
        "uniform over the best answers": lambda p, r: (normalised([float(x == max(r)) for x in r]), p),
        "only one best answer": lambda p, r: ([float(i == r.index(max(r))) for i in range(len(r))], p),
        "uniform for α → ∞": lambda p, r: (normalised([q * (x == max(r)) for q, x in zip(p, r, strict=True)]), [1 / len(p)] * len(p)),
        "the two limits exchanged": lambda p, r: (p, normalised([q * (x == max(r)) for q, x in zip(p, r, strict=True)])),
        "best by math.isclose": lambda p, r: best(p, r, lambda x: math.isclose(x, max(r))),
        "nearly best is best": lambda p, r: best(p, r, lambda x: x > max(r) - 0.1),
        "a small α, 1e-3": lambda p, r: numeric_limit(p, r, 1e-3),
        "a small α, 1e-12": lambda p, r: numeric_limit(p, r, 1e-12),
        "a reward is at least 0": lambda p, r: best(p, r, lambda x: x == max(0, *r)),
    },
    "coefficient": {
        "a c with a sufficient ESS, but not the largest": smallest_coefficient,
        "never exactly 1": bisection_without_a_look_at_one,
        "the wanted ESS itself": lambda log_weight, wanted: wanted,
        "ten halvings": lambda log_weight, wanted: bisection(log_weight, wanted, halvings=10),
        "exponentials overflow": lambda log_weight, wanted: bisection(log_weight, wanted, shift=0.0),
    },
    "expected_weight": {
        "unbiased": lambda p, ell, N: normalised([q * math.exp(x) for q, x in zip(p, ell, strict=True)]),
        "all groups equally likely": indifferent_groups,
        "the weights average to p_old": lambda p, ell, N: p,
        "groups without their orders": groups_without_order,
        "exponentials overflow": lambda p, ell, N: in_groups(p, [math.exp(x) for x in ell], N),
        "exponentials vanish": lambda p, ell, N: in_groups(p, [math.exp(x - max(ell)) for x in ell], N),
    },
    "buffer_weights": {
        "the current policy in the denominator": lambda r, ref, pol, t, alpha: (r / alpha + ref - pol[-1]).softmax(dim=-1),
        "the first policy for all": lambda r, ref, pol, t, alpha: (r / alpha + ref - pol[0]).softmax(dim=-1),
        "the mean of the policies": lambda r, ref, pol, t, alpha: (r / alpha + ref - pol.mean(dim=0)).softmax(dim=-1),
        "the round before": lambda r, ref, pol, t, alpha: (r / alpha + ref - drawn_by(pol, t - 1)).softmax(dim=-1),
        "one softmax over all groups, then rows": lambda r, ref, pol, t, alpha: all_then_rows(r / alpha + ref - drawn_by(pol, t)),
        "exponentials overflow": lambda r, ref, pol, t, alpha: shifted(r / alpha + ref - drawn_by(pol, t)),
        "no correction for staleness": lambda r, ref, pol, t, alpha: (r / alpha).softmax(dim=-1),
        "groups of one round in one softmax": lambda r, ref, pol, t, alpha: (
            (r / alpha + ref - pol[t, torch.arange(len(t))]).flatten().softmax(dim=0).reshape(r.shape)
        ),
    },
}
