"""From rewards to weights: ℓ, w, w_base and the effective sample size. Pure functions of [G, N] tensors.

G prompts, N rollouts each; one row is one prompt, and rows never mix.
"""

from __future__ import annotations

from math import log, log1p
from typing import NamedTuple

import torch
from torch import Tensor

from dmpo_ref.config import ALPHA, WeightConfig

TARGETS = ("tilted", "reward_softmax", "reward")
BISECTION_STEPS = 50  # halvings of the bracket (0, 1]: an accuracy of 1e-15
SHRINK = 0.5**25  # if c is below this share of the bracket, where those halvings leave 7 digits, the bracket shrinks to this share
MOST_SHRINKS = 43  # down to 2^(−25 · 43), for the largest log-weights of float64


class GroupWeights(NamedTuple):
    """w [G, N], strength · w_base [G, N] and the coefficient c [G, 1], float64."""

    weight: Tensor
    base_weight: Tensor
    coefficient: Tensor


def group_weights(
    reward: Tensor, log_ratio: Tensor, config: WeightConfig, *, reference_share: float = 0.0, log_old: Tensor | None = None
) -> GroupWeights:
    """Weights, weight baseline and coefficient of scored rollouts: the functions below, in order.

    w_base of the `model` baseline depends on the current policy (`model_baseline`) and is 0 here.

    Args:
        reward, log_ratio: [G, N], see `log_weights`; log_ratio is log p_ref − log p_old, also for rollouts that p_ref drew.
        reference_share: ε of `mixture_log_ratios`, the part of the N rollouts that p_ref drew.
        log_old: [G, N] log p_old of the rollouts along their orders; needed for `flatten_above` only.
    """
    alpha, target = config.alpha, config.target
    log_ref_ratio, log_old_ratio = mixture_log_ratios(log_ratio, reference_share)
    log_weight = log_weights(reward, log_ref_ratio, alpha=alpha, target=target)
    if config.flatten_above is not None:
        if log_old is None:
            raise ValueError(f"weight.flatten_above={config.flatten_above}: log p_old of the rollouts along their orders is needed")
        log_weight = flatten(log_weight, log_old - log_old_ratio, reward >= config.flatten_above)
    c = torch.ones_like(log_weight[:, :1]) if config.target_ess is None else coefficient_for_ess(log_weight, config.target_ess)
    weight = target_weights(log_weight, coefficient=c, target=target)
    kind = "none" if config.baseline == "model" else config.baseline
    base = baseline_weights(kind, reward, log_ratio, alpha=alpha, coefficient=c, target=target)
    if reference_share and kind == "uniform":  # 1/N stands for p_old only if p_old drew all of them
        base = log_old_ratio.softmax(dim=-1)
    return GroupWeights(weight, config.baseline_strength * base, c)


def mixture_log_ratios(log_ratio: Tensor, reference_share: float) -> tuple[Tensor, Tensor]:
    """log p_ref − log q and log p_old − log q of rollouts of which p_ref drew a share ε: q = (1 − ε) p_old + ε p_ref.

        log p_old − log q = −log(1 − ε + ε p_ref/p_old),   log p_ref − log q = log_ratio + that

    Every rollout is weighted as a draw from the mixture, whichever policy drew it (the balance heuristic of Veach and Guibas, 1995).
    So p_ref/q ≤ 1/ε and p_old/q ≤ 1/(1 − ε), and no weight explodes where the policy has lost a mode. As without p_ref,
    E_q[Σ_n (p*/q − p_old/q) ∇log p_θ] is 0 at p_old = p*. For ε = 0 the two results are log_ratio itself, and 0.

    Args:
        log_ratio: [G, N] log p_ref − log p_old, nats, along each rollout's own order or of ELBOs on the same masks.
        reference_share: ε in [0, 1), the share of the N rollouts that p_ref drew.
    """
    if reference_share == 0:
        return log_ratio, torch.zeros_like(log_ratio)
    check_finite(log_ratio, "log_ratio")
    log_old_ratio = -torch.logaddexp(torch.full_like(log_ratio, log1p(-reference_share)), log_ratio + log(reference_share))
    return log_ratio + log_old_ratio, log_old_ratio


def log_weights(reward: Tensor, log_ratio: Tensor, *, alpha: float, target: str = "tilted") -> Tensor:
    """Log-weight of each rollout towards the target distribution p*(o|q) ∝ p_ref(o|q) · exp(r(q,o)/α).

        ℓ = r/α + log_ratio

    Args:
        reward: [G, N].
        log_ratio: [G, N] nats, an estimate of log p_ref − log p_old: along the rollout's own order (`path`), the
            difference of two ELBOs on the same masks (`elbo`), or 0 (`none`: the reference is the rollout policy).
        alpha: temperature α > 0, in units of reward per nat.
        target: "tilted"; or one of the two published variants without α, "reward_softmax" (ℓ = r) and "reward" (r is
            passed through: there w = r, see `target_weights`).

    Raises:
        ValueError: unknown target, α ≤ 0, fewer than two rollouts, or a value that is not finite.
    """
    if target not in TARGETS:
        raise ValueError(f"target={target!r} is not one of {', '.join(TARGETS)}")
    if target == "tilted" and not ALPHA.holds(alpha):
        raise ValueError(f"alpha={alpha}: {ALPHA.words}")
    if reward.shape[-1] < 2:
        raise ValueError(f"N={reward.shape[-1]} rollout for each prompt: a softmax over the group needs at least 2")
    check_finite(reward, "reward")
    check_finite(log_ratio, "log_ratio")
    reward = reward.double()
    log_weight = reward / alpha + log_ratio if target == "tilted" else reward
    check_finite(log_weight, "log weight")
    return log_weight


def flatten(log_weight: Tensor, log_drawn: Tensor, good: Tensor) -> Tensor:
    """Log-weights of p* with the mass of its good answers shared evenly among them: the softmax of ℓ estimates that target.

        good:  ℓ = A − log q,   A = log Σ_good e^ℓ − log Σ_good 1/q        (the sums are over the good rollouts of the prompt)
        else:  ℓ unchanged

    Together, the good rollouts of a group keep their total weight. Among them, each weighs in proportion to 1/q: the more often q
    draws an answer, the less each of its rollouts weighs. Mode-anchored reward augmentation (MARA, arXiv 2510.20817) takes A from the
    good answer that is most probable under p_ref; this changes only the odds of good against other answers, by a factor between
    e^((r of that answer − highest r)/α) and the number of good ones.

    Args:
        log_weight: [G, N] ℓ of `log_weights`, with the ratio to q.
        log_drawn: [G, N] log q(o;σ) of the policy that drew the rollouts, nats.
        good: [G, N] which rollouts have a high reward.
    """
    check_finite(log_drawn, "log p_old")
    together = log_weight.masked_fill(~good, -torch.inf).logsumexp(dim=-1, keepdim=True)
    return torch.where(good, together + (-log_drawn).masked_fill(~good, -torch.inf).log_softmax(dim=-1), log_weight)


def target_weights(log_weight: Tensor, *, coefficient: Tensor | float = 1.0, target: str = "tilted") -> Tensor:
    """Self-normalised importance weights of the target.

        w = softmax over the N rollouts of c · ℓ,  Σ_n w = 1        (`target: reward`: w = r, no softmax)

    Args:
        log_weight: [G, N] ℓ of `log_weights`.
        coefficient: c in (0, 1], a number or [G, 1]; see `coefficient_for_ess`.

    Returns:
        [G, N] float64, non-negative with rows that sum to 1 (except for `target: reward`).
    """
    return log_weight if target == "reward" else (coefficient * log_weight).softmax(dim=-1)


def baseline_weights(
    kind: str,
    reward: Tensor,
    log_ratio: Tensor,
    *,
    alpha: float,
    coefficient: Tensor | float = 1.0,
    target: str = "tilted",
) -> Tensor:
    """Weight baseline w_base, to be subtracted: w_real = w − strength · w_base. [G, N] float64.

    - `none`: 0.
    - `uniform`: 1/N, the paper's w_base = 1 after normalising; the group mean of r for `target: reward`.
    - `negative`: softmax(c · (−r/α + log_ratio)), the weights of the reward-inverted target, the published code's
      default; −r for `target: reward`. Its target is not p*.
    - `model` depends on the current policy: see `model_baseline`.

    Raises:
        ValueError: unknown kind.
    """
    if kind == "none":
        return torch.zeros_like(reward, dtype=torch.float64)
    if kind == "uniform":
        if target == "reward":
            return reward.double().mean(dim=-1, keepdim=True).expand_as(reward).clone()
        return torch.full_like(reward, 1 / reward.shape[-1], dtype=torch.float64)
    if kind == "negative":
        inverted = log_weights(-reward, log_ratio, alpha=alpha, target=target)
        return target_weights(inverted, coefficient=coefficient, target=target)
    raise ValueError(f"baseline={kind!r} is not one of none, uniform, negative, model")


def model_baseline(log_policy: Tensor, log_old: Tensor) -> Tensor:
    """w_base = softmax over n of (log p_θ − log p_old), gradient stopped. [G, N] float64.

    Both log-probabilities on the same masks. With exact ones, E_{p_old}[Σ w_base ∇log p_θ] vanishes up to O(1/N),
    because the weights turn samples of p_old into samples of p_θ, whose expected score is 0.
    """
    return (log_policy.detach().double() - log_old.double()).softmax(dim=-1)


def effective_sample_size(weight: Tensor) -> Tensor:
    """ESS = 1 / (N Σ_n w²), a share in [1/N, 1] of the N rollouts of each prompt. [G, N] → [G]."""
    return 1 / (weight.shape[-1] * weight.square().sum(dim=-1))


def coefficient_for_ess(log_weight: Tensor, target_ess: float) -> Tensor:
    """The largest c in (0, 1] for which softmax(c·ℓ) has at least the wanted ESS, by bisection. [G, N] → [G, 1].

    ESS falls from 1 to its value at c = 1 as c grows, so c = 1 if the ESS is high enough there.

    Raises:
        ValueError: the wanted ESS is outside (0, 1).
    """
    if not 0 < target_ess < 1:
        raise ValueError(f"target_ess={target_ess} is a share of the rollouts; it must lie between 0 and 1")

    def even_enough(c: Tensor) -> Tensor:
        return effective_sample_size((c * log_weight).softmax(dim=-1)).unsqueeze(-1) >= target_ess

    low = torch.zeros_like(log_weight[..., :1])
    high = torch.ones_like(low)
    already = even_enough(high)
    for _ in range(MOST_SHRINKS):  # log-weights of 10⁷ and more need so small a c
        high = torch.where(even_enough(high * SHRINK), high, high * SHRINK)
    for _ in range(BISECTION_STEPS):
        middle = (low + high) / 2
        enough = even_enough(middle)
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return torch.where(already, 1.0, low.clamp(min=torch.finfo(low.dtype).tiny))


def check_finite(values: Tensor, name: str) -> None:
    """Raise a ValueError that names the first value that is not finite."""
    if not torch.isfinite(values).all():
        prompt, rollout = (~torch.isfinite(values)).nonzero()[0].tolist()
        raise ValueError(f"{name} of prompt {prompt}, rollout {rollout} is {values[prompt, rollout].item()}; it must be finite")
