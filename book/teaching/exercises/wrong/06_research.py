"""Plausible wrong answers to `06_research`, each named after its misconception; the checks must refuse all of them."""

import itertools
import math

import torch


def distribution(model, orders):
    found = {}
    for answer in itertools.product(range(model.A), repeat=model.n):
        chances = []
        for order in orders:
            state, chance = [None] * model.n, 1.0
            for d in order:
                chance *= model(tuple(state))[d][answer[d]]
                state[d] = answer[d]
            chances.append(chance)
        found[answer] = sum(chances) / len(chances)
    return found


def blocks_in_any_order(model, block):
    starts = itertools.permutations(range(0, model.n, block))
    return distribution(model, [[s + i for s in order for i in range(block)] for order in starts])


def orders_inside(n, block):
    return [list(itertools.permutations(range(start, start + block))) for start in range(0, n, block)]


def surest(probability, is_open, count):
    opened = [d for d in range(len(is_open)) if is_open[d]]
    return sorted(opened, key=lambda d: -max(probability[d]))[:count]


def threshold(probability, is_open, tau):
    sure = [d for d in range(len(is_open)) if is_open[d] and max(probability[d]) >= tau]
    return sure or surest(probability, is_open, 1)


WRONG = {
    "block_distribution": {
        "blocks ignored": lambda model, block: distribution(model, list(itertools.permutations(range(model.n)))),
        "left to right inside a block": lambda model, block: distribution(model, [range(model.n)]),
        "blocks in any order": blocks_in_any_order,
        "so many blocks, not blocks of so many": lambda model, block: distribution(
            model, [[p for part in parts for p in part] for parts in itertools.product(*orders_inside(model.n, model.n // block))]
        ),
        "texts as answers": lambda model, block: {
            "".join(map(str, answer)): p for answer, p in distribution(model, list(itertools.permutations(range(model.n)))).items()
        },
    },
    "choose": {
        "one at a time": lambda p, o: surest(p, o, 1),
        "every second position": lambda p, o: [d for d in range(len(o)) if o[d]][::2],
        "half of them": lambda p, o: surest(p, o, max(1, sum(o) // 2)),
        "none where it is not sure": lambda p, o: [d for d in range(len(o)) if o[d] and max(p[d]) >= 0.6],
        "the two surest": lambda p, o: surest(p, o, 2),
        "all at once": lambda p, o: surest(p, o, len(o)),
        "the threshold rule, τ = 0.9": lambda p, o: threshold(p, o, 0.9),
        "the threshold rule, τ = 0.5": lambda p, o: threshold(p, o, 0.5),
    },
    "my_baseline": {
        "none": lambda w, now, old: torch.zeros_like(w),
        "uniform again": lambda w, now, old: torch.full_like(w, 1 / w.shape[-1]),
        "model, which is about as good": lambda w, now, old: (now - old).softmax(dim=-1),
        "the ratio not normalised": lambda w, now, old: (now - old).exp() / w.shape[-1],
        "half of uniform": lambda w, now, old: torch.full_like(w, math.exp(-0.7) / w.shape[-1]),
        "all of w: nothing is trained": lambda w, now, old: w,
        "one number for all runs": lambda w, now, old: w.mean(),
    },
}
