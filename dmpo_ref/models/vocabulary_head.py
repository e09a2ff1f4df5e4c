"""Log-probabilities of given tokens under the vocabulary head, without ever holding the [positions, vocabulary] logits.

Logits of 16 sequences of 384 positions over 126,464 tokens are 3 GB in float32, and a loss reads one number in each row.
Here rows are projected a chunk at a time, and the gradient in the hidden state is formed in the same pass: it is a vector
for each position that depends on nothing downstream.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ELEMENTS = 2**25  # logits alive at a time: 134 MB in float32, 265 positions of LLaDA's vocabulary


def chunk_size(vocabulary_size: int) -> int:
    """Positions in one chunk."""
    return max(1, CHUNK_ELEMENTS // vocabulary_size)


def head_log_prob(hidden: Tensor, weight: Tensor, tokens: Tensor, allowed: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(W h / T)[token] for every position, over the allowed tokens.

    Args:
        hidden: [K, d] final hidden states h.
        weight: [V, d] W of the vocabulary head.
        tokens: [K] ids of the tokens to score.
        allowed: [V] bool; the softmax runs over these rows.
        temperature: T > 0.

    Returns:
        [K] float32 (float64 for a float64 model), nats. Differentiable in `hidden` and `weight`:
        ∂/∂h = (W[token] − Σ_v p_v W[v]) / T, which is kept from the forward pass, and
        ∂/∂W = (onehot(token) − p) hᵀ / T, for which the chunks are computed once more.
    """
    return HeadLogProb.apply(hidden, weight, tokens, allowed, temperature)


class HeadLogProb(torch.autograd.Function):
    """See `head_log_prob`."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, tokens: Tensor, allowed: Tensor, temperature: float) -> Tensor:
        scores, directions = [], []
        for rows in chunks(hidden, weight):
            log_p = restricted_log_softmax(hidden[rows], weight, allowed, temperature)
            scores.append(log_p.gather(-1, tokens[rows].unsqueeze(-1)).squeeze(-1))
            if ctx.needs_input_grad[0]:
                mean = log_p.exp_().to(weight.dtype) @ weight
                directions.append((weight[tokens[rows]] - mean) / temperature)
        ctx.temperature = temperature
        # The hidden states themselves are needed for a trainable head only.
        hidden_kept = hidden if ctx.needs_input_grad[1] else hidden.new_empty(0)
        ctx.save_for_backward(hidden_kept, weight, tokens, allowed, torch.cat(directions) if directions else None)
        return torch.cat(scores)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, tokens, allowed, direction = ctx.saved_tensors
        grad_hidden = None if direction is None else (grad_output.unsqueeze(-1) * direction).to(direction.dtype)
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight)
            for rows in chunks(hidden, weight):
                p = restricted_log_softmax(hidden[rows], weight, allowed, ctx.temperature).exp_()
                residual = p.neg_().scatter_add_(-1, tokens[rows].unsqueeze(-1), torch.ones_like(p[:, :1]))
                residual *= grad_output[rows].unsqueeze(-1) / ctx.temperature
                grad_weight += residual.to(weight.dtype).T @ hidden[rows]
        return grad_hidden, grad_weight, None, None, None


def chunks(hidden: Tensor, weight: Tensor) -> list[slice]:
    """Slices of positions, `chunk_size` each; one, if there are none: an empty gradient flows too, other processes may wait for it."""
    size = chunk_size(len(weight))
    return [slice(start, start + size) for start in range(0, len(hidden) or 1, size)]


def restricted_log_softmax(hidden: Tensor, weight: Tensor, allowed: Tensor, temperature: float) -> Tensor:
    """log softmax over the allowed tokens of one chunk, [k, V] in float32 or wider; −∞ elsewhere."""
    logits = hidden @ weight.T
    wide = logits if logits.dtype == torch.float64 else logits.float()
    wide = wide.masked_fill_(~allowed, -torch.inf)
    wide /= temperature
    wide -= wide.logsumexp(dim=-1, keepdim=True)
    return wide
