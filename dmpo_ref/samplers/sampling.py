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
from dataclasses import fields, replace

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn import Module

from dmpo_ref.config import SamplerConfig
from dmpo_ref.likelihood import Vocabulary
from dmpo_ref.masking import uniforms_at
from dmpo_ref.rollout import Prompts, Rollout
from dmpo_ref.samplers.blockwise import fill
from dmpo_ref.samplers.checks import check_prompts, count_steps, has_path_log_prob
from dmpo_ref.samplers.wino import fill_wino


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
        path_log_prob=rearrange(torch.cat(*log_prob), "(g n) -> g n", **grouped) if has_path_log_prob(config) else None,
        num_steps=count_steps(config, prompts.response_mask),
        sampler=replace(config),
        forwards=sum(forwards),
        fed_tokens=sum(fed_tokens),
    )


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
