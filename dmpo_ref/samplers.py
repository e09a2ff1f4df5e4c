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

from collections.abc import Collection
from dataclasses import dataclass, fields, replace

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn import Module

from dmpo_ref.config import SamplerConfig
from dmpo_ref.likelihood import Vocabulary
from dmpo_ref.masking import uniforms_at
from dmpo_ref.model import KeyValueCache
from dmpo_ref.placing import Guided, Rows, close_ended, join, largest, propose, scatter
from dmpo_ref.rollout import Prompts, Rollout
from dmpo_ref.wino import fill_wino, response_slots

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
    end_tokens: Collection[int] = (),
) -> Rollout:
    """Draw N responses to each of G prompts.

    The rollout says what the policy that drew it gives to its own path, `log_prob`. What another one, such as p_ref, gives to
    the same path in the same states is `likelihood.path_log_prob(reference, rollout, vocabulary)`.

    Args:
        model: mask predictor, `model(input_ids, attention_mask, select).logits`.
        prompts: G prompts, see `tasks.encode`.
        generators: one for each prompt; the responses to a prompt depend on its own generator only.
        end_tokens: ids that end an answer, for `config.stop_early`: as soon as nothing before the first of them can change,
            the rest of the row is filled with that end token, its `step` being that of the row's last forward pass, and the
            row is fed no more. Text that is cut at its first end token is what it would have been.

    Raises:
        ValueError: block length or steps that do not fit the responses, `stop_early` without end tokens, or logits that are NaN.
    """
    check_prompts(config, prompts.response_mask, end_tokens)
    device = prompts.tokens.device
    ends = torch.tensor(sorted(end_tokens) if config.stop_early else [], dtype=torch.long, device=device)
    rows = Prompts(*(repeat(getattr(prompts, f.name), "g s -> (g n) s", n=num_rollouts) for f in fields(Prompts)))
    uniform = rearrange(draw_uniforms(config, prompts.response_mask, num_rollouts, generators), "g n t s -> (g n) t s")
    sequences = 2 if config.guidance else 1  # fed for a row
    size = max(1, (config.micro_batch or sequences * len(rows.tokens)) // sequences)
    pieces = []
    for part in torch.arange(len(rows.tokens), device=device).split(size):
        chunk = Prompts(*(getattr(rows, f.name)[part] for f in fields(Prompts)))
        pieces.append((fill_wino if config.name == "wino" else fill)(model, chunk, config, vocabulary, uniform[part], ends))
    tokens, step, forwards, fed_tokens, *log_prob = zip(*pieces, strict=True)
    grouped = {"g": len(generators), "n": num_rollouts}
    masks = rows.attention_mask, rows.prompt_mask, rows.response_mask
    return Rollout(
        *(rearrange(x, "(g n) s -> g n s", **grouped) for x in (torch.cat(tokens), *masks, torch.cat(step))),
        log_prob=rearrange(torch.cat(*log_prob), "(g n) -> g n", **grouped) if has_path_log_prob(config) else None,
        num_steps=count_steps(config, prompts.response_mask),
        sampler=replace(config),
        forwards=sum(forwards),
        fed_tokens=sum(fed_tokens),
    )


def check_prompts(config: SamplerConfig, response_mask: Tensor, end_tokens: Collection[int]) -> None:
    """Refuse a sampler that cannot fill these responses ([G, S]), in one line (ValueError)."""
    check_sampling(config, response_mask.sum(dim=-1))
    check_cache(config, response_mask)
    if config.name == "wino":
        response_slots(response_mask)
    if config.stop_early and not end_tokens:
        raise ValueError("stop_early=true needs to know what ends an answer; give sample(..., end_tokens=...), or set it to false")


def check_sampling(config: SamplerConfig, length: Tensor) -> None:
    """Refuse block lengths and step numbers that do not fit responses of these lengths ([G])."""
    shortest, block = int(length.min()), config.block_length
    if shortest == 0:
        raise ValueError("a prompt has nothing to generate: its response mask is empty")
    if block is not None and (length % block).any():
        wrong = int(length[length % block != 0][0])
        remedy = (
            "choose a divisor, or null for one block"
            if length.min() == length.max()
            else "response lengths differ: choose a common divisor, or null"
        )
        raise ValueError(f"block_length={block} does not divide a response of {wrong} positions; {remedy}")
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


def has_path_log_prob(config: SamplerConfig) -> bool:
    """Whether the log-probability of a rollout's path under the policy itself is known."""
    return config.name == "random_order" and config.temperature > 0 and not config.guidance and not config.stop_early


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
