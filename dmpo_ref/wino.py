"""WINO sampler: draft many tokens at once, verify those already placed, and mask again what no longer convinces.

Wide-In, Narrow-Out decoding (arXiv 2507.18578). The response is filled in blocks of b positions from left to right. Every
forward pass sees, behind the sequence, a *shadow* of the current block: b mask tokens at the same positions, each of which
sees everything but the token it shadows. The sequence itself proposes tokens for what is masked; the shadow tells how
probable each token already placed is, given all the others.

No path probability is known for it: a token may be taken back.
"""

from __future__ import annotations

import torch
from einops import rearrange, reduce
from torch import Tensor
from torch.nn import Module
from torch.nn import functional as F

from dmpo_ref import samplers
from dmpo_ref.config import SamplerConfig
from dmpo_ref.head import chunk_size
from dmpo_ref.likelihood import Vocabulary
from dmpo_ref.rollout import Prompts

THRESHOLD = 0.6  # the published τ


@torch.no_grad()
def fill_wino(
    model: Module, prompts: Prompts, config: SamplerConfig, vocabulary: Vocabulary, uniform: Tensor
) -> tuple[Tensor, Tensor, int, int]:
    """Fill B rows. Each goes through its blocks at its own pace; one that has finished its last block waits for the others.

    So forward t of the batch is forward t of each row not yet finished, and a row gets what it would get alone.

    Args:
        model: mask predictor, `model(input_ids, position_ids, visible, select).logits`, see `LLaDAModelLM.forward`.
        prompts: B rows whose responses are the same unbroken run of L slots; b = `config.block_length` divides L.
        config: also `threshold` τ, above which a proposed token is accepted, and `back_threshold`, below which the
            probability the shadow gives to a placed token has it masked again.
        uniform: [B, T + 1, S] on [0, 1), float64, T ≥ `max_forwards(L)`; slice t draws the tokens of forward t.

    Returns:
        tokens: [B, S].
        step: [B, S] the forward in which a position was last unmasked, −1 where nothing was generated.
        forwards: number of forward passes, that of the slowest row.
        fed_tokens: number of tokens fed in them, the shadow and the rows that wait included.

    Raises:
        ValueError: responses that are not one run of slots common to all rows, or logits that are NaN.
    """
    start, L = response_slots(prompts.response_mask)
    b = config.block_length or L
    tau, tau_back = THRESHOLD if config.threshold is None else config.threshold, config.back_threshold
    tokens, masked = prompts.tokens.clone(), prompts.response_mask.clone()
    step = torch.full_like(tokens, -1)
    B, S = tokens.shape
    first = torch.full((B, 1), start, device=tokens.device)  # a, the first slot of each row's current block
    last = torch.zeros(B, dtype=torch.long, device=tokens.device)  # |accept| of the forward before
    sound = torch.ones((), dtype=torch.bool, device=tokens.device)
    forwards = 0
    while forwards < max_forwards(L):
        slots = first + torch.arange(b, device=tokens.device)  # [B, b]
        draft = masked.gather(1, slots)  # M
        placed = ~draft & masked.any(dim=1, keepdim=True)  # V, of the rows that are not finished
        logits_draft, logits_back = look(model, tokens, prompts.attention_mask, slots, draft, placed, vocabulary)
        block, drawn = tokens.gather(1, slots), uniform[:, forwards].gather(1, slots)
        proposal, _, confidence = samplers.propose(logits_draft, vocabulary, config.temperature, drawn[draft])
        back = token_probability(logits_back, vocabulary, block[placed])
        sound &= confidence.isfinite().all() & back.isfinite().all()

        confidence, back = samplers.scatter(confidence, draft, -1.0), samplers.scatter(back, placed, 2.0)
        accept, remask = judge(confidence, back, draft, last, threshold=tau, back_threshold=tau_back)
        block = torch.where(accept, block.masked_scatter(draft, proposal), block).masked_fill(remask, vocabulary.mask_token_id)
        tokens = tokens.scatter(1, slots, block)
        step = step.scatter(1, slots, step.gather(1, slots).masked_fill(accept, forwards))
        draft = draft & ~accept | remask
        masked = masked.scatter(1, slots, draft)
        last = reduce(accept.long(), "b j -> b", "sum")
        first = torch.where(draft.any(dim=1, keepdim=True), first, first + b).clamp(max=start + L - b)
        forwards += 1
        if not masked.any():
            break
    if not sound:
        raise ValueError("the model returned logits that are NaN or all −∞ while sampling; its weights are broken")
    return tokens, step, forwards, forwards * B * (S + b)


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
    accept = samplers.largest(confidence, draft, torch.minimum(above, limit).clamp(min=1))
    several = reduce(accept.long(), "b j -> b", "sum") > 1
    remask = samplers.largest(-back, ~draft & (back < back_threshold), torch.where(several, last - 1, 0))
    return accept, remask


def token_probability(logits: Tensor, vocabulary: Vocabulary, token: Tensor) -> Tensor:
    """softmax(logits) over the allowed vocabulary [K, V] at given tokens [K], float64, a chunk of positions at a time."""
    size = chunk_size(logits.shape[-1])
    parts = zip(logits.split(size), token.split(size), strict=True)
    log_p = [vocabulary.restrict(part).double().log_softmax(dim=-1).gather(-1, t.unsqueeze(-1)) for part, t in parts]
    return torch.cat(log_p).squeeze(-1).exp()
