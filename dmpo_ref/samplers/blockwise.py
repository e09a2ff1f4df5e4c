"""?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Module

from dmpo_ref.config import SamplerConfig
from dmpo_ref.likelihood import Vocabulary
from dmpo_ref.models.cache import KeyValueCache
from dmpo_ref.rollout import Prompts
from dmpo_ref.samplers.checks import count_steps
from dmpo_ref.samplers.guidance import Guided
from dmpo_ref.samplers.proposal import propose
from dmpo_ref.samplers.rows import Rows, close_ended, join, largest, scatter

PARALLEL = ("threshold", "factor")  # how many tokens a step places depends on how sure the model is
THRESHOLD = 0.9  # the published τ
CONFIDENT = ("confidence", *PARALLEL)  # which positions come next depends on it


@dataclass
class Filling(Rows):
    """B rows while they are filled; slice t of `uniform` draws the tokens of a row's step t, the last one the random order.

    Attributes:
        log_prob: [B] float64, of the tokens placed so far.
        block: [B, S] the number of each position's block, −1 where nothing is generated.
        size, num_steps: [B] positions and steps of a block.
        current, spent: [B] the block that a row is in, and the steps it has spent there.
    """

    log_prob: Tensor
    block: Tensor
    size: Tensor
    num_steps: Tensor
    current: Tensor
    spent: Tensor


def fill(
    model: Module, prompts: Prompts, config: SamplerConfig, vocabulary: Vocabulary, uniform: Tensor, end_tokens: Tensor
) -> tuple[Tensor, Tensor, int, int, Tensor]:
    """Fill B rows, each block after block at its own pace; with a cache, whose slots they share, at the pace of the slowest.

    Args:
        uniform: [B, T + 1, S], see `Filling`.
        end_tokens: [E] ids that end an answer; none without `config.stop_early`.

    Returns:
        tokens, step: [B, S].
        forwards, fed_tokens: number of forward passes, and of tokens fed in them.
        log_prob: [B] float64, of the tokens placed.
    """
    state, finished = begin(prompts, config, uniform), []
    forwards, fed_tokens, cache = 0, 0, None
    for _ in range(count_steps(config, prompts.response_mask)):
        inside = next_block(state, shared=config.cache != "none")
        if config.cache != "none":
            cache = next_cache(config.cache, cache, int(state.spent[0]), inside)
        network = model
        if config.guidance:
            network = Guided(model, state.attention_mask & (state.block < 0), vocabulary.mask_token_id, config.guidance)
        fed_tokens += place(network, state, inside, config, vocabulary, cache, forwards) * (2 if config.guidance else 1)
        forwards += 1
        # Rows with nothing left to place are fed no more; but a cache holds all rows until the block is complete.
        if cache is None or not (state.masked & inside).any():
            done = close_ended(state, state.masked, end_tokens, forwards - 1)
            if done.any():
                finished.append(state.select(done))
                state = state.select(~done)
            if done.all():
                break
    tokens, step, log_prob = join([*finished, state], "tokens", "step", "log_prob")
    if not torch.isfinite(log_prob).all():
        raise ValueError("the model returned logits that are NaN or all −∞ while sampling; its weights are broken")
    return tokens, step, forwards, fed_tokens, log_prob


def begin(prompts: Prompts, config: SamplerConfig, uniform: Tensor) -> Filling:
    """Rows in which nothing is placed yet."""
    response = prompts.response_mask
    length = response.sum(dim=-1)  # [B]
    size = torch.full_like(length, config.block_length) if config.block_length else length
    block = (response.long().cumsum(dim=-1) - 1) // size.unsqueeze(-1)
    return Filling(
        **Rows.start(prompts, uniform),
        log_prob=torch.zeros(len(length), dtype=torch.float64, device=length.device),
        block=block.masked_fill(~response, -1),
        size=size,
        num_steps=config.steps * size // length if config.steps else size,
        current=torch.full_like(length, -1),
        spent=torch.zeros_like(length),
    )


def next_block(state: Filling, *, shared: bool) -> Tensor:
    """Move every row on to its first block that is not complete; if `shared`, all to the first one of any. Its positions, [B, S]."""
    current = torch.where(state.masked, state.block, state.block.shape[1]).amin(dim=-1)
    if shared:
        current = current.min().expand_as(current)
    state.spent = torch.where(current == state.current, state.spent + 1, 0)
    state.current = current
    return state.block == current.unsqueeze(-1)


def next_cache(kind: str, cache: KeyValueCache | None, spent: int, block: Tensor) -> KeyValueCache:
    """A new cache for the first step of a block, which feeds everything; later steps feed the block and all that follows it
    (`prefix`), or the block alone (`dual`)."""
    if spent == 0:
        return KeyValueCache()
    slots = block[0].nonzero().squeeze(-1)
    cache.feed(int(slots[0]), int(slots[-1]) + 1 if kind == "dual" else block.shape[1])
    return cache


def place(
    model: Module | Guided,
    state: Filling,
    inside: Tensor,
    config: SamplerConfig,
    vocabulary: Vocabulary,
    cache: KeyValueCache | None,
    now: int,
) -> int:
    """One forward pass: draw tokens for the open positions of a block and keep as many as are due in every row, in place.

    Args:
        inside: [B, S] the positions of each row's block.
        now: number of the forward pass.

    Returns:
        Number of tokens fed.
    """
    candidate = state.masked & inside
    # The even split: a block of b positions in n steps places b // n each, one more in the first b mod n steps.
    quota = state.size // state.num_steps + (state.spent < state.size % state.num_steps)  # [B]
    draw_index = state.current * state.num_steps + state.spent
    uniform = state.uniform[torch.arange(len(draw_index), device=draw_index.device), draw_index]  # [B, S]
    scored = candidate if config.name in CONFIDENT else largest(state.uniform[:, -1], candidate, quota)
    fed = slice(None) if cache is None else cache.fed
    tokens = state.tokens[:, fed]
    logits = model(input_ids=tokens, attention_mask=state.attention_mask, select=scored[:, fed], cache=cache).logits
    proposal, log_p, confidence = propose(logits, vocabulary, config.temperature, uniform[scored])
    chosen = scored
    if config.name in CONFIDENT:
        score = scatter(confidence, scored, -1.0)
        chosen = largest(score, candidate, parallel_quota(config, score) if config.name in PARALLEL else quota)
    state.tokens = torch.where(chosen, state.tokens.masked_scatter(scored, proposal), state.tokens)
    state.log_prob = state.log_prob + torch.where(chosen, scatter(log_p, scored, 0.0), 0.0).sum(dim=-1)
    state.step = state.step.masked_fill(chosen, now)
    state.masked = state.masked & ~chosen
    return tokens.numel()


def parallel_quota(config: SamplerConfig, confidence: Tensor) -> Tensor:
    """How many of the most confident positions are placed at once, [B]; at least one where there is any.

    `threshold`: all with c ≥ τ. `factor`: the longest leading run, by falling confidence, with c_k ≥ 1 − f/(k + 1),
    k = 1, 2, … (Fast-dLLM, arXiv 2505.22618).

    Args:
        confidence: [B, S], −1 where nothing can be placed.
    """
    falling = confidence.sort(dim=-1, descending=True).values
    if config.name == "threshold":
        run = (falling >= (THRESHOLD if config.threshold is None else config.threshold)).sum(dim=-1)
    else:
        k = torch.arange(1, falling.shape[-1] + 1, device=falling.device)
        run = (falling >= 1 - config.factor / (k + 1)).cumprod(dim=-1).sum(dim=-1)
        run = torch.minimum(run, (falling >= 0).sum(dim=-1))
    return run.clamp(min=1)
