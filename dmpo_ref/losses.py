"""The two objectives of DMPO: weighted denoising cross-entropy (WDCE) and weighted direct discriminative optimisation (WDDO).

An objective is two functions. `views(rollout, generators)` says which positions are hidden and scored; `loss(log_prob,
views, experience, weight)` turns the token log-probabilities under those views into a scalar and is pure. `train` runs
the model between them and knows nothing else about an objective. Other people's objectives, in the same form, are in `rivals`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from einops import reduce
from torch import Tensor
from torch.nn import functional as F

from dmpo_ref.config import LossConfig
from dmpo_ref.likelihood import log_likelihood
from dmpo_ref.masking import Views, draw_views, path_views
from dmpo_ref.rollout import Rollout


@dataclass
class Experience:
    """Scored rollouts of G prompts, as they lie in the buffer; ℓ and w are computed once, when they are drawn.

    Attributes:
        rollout: the responses.
        position: G indices of the prompts in the data stream of the run; they key the random streams.
        reward: [G, N].
        weight: [G, N] float64, w.
        base_weight: [G, N] float64, strength · w_base (0 for the `model` baseline, which depends on the current policy).
        log_old, log_ref: [K, G, N, R, S] float32, token log-probabilities under p_old and p_ref on the masks of each of the K
            gradient steps of a round (K = 1 along the path, where all are alike), for objectives that use them; else None.
    """

    rollout: Rollout
    position: list[int]
    reward: Tensor
    weight: Tensor
    base_weight: Tensor
    log_old: Tensor | None = None
    log_ref: Tensor | None = None

    def to(self, device: torch.device) -> Experience:
        """The same on another device."""
        moved = {f.name: value.to(device) if isinstance(value := getattr(self, f.name), Tensor) else value for f in fields(self)}
        return Experience(**moved | {"rollout": self.rollout.to(device)})

    def select(self, prompts: Sequence[int], k: int) -> Experience:
        """These prompts, with `log_old` and `log_ref` of the k-th gradient step alone: [G, N, R, S]."""
        index = torch.tensor(list(prompts), device=self.reward.device)

        def of_step(stored: Tensor | None) -> Tensor | None:
            return None if stored is None else stored[k % len(stored)].index_select(0, index)

        return Experience(
            self.rollout.select(index),
            [self.position[i] for i in prompts],
            *(x.index_select(0, index) for x in (self.reward, self.weight, self.base_weight)),
            log_old=of_step(self.log_old),
            log_ref=of_step(self.log_ref),
        )


def follow_path(rollout: Rollout, generators: object = None) -> Views:
    """`Objective.views` of objectives on the exact log p(o; σ): each rollout's own order, in which nothing is random."""
    return path_views(rollout.step, rollout.num_steps)


@dataclass
class Objective:
    """`views` and `loss` (see above), and what `train` must know of them.

    Attributes:
        uses_log_old: the loss subtracts log p_old, so each step re-uses the masks on which it was stored.
        is_linear: the loss is linear in the token log-probabilities, so its gradient is known before the forward pass.
        uses_log_ref: the same as `uses_log_old` for log p_ref; the run then keeps a reference, whatever the weights need.
        follows_path: the views are the rollout's own order, alike in every step.
    """

    views: Callable[[Rollout, list[torch.Generator]], Views]
    loss: Callable[[Tensor, Views, Experience, Tensor], Tensor]
    uses_log_old: bool
    is_linear: bool
    uses_log_ref: bool = False
    follows_path: bool = False


def build_objective(config: LossConfig, alpha: float) -> Objective:
    """The objective that the config names; α is the temperature of the target, for an objective that has no weights to carry it."""
    if config.name not in ("wdce", "wddo"):
        from dmpo_ref.rivals import RIVALS  # which build on this file

        return RIVALS[config.name](config, alpha)

    def views(rollout: Rollout, generators: list[torch.Generator]) -> Views:
        if config.masks == "path":
            return follow_path(rollout)
        return draw_views(config.masks, rollout.response_mask, config.num_replicates, generators)

    def loss(log_prob: Tensor, views: Views, experience: Experience, weight: Tensor) -> Tensor:
        if config.name == "wddo":
            log_old = log_likelihood(experience.log_old, views)
            return wddo(log_likelihood(log_prob, views) - log_old, weight)
        length = reduce(experience.rollout.response_mask, "g n s -> g n", "sum") if config.normalise == "length" else 1
        return wdce(log_likelihood(log_prob, views) / length, weight)

    is_wddo = config.name == "wddo"
    return Objective(views, loss, uses_log_old=is_wddo, is_linear=not is_wddo, follows_path=config.masks == "path")


def wdce(log_prob: Tensor, weight: Tensor) -> Tensor:
    """Weighted denoising cross-entropy: maximum likelihood on rollouts weighted towards p*.

        WDCE = mean over prompts of Σ_n w_real[n] · (−log_prob[n]),   log_prob = −L_θ / L, or −L_θ

    Args:
        log_prob: [G, N], the negative NELBO estimate of the current policy (averaged over replicates), divided by L
            for the published scale.
        weight: [G, N] w_real = w − strength · w_base; its rows sum to 1 − strength (or 1 without baseline).
    """
    return -reduce(weight * log_prob, "g n -> g", "sum").mean()


def wddo(log_ratio: Tensor, weight: Tensor) -> Tensor:
    """Weighted direct discriminative optimisation: tell samples of p* from samples of p_old.

        WDDO = mean over prompts of −Σ_n w[n] log σ(Δ[n]) − (1/N) Σ_n log σ(−Δ[n]),   Δ = log p_θ − log p_old

    Σ w = 1 stands for E_{p*} and 1/N for E_{p_old}, so it is stationary at e^Δ = N·w. Δ is averaged over replicates
    *before* the sigmoid. Exact log-probabilities give p*; the noise and the gap of ELBOs bias it.

    Args:
        log_ratio: [G, N] Δ, both log-probabilities on the same masks.
        weight: [G, N] w, rows sum to 1.
    """
    positive = reduce(weight * F.logsigmoid(log_ratio), "g n -> g", "sum")
    negative = reduce(F.logsigmoid(-log_ratio), "g n -> g", "mean")
    return -(positive + negative).mean()
