"""AGRPO (arXiv 2510.04019): policy gradient on some steps of the rollout's own denoising path, drawn with low discrepancy."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor

from dmpo_ref.config import LossConfig
from dmpo_ref.likelihood import sequence_log_prob
from dmpo_ref.masking import Masks, draw_path_steps
from dmpo_ref.objectives.base import Objective, need
from dmpo_ref.objectives.policy_gradient import centred, clipped_gain, k3
from dmpo_ref.rollout import Experience


def build(config: LossConfig, alpha: float) -> Objective:
    """AGRPO with R = `config.num_masks` steps of each rollout, β = `config.kl`, ε = `config.clip`; new steps for each gradient step.

    Written from the abstract and the formula that follows from it. Departures: the steps are those of `draw_path_steps`, one from each of R
    strata and so without replacement; advantages are not divided by their standard deviation, nor the sum over steps by L.
    """

    def loss(token_log_prob: Tensor, masks: Masks, experience: Experience, weight: Tensor) -> Tensor:
        log_old, advantage = need(experience.log_old), centred(experience.reward)
        return agrpo(token_log_prob, log_old, experience.log_ref, masks, advantage, clip=config.clip, kl=config.kl)

    return Objective(
        lambda rollout, generators: draw_path_steps(rollout.step, rollout.num_steps, config.num_masks, generators),
        loss,
        uses_log_old=True,
        reads=("num_masks", "kl", "clip"),
        uses_log_ref=config.kl > 0,
        draws_steps=True,
    )


def agrpo(
    token_log_prob: Tensor, log_old: Tensor, log_ref: Tensor | None, masks: Masks, advantage: Tensor, *, clip: float, kl: float
) -> Tensor:
    """The loss of AGRPO.

        mean over responses of mean_j R n_j Σ_{k placed in t_j} [ −min(ρ_k A, clip(ρ_k) A) + β (e^{d_k} − d_k − 1) ]

    Its mean over the draws of steps is the sum along the whole path. So on-policy, where ρ = 1, its expected gradient is that of
    REINFORCE, −mean A ∇log p(o; σ), at the price of R rows; in later steps of a round the ratios are clipped token by token.

    Args:
        token_log_prob, log_old, log_ref: [G, N, R, S] nats, on the same steps; `log_ref` is None for β = 0.
        masks: the steps with their weights R n_j, see `path_steps_from_uniforms`.
        advantage: [G, N] A. clip: ε. kl: β.
    """
    per_token = -clipped_gain(token_log_prob - log_old, rearrange(advantage, "g n -> g n 1 1"), clip)
    if log_ref is not None:
        per_token = per_token + kl * k3(token_log_prob - log_ref)
    return sequence_log_prob(per_token * masks.target, masks).mean()  # the same weighted sum
