"""Self-normalised policy gradient with truncated ratios, as in StableDRL (arXiv 2603.06743)."""

from __future__ import annotations

from einops import reduce
from torch import Tensor

from dmpo_ref.config import LossConfig
from dmpo_ref.likelihood import sequence_log_prob
from dmpo_ref.masking import Masks
from dmpo_ref.objectives.base import Objective, need
from dmpo_ref.objectives.dmpo import choose_masks, mask_options, path_flags
from dmpo_ref.objectives.policy_gradient import centred
from dmpo_ref.rollout import Experience


def build(config: LossConfig, alpha: float) -> Objective:
    """Truncated and self-normalised weights on the masks of `config.masks` and `config.num_masks`, with ε = `config.clip`.

    Written from the abstract and from reading the code. Departures: the score is the ELBO for good and bad responses alike, not SPG's
    bounds; the weights are normalised over the group, not the batch; old and current ELBO share their masks. The code limits ratios
    to 5 and has no lower bound: that is ε = 4.
    """

    def loss(token_log_prob: Tensor, masks: Masks, experience: Experience, weight: Tensor) -> Tensor:
        length = reduce(experience.rollout.response_mask, "g n s -> g n", "sum")
        log_policy, log_old = (sequence_log_prob(x, masks) / length for x in (token_log_prob, need(experience.log_old)))
        return stable_drl(log_policy, log_old, centred(experience.reward), clip=config.clip)

    reads = ("clip", *mask_options(config))
    return Objective(choose_masks(config), loss, uses_log_old=True, reads=reads, **path_flags(config))


def stable_drl(log_policy: Tensor, log_old: Tensor, advantage: Tensor, *, clip: float) -> Tensor:
    """A loss whose gradient is a convex combination of those of the rollouts.

        mean over prompts of −Σ_n v[n] A[n] ELBO_θ[n]/L,   v = clip(ρ, 1−ε, 1+ε) / Σ_n clip(ρ, 1−ε, 1+ε),   ρ = exp((ELBO_θ − ELBO_old)/L)

    No gradient flows through v, and ρ is clipped whatever the sign of A: no response is silenced, and for ε < 1 none counts for more
    than (1+ε)/(1−ε) times another. On-policy v = 1/N, and the gradient is −mean A ∇ELBO/L.

    Args:
        log_policy, log_old: [G, N] ELBO/L, nats per token, on the same masks.
        advantage: [G, N] A = r − mean r. clip: ε.
    """
    ratio = (log_policy.detach() - log_old).exp().clamp(1 - clip, 1 + clip)
    share = ratio / reduce(ratio, "g n -> g 1", "sum")
    return -reduce(share * advantage * log_policy, "g n -> g", "sum").mean()
