"""Products of marginals, q(o) = Π_k q_k(o_k), over the answers to a puzzle: what a one-shot log-probability can represent."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def log_product(log_q: Tensor, answers: Tensor) -> Tensor:
    """log q(o) = Σ_k log q_k(o_k) of every answer: [..., n, A] log-marginals, [C, n] int64 symbols → [..., C]."""
    return log_q[..., torch.arange(answers.shape[1]), answers].sum(dim=-1)


def marginals(log_prob: Tensor, answers: Tensor, num_symbols: int) -> Tensor:
    """P(o_k = a) = Σ_o p(o) 1[o_k = a], the product that is nearest in forward KL: [C], [C, n] → [n, A].

    KL(p‖q) = Σ_k cross-entropy of p's k-th marginal and q_k + const, and each term is least where the two are equal.
    """
    return torch.einsum("c,cka->ka", log_prob.exp(), torch.nn.functional.one_hot(answers, num_symbols).to(log_prob.dtype))


def descend_products(
    loss: Callable[[Tensor], Tensor], starts: Tensor, answers: Tensor, *, steps: int = 1000, learning_rate: float = 0.05
) -> Tensor:
    """log q [K, C] of K products, each after so many steps of Adam on its own loss.

    Args:
        loss: of log q [K, C], the K values.
        starts: [K, n, A] logits of the marginals. They are not changed.
        answers: [C, n] int64.
    """
    logits = starts.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=learning_rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(log_product(logits.log_softmax(dim=-1), answers)).sum().backward()
        optimizer.step()
    return log_product(logits.detach().log_softmax(dim=-1), answers)
