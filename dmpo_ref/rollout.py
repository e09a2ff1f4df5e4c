"""What goes into a sampler and what comes out: `Prompts` and `Rollout`. Groups are a tensor axis, [G prompts, N rollouts]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from dmpo_ref.config import SamplerConfig


@dataclass
class Prompts:
    """G prompts with room for their responses, padded on the left to one length S.

    Attributes:
        tokens: [G, S] ids; the mask token wherever something is to be generated.
        attention_mask: [G, S] bool, False at padding.
        prompt_mask: [G, S] bool, True at the prompt; what follows it is the answer (clues inside it included).
        response_mask: [G, S] bool, True at the positions that are to be generated.
    """

    tokens: Tensor
    attention_mask: Tensor
    prompt_mask: Tensor
    response_mask: Tensor

    def to(self, device) -> Prompts:
        return Prompts(*(getattr(self, f.name).to(device) for f in fields(self)))

    def select(self, rows: Tensor) -> Prompts:
        """Some of the prompts ([G'] indices)."""
        return Prompts(self.tokens[rows], self.attention_mask[rows], self.prompt_mask[rows], self.response_mask[rows])

    def repeat(self, num_rollouts: int) -> Prompts:
        """Every prompt N times in succession, G·N of them."""
        return self.select(torch.arange(len(self.tokens), device=self.tokens.device).repeat_interleave(num_rollouts))


@dataclass
class Rollout:
    """N finished responses to each of G prompts, and what is known about how they were drawn.

    Attributes:
        tokens: [G, N, S] ids.
        attention_mask, prompt_mask, response_mask: [G, N, S] bool, as in `Prompts`.
        step: [G, N, S] int, the step at which a position was unmasked; −1 where nothing was generated.
        path_log_prob: [G, N] float64, exact log p(o; σ) along the order σ of `step`, at the temperature it was sampled at, in nats;
            None for a sampler without a path probability, or at temperature 0.
        num_steps: the most steps that the sampler can take for the longest response of the batch; `random_order` takes that many.
        sampler: the config it was drawn with: which distribution this is a sample of.
        forwards: number of forward passes of the model.
        fed_tokens: number of tokens fed in them.
    """

    tokens: Tensor
    attention_mask: Tensor
    prompt_mask: Tensor
    response_mask: Tensor
    step: Tensor
    path_log_prob: Tensor | None
    num_steps: int
    sampler: SamplerConfig
    forwards: int
    fed_tokens: int

    def to(self, device) -> Rollout:
        """The same on another device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Rollout(**{k: v.to(device) if isinstance(v, Tensor) else v for k, v in values.items()})

    def select(self, prompts: Tensor) -> Rollout:
        """The rollouts of some of the prompts ([G'] indices)."""
        chosen = {f.name: getattr(self, f.name) for f in fields(self)}
        return Rollout(**{k: v.index_select(0, prompts) if isinstance(v, Tensor) else v for k, v in chosen.items()})


@dataclass
class Experience:
    """Scored rollouts of G prompts, as they lie in the buffer; ℓ and w are computed once, when they are drawn.

    Attributes:
        rollout: the responses.
        position: G indices of the prompts in the data stream of the run; they key the random streams.
        reward: [G, N].
        weight: [G, N] float64, w.
        base_weight: [G, N] float64, strength · w_base (0 for the `model` baseline, which depends on the current policy).
        log_old, log_ref: [K, G, N, R, S] float32, token log-probabilities under p_old and p_ref on the masks of each of the K
            gradient steps of a round (K = 1 along the path, where all are alike), for objectives that use them; else None.
    """

    rollout: Rollout
    position: list[int]
    reward: Tensor
    weight: Tensor
    base_weight: Tensor
    log_old: Tensor | None = None
    log_ref: Tensor | None = None

    def to(self, device: torch.device) -> Experience:
        """The same on another device."""
        moved = {f.name: value.to(device) if isinstance(value := getattr(self, f.name), Tensor) else value for f in fields(self)}
        return Experience(**moved | {"rollout": self.rollout.to(device)})

    def select(self, prompts: Sequence[int], k: int) -> Experience:
        """These prompts, with `log_old` and `log_ref` of the k-th gradient step alone: [G, N, R, S]."""
        index = torch.tensor(list(prompts), device=self.reward.device)

        def of_step(stored: Tensor | None) -> Tensor | None:
            return None if stored is None else stored[k % len(stored)].index_select(0, index)

        return Experience(
            self.rollout.select(index),
            [self.position[i] for i in prompts],
            *(x.index_select(0, index) for x in (self.reward, self.weight, self.base_weight)),
            log_old=of_step(self.log_old),
            log_ref=of_step(self.log_ref),
        )
