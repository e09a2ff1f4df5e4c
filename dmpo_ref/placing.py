"""What the samplers share: proposed tokens and how sure the model is of them, guided logits, and rows that are finished."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn import Module

from dmpo_ref.head import chunk_size
from dmpo_ref.likelihood import Vocabulary
from dmpo_ref.model import KeyValueCache
from dmpo_ref.rollout import Prompts

CPU_CHUNK_ELEMENTS = 2**17  # 1 MB in float64: it stays in the cache; larger temporaries are fresh memory pages each time


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
    drawn = [draw(vocabulary.restrict(part).double(), temperature, u) for part, u in parts]
    token, log_prob, confidence = (torch.cat(values) for values in zip(*drawn, strict=True))
    return token, log_prob, confidence


def chunk_rows(logits: Tensor) -> int:
    """Positions in one chunk of logits [K, V]."""
    return chunk_size(logits.shape[-1]) if logits.is_cuda else max(1, CPU_CHUNK_ELEMENTS // logits.shape[-1])


def draw(logits: Tensor, temperature: float, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`propose` for one chunk of logits, float64 and −∞ where a token is not allowed."""
    logits = logits - logits.amax(dim=-1, keepdim=True)
    total = total_at_1 = logits.exp().sum(dim=-1, keepdim=True)
    if temperature == 0:
        token = logits.argmax(dim=-1, keepdim=True)
    else:
        cdf = (logits / temperature).exp_().cumsum_(dim=-1)
        total = cdf[:, -1:]
        # The first token whose CDF exceeds u · total. Kept below the total whatever the rounding, so that it is a token of
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


def largest(score: Tensor, candidate: Tensor, quota: Tensor) -> Tensor:
    """The `quota` [B] candidates [B, S] of each row with the largest score [B, S], as a bool mask."""
    order = score.double().masked_fill(~candidate, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    rank = order.argsort(dim=-1)
    return candidate & (rank < quota.unsqueeze(-1))


def scatter(values: Tensor, where: Tensor, fill_value: float) -> Tensor:
    """Values [K] at the True places of `where` [B, S] in row-major order, `fill_value` elsewhere."""
    return torch.full(where.shape, fill_value, dtype=torch.float64, device=where.device).masked_scatter(where, values.double())


class Guided:
    """A mask predictor under classifier-free guidance (LLaDA, arXiv 2502.09992): logits u + (s + 1)(c − u).

    c are the model's logits, u those for the same sequence with everything that was given (the prompt, and clues in the
    response) masked. Both are fed in one forward pass, of twice as many sequences.

    Args:
        given: [B, S] bool.
        scale: s; 0 is no guidance.
    """

    def __init__(self, model: Module, given: Tensor, mask_token_id: int, scale: float):
        self.model, self.given, self.mask_token_id, self.scale = model, given, mask_token_id, scale

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, select: Tensor, cache: KeyValueCache | None) -> SimpleNamespace:
        """`.logits` [K, V] at the selected positions of B rows, in float32 or wider."""
        given = self.given if cache is None else self.given[:, cache.fed]
        both = torch.cat((input_ids, input_ids.masked_fill(given, self.mask_token_id)))
        logits = self.model(input_ids=both, attention_mask=attention_mask.repeat(2, 1), select=select.repeat(2, 1), cache=cache).logits
        c, u = (logits if logits.dtype == torch.float64 else logits.float()).chunk(2)
        return SimpleNamespace(logits=u + (self.scale + 1) * (c - u))


@dataclass
class Rows:
    """Base of what a sampler knows of B rows while it fills them: every field is a tensor with one entry for each row.

    Attributes:
        row: [B] which row of the batch it is.
        tokens, masked, step: [B, S] the tokens, what is to be placed, the forward pass in which a position was last placed.
        attention_mask, answer: [B, S] bool, all but the padding, and of that what follows the prompt.
        uniform: [B, T + 1, S] float64, what tokens are drawn with.
    """

    row: Tensor
    tokens: Tensor
    masked: Tensor
    step: Tensor
    attention_mask: Tensor
    answer: Tensor
    uniform: Tensor

    @staticmethod
    def start(prompts: Prompts, uniform: Tensor) -> dict[str, Tensor]:
        """These fields of rows in which nothing is placed yet."""
        return {
            "row": torch.arange(len(uniform), device=uniform.device),
            "tokens": prompts.tokens,
            "masked": prompts.response_mask,
            "step": torch.full_like(prompts.tokens, -1),
            "attention_mask": prompts.attention_mask,
            "answer": prompts.attention_mask & ~prompts.prompt_mask,
            "uniform": uniform,
        }

    def select(self, rows: Tensor) -> Rows:
        """Only those rows ([B] bool)."""
        return replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def close_ended(state: Rows, unsettled: Tensor, end_tokens: Tensor, now: int) -> Tensor:
    """Fill the rest of every row whose answer has ended with the end token that it has, in place.

    An answer has ended if it has an end token and everything before the first one is settled.

    Args:
        unsettled: [B, S] bool, positions that may still change.
        end_tokens: [E] ids.
        now: the `step` of what is filled in, the last forward pass in which the row was fed.

    Returns:
        [B] bool, rows with nothing left to place.
    """
    is_end = state.answer & ~unsettled & torch.isin(state.tokens, end_tokens)
    before = is_end.cumsum(dim=-1) == 0
    ended = is_end.any(dim=-1) & ~(unsettled & before).any(dim=-1)
    end = state.tokens.gather(1, is_end.long().argmax(dim=-1, keepdim=True))  # the first one, where there is one
    rest = state.masked & ended.unsqueeze(-1)
    state.tokens = torch.where(rest, end, state.tokens)
    state.step = state.step.masked_fill(rest, now)
    state.masked = state.masked & ~rest
    return ~state.masked.any(dim=-1)


def join(parts: list[Rows], *names: str) -> list[Tensor]:
    """Fields of rows that were finished in several parts, put back in order."""
    order = torch.cat([part.row for part in parts]).argsort()
    return [torch.cat([getattr(part, name) for part in parts])[order] for name in names]
