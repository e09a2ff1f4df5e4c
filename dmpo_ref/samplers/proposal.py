"""From logits to tokens: the tokens that a sampler proposes, and the probability of these or of given tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from dmpo_ref.likelihood import Vocabulary
from dmpo_ref.models.vocabulary_head import chunk_size

CPU_CHUNK_ELEMENTS = 2**17  # 1 MB in float64: stays in the CPU's cache; larger temporaries need new memory pages each time


def propose(logits: Tensor, vocabulary: Vocabulary, temperature: float, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Draw one token for each of K positions, a chunk of positions at a time: float64 copies of all logits could be large.

    Args:
        logits: [K, V] of the model.
        uniform: [K] on [0, 1), float64.

    Returns:
        token: [K], from softmax(logits / T) over the allowed tokens by inverse CDF in float64; the most probable at T = 0.
        log_prob: [K] float64, its log-probability under softmax(logits / T) (under T = 1 when T = 0).
        confidence: [K] float64, its probability under softmax(logits).
    """
    size = chunk_rows(logits)
    parts = zip(logits.split(size), uniform.split(size), strict=True)
    drawn = [draw_tokens(vocabulary.restrict(part).double(), temperature, u) for part, u in parts]
    token, log_prob, confidence = (torch.cat(values) for values in zip(*drawn, strict=True))
    return token, log_prob, confidence


def chunk_rows(logits: Tensor) -> int:
    """Positions in one chunk of logits [K, V]."""
    return chunk_size(logits.shape[-1]) if logits.is_cuda else max(1, CPU_CHUNK_ELEMENTS // logits.shape[-1])


def draw_tokens(logits: Tensor, temperature: float, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`propose` for one chunk of logits, float64 and −∞ where a token is not allowed."""
    logits = logits - logits.amax(dim=-1, keepdim=True)
    total = total_at_1 = logits.exp().sum(dim=-1, keepdim=True)
    if temperature == 0:
        token = logits.argmax(dim=-1, keepdim=True)
    else:
        cdf = (logits / temperature).exp_().cumsum_(dim=-1)
        total = cdf[:, -1:]
        # The first token whose CDF exceeds u · total. `below` is less than the total despite rounding, so that the token has
        # positive probability; the clamp is for NaN logits, which the caller reports.
        below = torch.minimum(uniform.unsqueeze(-1) * total, torch.nextafter(total, torch.zeros_like(total)))
        token = torch.searchsorted(cdf, below, right=True).clamp(max=logits.shape[-1] - 1)
    chosen = logits.gather(-1, token)
    log_prob, confidence = chosen / (temperature or 1.0) - total.log(), chosen.exp() / total_at_1
    return token.squeeze(-1), log_prob.squeeze(-1), confidence.squeeze(-1)


def token_probability(logits: Tensor, vocabulary: Vocabulary, token: Tensor) -> Tensor:
    """softmax(logits) over the allowed vocabulary [K, V] at given tokens [K], float64, a chunk of positions at a time."""
    size = chunk_rows(logits)
    parts = zip(logits.split(size), token.split(size), strict=True)
    log_p = [vocabulary.restrict(part).double().log_softmax(dim=-1).gather(-1, t.unsqueeze(-1)) for part, t in parts]
    return torch.cat(log_p).squeeze(-1).exp()


def refuse_broken_logits(finite: Tensor) -> None:
    """Raise a ValueError unless `finite` is all True; it says which numbers computed from logits are finite."""
    if not finite.all():
        raise ValueError(
            "the model returned logits that are NaN or all −∞ while sampling: perhaps its weights are broken, or an option is too high "
            "(optimizer.learning_rate, model.lora_alpha, sampler.guidance)"
        )
