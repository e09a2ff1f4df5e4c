"""Ways to estimate a rollout's log-probability with a few forward rows, which `toy.studies.variance` compares.

Every estimate is linear in the tabulated token log-probabilities log π(o_d | all but the set S), so a draw is a tensor of coefficients
[N, 2^n, n] over rollouts, sets and blanks, and its expectation another one. `mask_draws` holds those that are masks: the schemes of
training, and others that did not earn an option. `controlled` adds control variates to a draw.

What they estimate differs, and so does what a loss on them fits: masks the ELBO; steps of the path log p(o; σ); half of the rows each,
half of both; `path sets` the sum over the steps of the path of the mean over all tokens hidden then. In each, every term is the
log-probability of a token given visible ones, so with weighted rollouts each is a cross-entropy of the policy's conditionals, and an
order-consistent policy with p_θ = p* minimises all of them.

Control variates subtract what is known on average. The log-probability of each token at its own step of the rollout costs nothing; the
mean of each size's term would take a table of all masks, and shows what the best control of single sizes could do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import comb

import torch
from torch import Tensor

from dmpo_ref.masking import Masks, draw_masks, draw_path_steps, path_masks, smallest, stream, streams, successive
from dmpo_ref.rollout import Rollout

Draw = Callable[[int], Masks]  # masks of the N rollouts, by the number of the repeat
ELBO, PATH, HALVES, PATH_SETS = "ELBO", "log p(o;σ)", "½ ELBO + ½ log p(o;σ)", "path sets"


@dataclass
class Tables:
    """Token log-probabilities of N rollouts with n blanks under each of the 2^n sets of hidden blanks, and sketches of their gradients.

    Attributes:
        value: [U, 2^n, n], of each of the U different answers; 0 where a blank is not hidden. gradient: [U, 2^n, n, SKETCH].
        reference: [U, 2^n, n], `value` of the reference policy.
        answer: [N] which of the U answers a rollout gave. blanks: [n] their positions.
    """

    value: Tensor
    gradient: Tensor
    reference: Tensor
    answer: Tensor
    blanks: Tensor


def coefficients(tables: Tables, masks: Masks) -> Tensor:
    """The coefficients of an estimate, which is linear in the tabulated values of each rollout: [N, 2^n, n]."""
    hidden, target, weight = masks.hidden[0][..., tables.blanks], masks.target[0][..., tables.blanks], masks.weight[0]
    N, R, n = hidden.shape
    subset = (hidden * 2 ** torch.arange(n)).sum(dim=-1)
    terms = target * (weight / R).unsqueeze(-1)
    return torch.zeros(N, 2**n, n, dtype=torch.float64).scatter_add_(1, subset.unsqueeze(-1).expand(-1, -1, n), terms.double())


def exact_coefficients(what: str, rollout: Rollout, tables: Tables) -> Tensor:
    """Coefficients of what a scheme estimates, one of ELBO, PATH, HALVES, PATH_SETS. [N, 2^n, n]"""
    if what == ELBO:
        return exact_elbo(len(tables.blanks), len(tables.answer))
    along = path_masks(rollout.step, rollout.num_steps)
    if what == PATH:
        return coefficients(tables, along)
    if what == PATH_SETS:
        return coefficients(tables, all_hidden(along))
    return (exact_coefficients(ELBO, rollout, tables) + exact_coefficients(PATH, rollout, tables)) / 2


def exact_elbo(n: int, N: int) -> Tensor:
    """Coefficients of the ELBO itself: 1 / (m C(n, m)) for every token of every set of size m. [N, 2^n, n]"""
    found = torch.zeros(2**n, n, dtype=torch.float64)
    for subset in range(1, 2**n):
        members = [d for d in range(n) if subset >> d & 1]
        found[subset, members] = 1 / (len(members) * comb(n, len(members)))
    return found.expand(N, -1, -1)


def by_spread(rollout: Rollout, score: Tensor, R: int, *, evenly: bool) -> Draw:
    """m drawn in proportion to the root mean square of its term of the estimate, over all rollouts and sets of size m.

    Args:
        score: [N, 2^n] what is summed over a set: the token log-probabilities, or their log-ratios.
        evenly: sizes as far apart as possible (R strata of equal probability), and positions as in `systematic`; else independent ones.
    """
    response, n = rollout.response_mask.unsqueeze(2), score.shape[-1].bit_length() - 1
    sizes = torch.tensor([bin(s).count("1") for s in range(2**n)])
    spread = torch.stack([(score[:, sizes == m].double() / m).square().mean().sqrt() for m in range(1, n + 1)])
    p = spread / spread.sum()

    def draw(k: int) -> Masks:
        g, (_, N, _, S) = stream(k, "by spread"), response.shape
        if evenly:
            u = (torch.arange(R) + torch.rand(1, N, 1, generator=g, dtype=torch.float64)) / R
            m = 1 + torch.searchsorted(p.cumsum(dim=0), u, right=True).clamp(max=n - 1)
            m = m.gather(-1, torch.rand(1, N, R, generator=g).argsort(dim=-1))  # else the small sets would always lie side by side
            hidden = successive(response, torch.rand(1, N, 1, S, generator=g), m)
        else:
            m = torch.multinomial(p, N * R, replacement=True, generator=g).view(1, N, R) + 1
            hidden = smallest(response.expand(-1, -1, R, -1), torch.rand(1, N, R, S, generator=g), m)
        return Masks(hidden, hidden, 1 / (m * p[m - 1]))

    return draw


def steps_by_spread(rollout: Rollout, score: Tensor, R: int) -> Draw:
    """Steps of the path in R strata of equal probability, which is proportional to the root mean square of a step's term over the rollouts.

    Args:
        score: [N, T] the term of each step, of a log-probability or of a log-ratio.
    """
    along, p = path_masks(rollout.step, rollout.num_steps), score.double().square().mean(dim=0).sqrt()
    p = p / p.sum()

    def draw(k: int) -> Masks:
        u = (torch.arange(R) + torch.rand(len(score), R, generator=stream(k, "steps by spread"), dtype=torch.float64)) / R
        step = torch.searchsorted(p.cumsum(dim=0), u, right=True).clamp(max=len(p) - 1)
        hidden, target = (x[0].gather(1, step.unsqueeze(-1).expand(-1, -1, x.shape[-1]))[None] for x in (along.hidden, along.target))
        return Masks(hidden, target, 1 / p[step][None])

    return draw


def all_hidden(masks: Masks) -> Masks:
    """Steps of a path that score the mean over all hidden tokens in place of the one token that was placed: more of each row."""
    return replace(masks, target=masks.hidden, weight=masks.weight / masks.hidden.sum(dim=-1).clamp(min=1))


def mirrored(rollout: Rollout, n: int) -> Draw:
    """Two sizes m and n + 1 − m, m ~ U{1..n}; in one random order, the second set begins where the first one ends.

    That is `antithetic` without its empty side: the sets share one position, and their weights times sizes are always n.
    """
    response = rollout.response_mask.unsqueeze(2)

    def draw(k: int) -> Masks:
        g, (_, N, _, S) = stream(k, "mirrored"), response.shape
        m = 1 + (torch.rand(1, N, 1, generator=g) * n).long().clamp(max=n - 1)
        m = torch.cat([m, n + 1 - m], dim=-1)
        hidden = successive(response, torch.rand(1, N, 1, S, generator=g), m)
        return Masks(hidden, hidden, n / m.double())

    return draw


def mask_draws(rollout: Rollout, tables: Tables) -> dict[str, tuple[str, Draw]]:
    """What each scheme estimates, and its draws, by name with R: as in training, and those that are not worth an option."""
    response, N = rollout.response_mask, rollout.tokens.shape[1]
    found: dict[str, tuple[str, Draw]] = {}

    def own(name: str, R: int) -> Draw:
        return lambda k: draw_masks(name, response, R, streams(k, "masks", [0]))

    def steps(R: int) -> Draw:
        return lambda k: draw_path_steps(rollout.step, rollout.num_steps, R, streams(k, "masks", [0]))

    def sets(R: int) -> Draw:
        return lambda k: all_hidden(steps(R)(k))

    def shared(name: str) -> Draw:
        def draw(k: int) -> Masks:
            one = draw_masks(name, response[:, :1], 2, streams(k, "shared", [0]))
            return Masks(*(x.expand(-1, N, *x.shape[2:]) for x in (one.hidden, one.target, one.weight)))

        return draw

    for name in ("exact", "stratified", "systematic", "antithetic", "paper"):
        for R in (2, 4):
            found[f"{name}, R={R}"] = ELBO, own(name, R)
    found |= {f"{name} shared, R=2": (ELBO, shared(name)) for name in ("exact", "antithetic")}
    found |= {"mirrored, R=2": (ELBO, mirrored(rollout, len(tables.blanks)))}
    score, ratio = (x.sum(dim=-1)[tables.answer] for x in (tables.value, tables.reference - tables.value))
    found["exact by spread, R=2"] = ELBO, by_spread(rollout, score, 2, evenly=False)
    found |= {f"systematic by spread, R={R}": (ELBO, by_spread(rollout, score, R, evenly=True)) for R in (2, 4)}
    has_moved = bool(ratio.any())  # the policy is not the reference itself
    if has_moved:
        by_ratio = {R: by_spread(rollout, ratio, R, evenly=True) for R in (2, 4)}
        found |= {f"systematic by spread of the log-ratio, R={R}": (ELBO, draw) for R, draw in by_ratio.items()}
    found |= {"gauss, R=3": (ELBO, own("gauss", 3)), "path": (PATH, lambda k: path_masks(rollout.step, rollout.num_steps))}
    for R in (1, 2, 4):
        found[f"path_steps, R={R}"] = PATH, steps(R)
    score, ratio = (along_path(x, rollout, tables) for x in (tables.value, tables.reference - tables.value))
    found |= {f"path_steps by spread, R={R}": (PATH, steps_by_spread(rollout, score, R)) for R in (2, 4)}
    if has_moved:
        by_steps = {R: steps_by_spread(rollout, ratio, R) for R in (2, 4)}
        found |= {f"path_steps by spread of the log-ratio, R={R}": (PATH, draw) for R, draw in by_steps.items()}
    for R in (2, 4):
        found[f"half path_steps, half systematic, R={R}"] = HALVES, beside(steps(R // 2), own("systematic", R // 2))
        found[f"path sets, R={R}"] = PATH_SETS, sets(R)
    return found


def along_path(value: Tensor, rollout: Rollout, tables: Tables) -> Tensor:
    """The term of each step of each rollout's path, [N, T]: the log-probabilities, or log-ratios, of the tokens placed in it."""
    along = path_masks(rollout.step, rollout.num_steps)
    parts = [
        Masks(along.hidden[:, :, t : t + 1], along.target[:, :, t : t + 1], torch.ones_like(along.weight[:, :, :1]))
        for t in range(rollout.num_steps)
    ]
    return torch.stack([(coefficients(tables, part) * value[tables.answer]).sum(dim=(1, 2)) for part in parts], dim=1)


def beside(first: Draw, second: Draw) -> Draw:
    """The rows of two draws together: the mean of all is half the mean of each, if both have equally many."""

    def draw(k: int) -> Masks:
        a, b = first(k), second(k)
        return Masks(*(torch.cat([x, y], dim=2) for x, y in ((a.hidden, b.hidden), (a.target, b.target), (a.weight, b.weight))))

    return draw


@dataclass(frozen=True)
class Scheme:
    """One row of the study: its name, what it estimates, forward rows of a rollout; `draw` gives coefficients [N, 2^n, n] by number of the
    repeat."""

    name: str
    estimates: str
    rows: int
    draw: Callable[[int], Tensor]


def schemes(rollout: Rollout, tables: Tables) -> list[Scheme]:
    """All schemes of `mask_draws`, then those with control variates."""

    def of_masks(name: str, estimates: str, draw: Draw) -> Scheme:
        return Scheme(name, estimates, draw(0).hidden.shape[2], lambda k: coefficients(tables, draw(k)))

    found = [of_masks(name, *scheme) for name, scheme in mask_draws(rollout, tables).items()]
    by_name = {scheme.name: scheme for scheme in found}
    for name in ("exact, R=2", "systematic, R=4"):
        plain = by_name[name]
        best = best_factor(plain.draw, rollout, tables)
        for control, sizes, path in (("path", False, 1.0), ("path, best factor", False, best), ("sizes", True, 0.0), ("both", True, best)):
            draw = controlled(plain.draw, rollout, tables, sizes=sizes, path=path)
            found.append(replace(plain, name=f"{name}, control: {control}", draw=draw))
    for name in ("systematic by spread, R=4", "systematic by spread of the log-ratio, R=4"):
        if name in by_name:  # no `path`: where a size is drawn seldom, its weight makes the control noisier than the estimate
            plain = by_name[name]
            draw = controlled(plain.draw, rollout, tables, sizes=True, path=0.0)
            found.append(replace(plain, name=f"{name}, control: sizes", draw=draw))
    return found


def controlled(draw: Callable[[int], Tensor], rollout: Rollout, tables: Tables, *, sizes: bool, path: float) -> Callable[[int], Tensor]:
    """A draw of coefficients of the ELBO, less control variates whose expectations are known. Unbiased for every `path`.

    sizes: the mean of each size's term over all sets of that size is replaced by its exact value; only the choice of the set is left.
        It takes a table of all masks, which a run does not have.
    path: the factor of each token's log-probability at its own step of the rollout, b_d, which the sampler knows for nothing. A draw
        scores token d with total coefficient a_d, of expectation 1; path · Σ_d (a_d − 1) b_d is subtracted.
    """
    N, n = len(tables.answer), len(tables.blanks)
    exact, on_path = exact_elbo(n, N), coefficients(tables, path_masks(rollout.step, rollout.num_steps))
    size = torch.tensor([bin(s).count("1") for s in range(2**n)])
    of_size = (size == torch.arange(1, n + 1).unsqueeze(-1)).double()  # [n, 2^n]
    member = (exact[0] > 0).double()  # [2^n, n]

    def control(c: Tensor) -> Tensor:
        total = torch.einsum("nsd,ms->nm", c, of_size)  # the coefficients of all sets of size m together
        pairs = torch.einsum("sd,ms->m", member, of_size)
        mean = torch.einsum("nm,ms,sd->nsd", total / pairs, of_size, member)
        c = c - sizes * (mean - exact)
        return c - path * (c.sum(dim=1, keepdim=True) - 1) * on_path

    return lambda k: control(draw(k))


def best_factor(draw: Callable[[int], Tensor], rollout: Rollout, tables: Tables, repeats: int = 200) -> float:
    """The factor of the `path` control with the least variance of log p: Cov(estimate, control) / Var(control), over draws of its own."""
    value, on_path = tables.value[tables.answer].double(), coefficients(tables, path_masks(rollout.step, rollout.num_steps))
    drawn = [draw(10**6 + k) for k in range(repeats)]
    estimate = torch.stack([(c * value).sum(dim=(1, 2)) for c in drawn])
    control = torch.stack([((c.sum(dim=1, keepdim=True) - 1) * on_path * value).sum(dim=(1, 2)) for c in drawn])
    estimate, control = estimate - estimate.mean(dim=0), control - control.mean(dim=0)
    return ((estimate * control).sum() / control.square().sum().clamp(min=1e-12)).item()
