"""The straightforward implementation of what the library does, kept for comparison in `dmpo bench` and in tests of equal results.

Logits of the whole sequence for every row at once, noise for every token of the vocabulary at every position, one row after the other
where a row decides. It is how the published code of masked diffusion models is written.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from dmpo_ref.config import Config, SamplerConfig
from dmpo_ref.gradient import clip_gradients, real_weight
from dmpo_ref.likelihood import Vocabulary, mask_rows, sequence_log_prob
from dmpo_ref.masking import Masks, draw_masks, path_masks, streams
from dmpo_ref.models.reference import Reference
from dmpo_ref.objectives.base import Objective
from dmpo_ref.rollout import Experience, Prompts, Rollout
from dmpo_ref.weights import group_weights


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


@torch.no_grad()
def random_order_full_logits(
    model: Module, prompts: Prompts, config: SamplerConfig, vocabulary: Vocabulary, num_rollouts: int, seed: int = 0
) -> Rollout:
    """The same as `sampler.name=random_order`: N rollouts of each prompt with their paths, every row fed in every step.

    The order and the tokens come from other random numbers than the library's, with the same distribution.
    """
    rows = prompts.repeat(num_rollouts)
    tokens, generator = rows.tokens.clone(), torch.Generator(rows.tokens.device).manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, dtype=torch.float64, device=tokens.device, generator=generator)

    order = uniform(*tokens.shape).masked_fill(~rows.response_mask, torch.inf).argsort(dim=-1).argsort(dim=-1)
    step = order.masked_fill(~rows.response_mask, -1)
    path, num_steps = torch.zeros(len(tokens), dtype=torch.float64, device=tokens.device), int(step.max()) + 1
    for t in range(num_steps):
        logits = vocabulary.restrict(model(input_ids=tokens, attention_mask=rows.attention_mask).logits).double()
        log_prob = (logits / (config.temperature or 1.0)).log_softmax(dim=-1)
        noise = -(-uniform(*logits.shape).log()).log() if config.temperature else 0.0
        proposal = (log_prob + noise).argmax(dim=-1)
        tokens = torch.where(step == t, proposal, tokens)
        path += (log_prob.gather(-1, proposal.unsqueeze(-1)).squeeze(-1) * (step == t)).sum(dim=-1)
    names = ("attention_mask", "prompt_mask", "response_mask")
    found = {"tokens": tokens, "step": step, "path_log_prob": path} | {name: getattr(rows, name) for name in names}
    in_groups: dict[str, Any] = {name: x.unflatten(0, (-1, num_rollouts)) for name, x in found.items()}
    fed = num_steps * tokens.numel()
    return Rollout(**in_groups, num_steps=num_steps, sampler=config, forwards=num_steps, fed_tokens=fed, padded=prompts.padded)


@torch.no_grad()
def weigh_full_logits(
    policy: Module,
    reference: Reference | None,
    vocabulary: Vocabulary,
    rollout: Rollout,
    reward: Tensor,
    config: Config,
    position: list[int],
) -> Experience:
    """The same as `experience.weigh`, for objectives that store no log-probabilities."""
    log_ratio = torch.zeros_like(reward)
    if reference is not None and config.weight.log_ratio != "none":
        masks = path_masks(rollout.step, rollout.num_steps)
        if config.weight.log_ratio == "elbo":
            generators = streams(config.seed, "elbo", position)
            masks = draw_masks(config.weight.elbo_masks, rollout.response_mask, config.weight.elbo_num_masks, generators)
        with reference.model() as model:
            log_ref = sequence_log_prob(token_log_prob_full_logits(model, rollout, masks, vocabulary), masks)
        log_ratio = log_ref - sequence_log_prob(token_log_prob_full_logits(policy, rollout, masks, vocabulary), masks)
    weights = group_weights(reward, log_ratio, config.weight)
    return Experience(rollout, position, reward, weights.weight, weights.base_weight, None, None, log_ratio, weights.coefficient)


def step_full_logits(
    policy: Module,
    optimizer: torch.optim.Optimizer,
    vocabulary: Vocabulary,
    objective: Objective,
    batch: Experience,
    masks: Masks,
    config: Config,
) -> None:
    """The same as `gradient.gradient_step`, without its checks and without dropout: all rows at once."""
    scores = token_log_prob_full_logits(policy, batch.rollout, masks, vocabulary)
    objective.loss(scores, masks, batch, real_weight(scores, masks, batch, config.weight)).backward()
    clip_gradients(policy, config.optimizer.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
