"""Checks of `06_research`: blocks, a sampler of your own, a weight baseline of your own."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from dmpo_ref.masking import stream
from exercise_checks.common import SmallModel, answers_of, require, same
from toy.worlds.mixture import world_1d

RUNS, ROUNDS, STEPS, LEARNING_RATE = 64, 40, 4, 0.03  # of the study of baselines
MARGIN = 0.9  # the baseline must end at 0.9 times the divergence of `uniform`, or less


def check_block_distribution(f: Callable) -> None:
    """The average over all orders that finish a block before the next one begins."""
    model = SmallModel(4, 2, seed=9)
    for block in (4, 2, 1):
        pieces = [itertools.permutations(range(start, start + block)) for start in range(0, 4, block)]
        orders = [sum(parts, ()) for parts in itertools.product(*map(list, pieces))]
        got = f(model, block)
        require(isinstance(got, dict) and set(got) == set(answers_of(4)), "a dictionary with all 16 answers is expected", block=block)
        for answer in answers_of(4):
            want = 0.0
            for order in orders:
                chance = 1.0
                for i, d in enumerate(order):
                    chance *= model(tuple(answer[j] if j in order[:i] else None for j in range(4)))[d][answer[d]]
                want += chance / len(orders)
            same(got[answer], want, "the probability of an answer", model=model, block=block, answer=answer)


def check_choose(f: Callable) -> None:
    """The distribution that the rule samples from is enumerated: exact within 0.02 nats, in few passes, in every order of the positions."""
    for (name, (world, most)), step in itertools.product(WORLDS.items(), (1, -1, 3)):
        places = sorted(range(len(next(iter(world)))), key=lambda d: (d % step, d) if step > 0 else -d)
        joint = {tuple(answer[d] for d in places): p for answer, p in world.items()}
        chance, passes = run_sampler(f, joint)
        divergence = sum(p * math.log(p / max(chance[answer], 1e-12)) for answer, p in joint.items())
        require(divergence <= 0.02, f"on {name!r} your sampler's distribution is not the model's: more than 0.02 nats away")
        require(passes <= most, f"on {name!r} your sampler takes {passes:.2f} passes on average; at most {most} are allowed")


def run_sampler(f: Callable, joint: dict[tuple[int, ...], float]) -> tuple[Counter, float]:
    """Exact distribution of the answers when a rule chooses the positions of every pass, and the mean number of passes."""
    n = len(next(iter(joint)))
    alive: Counter = Counter({(None,) * n: 1.0})
    done: Counter = Counter()
    passes = 0.0
    while alive:
        then: Counter = Counter()
        for state, p in alive.items():
            passes += p
            probability = conditionals(joint, state)
            chosen = sorted(set(f([list(row) for row in probability], [value is None for value in state])))
            legal = bool(chosen) and all(0 <= d < n and state[d] is None for d in chosen)
            require(legal, "every pass must fill at least one position, and only open ones", state=state)
            for values in itertools.product(*(range(2) for _ in chosen)):
                weight = p * math.prod(probability[d][value] for d, value in zip(chosen, values, strict=True))
                if weight > 0:
                    filled = dict(zip(chosen, values, strict=True))
                    after = tuple(filled.get(d, value) for d, value in enumerate(state))
                    (then if None in after else done)[after] += weight
        alive = then
    return done, passes


def conditionals(joint: dict, state: tuple) -> list[list[float]]:
    """Exact π(value | what is visible) of every position; 1/2 where the visible values cannot occur."""
    fits = {o: p for o, p in joint.items() if all(v is None or v == o[d] for d, v in enumerate(state))}
    total = sum(fits.values())
    if total == 0:
        return [[0.5, 0.5] for _ in state]
    return [[sum(p for o, p in fits.items() if o[d] == value) / total for value in (0, 1)] for d in range(len(state))]


def three_pairs() -> dict[tuple[int, ...], float]:
    """Six fair bits, of which 0 and 1, 2 and 3, 4 and 5 are equal."""
    return {(a, a, b, b, c, c): 1 / 8 for a, b, c in answers_of(3)}


def noisy_sum() -> dict[tuple[int, ...], float]:
    """A fair bit, a second one that copies it with probability 0.9, whether they differ, and a bit that is 1 with probability 0.98."""
    return {
        (a, b, int(a != b), d): 0.5 * (0.9 if a == b else 0.1) * (0.98 if d else 0.02) for a, b, d in itertools.product((0, 1), repeat=3)
    }


WORLDS = {"three pairs": (three_pairs(), 4.0), "noisy sum": (noisy_sum(), 3.2)}


def check_my_baseline(f: Callable) -> None:
    """Trains tables on the line of `toy.worlds.mixture` with N = 8 and 16, many seeds at once, as `uniform` was trained."""
    ends = []
    for N in (8, 16):
        got, uniform = mean_divergence(f, N), uniform_divergence(N)
        require(math.isfinite(got), "the divergence KL(p*‖p_θ) at the end is not finite", N=N)
        ends.append(got / uniform)
    require(max(ends) < 1, f"at one of N = 8, 16 KL(p*‖p_θ) ends at {max(ends):.2f} times that of `uniform`")
    average = sum(ends) / 2
    require(average <= MARGIN, f"KL(p*‖p_θ) ends at {average:.2f} times that of `uniform` on average; it must be at most {MARGIN}")


@lru_cache
def uniform_divergence(N: int) -> float:
    """The final divergence with w_base = 1/N."""
    return mean_divergence(lambda weight, log_policy, log_old: torch.full_like(weight, 1 / N), N)


def mean_divergence(baseline: Callable[[Tensor, Tensor, Tensor], Tensor], N: int) -> float:
    """KL(p*‖p_θ) in nats at the end, mean over the runs, of softmax tables trained by −Σ_n (w_n − w_base[n]) log p_θ(x_n).

    The gradient is written out, so that all runs are computed together: the derivative of log p_θ(x) in the logits is e_x − p_θ.

    Args:
        baseline: (weight, log_policy, log_old), each [runs, N], to w_base [runs, N]; called before every gradient step.
    """
    world, generator = world_1d(), stream(0, "exercise", "baseline", N)
    logits = world.log_ref.repeat(RUNS, 1)
    first, second = torch.zeros_like(logits), torch.zeros_like(logits)  # moments of Adam
    for step in range(ROUNDS * STEPS):
        log_p = logits.log_softmax(dim=-1)
        if step % STEPS == 0:
            cells = torch.multinomial(log_p.exp(), N, replacement=True, generator=generator)
            log_old = log_p.gather(1, cells)
            weight = ((world.reward / world.alpha + world.log_ref)[cells] - log_old).softmax(dim=-1)
        base = torch.as_tensor(baseline(weight.clone(), log_p.gather(1, cells), log_old.clone()), dtype=torch.float64)
        require(base.shape == weight.shape, f"w_base of shape {list(weight.shape)} is expected, not {list(base.shape)}")
        real = weight - base
        gradient = (real.sum(dim=-1, keepdim=True) * log_p.exp()).scatter_add(1, cells, -real)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient.square()
        size = (second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
        logits = logits - LEARNING_RATE * first / (1 - 0.9 ** (step + 1)) / size
    gap = world.log_target - logits.log_softmax(dim=-1)
    return (world.log_target.exp() * gap).sum(dim=-1).mean().item()
