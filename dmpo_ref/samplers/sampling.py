"""`sample`: from prompts to finished rollouts, with all randomness drawn for each prompt before the first step."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import Module

from dmpo_ref.config import SamplerConfig
from dmpo_ref.likelihood import Vocabulary
from dmpo_ref.masking import uniforms_at
from dmpo_ref.rollout import Prompts, Rollout
from dmpo_ref.samplers.blockwise import fill_blocks
from dmpo_ref.samplers.checks import check_memory, check_responses, steps_of
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

    `path_log_prob` of the rollout is the log-probability of its path under the policy that drew it. Under another policy, such as
    p_ref, the same path has `likelihood.path_log_prob(reference, rollout, vocabulary)`.

    Args:
        model: mask predictor, `model(input_ids, attention_mask, select).logits`.
        prompts: G prompts, see `tasks.encode`.
        generators: one for each prompt; the responses to a prompt depend on its own generator only.
        end_tokens: ids that end an answer, for `config.stop_early`: as soon as nothing before the first of them can change,
            the rest of the row is filled with that end token, with the `step` of the row's last forward pass, and the row is
            no longer fed. The text up to the first end token is the same with and without this option.

    Raises:
        ValueError: options out of bounds, block length or steps that do not fit the responses, `stop_early` without end tokens,
            more rollouts than fit in memory, or logits that are NaN.
    """
    response = prompts.response_mask.cpu()  # once, so that the host does not wait for a GPU at each number
    check_responses(config, response, end_tokens)
    longest, (num_prompts, width) = int(response.sum(dim=-1).max()), prompts.tokens.shape
    options = "train.num_rollouts, train.prompts_per_round or evaluation.num_samples"
    check_memory(config, num_prompts * num_rollouts, longest, width, options)
    device = prompts.tokens.device
    ends = torch.tensor(sorted(end_tokens) if config.stop_early else [], dtype=torch.long, device=device)
    rows = prompts.repeat(num_rollouts)
    uniform = rearrange(draw_uniforms(config, response, num_rollouts, generators).to(device), "g n t s -> (g n) t s")
    sequences = 2 if config.guidance else 1  # sequences fed for each row
    size = max(1, config.micro_batch // sequences) if config.micro_batch else len(rows.tokens)
    fill = fill_wino if config.name == "wino" else fill_blocks
    parts = torch.arange(len(rows.tokens), device=device).split(size)
    pieces = [fill(model, rows.select(part), config, vocabulary, uniform[part], ends) for part in parts]

    def group(values: list[Tensor]) -> Tensor:
        return rearrange(torch.cat(values), "(g n) ... -> g n ...", n=num_rollouts)

    path_log_prob = [piece.path_log_prob for piece in pieces if piece.path_log_prob is not None]
    return Rollout(
        tokens=group([piece.tokens for piece in pieces]),
        attention_mask=group([rows.attention_mask]),
        prompt_mask=group([rows.prompt_mask]),
        response_mask=group([rows.response_mask]),
        step=group([piece.step for piece in pieces]),
        path_log_prob=group(path_log_prob) if path_log_prob else None,
        num_steps=uniform.shape[1] - 1,
        sampler=replace(config),
        forwards=sum(piece.forwards for piece in pieces),
        fed_tokens=sum(piece.fed_tokens for piece in pieces),
        padded=prompts.padded,
        confidence=group([piece.confidence for piece in pieces]),
    )


def draw_uniforms(config: SamplerConfig, response_mask: Tensor, num_rollouts: int, generators: list[torch.Generator]) -> Tensor:
    """All randomness of a batch, [G, N, T + 1, S] float64: slice t for the tokens of step t, the last one for the random order.

    Each prompt draws only as many numbers as its own response needs, so that its rollouts do not depend on the rest of the batch.
    """
    num_steps = [steps_of(config, int(response.sum())) for response in response_mask]  # the largest number for each prompt
    drawn = []
    for response, generator, T in zip(response_mask, generators, num_steps, strict=True):
        order = uniforms_at(response, generator, num_rollouts, 1)
        tokens = uniforms_at(response, generator, num_rollouts, T)
        unused = tokens.new_zeros(num_rollouts, max(num_steps) - T, len(response))
        drawn.append(torch.cat((tokens, unused, order), dim=1))
    return torch.stack(drawn)
