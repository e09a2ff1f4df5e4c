"""The two losses of DMPO, pure functions of [G, N] tensors: weighted denoising cross-entropy (WDCE) and weighted direct discriminative
optimisation (WDDO). `objectives` says on which masks their log-probabilities are computed."""

from __future__ import annotations

from einops import reduce
from torch import Tensor
from torch.nn import functional as F


def wdce(sequence_log_prob: Tensor, weight: Tensor) -> Tensor:
    """Weighted denoising cross-entropy: maximum likelihood on rollouts weighted towards p*.

        WDCE = mean over prompts of Σ_n w_real[n] · (−sequence_log_prob[n]),   sequence_log_prob = −L_θ / L, or −L_θ

    Args:
        sequence_log_prob: [G, N], the negative NELBO estimate of the current policy (averaged over its masks), divided by L
            for the published scale.
        weight: [G, N] w_real = w − strength · w_base; its rows sum to 1 − strength, or to 1 without a baseline, unless w are rewards.
    """
    return -reduce(weight * sequence_log_prob, "g n -> g", "sum").mean()


def wddo(delta: Tensor, weight: Tensor) -> Tensor:
    """Weighted direct discriminative optimisation: tell samples of p* from samples of p_old.

        WDDO = mean over prompts of −Σ_n w[n] log sigmoid(Δ[n]) − (1/N) Σ_n log sigmoid(−Δ[n]),   Δ = log p_θ − log p_old

    Σ w = 1 stands for E_{p*} and 1/N for E_{p_old}, so it is stationary at e^Δ = N·w. Δ is averaged over its masks
    *before* the sigmoid. With exact log-probabilities the optimum is p*; the noise and the gap of ELBOs bias it.

    Args:
        delta: [G, N] Δ, both log-probabilities on the same masks.
        weight: [G, N] w, rows sum to 1.
    """
    positive = reduce(weight * F.logsigmoid(delta), "g n -> g", "sum")
    negative = reduce(F.logsigmoid(-delta), "g n -> g", "mean")
    return -(positive + negative).mean()
