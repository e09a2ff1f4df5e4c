"""Samplers: fill the masked positions of a response, a bounded number of steps, whole batches at a time.

Blocks of the response go from left to right; inside a block the sampler decides which positions come next:
`random_order` one uniformly random position per step, `random` several at once, `confidence` those the model is surest of
(low-confidence remasking, Nie et al., arXiv 2502.09992). All draw tokens from softmax(logits / T) over the allowed
vocabulary, by inverse CDF in float64, from uniforms that were drawn per prompt before the first step.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn import Module

from dmpo_ref.config import SamplerConfig
from dmpo_ref.head import chunk_size
from dmpo_ref.likelihood import Vocabulary
from dmpo_ref.masking import uniforms_at
from dmpo_ref.rollout import Prompts, Rollout


@torch.no_grad()
def sample(
    model: Module,
    prompts: Prompts,
    config: SamplerConfig,
    vocabulary: Vocabulary,
    *,
    num_rollouts: int,
    generators: list[torch.Generator],
) -> Rollout:
    """Draw N responses to each of G prompts.

    Args:
        model: mask predictor, `model(input_ids, attention_mask, select).logits`.
        prompts: G prompts, see `tasks.encode`.
        generators: one for each prompt; the responses to a prompt depend on its own generator only.

    Raises:
        ValueError: block length or steps that do not fit the responses, or logits that are NaN.
    """
    check_sampling(config, prompts.response_mask.sum(dim=-1))
    rows = Prompts(*(repeat(getattr(prompts, f.name), "g s -> (g n) s", n=num_rollouts) for f in fields(Prompts)))
    num_steps = count_steps(config, prompts.response_mask)
    uniform = rearrange(draw_uniforms(config, prompts.response_mask, num_rollouts, generators), "g n t s -> (g n) t s")
    pieces, forwards, fed = [], 0, 0
    for part in torch.arange(len(rows.tokens), device=rows.tokens.device).split(config.micro_batch or len(rows.tokens)):
        chunk = Prompts(*(getattr(rows, f.name)[part] for f in fields(Prompts)))
        pieces.append(fill(model, chunk, config, vocabulary, uniform[part], num_steps))
        forwards += num_steps
        fed += num_steps * chunk.tokens.numel()
    tokens, step, log_prob = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    if not torch.isfinite(log_prob).all():
        raise ValueError("the model returned logits that are NaN or all −∞ while sampling; its weights are broken")
    grouped = {"g": len(generators), "n": num_rollouts}
    has_path = config.name == "random_order" and config.temperature > 0
    return Rollout(
        *(rearrange(x, "(g n) s -> g n s", **grouped) for x in (tokens, rows.attention_mask, rows.prompt_mask, rows.response_mask, step)),
        log_prob=rearrange(log_prob, "(g n) -> g n", **grouped) if has_path else None,
        num_steps=num_steps,
        sampler=replace(config),
        forwards=forwards,
        fed_tokens=fed,
    )


def check_sampling(config: SamplerConfig, length: Tensor) -> None:
    """Refuse block lengths and step numbers that do not fit responses of these lengths ([G])."""
    shortest, block = int(length.min()), config.block_length
    if shortest == 0:
        raise ValueError("a prompt has nothing to generate: its response mask is empty")
    if block is not None and (length % block).any():
        wrong = int(length[length % block != 0][0])
        raise ValueError(f"block_length={block} does not divide a response of {wrong} positions; choose a divisor, or null for one block")
    if config.steps is not None:
        num_blocks = 1 if block is None else int(length.max()) // block
        if not 1 <= config.steps <= shortest:
            raise ValueError(
                f"steps={config.steps} for a response of {shortest} positions; choose 1 to {shortest}, or null for one token per step"
            )
        if config.steps % num_blocks:
            raise ValueError(
                f"steps={config.steps} is not a multiple of the {num_blocks} blocks of a response; each block needs as many steps"
            )
        if block is not None and config.steps // num_blocks > block:
            raise ValueError(
                f"steps={config.steps}: {config.steps // num_blocks} steps for each block of {block} positions; at most {block}"
            )


def count_steps(config: SamplerConfig, response_mask: Tensor) -> int:
    """Number of forward passes that fill the longest of these responses."""
    return config.steps or int(response_mask.sum(dim=-1).max())


def draw_uniforms(config: SamplerConfig, response_mask: Tensor, num_rollouts: int, generators: list[torch.Generator]) -> Tensor:
    """All randomness of a batch, [G, N, T + 1, S] float64: slice t for the tokens of step t, the last one for the random order.

    Each prompt draws as many as its own response needs, so that its rollouts do not depend on the rest of the batch.
    """
    T = count_steps(config, response_mask)
    drawn = []
    for response, generator in zip(response_mask, generators, strict=True):
        order = uniforms_at(response, generator, num_rollouts, 1)
        tokens = uniforms_at(response, generator, num_rollouts, count_steps(config, response))
        unused = tokens.new_zeros(num_rollouts, T - tokens.shape[1], len(response))
        drawn.append(torch.cat((tokens, unused, order), dim=1))
    return torch.stack(drawn)


def fill(
    model: Module, prompts: Prompts, config: SamplerConfig, vocabulary: Vocabulary, uniform: Tensor, num_steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Fill B rows. Returns tokens [B, S], step [B, S] and the summed log-probability of the tokens placed [B].

    Args:
        uniform: [B, T + 1, S]; slice t draws the tokens of step t, the last one the random order.
    """
    tokens, masked = prompts.tokens.clone(), prompts.response_mask.clone()
    step = torch.full_like(tokens, -1)
    log_prob = torch.zeros(len(tokens), dtype=torch.float64, device=tokens.device)
    schedule = block_schedule(config, masked, num_steps)
    for t in range(num_steps):
        candidate = masked & (schedule.block == schedule.current[:, t : t + 1])
        if config.name == "confidence":
            scored = candidate
        else:
            scored = chosen = largest(uniform[:, -1], candidate, schedule.quota[:, t])
        logits = model(input_ids=tokens, attention_mask=prompts.attention_mask, select=scored).logits
        proposal, log_p, confidence = propose(logits, vocabulary, config.temperature, uniform[:, t][scored])
        proposed = tokens.masked_scatter(scored, proposal)
        if config.name == "confidence":
            chosen = largest(scatter(confidence, scored, -1.0), candidate, schedule.quota[:, t])
        tokens = torch.where(chosen, proposed, tokens)
        log_prob += torch.where(chosen, scatter(log_p, scored, 0.0), 0.0).sum(dim=-1)
        step = step.masked_fill(chosen, t)
        masked = masked & ~chosen
    return tokens, step, log_prob


@dataclass
class Schedule:
    """When which block is filled: `block` [B, S] the block of a position, `current` [B, T] the block of a step,
    `quota` [B, T] how many tokens a row places in it (0 once the row is finished)."""

    block: Tensor
    current: Tensor
    quota: Tensor


def block_schedule(config: SamplerConfig, response_mask: Tensor, num_steps: int) -> Schedule:
    """The even split: a block of b positions in S steps places b // S each, one more in the first b mod S."""
    length = response_mask.sum(dim=-1, keepdim=True)  # [B, 1]
    block_length = torch.full_like(length, config.block_length) if config.block_length else length
    block = (response_mask.long().cumsum(dim=-1) - 1) // block_length
    steps_per_block = block_length if config.steps is None else config.steps * block_length // length
    t = torch.arange(num_steps, device=length.device)  # [T]
    current = t // steps_per_block
    quota = block_length // steps_per_block + (t % steps_per_block < block_length % steps_per_block)
    return Schedule(block, current, torch.where(current * block_length < length, quota, 0))


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
    size = chunk_size(logits.shape[-1])
    parts = zip(logits.split(size), uniform.split(size), strict=True)
    drawn = [draw(vocabulary.restrict(part).double(), temperature, u) for part, u in parts]
    token, log_prob, confidence = (torch.cat(values) for values in zip(*drawn, strict=True))
    return token, log_prob, confidence


def draw(logits: Tensor, temperature: float, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`propose` for one chunk of logits, float64 and −∞ where a token is not allowed."""
    log_p = (logits / (temperature or 1.0)).log_softmax(dim=-1)
    if temperature == 0:
        token = logits.argmax(dim=-1, keepdim=True)
    else:
        cdf = log_p.exp().cumsum(dim=-1)
        total = cdf[:, -1:]
        # The first token whose CDF exceeds u · total. Kept below the total whatever the rounding, so that it is a token of
        # positive probability; the clamp is for NaN logits, which `sample` reports.
        below = torch.minimum(uniform.unsqueeze(-1) * total, torch.nextafter(total, torch.zeros_like(total)))
        token = torch.searchsorted(cdf, below, right=True).clamp(max=logits.shape[-1] - 1)
    confidence = logits.log_softmax(dim=-1).gather(-1, token).exp()
    return token.squeeze(-1), log_p.gather(-1, token).squeeze(-1), confidence.squeeze(-1)


def largest(score: Tensor, candidate: Tensor, quota: Tensor) -> Tensor:
    """The `quota` [B] candidates [B, S] of each row with the largest score [B, S], as a bool mask."""
    order = score.double().masked_fill(~candidate, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    rank = order.argsort(dim=-1)
    return candidate & (rank < quota.unsqueeze(-1))


def scatter(values: Tensor, where: Tensor, fill_value: float) -> Tensor:
    """Values [K] at the True places of `where` [B, S] in row-major order, `fill_value` elsewhere."""
    return torch.full(where.shape, fill_value, dtype=torch.float64, device=where.device).masked_scatter(where, values.double())
