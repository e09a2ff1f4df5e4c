"""Plausible wrong answers to `02_likelihood`, each named after its misconception; the checks must refuse all of them."""

import itertools
import math
from statistics import mean


def path(model, answer, order):
    state, total = [None] * model.n, 0.0
    for d in order:
        total += math.log(model(tuple(state))[d][answer[d]])
        state[d] = answer[d]
    return total


def pseudo_likelihood(model, answer, order):
    return sum(math.log(model((*answer[:d], None, *answer[d + 1 :]))[d][answer[d]]) for d in order)


def one_pass(model, answer, order):
    probability = model((None,) * model.n)
    return sum(math.log(probability[d][answer[d]]) for d in order)


def paths(model, answer):
    return [path(model, answer, order) for order in itertools.permutations(range(model.n))]


def recursion(model, answer, share, join=sum):
    """{S: P(S)} with one call a set; `share` of L and |S| is the chance of each next position, `join` the ways to a set."""
    L = model.n
    P = {frozenset(): 1.0}
    ways = {frozenset(S): [] for size in range(1, L + 1) for S in itertools.combinations(range(L), size)}
    for S in [frozenset(), *ways]:
        P[S] = join(ways[S]) if S else 1.0
        probability = model(hide(answer, set(range(L)) - S)) if len(S) < L else None
        for d in set(range(L)) - S:
            ways[S | {d}].append(P[S] * probability[d][answer[d]] * share(L, len(S)))
    return P


def divided_at_the_end(model, answer):
    return {S: p / math.factorial(model.n) for S, p in recursion(model, answer, lambda L, filled: 1).items()}


def listed(model, answer):
    """The right numbers from all orders, with L calls for each."""
    P = dict.fromkeys(map(frozenset, itertools.chain([()], masks(model.n))), 0.0)
    for order in itertools.permutations(range(model.n)):
        chance = 1.0
        for i, d in enumerate(order):
            P[frozenset(order[:i])] += chance / math.factorial(model.n)
            chance *= model(hide(answer, order[i:]))[d][answer[d]]
        P[frozenset(order)] += chance / math.factorial(model.n)
    return P


def hide(answer, hidden):
    return tuple(None if d in hidden else value for d, value in enumerate(answer))


def mask_loss(model, answer, hidden, scored=None):
    probability = model(hide(answer, hidden))
    return sum(-math.log(probability[d][answer[d]]) for d in (hidden if scored is None else scored))


def masks(L, least=1):
    return [h for m in range(least, L + 1) for h in itertools.combinations(range(L), m)]


def by_size(model, answer, weight, everywhere=False):
    L = model.n
    scored = range(L) if everywhere else None
    return mean(
        weight(L, m) * mean(mask_loss(model, answer, h, scored) for h in itertools.combinations(range(L), m)) for m in range(1, L + 1)
    )


def all_masks_alike(model, answer):
    L = model.n
    return mean(L / len(h) * mask_loss(model, answer, h) for h in masks(L))


def rates(least):
    return [least + (1 - least) * (i + 0.5) / 500 for i in range(500)]


def bernoulli(model, answer, *, least=0.1, complement=True, clamp=True):
    L, total = model.n, 0.0
    for hidden in masks(L, 0):
        m, rest = len(hidden), tuple(d for d in range(L) if d not in hidden)
        chance = mean(p**m * (1 - p) ** (L - m) for p in rates(least))
        first, second = (L / max(len(h), 1) * mask_loss(model, answer, h) for h in (hidden, rest))
        total += chance * ((first + second) / 2 if complement else first)
    return total


WRONG = {
    "path_log_prob": {
        "everything else is visible": pseudo_likelihood,
        "everything is hidden": one_pass,
        "from left to right for every σ": lambda model, answer, order: path(model, answer, range(model.n)),
        "a probability": lambda model, answer, order: math.exp(path(model, answer, order)),
        "the order read as ranks": lambda model, answer, order: path(model, answer, sorted(range(model.n), key=lambda d: order[d])),
        "the mean over positions": lambda model, answer, order: path(model, answer, order) / model.n,
        "the order backwards": lambda model, answer, order: path(model, answer, order[::-1]),
    },
    "random_order_prob": {
        "the mean of logarithms": lambda model, answer: math.exp(mean(paths(model, answer))),
        "a sum over orders": lambda model, answer: sum(map(math.exp, paths(model, answer))),
        "only one order": lambda model, answer: math.exp(path(model, answer, range(model.n))),
        "a logarithm": lambda model, answer: math.log(mean(map(math.exp, paths(model, answer)))),
    },
    "random_order_fast": {
        "lists the orders": listed,
        "p(o) alone": lambda model, answer: recursion(model, answer, lambda L, filled: 1 / (L - filled))[frozenset(range(model.n))],
        "divides by |S|: the right p(o), the wrong P(S)": lambda model, answer: recursion(
            model, answer, lambda L, filled: 1 / (filled + 1)
        ),
        "divides by L! at the end: the right p(o), the wrong P(S)": divided_at_the_end,
        "the mean over the last position": lambda model, answer: recursion(model, answer, lambda L, filled: 1, join=mean),
        "the best last position": lambda model, answer: recursion(model, answer, lambda L, filled: 1 / (L - filled), join=max),
        "divides by L": lambda model, answer: recursion(model, answer, lambda L, filled: 1 / L),
    },
    "exact_nelbo": {
        "L/m forgotten": lambda model, answer: by_size(model, answer, lambda L, m: 1.0),
        "divided by m only": lambda model, answer: by_size(model, answer, lambda L, m: 1 / m),
        "every mask equally likely": all_masks_alike,
        "visible tokens scored too": lambda model, answer: by_size(model, answer, lambda L, m: L / m, everywhere=True),
        "a sum over sizes": lambda model, answer: model.n * by_size(model, answer, lambda L, m: L / m),
        "sizes from 0 to L": lambda model, answer: model.n / (model.n + 1) * by_size(model, answer, lambda L, m: L / m),
        "−log p": lambda model, answer: -math.log(mean(map(math.exp, paths(model, answer)))),
    },
    "mask_weight": {
        "always L/m": lambda L, s: [L / m for m in range(1, L + 1)],
        "m forgotten": lambda L, s: [1 / p for p in s],
        "divided by L as well": lambda L, s: [1 / (L * m * p) for m, p in enumerate(s, start=1)],
        "L/m times s instead of divided by it": lambda L, s: [L * L / m * p for m, p in enumerate(s, start=1)],
    },
    "size_probability": {
        "uniform": lambda V: [1 / len(V)] * len(V),
        "in proportion to V": lambda V: [v / sum(V) for v in V],
        "in proportion to √V, m forgotten": lambda V: [math.sqrt(v) / sum(map(math.sqrt, V)) for v in V],
        "V instead of √V": lambda V: [v / m / sum(x / k for k, x in enumerate(V, 1)) for m, v in enumerate(V, 1)],
        "only the smallest size": lambda V: [1.0] + [0.0] * (len(V) - 1),
    },
    "stratified_sizes": {
        "neighbouring sizes": lambda L, R, u: [1 + (int(u * L) + j) % L for j in range(R)],
        "the same size R times": lambda L, R, u: [1 + int(L * u)] * R,
        "sizes from 0": lambda L, R, u: [int(L * (j + u) / R) for j in range(R)],
        "evenly spaced without u": lambda L, R, u: [1 + (j * L) // R % L for j in range(R)],
        "rounded up: 0 at u = 0": lambda L, R, u: [math.ceil(L * (j + u) / R) for j in range(R)],
        "u shifts a mask by less than a size": lambda L, R, u: [1 + int(L * j / R + u) % L for j in range(R)],
        "L − 1 for L": lambda L, R, u: [1 + int((L - 1) * (j + u) / R) for j in range(R)],
    },
    "antithetic_weights": {
        "L/m and L/(L − m)": lambda L, m: (L / m if m else 0.0, L / (L - m) if m < L else 0.0),
        "the same weight for both": lambda L, m: ((L + 1) / m if 0 < m < L else 0.0,) * 2,
        "all the weight on one side": lambda L, m: (2 * (L + 1) / m if m else 0.0, 0.0),
        "the first side counts more": lambda L, m: (1.5 * (L + 1) / m if m else 0.0, 0.5 * (L + 1) / (L - m) if m < L else 0.0),
        "divides by an empty side": lambda L, m: ((L + 1) / m, (L + 1) / (L - m)),
        "the empty side is clamped": lambda L, m: ((L + 1) / max(m, 1), (L + 1) / max(L - m, 1)),
        "twice, because there are two": lambda L, m: (2 * (L + 1) / m if m else 0.0, 2 * (L + 1) / (L - m) if m < L else 0.0),
    },
    "paper_expectation": {
        "the NELBO, as if unbiased": lambda model, answer: -mean(paths(model, answer)),
        "the complement forgotten": lambda model, answer: bernoulli(model, answer, complement=False),
        "the sum of both sides": lambda model, answer: 2 * bernoulli(model, answer),
        "ρ from 0 to 1": lambda model, answer: bernoulli(model, answer, least=0.0),
    },
}
