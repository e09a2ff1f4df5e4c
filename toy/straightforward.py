"""The straightforward implementation of what the library does, kept for comparison in `dmpo bench` and in tests of equal results.

Logits of the whole sequence for every row at once, noise for every token of the vocabulary at every position, one row after the other
where a row decides. It is how the published code of masked diffusion models is written.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Module

from dmpo_ref.config import SamplerConfig
from dmpo_ref.likelihood import Vocabulary, mask_rows
from dmpo_ref.masking import Masks
from dmpo_ref.rollout import Prompts, Rollout


def token_log_prob_full_logits(model: Module, rollout: Rollout, masks: Masks, vocabulary: Vocabulary) -> Tensor:
    """The same as `likelihood.token_log_prob`, computed with the logits of every position of every mask. [G, N, R, S]"""
    rows = mask_rows(rollout, masks, vocabulary)
    logits = model(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits
    log_prob = vocabulary.restrict(logits).log_softmax(dim=-1).gather(-1, rows.target_tokens.unsqueeze(-1)).squeeze(-1)
    return (log_prob * rows.target).view(masks.target.shape)


@torch.no_grad()
def sample_full_logits(model: Module, prompts: Prompts, config: SamplerConfig, vocabulary: Vocabulary, seed: int = 0) -> Tensor:
    """The same as `sampler.name=confidence` without a cache, one response to each of B prompts of one length: tokens [B, S].

    The tokens are drawn by Gumbel noise, so above temperature 0 they differ from the library's, with the same distribution.

    Raises:
        ValueError: responses of other lengths, or with given tokens inside.
    """
    if (prompts.response_mask != prompts.response_mask[0]).any():
        raise ValueError("the straightforward sampler needs responses of one length without given tokens inside")
    tokens, slots = prompts.tokens.clone(), prompts.response_mask[0].nonzero().flatten()
    generator = torch.Generator(tokens.device).manual_seed(seed)
    b = config.block_length or len(slots)
    steps = (config.steps or len(slots)) * b // len(slots)  # of a block
    for block in slots.split(b):
        for step in range(steps):
            logits = model(input_ids=tokens, attention_mask=prompts.attention_mask).logits
            logits = vocabulary.restrict(logits).double()
            noise = torch.rand(logits.shape, dtype=torch.float64, device=tokens.device, generator=generator)
            noisy = logits.exp() / (-noise.log()) ** config.temperature if config.temperature else logits
            proposal = noisy.argmax(dim=-1)
            confidence = logits.softmax(dim=-1).gather(-1, proposal.unsqueeze(-1)).squeeze(-1)
            open_here = torch.zeros_like(prompts.response_mask)
            open_here[:, block] = tokens[:, block] == vocabulary.mask_token_id
            confidence = confidence.masked_fill(~open_here, -torch.inf)
            quota = b // steps + (step < b % steps)
            for row in range(len(tokens)):
                chosen = confidence[row].topk(quota).indices
                tokens[row, chosen] = proposal[row, chosen]
    return tokens
