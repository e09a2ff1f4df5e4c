"""SPG, sandwiched policy gradient (arXiv 2510.09541): a lower bound of the log-likelihood for good responses, an upper one for bad."""

from __future__ import annotations

import torch
from einops import rearrange, reduce
from torch import Tensor

from dmpo_ref.config import LossConfig
from dmpo_ref.likelihood import sequence_log_prob
from dmpo_ref.masking import Masks
from dmpo_ref.objectives.base import Objective
from dmpo_ref.objectives.dmpo import choose_masks, mask_options, path_flags
from dmpo_ref.objectives.policy_gradient import centred
from dmpo_ref.rollout import Experience

EXPONENT, MIXTURE = 1.5, 0.5  # b of the upper bound, and ω, its share for responses of negative advantage; as published


def build(config: LossConfig, alpha: float) -> Objective:
    """SPG on the masks of `config.masks` (published: like `exact`) and `config.num_masks`. No old and no reference policy.

    Departures: masks of the whole response, not of one block, and none of the prompt; positions after an end token count too; the
    mean over responses, where the published code weights them by their lengths.
    """

    def loss(token_log_prob: Tensor, masks: Masks, experience: Experience, weight: Tensor) -> Tensor:
        length = reduce(experience.rollout.response_mask, "g n s -> g n", "sum")
        lower, upper = sequence_log_prob(token_log_prob, masks) / length, upper_bound(token_log_prob, masks, exponent=EXPONENT)
        return spg(lower, upper, experience.reward, mixture=MIXTURE)

    return Objective(choose_masks(config), loss, reads=mask_options(config), **path_flags(config))


def spg(lower: Tensor, upper: Tensor, reward: Tensor, *, mixture: float) -> Tensor:
    """The loss of SPG: −mean A s, s = ELBO where A = r − mean r > 0, else ω EUBO + (1−ω) ELBO; both per token.

    Args:
        lower, upper: [G, N] ELBO/L and EUBO/L, nats per token.
        reward: [G, N] r. mixture: ω.
    """
    advantage = centred(reward)
    return -(advantage * torch.where(advantage > 0, lower, mixture * upper + (1 - mixture) * lower)).mean()


def upper_bound(token_log_prob: Tensor, masks: Masks, *, exponent: float) -> Tensor:
    """EUBO/L = mean over positions k of (1/b) log [ mean over masks of weight · 1[k scored] π_k^b ],   [G, N] nats per token.

    The weight L/m turns the inner mean into E[π_k^b] over what else is hidden. Over all masks EUBO ≥ ELBO, by Jensen's inequality. It
    is a bound of log p(o) where the orders agree, as ELBO = log p(o) there, and need not be one where they do not: let π give token 1
    probability 0.9 before token 2 and 0.1 after it, and token 2 0.1 before token 1 and 0.9 after it. Then p(o) = 0.41, and EUBO is
    ln 0.25 at b = 1. The mean over few masks stands inside the log, so EUBO is too small on average: from one mask it is ELBO plus
    a constant, with the gradient of the ELBO, and from a set and its complement (`antithetic`), which score every position once, its
    gradient is 1/L at every position, whatever the probabilities are. So it needs masks that overlap, as `exact` draws. Positions that
    no mask scored are left out of the outer mean, as in the published code.

    Args:
        token_log_prob: [G, N, R, S] nats.
        exponent: b.
    """
    scored = masks.target * rearrange(masks.weight, "g n r -> g n r 1")
    inner = reduce(scored * (exponent * token_log_prob.double()).exp(), "g n r s -> g n s", "mean")
    seen = reduce(scored, "g n r s -> g n s", "sum") > 0
    return reduce(inner.masked_fill(~seen, 1).log(), "g n s -> g n", "sum") / exponent / reduce(seen, "g n s -> g n", "sum").clamp(min=1)
