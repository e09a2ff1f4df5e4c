"""Log-probabilities of given responses: the allowed vocabulary, token log-probabilities under masks, and their sums.

Two shapes: `token_log_prob` [G, N, R, S] of each scored token, and its weighted sum [G, N], `sequence_log_prob`, which is `elbo` on random
masks and `path_log_prob` on a rollout's own order.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor
from torch.nn import Module
from transformers import PreTrainedTokenizerBase

from dmpo_ref.masking import Masks, path_masks
from dmpo_ref.rollout import Rollout


@dataclass
class Vocabulary:
    """Which tokens may be generated. Sampler, likelihood, loss and oracle all use this one.

    Attributes:
        mask_token_id: id of the token that stands for "to be generated".
        allowed: [V] bool; V is the number of rows of the model's head, padded rows included.
    """

    mask_token_id: int
    allowed: Tensor
    _moved: Tensor | None = field(default=None, repr=False, compare=False)

    def restrict(self, logits: Tensor) -> Tensor:
        """Logits [..., V] in float32 (or wider) with −∞ at the tokens that may not be generated."""
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return wide.masked_fill(~self.on(logits.device), -torch.inf)

    def on(self, device: torch.device) -> Tensor:
        """`allowed` on a device. The copy is cached: a new one for each chunk of logits would make the GPU wait."""
        if self._moved is None or self._moved.device != device:
            self._moved = self.allowed.to(device)
        return self._moved


def build_vocabulary(
    tokenizer: PreTrainedTokenizerBase, embedding_size: int, *, alphabet: str | None = None, full: bool = False
) -> Vocabulary:
    """The allowed vocabulary of a tokenizer: without the mask token and padded rows; only the task's alphabet if it has one.

    Args:
        embedding_size: V, rows of the model's head.
        alphabet: if given, only the tokens of these characters may be generated.
        full: reproduce the published softmax over all V rows, mask token and padding included.

    Raises:
        ValueError: the tokenizer has no mask token or no padding token, knows more tokens than the model has rows,
            or a character of the alphabet is not one token.
    """
    for name in ("mask_token", "pad_token"):
        if getattr(tokenizer, name) is None:
            raise ValueError(f"the tokenizer has no {name}; set it in tokenizer_config.json")
    if len(tokenizer) > embedding_size:
        raise ValueError(f"the tokenizer has {len(tokenizer)} tokens but the model only {embedding_size} rows")
    allowed = torch.zeros(embedding_size, dtype=torch.bool)
    if full:
        allowed[:] = True
    elif alphabet is None:
        allowed[: len(tokenizer)] = True
        allowed[tokenizer.mask_token_id] = False
    else:
        ids = tokenizer(list(alphabet), add_special_tokens=False).input_ids
        if any(len(i) != 1 or i[0] == tokenizer.unk_token_id for i in ids):
            raise ValueError(f"the tokenizer does not know each character of the alphabet {alphabet!r} as one token")
        allowed[[i[0] for i in ids]] = True
    return Vocabulary(tokenizer.mask_token_id, allowed)


def token_log_prob(
    model: Module,
    rollout: Rollout,
    masks: Masks,
    vocabulary: Vocabulary,
    *,
    temperature: float = 1.0,
    micro_batch: int | None = None,
) -> Tensor:
    """log π(o_s | o with the hidden positions masked) at the scored positions of every mask.

    Args:
        rollout: finished sequences [G, N, S].
        masks: R masks of each (see `masking`).
        temperature: T > 0 of softmax(logits / T).
        micro_batch: sequences in one forward pass; None for all G·N·R at once.

    Returns:
        [G, N, R, S] float32 (float64 for a float64 model), in nats, 0 where nothing is scored.
    """
    parts = mask_rows(rollout, masks, vocabulary).split(micro_batch)
    rows = torch.cat([score_rows(model, part, vocabulary, temperature=temperature) for part in parts])
    return rearrange(rows, "(g n r) s -> g n r s", n=rollout.tokens.shape[1], r=masks.hidden.shape[2])


@dataclass
class MaskedRows:
    """Masked sequences for the model, B = G·N·R of them: inputs, and tokens to score. [B, S] each; `padded` as in `Prompts`."""

    input_ids: Tensor
    attention_mask: Tensor
    target: Tensor
    target_tokens: Tensor
    padded: bool

    def split(self, size: int | None) -> list[MaskedRows]:
        """Parts of at most `size` sequences; one part if None."""
        fields = (x.split(size or len(x)) for x in (self.input_ids, self.attention_mask, self.target, self.target_tokens))
        return [MaskedRows(ids, attention, target, tokens, self.padded) for ids, attention, target, tokens in zip(*fields, strict=True)]


def mask_rows(rollout: Rollout, masks: Masks, vocabulary: Vocabulary) -> MaskedRows:
    """Every mask of every response as one row, the hidden positions replaced by the mask token."""
    R = masks.hidden.shape[2]
    tokens, attention_mask = (repeat(x, "g n s -> (g n r) s", r=R) for x in (rollout.tokens, rollout.attention_mask))
    hidden, target = (rearrange(x, "g n r s -> (g n r) s") for x in (masks.hidden, masks.target))
    return MaskedRows(tokens.masked_fill(hidden, vocabulary.mask_token_id), attention_mask, target, tokens, rollout.padded)


def score_rows(model: Module, rows: MaskedRows, vocabulary: Vocabulary, *, temperature: float = 1.0) -> Tensor:
    """Token log-probabilities of rows, [B, S], 0 where nothing is scored. Logits are computed at scored positions only."""
    scored = rows.target.nonzero(as_tuple=True)  # once: the host must wait for the GPU to know their number
    scores = model(
        input_ids=rows.input_ids,
        attention_mask=rows.attention_mask if rows.padded else None,
        select=scored,
        targets=rows.target_tokens[scored],
        allowed=vocabulary.on(rows.input_ids.device),
        temperature=temperature,
    ).token_log_prob
    return scores.new_zeros(rows.target.shape).masked_scatter(rows.target, scores)


def sequence_log_prob(token_log_prob: Tensor, masks: Masks) -> Tensor:
    """Log-probability of each response, [G, N], from those of its tokens, [G, N, R, S].

        mean_r weight_r · Σ_s token_log_prob_{r,s}

    The ELBO for the masks of `draw_masks` (−L_θ in expectation, if their scheme is unbiased), exactly log p(o; σ) for `path_masks`.
    Summed in float64: the difference of two such sums over many tokens must survive cancellation.
    """
    per_mask = reduce(token_log_prob.double(), "g n r s -> g n r", "sum")
    return reduce(masks.weight * per_mask, "g n r -> g n", "mean")


@torch.no_grad()
def path_log_prob(
    model: Module, rollout: Rollout, vocabulary: Vocabulary, *, temperature: float = 1.0, micro_batch: int | None = None
) -> Tensor:
    """Exact log p(o; σ) of each rollout along its own order σ. [G, N] float64, in nats."""
    masks = path_masks(rollout.step, rollout.num_steps)
    scores = token_log_prob(model, rollout, masks, vocabulary, temperature=temperature, micro_batch=micro_batch)
    return sequence_log_prob(scores, masks)


@torch.no_grad()
def elbo(model: Module, rollout: Rollout, masks: Masks, vocabulary: Vocabulary, *, micro_batch: int | None = None) -> Tensor:
    """Estimate of −L_θ(o|q) ≤ log p_θ(o|q) on the given masks, at temperature 1. [G, N] float64, in nats.

    Use the same `masks` for several models when their difference matters: the noise of the masks then largely cancels.
    """
    return sequence_log_prob(token_log_prob(model, rollout, masks, vocabulary, micro_batch=micro_batch), masks)
