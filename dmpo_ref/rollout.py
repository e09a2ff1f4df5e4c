"""What goes into a sampler and what comes out: `Prompts` and `Rollout`. Groups are a tensor axis, [G prompts, N rollouts]."""

from __future__ import annotations

from dataclasses import dataclass, fields

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


@dataclass
class Rollout:
    """N finished responses to each of G prompts, and what is known about how they were drawn.

    Attributes:
        tokens: [G, N, S] ids.
        attention_mask, prompt_mask, response_mask: [G, N, S] bool, as in `Prompts`.
        step: [G, N, S] int, the step at which a position was unmasked; −1 where nothing was generated.
        log_prob: [G, N] float64, exact log p(o; σ) along the order σ of `step`, at the temperature it was sampled at, in nats;
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
    log_prob: Tensor | None
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
