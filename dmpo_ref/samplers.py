"""Samplers: fill the masked positions of a response, a bounded number of steps, whole batches at a time.

Blocks of the response go from left to right; inside a block the sampler decides which positions come next:
- `random_order` one uniformly random position per step, `random` several at once;
- `confidence` those the model is surest of (low-confidence remasking, Nie et al., arXiv 2502.09992);
- `threshold` and `factor` as many as it is sure enough of (Fast-dLLM, Wu et al., arXiv 2505.22618);
- `wino`, in a file of its own, the same, and it may take tokens back.
`confidence`, `threshold` and `factor` can keep keys and values between the steps of a block. All draw tokens from
softmax(logits / T) over the allowed vocabulary, by inverse CDF in float64, from uniforms that were drawn per prompt before the
first step.
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
from dmpo_ref.model import KeyValueCache
from dmpo_ref.rollout import Prompts, Rollout

PARALLEL = ("threshold", "factor")  # how many tokens a step places depends on how sure the model is
THRESHOLD = 0.9  # the published τ
CONFIDENT = ("confidence", *PARALLEL)  # which positions come next depends on it


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
    from dmpo_ref.wino import fill_wino  # which builds on this file

    check_sampling(config, prompts.response_mask.sum(dim=-1))
    check_cache(config, prompts.response_mask)
    rows = Prompts(*(repeat(getattr(prompts, f.name), "g s -> (g n) s", n=num_rollouts) for f in fields(Prompts)))
    uniform = rearrange(draw_uniforms(config, prompts.response_mask, num_rollouts, generators), "g n t s -> (g n) t s")
    pieces = []
    for part in torch.arange(len(rows.tokens), device=rows.tokens.device).split(config.micro_batch or len(rows.tokens)):
        chunk = Prompts(*(getattr(rows, f.name)[part] for f in fields(Prompts)))
        if config.name != "wino":
            pieces.append(fill(model, chunk, config, vocabulary, uniform[part]))
            continue
        tokens, step, forwards, fed_tokens = fill_wino(model, chunk, config, vocabulary, uniform[part])
        log_prob = torch.zeros(len(tokens), dtype=torch.float64, device=tokens.device)
        pieces.append(Filling(tokens, torch.zeros_like(chunk.response_mask), step, log_prob, forwards, fed_tokens))
    tokens, step, log_prob = (torch.cat([getattr(piece, name) for piece in pieces]) for name in ("tokens", "step", "log_prob"))
    if not torch.isfinite(log_prob).all():
        raise ValueError("the model returned logits that are NaN or all −∞ while sampling; its weights are broken")
    grouped = {"g": len(generators), "n": num_rollouts}
    has_path = config.name == "random_order" and config.temperature > 0
    return Rollout(
        *(rearrange(x, "(g n) s -> g n s", **grouped) for x in (tokens, rows.attention_mask, rows.prompt_mask, rows.response_mask, step)),
        log_prob=rearrange(log_prob, "(g n) -> g n", **grouped) if has_path else None,
        num_steps=count_steps(config, prompts.response_mask),
        sampler=replace(config),
        forwards=sum(piece.forwards for piece in pieces),
        fed_tokens=sum(piece.fed_tokens for piece in pieces),
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


def check_cache(config: SamplerConfig, response_mask: Tensor) -> None:
    """Refuse a cache where blocks are not slices: with clues between the generated positions, or lengths that differ. [G, S]"""
    if config.cache == "none":
        return
    slots = response_mask.any(dim=0).nonzero().squeeze(-1)
    if not response_mask[:, slots].all() or int(slots[-1]) - int(slots[0]) + 1 != len(slots):
        raise ValueError(f"cache={config.cache} needs responses of one length without given tokens inside; use cache=none")


def count_steps(config: SamplerConfig, response_mask: Tensor) -> int:
    """Most forward passes that filling the longest of these responses can take."""
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


@dataclass
class Filling:
    """B rows while they are filled.

    Attributes:
        tokens, masked, step: [B, S] the tokens, what is still to be placed, the step at which a position was placed.
        log_prob: [B] float64, of the tokens placed so far.
        forwards, fed_tokens: what it has cost.
    """

    tokens: Tensor
    masked: Tensor
    step: Tensor
    log_prob: Tensor
    forwards: int = 0
    fed_tokens: int = 0


def fill(model: Module, prompts: Prompts, config: SamplerConfig, vocabulary: Vocabulary, uniform: Tensor) -> Filling:
    """Fill B rows, each block after block at its own pace; with a cache, whose slots they share, at the pace of the slowest.

    Args:
        uniform: [B, T + 1, S]; slice t draws the tokens of a row's step t, the last one the random order.
    """
    response = prompts.response_mask
    zero = torch.zeros(len(response), dtype=torch.float64, device=response.device)
    state = Filling(prompts.tokens.clone(), response.clone(), torch.full_like(prompts.tokens, -1), zero)
    length = response.sum(dim=-1)  # [B]
    size = torch.full_like(length, config.block_length) if config.block_length else length
    block = (response.long().cumsum(dim=-1) - 1) // size.unsqueeze(-1)  # [B, S]
    num_steps = config.steps * size // length if config.steps else size  # [B], of a block
    current, spent, cache = torch.full_like(length, -1), torch.zeros_like(length), None
    everyone, last = torch.arange(len(length), device=length.device), uniform.shape[1] - 2
    for _ in range(config.steps or int(length.max())):
        if config.name in PARALLEL and not state.masked.any():
            break
        before, current = current, torch.where(state.masked, block, block.shape[1]).amin(dim=-1)
        if config.cache != "none":
            current = current.min().expand_as(current)
        spent = torch.where(current == before, spent + 1, 0)  # [B], steps of a row in its block so far
        inside = response & (block == current.unsqueeze(-1))
        if config.cache != "none":
            cache = next_cache(config.cache, cache, int(spent[0]), inside)
        # The even split: a block of b positions in n steps places b // n each, one more in the first b mod n steps.
        quota = size // num_steps + (spent < size % num_steps)
        drawn = uniform[everyone, (current * num_steps + spent).clamp(max=last)]
        place(model, state, state.masked & inside, quota, prompts.attention_mask, config, vocabulary, drawn, uniform[:, -1], cache)
    return state


def next_cache(kind: str, cache: KeyValueCache | None, spent: int, block: Tensor) -> KeyValueCache:
    """A new cache for the first step of a block, which feeds everything; later steps feed the block and all that follows it
    (`prefix`), or the block alone (`dual`)."""
    if spent == 0:
        return KeyValueCache()
    slots = block[0].nonzero().squeeze(-1)
    cache.feed(int(slots[0]), int(slots[-1]) + 1 if kind == "dual" else block.shape[1])
    return cache


def place(
    model: Module,
    state: Filling,
    candidate: Tensor,
    quota: Tensor,
    attention_mask: Tensor,
    config: SamplerConfig,
    vocabulary: Vocabulary,
    uniform: Tensor,
    order: Tensor,
    cache: KeyValueCache | None,
) -> None:
    """One forward pass: draw tokens for candidates [B, S] and keep `quota` [B] of them in every row, in place.

    Args:
        uniform, order: [B, S], what draws the tokens, and the random order.
    """
    scored = candidate if config.name in CONFIDENT else largest(order, candidate, quota)
    fed = slice(None) if cache is None else cache.fed
    tokens = state.tokens[:, fed]
    logits = model(input_ids=tokens, attention_mask=attention_mask, select=scored[:, fed], cache=cache).logits
    proposal, log_p, confidence = propose(logits, vocabulary, config.temperature, uniform[scored])
    chosen = scored
    if config.name in CONFIDENT:
        score = scatter(confidence, scored, -1.0)
        chosen = largest(score, candidate, parallel_quota(config, score) if config.name in PARALLEL else quota)
    state.tokens = torch.where(chosen, state.tokens.masked_scatter(scored, proposal), state.tokens)
    state.log_prob += torch.where(chosen, scatter(log_p, scored, 0.0), 0.0).sum(dim=-1)
    state.step = state.step.masked_fill(chosen, state.forwards)
    state.masked = state.masked & ~chosen
    state.forwards += 1
    state.fed_tokens += tokens.numel()


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
