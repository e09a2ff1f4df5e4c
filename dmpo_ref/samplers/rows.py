"""?"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from dmpo_ref.rollout import Prompts


def largest(score: Tensor, candidate: Tensor, quota: Tensor) -> Tensor:
    """The `quota` [B] candidates [B, S] of each row with the largest score [B, S], as a bool mask."""
    order = score.double().masked_fill(~candidate, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    rank = order.argsort(dim=-1)
    return candidate & (rank < quota.unsqueeze(-1))


def scatter(values: Tensor, where: Tensor, fill_value: float) -> Tensor:
    """Values [K] at the True places of `where` [B, S] in row-major order, `fill_value` elsewhere."""
    return torch.full(where.shape, fill_value, dtype=torch.float64, device=where.device).masked_scatter(where, values.double())


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
