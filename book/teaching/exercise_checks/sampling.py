"""Checks of `04_sampling`: one step of the samplers, and what a cache feeds."""

from __future__ import annotations

from collections.abc import Callable

import torch

from exercise_checks.common import require, same, uniform


def check_confidence_step(f: Callable) -> None:
    """No position that was left open has a higher confidence than a filled one; each is filled with its most probable value."""
    cases = [([1, 1, 1, 1], 2), ([0, 1, 1, 0, 1], 1), ([1, 0, 0, 1, 1, 1], 3), ([0, 0, 1], 2), ([1, 1], 1), ([1, 1], 0), ([1, 1, 0], 1)]
    for number, (is_open, k) in enumerate(cases):
        n, is_open = len(is_open), [bool(x) for x in is_open]
        probability = (4 * uniform(n, 3, key=f"confidence {number}")).softmax(dim=-1)
        probability[:2] = torch.tensor([[0.45, 0.3, 0.25], [0.5, 0.49, 0.01]], dtype=torch.float64)  # surer, but by a smaller margin
        if number == 6:
            probability[1] = torch.tensor([0.44, 0.4399, 0.1201], dtype=torch.float64)  # less sure, but of lower entropy
        probability[~torch.tensor(is_open)] = torch.tensor([0.999, 0.001, 0.0], dtype=torch.float64)  # a given token: very sure
        got = f(probability.tolist(), is_open, k)
        given = {"open": is_open, "k": k, "probability": probability}
        require(isinstance(got, dict), "a dictionary from position to value is expected")
        require(all(is_open[d] for d in got), "a position that is filled already was filled again", **given)
        require(len(got) == min(k, sum(is_open)), "the number of filled positions is wrong", **given)
        for d, value in got.items():
            require(probability[d, value] == max(probability[d]), f"position {d} did not get its most probable value", **given)
            left = [max(probability[j]) for j in range(n) if is_open[j] and j not in got]
            require(all(max(probability[d]) >= other for other in left), "a position with higher confidence was left open", **given)


def check_threshold_count(f: Callable) -> None:
    """A position is filled exactly if its confidence is at least τ; the one with the highest confidence is always filled."""
    some = [([0.95, 0.5, 0.9], 0.9), ([0.3, 0.4], 0.9), ([0.99, 0.98, 0.97], 0.5), ([0.2], 0.9), ([0.6, 0.9, 0.6], 0.6)]
    for confidence, tau in (*some, ([0.8999999, 0.96, 0.95], 0.9)):
        want = 1 if max(confidence) < tau else len([c for c in confidence if not c < tau])
        same(f(confidence, tau), want, "the number of positions placed", confidence=confidence, tau=tau)


def check_factor_count(f: Callable) -> None:
    """k positions are filled if each of the k most confident ones passes its own bound; the largest such k, at least 1."""
    for confidence, factor in (
        ([0.99, 0.9, 0.8], 1.0),
        ([0.4, 0.4, 0.97, 0.7], 1.0),
        ([0.2, 0.3], 1.0),
        ([0.5, 0.99, 0.6], 1.0),
        ([0.99, 0.6, 0.76, 0.76], 1.0),
        ([0.9, 0.7, 0.85, 0.5], 0.5),
        ([0.9, 0.75, 0.8], 1.0),  # the last one is at its bound
        ([0.9, 0.7499999, 0.8], 1.0),
        ([0.6, 0.55], 0.5),
        ([0.8, 0.6, 0.55], 1.5),
    ):
        ordered = sorted(confidence, reverse=True)
        bars = [1 - factor / (k + 1) for k in range(1, len(ordered) + 1)]
        passing = [k for k in range(1, len(ordered) + 1) if all(c >= bar for c, bar in zip(ordered[:k], bars, strict=False))]
        same(f(confidence, factor), max(passing, default=1), "the number of positions placed", confidence=confidence, factor=factor)


def check_fed_tokens(f: Callable) -> None:
    """The slots that each forward pass is fed, enumerated."""
    for prompt, response, block in ((3, 8, 4), (0, 6, 2), (10, 4, 4), (5, 3, 1)):
        for cache in ("none", "prefix", "dual"):
            want = 0
            for place in range(response):  # one token a step, so step and place in the response go together
                start = prompt + place // block * block
                first = {"none": 0, "prefix": start, "dual": start}[cache]
                last = start + block if cache == "dual" else prompt + response
                slots = range(prompt + response) if place % block == 0 else range(first, last)
                want += len(slots)
            same(
                f(prompt, response, block, cache),
                want,
                "the number of tokens fed",
                prompt=prompt,
                response=response,
                block=block,
                cache=cache,
            )
