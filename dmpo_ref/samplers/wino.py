"""WINO sampler: draft many tokens at once, verify those already placed, and mask again what now looks wrong.

Wide-In, Narrow-Out decoding (arXiv 2507.18578). The response is filled in blocks of b positions from left to right. Every
forward pass sees, after the sequence, a *shadow* of the current block: b mask tokens at the same positions, each of which
sees everything but the token it shadows. The sequence itself proposes tokens for masked positions; the shadow gives
the probability of each token already placed, given all the others.

Its path probability is not known, because a token may be taken back.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import Module
from torch.nn import functional as F

from dmpo_ref.config import SamplerConfig
from dmpo_ref.likelihood import Vocabulary
from dmpo_ref.rollout import Prompts
from dmpo_ref.samplers.checks import threshold_of
from dmpo_ref.samplers.proposal import propose, refuse_broken_logits, token_probability
from dmpo_ref.samplers.rows import Filled, Rows, in_batch_order, largest, scatter, set_aside_finished


def fill_wino(
    model: Module, prompts: Prompts, config: SamplerConfig, vocabulary: Vocabulary, uniform: Tensor, end_tokens: Tensor
) -> Filled:
    """Fill B rows. Each goes through its blocks at its own pace; one that has finished its last block is no longer fed.

    So forward t of the batch is forward t of each row not yet finished, and a row gets the same tokens as alone.

    L forwards are enough for a response of L positions, because b are enough for a block of b: forward t of a block accepts k_t ≥ 1
    tokens and takes back at most k_{t−1} − 1 (none in the first, where nothing is placed). After n of them the tokens placed
    are Σ k_t − Σ_{t≥1} (number taken back) ≥ k_{n−1} + (n − 1) ≥ n. So it always ends, and no last step has to place
    tokens whatever their confidence.

    Args:
        model: mask predictor, `model(input_ids, position_ids, visible, select).logits`, see `LLaDAModelLM.forward`.
        prompts: B rows whose responses are the same unbroken run of L slots; b = `config.block_length` divides L.
        config: with `threshold` τ, above which a proposed token is accepted, and `back_threshold`: a placed token to which
            the shadow gives a lower probability is masked again.
        uniform: [B, T + 1, S], T ≥ L, float64; slice t draws the tokens of forward t.
        end_tokens: [E] ids that end an answer; none without `config.stop_early`.

    Returns:
        The rows; `forwards` is the number that the slowest row needed, `fed_tokens` includes the shadow.

    Raises:
        ValueError: logits that are NaN.
    """
    S, b = prompts.tokens.shape[1], config.block_length or int(prompts.response_mask[0].sum())
    state, fed_tokens = Rows.start(prompts, b, uniform), 0
    finished: list[Rows] = []
    finite = torch.ones((), dtype=torch.bool, device=uniform.device)
    for now in range(uniform.shape[1] - 1):
        first = (state.block == state.current_block()).long().argmax(dim=1, keepdim=True)
        slots = first + torch.arange(b, device=uniform.device)  # [B, b]
        finite &= draft_and_verify(model, state, slots, config, vocabulary, now)
        fed_tokens += len(slots) * (S + b)
        # In an incomplete block nothing is settled: a token may still be taken back.
        unsettled = state.block >= state.current_block()
        state = set_aside_finished(state, finished, unsettled, end_tokens, now)
        if not len(state.row):
            break
    finished.append(state)
    refuse_broken_logits(finite)
    tokens, step, found = (in_batch_order(finished, name) for name in ("tokens", "step", "confidence"))
    return Filled(tokens, step, now + 1, fed_tokens, found)


def draft_and_verify(model: Module, state: Rows, slots: Tensor, config: SamplerConfig, vocabulary: Vocabulary, now: int) -> Tensor:
    """One forward pass: place tokens in the blocks at `slots` [B, b] or mask them again. Returns whether all numbers were finite."""
    draft = state.masked.gather(1, slots)
    placed = ~draft
    M, V = draft.nonzero(as_tuple=True), placed.nonzero(as_tuple=True)  # rows and places in the block, of either kind
    logits = forward_with_shadow(model, state, slots, M, V, vocabulary.mask_token_id)
    block, drawn = state.tokens.gather(1, slots), state.uniform[:, now].gather(1, slots)
    proposal, _, confidence = propose(logits[: len(M[0])], vocabulary, config.temperature, drawn[M])
    back = token_probability(logits[len(M[0]) :], vocabulary, block[V])
    finite = confidence.isfinite().all() & back.isfinite().all()

    confidence, back = scatter(confidence, draft, -1.0), scatter(back, placed, 2.0)
    last = (state.step == now - 1).sum(dim=1)  # accepted in the forward before; in the first one, nothing reads it
    accept, remask = accept_and_remask(confidence, back, draft, last, threshold_of(config), config.back_threshold)
    block = torch.where(accept, block.masked_scatter(draft, proposal), block).masked_fill(remask, vocabulary.mask_token_id)
    state.tokens = state.tokens.scatter(1, slots, block)
    state.step = state.step.scatter(1, slots, state.step.gather(1, slots).masked_fill(accept, now))
    found = torch.where(accept, confidence.float(), state.confidence.gather(1, slots))
    state.confidence = state.confidence.scatter(1, slots, found)
    state.masked = state.masked.scatter(1, slots, draft & ~accept | remask)
    return finite


def forward_with_shadow(
    model: Module, state: Rows, slots: Tensor, M: tuple[Tensor, ...], V: tuple[Tensor, ...], mask_token_id: int
) -> Tensor:
    """One forward pass: logits of the sequence at M, then those of the shadow at V, both (rows, places in the block `slots` [B, b])."""
    input_ids, position_ids, visible = with_shadow(state.tokens, state.attention_mask, slots, mask_token_id)
    select = torch.cat((M[0], V[0])), torch.cat((slots[M], V[1] + state.tokens.shape[1]))
    return model(input_ids=input_ids, position_ids=position_ids, visible=visible, select=select).logits


def with_shadow(tokens: Tensor, attention_mask: Tensor, slots: Tensor, mask_token_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """The sequences, each followed by the shadow of a block.

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
    seen = rearrange(attention_mask, "b k -> b 1 k")
    by_main = F.pad(seen | (rearrange(here, "q -> 1 q 1") == here), (0, b))
    shadowed = rearrange(slots, "b i -> b i 1") == here
    by_shadow = F.pad(seen & ~shadowed, (0, b), value=True)
    return input_ids, position_ids, torch.cat((by_main, by_shadow), dim=1)


def accept_and_remask(
    confidence: Tensor, back: Tensor, draft: Tensor, last: Tensor, threshold: float, back_threshold: float
) -> tuple[Tensor, Tensor]:
    """Which proposed tokens to accept, and which placed ones to mask again.

    Accepted are those of M with confidence above τ: at most min(max(⌊0.7|M|⌋, 5), 20), the most confident ones, and at
    least one. If more than one is, those of V with back < τ_back are masked again, at most `last` − 1, the least probable.
    (In the published code `last` is 30 at the start of a block; nothing is placed there yet, so it is not used.)

    Args:
        confidence: [B, b] probability of the proposed token, read at M.
        back: [B, b] probability that the shadow gives to the placed token, read at V.
        draft: [B, b] bool, M; the others are V. A row with an empty M is finished and stays unchanged.
        last: [B] number of tokens accepted in the forward before.

    Returns:
        accept, remask: [B, b] bool.
    """
    size, above = draft.sum(dim=1), (draft & (confidence > threshold)).sum(dim=1)
    limit = (7 * size // 10).clamp(min=5, max=20)
    accept = largest(confidence, draft, torch.minimum(above, limit).clamp(min=1))
    several = accept.sum(dim=1) > 1
    remask = largest(-back, ~draft & (back < back_threshold), torch.where(several, last - 1, 0))
    return accept, remask
