"""Checks of `02_likelihood`: orders, the exact NELBO, masks and the weights that make them unbiased.

Most of them use that the mean over all orders σ of −log p(o; σ) is the NELBO: they compare an enumeration of masks with an
enumeration of orders.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable
from statistics import mean

import numpy as np

from exercise_checks.common import SmallModel, answers_of, path_losses, require, same, token_loss, uniform


def check_path_log_prob(f: Callable) -> None:
    """A token is scored with those visible whose place in the order is earlier."""
    model = SmallModel(4, 3)
    for answer, order in (((0, 1, 2, 0), (2, 0, 3, 1)), ((1, 1, 0, 2), (0, 1, 2, 3)), ((2, 0, 0, 1), (3, 1, 0, 2))):
        place = {d: i for i, d in enumerate(order)}
        want = sum(math.log(model(tuple(answer[j] if place[j] < place[d] else None for j in range(4)))[d][answer[d]]) for d in range(4))
        same(f(model, answer, order), want, "log p(o; σ)", model=model, answer=answer, order=order)


def check_random_order_prob(f: Callable) -> None:
    """Probabilities of all answers sum to 1, and each is the probability of a walk over the sets of filled positions."""
    model = SmallModel(3, 2, seed=1)
    got = {answer: float(f(model, answer)) for answer in answers_of(3)}
    for answer, value in got.items():
        same(value, arrival(model, answer), "p(o) under a random order", model=model, answer=answer)
    same(sum(got.values()), 1.0, "the sum of p(o) over all answers")


def check_random_order_fast(f: Callable) -> None:
    """P(S) for every S: the mean over all orders of the probability of their first |S| values, where these are S. 2^L calls at most."""
    model = SmallModel(4, 2, seed=2)
    sets = [frozenset(S) for size in range(5) for S in itertools.combinations(range(4), size)]
    for answer in ((0, 1, 1, 0), (1, 1, 1, 1)):
        want: dict[frozenset, list[float]] = {S: [] for S in sets}
        for order in itertools.permutations(range(4)):
            chance = 1.0
            for i, d in enumerate(order):
                want[frozenset(order[:i])].append(chance)
                chance *= model(tuple(answer[j] if j in order[:i] else None for j in range(4)))[d][answer[d]]
            want[sets[-1]].append(chance)
        model.calls = 0
        got = f(model, answer)
        require(isinstance(got, dict) and set(got) == set(sets), "a dictionary from all 2^L frozensets S to P(S) is expected", model=model)
        for S in sets:
            same(got[S], sum(want[S]) / math.factorial(4), f"P(S) of S={sorted(S)}", model=model, answer=answer)
        require(model.calls <= 2**4, f"the model was called {model.calls} times for 4 positions; 2^4 = 16 sets can be visible")


def arrival(model: SmallModel, answer: tuple[int, ...]) -> float:
    """Probability that a random-order sampler generates an answer, by a forward walk over sets."""
    chance: dict[frozenset[int], float] = {frozenset(): 1.0}
    for filled in range(model.n):
        then: defaultdict[frozenset[int], float] = defaultdict(float)
        for seen, p in chance.items():
            probability = model(tuple(answer[j] if j in seen else None for j in range(model.n)))
            for d in set(range(model.n)) - seen:
                then[seen | {d}] += p * probability[d][answer[d]] / (model.n - filled)
        chance = then
    return chance[frozenset(range(model.n))]


def check_exact_nelbo(f: Callable) -> None:
    """The mean over all orders of −log p(o; σ)."""
    for n, A, answer in ((3, 2, (0, 1, 1)), (4, 2, (1, 0, 0, 1)), (2, 3, (2, 1)), (1, 4, (3,))):
        model = SmallModel(n, A, seed=3)
        same(f(model, answer), mean(path_losses(model, answer)), "the NELBO", model=model, answer=answer)


def check_mask_weight(f: Callable) -> None:
    """The expectation of weight · loss over sizes drawn with the given probabilities is the NELBO."""
    for L, raw in ((4, [1.0, 1.0, 1.0, 1.0]), (4, [0.1, 0.2, 0.3, 0.4]), (3, [0.6, 0.3, 0.1])):
        size_probability = [p / sum(raw) for p in raw]
        weight = f(L, size_probability)
        require(len(weight) == L, f"one weight for each of the sizes 1 to {L} is expected", size_probability=size_probability)
        for seed in (4, 5):  # two models: one alone could be matched by accident
            model, answer = SmallModel(L, 2, seed=seed), (1,) * L
            expected = sum(size_probability[m - 1] * float(weight[m - 1]) * mean_loss(model, answer, m) for m in range(1, L + 1))
            same(expected, mean(path_losses(model, answer)), "the expected estimate", size_probability=size_probability)


def mean_loss(model: SmallModel, answer: tuple[int, ...], m: int) -> float:
    """Mean over the masks of size m of the summed loss of the hidden tokens; 0 for m = 0."""
    return mean(token_loss(model, answer, hidden) for hidden in itertools.combinations(range(model.n), m)) if m else 0.0


def check_size_probability(f: Callable) -> None:
    """No distribution over sizes has a smaller second moment than (Σ_m √V_m / m)², by the Cauchy–Schwarz inequality."""
    for number, L in enumerate((3, 6)):
        spread = uniform(L, key=f"spread {number}", low=0.2, high=9).tolist()
        s = [float(p) for p in f(spread)]
        same(sum(s), 1.0, "the sum of the probabilities", spread=spread)
        require(min(s) > 0, "a size that is never drawn makes the estimate biased", spread=spread)
        moment = sum(V / (m * m * p) for m, (V, p) in enumerate(zip(spread, s, strict=True), start=1))
        bound = sum(math.sqrt(V) / m for m, V in enumerate(spread, start=1)) ** 2
        require(moment <= bound * (1 + 1e-9), "another distribution over the sizes has a smaller second moment,", spread=spread)


def check_stratified_sizes(f: Callable) -> None:
    """Pooled over the masks and over u, every size is equally frequent; in each draw, so is every range of sizes, as nearly as R allows."""
    for L, R in ((4, 4), (6, 3), (3, 7), (5, 1), (4, 6)):
        pooled: Counter = Counter()
        steps = 60 * L * R
        for i in range(-2, steps):
            u = (i + 0.5) / steps if i >= 0 else (0.0, 1 - 1e-9)[i]
            sizes = [int(m) for m in f(L, R, u)]
            require(len(sizes) == R, f"{R} sizes are expected", L=L, R=R, u=u)
            require(all(1 <= m <= L for m in sizes), f"a size is outside 1 to {L}", L=L, R=R, u=u)
            count = [sizes.count(m) for m in range(1, L + 1)]
            for first, last in itertools.combinations(range(L + 1), 2):
                many, k = sum(count[first:last]), last - first
                told = f"in one draw, {many} of {R} masks have a size from {first + 1} to {last}: too far from {k}·R/L"
                require(abs(many * L - k * R) < L, told, L=L, R=R, u=u)
            pooled.update(sizes if i >= 0 else [])
        even = all(pooled[m] == steps * R // L for m in range(1, L + 1))
        require(even, "on average over u, the sizes 1 to L are not equally frequent", L=L, R=R)


def check_antithetic_weights(f: Callable) -> None:
    """The expectation over m ~ U{0..L} of the mean of both halves is the NELBO."""
    for L in (1, 3, 4):
        pairs = [f(L, m) for m in range(L + 1)]
        require(all(math.isfinite(w) for pair in pairs for w in pair), "a weight is not finite", L=L)
        require(pairs[0][0] == 0 and pairs[L][1] == 0, "a side without hidden positions must weigh 0", L=L)
        for m in range(L + 1):
            same(pairs[m][0], pairs[L - m][1], f"a side of {m} positions must weigh the same whichever side it is: the first", L=L, m=m)
        for seed in (6, 7):
            model, answer = SmallModel(L, 2, seed=seed), (0,) * L
            halves = [
                (first * mean_loss(model, answer, m) + second * mean_loss(model, answer, L - m)) / 2
                for m, (first, second) in enumerate(pairs)
            ]
            same(mean(halves), mean(path_losses(model, answer)), "the expected estimate", L=L)


def check_paper_expectation(f: Callable) -> None:
    """Quadrature that is exact for polynomials in the mask probability, summed over every mask and its complement."""
    nodes, node_weights = np.polynomial.legendre.leggauss(8)
    rates = 0.55 + 0.45 * nodes  # [−1, 1] to [0.1, 1]
    for L, answer in ((2, (0, 1)), (4, (1, 1, 0, 1))):
        model, want = SmallModel(L, 2, seed=8), 0.0
        for hidden in (h for m in range(L + 1) for h in itertools.combinations(range(L), m)):
            chance = float((node_weights / 2 * rates ** len(hidden) * (1 - rates) ** (L - len(hidden))).sum())
            other = tuple(d for d in range(L) if d not in hidden)
            want += chance * sum(L / max(len(side), 1) * token_loss(model, answer, side) for side in (hidden, other)) / 2
        same(f(model, answer), want, "the expected estimate of the published scheme", tolerance=1e-5, model=model, answer=answer)
