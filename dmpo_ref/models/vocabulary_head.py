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


def head_log_prob(
    hidden: Tensor, weight: Tensor, tokens: Tensor, allowed: Tensor, temperature: float = 1.0, *, float32_logits: bool = False
) -> Tensor:
    """log softmax(W h / T)[token] for every position, over the allowed tokens.

    Args:
        hidden: [K, d] final hidden states h.
        weight: [V, d] W of the vocabulary head.
        tokens: [K] ids of the tokens to score.
        allowed: [V] bool; the softmax runs over these rows.
        temperature: T > 0.
        float32_logits: do not round the logits of a bfloat16 model, see `project`.

    Returns:
        [K] float32 (float64 for a float64 model), nats. Differentiable in `hidden` and `weight`:
        ∂/∂h = (W[token] − Σ_v p_v W[v]) / T, which is kept from the forward pass, and
        ∂/∂W = (onehot(token) − p) hᵀ / T, for which the chunks are computed once more.
    """
    return HeadLogProb.apply(hidden, weight, tokens, allowed, temperature, float32_logits)


class HeadLogProb(torch.autograd.Function):
    """See `head_log_prob`."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, tokens: Tensor, allowed: Tensor, temperature: float, float32_logits: bool) -> Tensor:
        scores, directions = [], []
        for rows in chunks(hidden, weight):
            log_p = restricted_log_softmax(hidden[rows], weight, allowed, temperature, float32_logits)
            scores.append(log_p.gather(-1, tokens[rows].unsqueeze(-1)).squeeze(-1))
            if ctx.needs_input_grad[0]:
                mean = log_p.exp_().to(weight.dtype) @ weight
                directions.append((weight[tokens[rows]] - mean) / temperature)
        ctx.options = temperature, float32_logits
        # The hidden states themselves are needed for a trainable head only.
        hidden_kept = hidden if ctx.needs_input_grad[1] else hidden.new_empty(0)
        ctx.save_for_backward(hidden_kept, weight, tokens, allowed, torch.cat(directions) if directions else None)
        return torch.cat(scores)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, tokens, allowed, direction = ctx.saved_tensors
        grad_hidden = None if direction is None else (grad_output.unsqueeze(-1) * direction).to(direction.dtype)
        grad_weight, (temperature, _) = None, ctx.options
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight)
            for rows in chunks(hidden, weight):
                p = restricted_log_softmax(hidden[rows], weight, allowed, *ctx.options).exp_()
                residual = p.neg_().scatter_add_(-1, tokens[rows].unsqueeze(-1), torch.ones_like(p[:, :1]))
                residual *= grad_output[rows].unsqueeze(-1) / temperature
                grad_weight += residual.to(weight.dtype).T @ hidden[rows]
        return grad_hidden, grad_weight, None, None, None, None


def chunks(hidden: Tensor, weight: Tensor) -> list[slice]:
    """Slices of positions, `chunk_size` each; one if there are no positions: other processes may wait even for an empty gradient."""
    size = chunk_size(len(weight))
    return [slice(start, start + size) for start in range(0, len(hidden) or 1, size)]


def restricted_log_softmax(hidden: Tensor, weight: Tensor, allowed: Tensor, temperature: float, float32_logits: bool) -> Tensor:
    """log softmax over the allowed tokens of one chunk, [k, V] in float32 or wider; −∞ elsewhere."""
    logits = project(hidden, weight, float32_logits)
    wide = logits if logits.dtype == torch.float64 else logits.float()
    wide = wide.masked_fill_(~allowed, -torch.inf)
    wide /= temperature
    wide -= wide.logsumexp(dim=-1, keepdim=True)
    return wide


def project(hidden: Tensor, weight: Tensor, float32_logits: bool) -> Tensor:
    """Logits W h of one chunk, [k, V] in the type of the weights, or float32.

    A product of bfloat16 matrices is summed in float32 and rounded to bfloat16 in the end, a logit of 20 by up to 1/16. At LLaDA's
    sizes that is a noise of 0.03 nats in each log-probability, 0.5 in a sum over 256 tokens, and about as much in an ELBO of 4 masks.
    Without that rounding a GPU needs one tensor fewer. A CPU has no such product: it makes a float32 copy of W for each chunk, 2 GB for
    LLaDA-8B.
    """
    if not float32_logits or hidden.dtype != torch.bfloat16:
        return hidden @ weight.T
    return torch.mm(hidden, weight.T, out_dtype=torch.float32) if hidden.is_cuda else hidden.float() @ weight.float().T
