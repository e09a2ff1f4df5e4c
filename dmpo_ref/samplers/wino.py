"""WINO sampler: draft many tokens at once, verify those already placed, and mask again what no longer convinces.

Wide-In, Narrow-Out decoding (arXiv 2507.18578). The response is filled in blocks of b positions from left to right. Every
forward pass sees, behind the sequence, a *shadow* of the current block: b mask tokens at the same positions, each of which
sees everything but the token it shadows. The sequence itself proposes tokens for what is masked; the shadow tells how
probable each token already placed is, given all the others.

No path probability is known for it: a token may be taken back.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange, reduce
from torch import Tensor
from torch.nn import Module
from torch.nn import functional as F

from dmpo_ref.config import SamplerConfig
from dmpo_ref.likelihood import Vocabulary
from dmpo_ref.rollout import Prompts
from dmpo_ref.samplers.proposal import propose, token_probability
from dmpo_ref.samplers.rows import Rows, close_ended, join, largest, scatter

THRESHOLD = 0.6  # the published τ


@dataclass
class Drafting(Rows):
    """B rows while they are filled; slice t of `uniform` draws the tokens of forward t.

    Attributes:
        first, last: [B, 1] the first slot of the current block; [B] the number of tokens accepted in the forward before.
    """

    first: Tensor
    last: Tensor


@torch.no_grad()
def fill_wino(
    model: Module,
    prompts: Prompts,
    config: SamplerConfig,
    vocabulary: Vocabulary,
    uniform: Tensor,
    end_tokens: Tensor,
) -> tuple[Tensor, Tensor, int, int]:
    """Fill B rows. Each goes through its blocks at its own pace; one that has finished its last block is fed no more.

    So forward t of the batch is forward t of each row not yet finished, and a row gets what it would get alone.

    Args:
        model: mask predictor, `model(input_ids, position_ids, visible, select).logits`, see `LLaDAModelLM.forward`.
        prompts: B rows whose responses are the same unbroken run of L slots; b = `config.block_length` divides L.
        config: also `threshold` τ, above which a proposed token is accepted, and `back_threshold`, below which the
            probability the shadow gives to a placed token has it masked again.
        uniform: [B, T + 1, S] on [0, 1), float64, T ≥ `max_forwards(L)`; slice t draws the tokens of forward t.
        end_tokens: [E] ids that end an answer; none without `config.stop_early`.

    Returns:
        tokens: [B, S].
        step: [B, S] the forward in which a position was last unmasked, −1 where nothing was generated.
        forwards: number of forward passes, that of the slowest row.
        fed_tokens: number of tokens fed in them, the shadow included.

    Raises:
        ValueError: responses that are not one run of slots common to all rows, or logits that are NaN.
    """
    start, L = response_slots(prompts.response_mask)
    b = config.block_length or L
    B, S = prompts.tokens.shape
    state = Drafting(
        **Rows.start(prompts, uniform),
        first=torch.full((B, 1), start, device=uniform.device),  # a
        last=torch.zeros(B, dtype=torch.long, device=uniform.device),
    )
    finished, sound = [], torch.ones((), dtype=torch.bool, device=uniform.device)
    forwards = fed_tokens = 0
    while forwards < max_forwards(L):
        slots = state.first + torch.arange(b, device=uniform.device)  # [B, b]
        sound &= step_forward(model, state, slots, config, vocabulary, forwards)
        forwards, fed_tokens = forwards + 1, fed_tokens + len(slots) * (S + b)
        complete = ~state.masked.gather(1, slots).any(dim=1, keepdim=True)
        state.first = torch.where(complete, state.first + b, state.first)
        # Nothing in a block that is not complete is settled: a token may still be taken back.
        open_block = (torch.arange(S, device=uniform.device) >= state.first) & state.masked.any(dim=1, keepdim=True)
        done = close_ended(state, state.masked | open_block, end_tokens, forwards - 1)
        if done.any():
            finished.append(state.select(done))
            state = state.select(~done)
        if not state.masked.any():
            break
    if not sound:
        raise ValueError("the model returned logits that are NaN or all −∞ while sampling; its weights are broken")
    tokens, step = join([*finished, state], "tokens", "step")
    return tokens, step, forwards, fed_tokens


def max_forwards(response_length: int) -> int:
    """Forward passes after which every response of L positions is filled: L, because a block of b needs at most b.

    Forward t of a block accepts k_t ≥ 1 tokens and takes back at most k_{t−1} − 1 (none in the first, where nothing is
    placed). After n of them the tokens placed are Σ k_t − Σ_{t≥1} (number taken back) ≥ k_{n−1} + (n − 1) ≥ n.
    So it ends by itself, and nothing is ever left for a last step to place by force.
    """
    return response_length


def response_slots(response_mask: Tensor) -> tuple[int, int]:
    """First slot and length L of the responses [B, S], which must be one unbroken run, the same in every row."""
    common = response_mask[0]
    slots = common.nonzero().flatten()
    if len(slots) == 0 or len(slots) != slots[-1] - slots[0] + 1 or (response_mask != common).any():
        raise ValueError("WINO needs every response to be one unbroken run of positions, equally long in every row; use another sampler")
    return int(slots[0]), len(slots)


def step_forward(model: Module, state: Drafting, slots: Tensor, config: SamplerConfig, vocabulary: Vocabulary, now: int) -> Tensor:
    """One forward pass and what follows from it, in place, for blocks at `slots` [B, b]. Returns whether all logits were numbers."""
    tau = THRESHOLD if config.threshold is None else config.threshold
    draft = state.masked.gather(1, slots)  # M
    placed = ~draft  # V
    logits_draft, logits_back = look(model, state.tokens, state.attention_mask, slots, draft, placed, vocabulary)
    block, drawn = state.tokens.gather(1, slots), state.uniform[:, now].gather(1, slots)
    proposal, _, confidence = propose(logits_draft, vocabulary, config.temperature, drawn[draft])
    back = token_probability(logits_back, vocabulary, block[placed])
    sound = confidence.isfinite().all() & back.isfinite().all()

    confidence, back = scatter(confidence, draft, -1.0), scatter(back, placed, 2.0)
    accept, remask = judge(confidence, back, draft, state.last, threshold=tau, back_threshold=config.back_threshold)
    block = torch.where(accept, block.masked_scatter(draft, proposal), block).masked_fill(remask, vocabulary.mask_token_id)
    state.tokens = state.tokens.scatter(1, slots, block)
    state.step = state.step.scatter(1, slots, state.step.gather(1, slots).masked_fill(accept, now))
    state.masked = state.masked.scatter(1, slots, draft & ~accept | remask)
    state.last = reduce(accept.long(), "b j -> b", "sum")
    return sound


def look(
    model: Module, tokens: Tensor, attention_mask: Tensor, slots: Tensor, draft: Tensor, placed: Tensor, vocabulary: Vocabulary
) -> tuple[Tensor, Tensor]:
    """One forward pass: logits of the sequence at M [|M|, V], of the shadow at V [|V|, V]; row-major in `draft` and `placed` [B, b]."""
    S = tokens.shape[1]
    input_ids, position_ids, visible = with_shadow(tokens, attention_mask, slots, vocabulary.mask_token_id)
    select = torch.cat((torch.zeros_like(attention_mask, dtype=torch.bool).scatter(1, slots, draft), placed), dim=1)
    logits = model(input_ids=input_ids, position_ids=position_ids, visible=visible, select=select).logits
    of_shadow = select.nonzero()[:, 1] >= S
    return logits[~of_shadow], logits[of_shadow]


def with_shadow(tokens: Tensor, attention_mask: Tensor, slots: Tensor, mask_token_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """The sequences with the shadow of a block behind them.

    Args:
        tokens: [B, S].
        attention_mask: [B, S] bool, False at padding.
        slots: [B, b] the slots that are shadowed.

    Returns:
        input_ids: [B, S + b], the shadow being b mask tokens.
        position_ids: [B, S + b], counted without padding; a shadow has the position of its slot.
        visible: [B, S + b, S + b] bool. A slot of the sequence sees the sequence and no shadow; shadow i sees the sequence
            without slot i of the block, and all shadows. Nothing sees padding, except padding itself: a softmax over
            nothing would be NaN.
    """
    S, b = tokens.shape[1], slots.shape[1]
    input_ids = F.pad(tokens, (0, b), value=mask_token_id)
    position = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
    position_ids = torch.cat((position, position.gather(1, slots)), dim=1)
    here = torch.arange(S, device=tokens.device)
    seen = rearrange(attention_mask.bool(), "b k -> b 1 k")
    by_main = F.pad(seen | (rearrange(here, "q -> 1 q 1") == here), (0, b))
    shadowed = rearrange(slots, "b i -> b i 1") == here
    by_shadow = F.pad(seen & ~shadowed, (0, b), value=True)
    return input_ids, position_ids, torch.cat((by_main, by_shadow), dim=1)


def judge(
    confidence: Tensor, back: Tensor, draft: Tensor, last: Tensor, *, threshold: float, back_threshold: float
) -> tuple[Tensor, Tensor]:
    """Which proposed tokens to accept, and which placed ones to mask again.

    Accepted are those of M with confidence above τ: at most min(max(⌊0.7|M|⌋, 5), 20), the most confident ones, and at
    least one. If more than one is, those of V with back < τ_back are masked again, at most `last` − 1, the least probable.
    (Published, `last` is set to 30 at the start of a block; nothing is placed there yet, so it is not used.)

    Args:
        confidence: [B, b] probability of the proposed token, read at M.
        back: [B, b] probability that the shadow gives to the placed token, read at V.
        draft: [B, b] bool, M; the others are V. A row with nothing in M is finished and nothing is done.
        last: [B] number of tokens accepted in the forward before.

    Returns:
        accept, remask: [B, b] bool.
    """
    size, above = (reduce(x.long(), "b j -> b", "sum") for x in (draft, draft & (confidence > threshold)))
    limit = (7 * size // 10).clamp(min=5, max=20)
    accept = largest(confidence, draft, torch.minimum(above, limit).clamp(min=1))
    several = reduce(accept.long(), "b j -> b", "sum") > 1
    remask = largest(-back, ~draft & (back < back_threshold), torch.where(several, last - 1, 0))
    return accept, remask
