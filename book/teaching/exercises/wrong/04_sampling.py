"""Plausible wrong answers to `04_sampling`, each named after its misconception; the checks must refuse all of them."""

import math


def step(probability, is_open, k, *, least=False, only_open=True, value=None):
    candidates = [d for d in range(len(is_open)) if is_open[d] or not only_open]
    candidates.sort(key=lambda d: max(probability[d]) if least else -max(probability[d]))
    return {d: probability[d].index(max(probability[d])) if value is None else value for d in candidates[:k]}


def step_by(score):
    """A confidence step that sorts by another score, the largest first."""

    def f(probability, is_open, k):
        candidates = sorted((d for d in range(len(is_open)) if is_open[d]), key=lambda d: -score(probability[d]))
        return {d: probability[d].index(max(probability[d])) for d in candidates[:k]}

    return f


def margin_step(probability, is_open, k):
    return step_by(lambda row: max(row) - sorted(row)[-2])(probability, is_open, k)


def run(confidence, bar, *, strict=False):
    count = 0
    for k, c in enumerate(sorted(confidence, reverse=True), start=1):
        if c < bar(k) or strict and c == bar(k):
            break
        count = k
    return max(1, count)


def fed(prompt, response, block, cache, *, first=True, prefix=None, steps=None):
    later = {"none": prompt + response, "dual": block}
    total = 0
    for start in range(0, response, block):
        rest = (response - start if prefix is None else prefix) if cache == "prefix" else later[cache]
        everything = prompt + response if first or start == 0 else rest
        total += everything + ((block if steps is None else steps) - 1) * rest
    return total


WRONG = {
    "confidence_step": {
        "filled positions are candidates": lambda p, o, k: step(p, o, k, only_open=False),
        "the least confident first": lambda p, o, k: step(p, o, k, least=True),
        "the margin between the two best": margin_step,
        "value 0 everywhere": lambda p, o, k: step(p, o, k, value=0),
        "one position for every k": lambda p, o, k: step(p, o, 1),
        "at least one position": lambda p, o, k: step(p, o, max(k, 1)),
        "the lowest entropy": step_by(lambda row: sum(p * math.log(p) for p in row if p > 0)),
        "the largest sum of squares": step_by(lambda row: sum(p * p for p in row)),
    },
    "threshold_count": {
        "may fill none": lambda c, tau: sum(x >= tau for x in c),
        "a tolerance": lambda c, tau: max(1, sum(x >= tau - 1e-6 for x in c)),
        "all where none is sure": lambda c, tau: sum(x >= tau for x in c) or len(c),
        "the leading run, not sorted": lambda c, tau: max(1, next((i for i, x in enumerate(c) if x < tau), len(c))),
        "strictly above": lambda c, tau: max(1, sum(x > tau for x in c)),
        "all if the mean is at least τ": lambda c, tau: len(c) if sum(c) / len(c) >= tau else 1,
    },
    "factor_count": {
        "not sorted": lambda c, f: max(1, next((i for i, x in enumerate(c) if x < 1 - f / (i + 2)), len(c))),
        "k for k + 1": lambda c, f: run(c, lambda k: 1 - f / k),
        "may fill none": lambda c, f: next((i for i, x in enumerate(sorted(c, reverse=True)) if x < 1 - f / (i + 2)), len(c)),
        "strictly above its bar": lambda c, f: run(c, lambda k: 1 - f / (k + 1), strict=True),
        "a tolerance": lambda c, f: run(c, lambda k: 1 - f / (k + 1) - 1e-3),
        "always f = 1": lambda c, f: run(c, lambda k: 1 - 1 / (k + 1)),
        "the same bar for all": lambda c, f: run(c, lambda k: 1 - f / 2),
    },
    "fed_tokens": {
        "only the first block feeds everything": lambda p, n, b, cache: fed(p, n, b, cache, first=False),
        "prefix feeds only the block": lambda p, n, b, cache: fed(p, n, b, cache, prefix=b),
        "prefix feeds the whole response": lambda p, n, b, cache: fed(p, n, b, cache, prefix=n),
        "one step too many a block": lambda p, n, b, cache: fed(p, n, b, cache, steps=b + 1),
        "the cache changes nothing": lambda p, n, b, cache: n * (p + n),
    },
}
