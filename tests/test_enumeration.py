"""Groups, masks and moments over them, against lists of every ordered group and every set, in plain Python and numpy."""

from collections import Counter
from fractions import Fraction
from itertools import combinations, combinations_with_replacement, permutations, product
from math import comb, factorial

import numpy as np
import pytest
import torch

from toy.enumeration import (
    SCHEMES,
    all_counts,
    all_groups,
    all_masks,
    bernoulli_sizes,
    elbo_over_masks,
    judge,
    mask_chances,
    mask_index,
    mask_sizes,
    moments,
    multinomial,
    pair_estimates,
    scheme_moments,
    self_normalised,
    uniform_sizes,
)

P = np.array([0.5, 0.3, 0.15, 0.05])
LOG_P = torch.from_numpy(np.log(P))


@pytest.mark.parametrize(("N", "C"), [(1, 1), (1, 4), (3, 2), (4, 3), (5, 4)])
def test_every_group_is_listed_once(N, C):
    assert all_groups(N, C).tolist() == [list(group) for group in combinations_with_replacement(range(C), N)]
    assert all_counts(N, C).tolist() == [[group.count(c) for c in range(C)] for group in combinations_with_replacement(range(C), N)]
    assert len(all_counts(N, C)) == comb(N + C - 1, C - 1)


def test_chances_of_groups_are_those_of_their_ordered_draws():
    for p in (P, np.array([0.0, 0.25, 0.75])):
        expected = Counter()
        for draws in product(range(len(p)), repeat=3):
            expected[tuple(draws.count(c) for c in range(len(p)))] += p[list(draws)].prod()
        with np.errstate(divide="ignore"):
            counts, chance = multinomial(3, torch.from_numpy(np.log(p)))
        found = dict(zip(map(tuple, counts.int().tolist()), chance.tolist(), strict=True))
        assert found == pytest.approx(dict(expected), abs=1e-15)


def test_moments_of_a_die_and_of_its_square():
    face = torch.arange(1.0, 7.0, dtype=torch.float64)
    mean, variance = moments(torch.stack([face, face**2], dim=1), torch.full((6,), 1 / 6, dtype=torch.float64))
    assert mean.tolist() == pytest.approx([3.5, 91 / 6])
    assert variance.tolist() == pytest.approx([35 / 12, sum(x**4 for x in range(1, 7)) / 6 - (91 / 6) ** 2])


def test_self_normalised_weights_are_the_mean_softmax_of_all_ordered_groups():
    log_weight = np.array([0.0, 2.0, 1.0, 4.0])
    chances, shares = [], []
    for draws in product(range(4), repeat=4):
        weight = np.exp(log_weight[list(draws)])
        weight /= weight.sum()
        chances.append(P[list(draws)].prod())
        shares.append([weight[np.array(draws) == c].sum() for c in range(4)])
    mean = np.array(chances) @ np.array(shares)
    deviation = np.sqrt(np.array(chances) @ (np.array(shares) - mean) ** 2)
    for constant in (0.0, 2000.0):  # e^2000 is no float
        found = self_normalised(LOG_P, torch.from_numpy(log_weight) + constant, 4)
        np.testing.assert_allclose(found[0], mean, rtol=1e-12)
        np.testing.assert_allclose(found[1], deviation, rtol=1e-12)


def test_what_an_estimate_leads_to_by_its_definition():
    """Two copies of an estimate with three values, whose chances depend on the answer: all nine pairs, without logarithms."""
    rng = np.random.default_rng(0)
    values, truth, tilt = rng.normal(size=(3, 4)), rng.normal(size=4), rng.normal(size=4)
    chance = rng.dirichlet(np.ones(3), size=4).T
    first, second, square_error = np.zeros(4), np.zeros(4), np.zeros(4)
    for i, j in product(range(3), repeat=2):
        x, p = (values[i] + values[j]) / 2, chance[i] * chance[j]
        first, second = first + p * np.exp(x), second + p * np.exp(2 * x)
        square_error += p * (x - truth) ** 2
    limit, target = P * np.exp(tilt) * first, P * np.exp(tilt + truth)
    ess = limit.sum() ** 2 / (P * np.exp(2 * tilt) * second).sum()
    limit, target = limit / limit.sum(), target / target.sum()
    known = {"truth": torch.from_numpy(truth), "log_old": LOG_P, "log_tilt": torch.from_numpy(tilt)}
    found = judge(torch.from_numpy(values), torch.from_numpy(chance), copies=2, **known)
    assert found == pytest.approx((np.sqrt(P @ square_error), (target * np.log(target / limit)).sum(), ess), rel=1e-12)
    exactly = judge(known["truth"][None], torch.ones(1, 1), **known)
    assert exactly == pytest.approx((0, 0, 1 / (target**2 / P).sum()), abs=1e-12)


@pytest.mark.parametrize("L", [1, 2, 4, 5])
def test_every_mask_is_listed_once_and_its_complement_from_the_other_end(L):
    expected = [s for m in range(L + 1) for s in combinations(range(L), m)]
    assert [tuple(mask.nonzero().flatten().tolist()) for mask in all_masks(L)] == expected
    assert mask_sizes(L).tolist() == [len(s) for s in expected]
    assert torch.equal(all_masks(L).flip(0), ~all_masks(L))
    shuffled = torch.randperm(2**L, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mask_index(all_masks(L)[shuffled].unsqueeze(0)), shuffled.unsqueeze(0))


def test_chances_of_masks_of_two_positions():
    """None, the first, the second, both."""
    assert mask_chances(uniform_sizes(2, 0)).tolist() == pytest.approx([1 / 3, 1 / 6, 1 / 6, 1 / 3])
    assert mask_chances(uniform_sizes(2, 1)).tolist() == pytest.approx([0, 1 / 4, 1 / 4, 1 / 2])


def bernoulli_size(L, m, low):
    """∫ C(L, m) p^m (1 − p)^{L − m} dp / (1 − low) from low to 1, by expanding the power, in fractions."""
    terms = [comb(L - m, k) * (-1) ** k * (1 - low ** (m + k + 1)) / Fraction(m + k + 1) for k in range(L - m + 1)]
    return comb(L, m) * sum(terms) / (1 - low)


@pytest.mark.parametrize("L", [1, 4, 7])
def test_sizes_of_bernoulli_masks_are_their_integrals(L):
    assert bernoulli_sizes(L, 0.0).tolist() == pytest.approx([1 / (L + 1)] * (L + 1), rel=1e-12)
    expected = [float(bernoulli_size(L, m, Fraction(1, 10))) for m in range(L + 1)]
    assert bernoulli_sizes(L, 0.1).tolist() == pytest.approx(expected, rel=1e-12)


def test_sizes_of_long_responses_are_finite():
    assert bernoulli_sizes(256, 0.1).sum().item() == pytest.approx(1, rel=1e-10)


def test_the_elbo_over_masks_is_the_mean_over_orders():
    """f(S, d) is log π of token d while S is hidden; an order hides what it has not reached."""
    L, rng = 4, np.random.default_rng(1)
    f = {s: dict(zip(s, rng.normal(size=(len(s), 2)), strict=True)) for m in range(1, L + 1) for s in combinations(range(L), m)}
    values = torch.tensor(np.array([np.zeros(2), *(sum(f[s].values()) for s in f)]))
    along = [sum(f[tuple(sorted(order[k:]))][order[k]] for k in range(L)) for order in permutations(range(L))]
    np.testing.assert_allclose(elbo_over_masks(values), np.mean(along, axis=0), rtol=1e-12)


L = 4
SETS = [frozenset(s) for m in range(L + 1) for s in combinations(range(L), m)]
COSTS = {s: np.random.default_rng(len(s)).uniform(size=2) * (1 + sum(s)) * bool(s) for s in SETS}  # of two answers
COST = torch.tensor(np.array([COSTS[s] for s in SETS]))
FULL = frozenset(range(L))


def test_an_estimate_from_a_pair_adds_a_mask_and_its_complement():
    weight = {1: 7.0, 2: 3.0, 3: 2.0, 4: 0.5}
    expected = [sum((weight[len(side)] * COSTS[side] for side in (s, FULL - s) if side), np.zeros(2)) / 2 for s in SETS]
    found = pair_estimates(COST, torch.tensor([np.inf, *weight.values()], dtype=torch.float64))
    np.testing.assert_allclose(found, np.array(expected), rtol=1e-12)


def outcomes(scheme):
    """(probability, estimate from two masks) of everything that a scheme can draw."""
    sets_of = {m: [s for s in SETS if len(s) == m] for m in range(L + 1)}
    one = [(1 / L / len(sets_of[m]), L / m * COSTS[s]) for m in range(1, L + 1) for s in sets_of[m]]
    if scheme == "exact":
        return [(p * q, (x + y) / 2) for (p, x), (q, y) in product(one, repeat=2)]
    if scheme == "stratified":
        return [
            (2 / L / len(sets_of[m]) / len(sets_of[m + L // 2]), (L / m * COSTS[s] + L / (m + L // 2) * COSTS[t]) / 2)
            for m in range(1, L // 2 + 1)
            for s, t in product(sets_of[m], sets_of[m + L // 2])
        ]
    size_chance = {
        "antithetic": lambda m: 1 / (L + 1),
        "naive pairs": lambda m: (m > 0) / L,
        "paper": lambda m: float(bernoulli_size(L, m, Fraction(1, 10))),
    }[scheme]
    scale = L + 1 if scheme == "antithetic" else L
    pairs = [(s, FULL - s) for s in SETS]
    chance = [size_chance(len(s)) * factorial(len(s)) * factorial(L - len(s)) / factorial(L) for s, _ in pairs]
    return [(p, sum(scale / max(len(x), 1) * COSTS[x] for x in pair) / 2) for p, pair in zip(chance, pairs, strict=True)]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_moments_of_a_scheme_are_those_of_all_its_draws(scheme):
    chance, values = (np.array(x) for x in zip(*outcomes(scheme), strict=True))
    assert chance.sum() == pytest.approx(1)
    mean, variance = scheme_moments(scheme, COST)
    np.testing.assert_allclose(mean, chance @ values, rtol=1e-12)
    np.testing.assert_allclose(variance, chance @ (values - chance @ values) ** 2, rtol=1e-12)
    unbiased = np.allclose(mean, sum(COSTS[s] / len(s) / comb(L, len(s)) for s in SETS if s))
    assert unbiased == (scheme in ("exact", "stratified", "antithetic"))
    np.testing.assert_allclose(scheme_moments(scheme, COST[:, 0])[1], variance[0])  # costs of one answer


def test_what_cannot_be_computed_is_told():
    with pytest.raises(ValueError, match="'gauss' is unknown; choose one of exact, stratified"):
        scheme_moments("gauss", COST)
    with pytest.raises(ValueError, match="L = 3 positions cannot be halved"):
        scheme_moments("stratified", COST[:8])
