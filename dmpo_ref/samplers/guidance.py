"""?"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn import Module

from dmpo_ref.models.cache import KeyValueCache


class Guided:
    """A mask predictor under classifier-free guidance (LLaDA, arXiv 2502.09992): logits u + (s + 1)(c − u).

    c are the model's logits, u those for the same sequence with everything that was given (the prompt, and clues in the
    response) masked. Both are fed in one forward pass, of twice as many sequences.

    Args:
        given: [B, S] bool.
        scale: s; 0 is no guidance.
    """

    def __init__(self, model: Module, given: Tensor, mask_token_id: int, scale: float):
        self.model, self.given, self.mask_token_id, self.scale = model, given, mask_token_id, scale

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, select: Tensor, cache: KeyValueCache | None) -> SimpleNamespace:
        """`.logits` [K, V] at the selected positions of B rows, in float32 or wider."""
        given = self.given if cache is None else self.given[:, cache.fed]
        both = torch.cat((input_ids, input_ids.masked_fill(given, self.mask_token_id)))
        logits = self.model(input_ids=both, attention_mask=attention_mask.repeat(2, 1), select=select.repeat(2, 1), cache=cache).logits
        c, u = (logits if logits.dtype == torch.float64 else logits.float()).chunk(2)
        return SimpleNamespace(logits=u + (self.scale + 1) * (c - u))
