"""The samplers that never take a token back: they fill one block after the other, in each step the positions that the sampler selects."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Module

from dmpo_ref.config import SamplerConfig
from dmpo_ref.likelihood import Vocabulary
from dmpo_ref.models.cache import KeyValueCache
from dmpo_ref.rollout import Prompts
from dmpo_ref.samplers.checks import CONFIDENT, PARALLEL, has_path_log_prob, passes_of_block, threshold_of
from dmpo_ref.samplers.proposal import propose, refuse_broken_logits
from dmpo_ref.samplers.rows import Filled, Rows, in_batch_order, largest, scatter, set_aside_finished


@dataclass(frozen=True)
class Timetable:
    """What the host knows about B rows before the first forward pass, so that it does not have to wait for a GPU.

    Attributes:
        first, length: with a cache, the first slot of the responses and L, which are then the same in all rows.
        block_length: with a cache, b.
        passes: with a cache, forward passes of each block; None if their number depends on the model.
        ends: the forward passes after which a row is complete; None if they depend on the model.
    """

    first: int
    length: int
    block_length: int
    passes: int | None
    ends: frozenset[int] | None

    @classmethod
    def of(cls, response: Tensor, config: SamplerConfig) -> Timetable:
        """The timetable of responses [B, S] bool."""
        lengths = response.sum(dim=-1).tolist()
        longest, b = max(lengths), config.block_length or max(lengths)
        is_known = config.name not in PARALLEL
        passes = passes_of_block(config, longest) if is_known else None
        last = frozenset(passes_of_block(config, L) * (L // (config.block_length or L)) - 1 for L in lengths)
        ends = last if is_known and not config.stop_early else None
        return cls(int(response[0].long().argmax()), longest, b, passes, ends)

    def fed(self, kind: str, block: int) -> tuple[int, int]:
        """(start, stop) of the slots fed after the first pass of a block: it and everything after it (`prefix`), or it alone (`dual`)."""
        start = self.first + block * self.block_length
        return start, start + self.block_length if kind == "dual" else self.first + self.length


@dataclass
class Filling(Rows):
    """B rows while they are filled; slice t of `uniform` draws the tokens of a row's step t, the last one the random order.

    Attributes:
        path_log_prob: [B] float64, of the tokens placed so far.
        current, spent: [B] current block of each row, and steps taken in it.
    """

    path_log_prob: Tensor
    current: Tensor
    spent: Tensor


def fill_blocks(
    model: Module, prompts: Prompts, config: SamplerConfig, vocabulary: Vocabulary, uniform: Tensor, end_tokens: Tensor
) -> Filled:
    """Fill B rows block by block, each row at its own pace; with a cache, whose slots all rows share, at the pace of the slowest.

    Args:
        uniform: [B, T + 1, S], see `Filling`; T steps are enough for every row.
        end_tokens: [E] ids that end an answer; none without `config.stop_early`.

    Raises:
        ValueError: logits that are NaN.
    """
    zero = torch.zeros(len(uniform), dtype=torch.long, device=uniform.device)
    state = Filling.start(prompts, config.block_length, uniform, path_log_prob=zero.double(), current=zero - 1, spent=zero)
    finished: list[Filling] = []
    known, cache, block, fed_tokens = Timetable.of(prompts.response_mask.cpu(), config), None, 0, 0
    for now in range(uniform.shape[1] - 1):
        inside = next_block(state, shared=config.cache != "none")
        if cache is not None:
            cache.feed(*known.fed(config.cache, block))
        elif config.cache != "none":
            cache = KeyValueCache()  # the first pass of a block feeds everything
        fed_tokens += unmask_step(model, state, inside, config, vocabulary, cache, now)
        # Finished rows are no longer fed; but with a cache all rows stay until the block is complete.
        if cache is not None:
            if (state.masked & inside).any() if known.passes is None else (now + 1) % known.passes:
                continue
            cache, block = None, block + 1
        if known.ends is None or now in known.ends:
            state = set_aside_finished(state, finished, state.masked, end_tokens, now)
            if not len(state.row):
                break
    finished.append(state)
    path_log_prob = in_batch_order(finished, "path_log_prob")
    refuse_broken_logits(path_log_prob.isfinite())
    of_path = path_log_prob if has_path_log_prob(config) else None
    tokens, step, confidence = (in_batch_order(finished, name) for name in ("tokens", "step", "confidence"))
    return Filled(tokens, step, now + 1, fed_tokens, confidence, of_path)


def next_block(state: Filling, *, shared: bool) -> Tensor:
    """Move every row to its first incomplete block (if `shared`, all rows to the earliest of these). Returns its positions, [B, S]."""
    current = state.current_block().squeeze(-1)
    if shared:
        current = current.min().expand_as(current)
    state.spent = torch.where(current == state.current, state.spent + 1, 0)
    state.current = current
    return state.block == current.unsqueeze(-1)


def unmask_step(
    model: Module, state: Filling, inside: Tensor, config: SamplerConfig, vocabulary: Vocabulary, cache: KeyValueCache | None, now: int
) -> int:
    """One forward pass: draw tokens for the masked positions of each row's block and keep those that the sampler selects, in place.

    Args:
        inside: [B, S] the positions of each row's block.
        now: number of the forward pass.

    Returns:
        Number of tokens fed.
    """
    candidate = state.masked & inside
    # The even split: a block of b positions in n steps places b // n each, one more in the first b mod n steps.
    size = inside.sum(dim=-1)  # [B]
    num_steps = (config.steps * size // (state.block >= 0).sum(dim=-1)).clamp(max=size) if config.steps else size
    quota = size // num_steps + (state.spent < size % num_steps)
    draw_index = state.current * num_steps + state.spent
    scored = candidate if config.name in CONFIDENT else largest(state.uniform[:, -1], candidate, quota)
    rows, slots = scored.nonzero(as_tuple=True)  # [K] each; once: the host must wait for the GPU to know K
    logits, fed_tokens = read_logits(model, state, rows, slots, config.guidance, vocabulary.mask_token_id, cache)
    uniform = state.uniform[rows, draw_index[rows], slots]
    proposal, log_p, confidence = propose(logits, vocabulary, config.temperature, uniform)
    score, chosen = scatter(confidence, scored, -1.0), scored
    if config.name in CONFIDENT:
        chosen = largest(score, candidate, parallel_quota(config, score) if config.name in PARALLEL else quota)
    state.tokens = torch.where(chosen, state.tokens.masked_scatter(scored, proposal), state.tokens)
    state.path_log_prob = state.path_log_prob + torch.where(chosen, scatter(log_p, scored, 0.0), 0.0).sum(dim=-1)
    state.step = state.step.masked_fill(chosen, now)
    state.confidence = torch.where(chosen, score.float(), state.confidence)
    state.masked = state.masked & ~chosen
    return fed_tokens


def read_logits(
    model: Module, state: Filling, rows: Tensor, slots: Tensor, guidance: float, mask_token_id: int, cache: KeyValueCache | None
) -> tuple[Tensor, int]:
    """Logits [K, V] at K positions, given by their rows and slots, and the number of tokens fed.

    Under classifier-free guidance of scale s (LLaDA, arXiv 2502.09992) they are u + (s + 1)(c − u): c are the model's
    logits, u those for the same sequence with everything that was given (the prompt, and clues in the response) masked.
    Both are fed in one forward pass, of twice as many sequences.
    """
    fed = slice(None) if cache is None else cache.fed
    input_ids, attention_mask, slots = state.tokens[:, fed], state.attention_mask, slots - (fed.start or 0)
    if guidance:
        given = (state.attention_mask & (state.block < 0))[:, fed]
        input_ids = torch.cat((input_ids, input_ids.masked_fill(given, mask_token_id)))
        attention_mask, rows, slots = attention_mask.repeat(2, 1), torch.cat((rows, rows + len(state.row))), slots.repeat(2)
    seen = attention_mask if state.padded else None
    logits = model(input_ids=input_ids, attention_mask=seen, select=(rows, slots), cache=cache).logits
    if guidance:
        c, u = (logits if logits.dtype == torch.float64 else logits.float()).chunk(2)
        logits = u + (guidance + 1) * (c - u)
    return logits, input_ids.numel()


def parallel_quota(config: SamplerConfig, confidence: Tensor) -> Tensor:
    """How many of the most confident positions are placed at once, [B]; at least one if there is any.

    `threshold`: all with c ≥ τ. `factor`: the longest leading run, by falling confidence, with c_k ≥ 1 − f/(k + 1),
    k = 1, 2, … (Fast-dLLM, arXiv 2505.22618).

    Args:
        confidence: [B, S], −1 where nothing can be placed.
    """
    falling = confidence.sort(dim=-1, descending=True).values
    if config.name == "threshold":
        run = (falling >= threshold_of(config)).sum(dim=-1)
    else:
        k = torch.arange(1, falling.shape[-1] + 1, device=falling.device)
        run = (falling >= 1 - config.factor / (k + 1)).cumprod(dim=-1).sum(dim=-1)
        run = torch.minimum(run, (falling >= 0).sum(dim=-1))
    return run.clamp(min=1)
