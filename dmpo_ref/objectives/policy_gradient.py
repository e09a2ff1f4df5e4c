"""Pure functions of tensors that several policy-gradient objectives share: advantages, the clipped ratio, estimates of a KL."""

from __future__ import annotations

from einops import reduce
from torch import Tensor, minimum


def centred(reward: Tensor) -> Tensor:
    """A = r − mean of its group, [G, N]. The mean includes r itself, so E[A ∇log p] is (N−1)/N of the gradient of E[r]."""
    return reward - reduce(reward, "g n -> g 1", "mean")


def leave_one_out(reward: Tensor) -> Tensor:
    """A = r − mean of the others in its group, [G, N]: `centred` times N/(N−1), so that the gradient is unbiased."""
    N = reward.shape[-1]
    return reward - (reduce(reward, "g n -> g 1", "sum") - reward) / (N - 1)


def clipped_gain(delta: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """min(ρA, clip(ρ, 1−ε, 1+ε) A), ρ = e^delta: no gradient where ρ has gone too far in the direction of A. Any one shape."""
    ratio = delta.exp()
    return minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def k2(to_ref: Tensor) -> Tensor:
    """½ (log p_θ − log p_ref)². On rollouts of p_θ its gradient estimates that of KL(p_θ‖p_ref) without bias; its value does not."""
    return to_ref.square() / 2


def k3(to_ref: Tensor) -> Tensor:
    """e^d − d − 1, d = −to_ref = log p_ref − log p_θ. On rollouts of p_θ its value estimates KL(p_θ‖p_ref) without bias.

    Its gradient (1 − e^d) ∇log p_θ does not: it is that of KL(p_ref‖p_θ), so the optimum is not p*.
    """
    return (-to_ref).exp() + to_ref - 1
