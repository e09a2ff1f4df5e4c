"""Rows while a sampler fills them: their state, how finished rows leave the batch, and the result."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from torch import Tensor

from dmpo_ref.rollout import Prompts

SomeRows = TypeVar("SomeRows", bound="Rows")


@dataclass
class Filled:
    """B finished rows.

    Attributes:
        tokens: [B, S] ids.
        step: [B, S] the forward pass in which a position was last placed, −1 where nothing was generated.
        forwards: number of forward passes.
        fed_tokens: number of tokens fed in them.
        confidence: [B, S] float32, see `Rollout`.
        path_log_prob: [B] float64, of the path that `step` describes, in nats; None if `has_path_log_prob` is false.
    """

    tokens: Tensor
    step: Tensor
    forwards: int
    fed_tokens: int
    confidence: Tensor
    path_log_prob: Tensor | None = None


@dataclass
class Rows:
    """State of B rows while a sampler fills them: every field but `padded` is a tensor with one entry for each row.

    Attributes:
        row: [B] index of the row in the batch.
        tokens, masked, step, confidence: [B, S] the tokens, the positions still to be filled, and `step` and `confidence` of `Filled`.
        block: [B, S] the number of each position's block, −1 where nothing is generated.
        attention_mask, answer: [B, S] bool, everything but padding, and the part of it after the prompt.
        uniform: [B, T + 1, S] on [0, 1), float64, from which tokens are drawn.
        padded: as in `Prompts`.
    """

    row: Tensor
    tokens: Tensor
    masked: Tensor
    step: Tensor
    confidence: Tensor
    block: Tensor
    attention_mask: Tensor
    answer: Tensor
    uniform: Tensor
    padded: bool

    @classmethod
    def start(cls: type[SomeRows], prompts: Prompts, block_length: int | None, uniform: Tensor, **more: Tensor) -> SomeRows:
        """Rows in which nothing is placed yet; `more` are the fields that a sampler adds."""
        index = prompts.response_mask.long().cumsum(dim=-1) - 1  # index of a position in its response
        return cls(
            row=torch.arange(len(uniform), device=uniform.device),
            tokens=prompts.tokens,
            masked=prompts.response_mask,
            step=torch.full_like(prompts.tokens, -1),
            confidence=torch.ones_like(prompts.tokens, dtype=torch.float32),
            block=(index // (block_length or index.shape[-1])).masked_fill(~prompts.response_mask, -1),
            attention_mask=prompts.attention_mask,
            answer=prompts.attention_mask & ~prompts.prompt_mask,
            uniform=uniform,
            padded=prompts.padded,
            **more,
        )

    def current_block(self) -> Tensor:
        """The number of each row's first block that is not complete, S if all are; [B, 1]."""
        return torch.where(self.masked, self.block, self.block.shape[1]).amin(dim=-1, keepdim=True)

    def select(self: SomeRows, rows: list[int]) -> SomeRows:
        """Only the rows at these places."""
        index = torch.tensor(rows, dtype=torch.long, device=self.row.device)
        return replace(self, **{f.name: getattr(self, f.name)[index] for f in fields(self) if f.name != "padded"})


def set_aside_finished(state: SomeRows, finished: list[SomeRows], unsettled: Tensor, end_tokens: Tensor, now: int) -> SomeRows:
    """Move the rows with nothing left to place to the list `finished`; returns the others.

    First, every answer that has ended is filled up with its end token. It has ended if it has an end token and everything
    before the first one is settled.

    Args:
        unsettled: [B, S] bool, positions that may still change.
        end_tokens: [E] ids.
        now: number of the last forward pass, the `step` of positions filled with the end token.
    """
    is_end = state.answer & ~unsettled & torch.isin(state.tokens, end_tokens)
    before = is_end.cumsum(dim=-1) == 0
    ended = is_end.any(dim=-1) & ~(unsettled & before).any(dim=-1)
    end = state.tokens.gather(1, is_end.long().argmax(dim=-1, keepdim=True))  # the first one, where there is one
    rest = state.masked & ended.unsqueeze(-1)
    state.tokens = torch.where(rest, end, state.tokens)
    state.step = state.step.masked_fill(rest, now)
    state.confidence = state.confidence.masked_fill(rest, 1.0)
    state.masked = state.masked & ~rest
    is_open = state.masked.any(dim=-1).tolist()  # without a cache the only place where the host waits to learn how far the rows are
    if all(is_open):
        return state
    finished.append(state.select([i for i, more in enumerate(is_open) if not more]))
    return state.select([i for i, more in enumerate(is_open) if more])


def in_batch_order(parts: list[SomeRows], name: str) -> Tensor:
    """One field of rows that were finished at different times, in the order of the batch."""
    order = torch.cat([part.row for part in parts]).argsort()
    return torch.cat([getattr(part, name) for part in parts])[order]


def largest(score: Tensor, candidate: Tensor, quota: Tensor) -> Tensor:
    """The `quota` [B] candidates [B, S] of each row with the largest score [B, S], as a bool mask."""
    order = score.double().masked_fill(~candidate, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    rank = order.argsort(dim=-1)
    return candidate & (rank < quota.unsqueeze(-1))


def scatter(values: Tensor, where: Tensor, fill_value: float) -> Tensor:
    """Values [K] at the True places of `where` [B, S] in row-major order, `fill_value` elsewhere."""
    return torch.full(where.shape, fill_value, dtype=torch.float64, device=where.device).masked_scatter(where, values.double())
