"""Input of a sampler, its output, and the output with rewards and weights: `Prompts`, `Rollout`, `Experience`.

Groups are a tensor axis: [G prompts, N rollouts of each, S positions].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import torch
from einops import repeat
from torch import Tensor
from torch.nn import functional as F

from dmpo_ref.config import SamplerConfig


@dataclass
class Prompts:
    """G prompts with space for their responses, padded on the left to one length S.

    Attributes:
        tokens: [G, S] ids; the mask token at every position to generate.
        attention_mask: [G, S] bool, False at padding.
        prompt_mask: [G, S] bool, True at the prompt; everything after it is the answer, clues included.
        response_mask: [G, S] bool, True at the positions to generate.
        padded: False only if there is no padding: attention then needs no mask (see `models.llada.Block`). Set where the batch is made,
            so that no pass has to wait for the GPU to find out.
    """

    tokens: Tensor
    attention_mask: Tensor
    prompt_mask: Tensor
    response_mask: Tensor
    padded: bool = field(default=True, kw_only=True)

    def to(self, device: torch.device) -> Prompts:
        """The same on another device."""
        return map_tensors(self, lambda x: x.to(device))

    def select(self, rows: Tensor) -> Prompts:
        """Some of the prompts ([G'] indices)."""
        return map_tensors(self, lambda x: x.index_select(0, rows))

    def repeat(self, num_rollouts: int) -> Prompts:
        """Every prompt N times, one after the other: [G·N, S]."""
        return map_tensors(self, lambda x: repeat(x, "g s -> (g n) s", n=num_rollouts))


@dataclass
class Rollout:
    """N finished responses to each of G prompts, and what is known about how they were drawn.

    Attributes:
        tokens: [G, N, S] ids.
        attention_mask, prompt_mask, response_mask: [G, N, S] bool, as in `Prompts`.
        step: [G, N, S] int, the step at which a position was unmasked; −1 where nothing was generated.
        path_log_prob: [G, N] float64, exact log p(o; σ) along the order σ of `step`, at the temperature it was sampled at, in nats;
            None for a sampler without a path probability, or at temperature 0.
        num_steps: largest number of steps that the sampler can take for the longest response of the batch; `random_order` takes that many.
        sampler: the config it was drawn with, which determines the distribution.
        forwards: number of forward passes of the model.
        fed_tokens: number of tokens fed in them.
        padded: as in `Prompts`.
        confidence: [G, N, S] float32, probability of each token, softmax(logits) over the allowed vocabulary, in the forward pass
            that (last) placed it; 1 where nothing was generated, or where a finished answer was filled with end tokens. None for
            responses that no sampler drew, and in checkpoints before version 0.6.0.
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
    padded: bool = field(default=True, kw_only=True)
    confidence: Tensor | None = field(default=None, kw_only=True)

    def to(self, device: torch.device) -> Rollout:
        """The same on another device."""
        return map_tensors(self, lambda x: x.to(device))

    def select(self, prompts: Tensor) -> Rollout:
        """The rollouts of some of the prompts ([G'] indices)."""
        return map_tensors(self, lambda x: x.index_select(0, prompts))

    def beside(self, other: Rollout) -> Rollout:
        """These and more rollouts of the same prompts, drawn by the same sampler: [G, N + N', S]."""
        values = [(f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        joined: dict[str, Any] = {name: torch.cat([a, b], dim=1) for name, a, b in values if isinstance(a, Tensor)}
        return replace(self, **joined, forwards=self.forwards + other.forwards, fed_tokens=self.fed_tokens + other.fed_tokens)

    def join(self, other: Rollout) -> Rollout:
        """These and rollouts of other prompts, drawn by the same sampler: [G + G', N, S], the shorter sequences padded on the left."""
        S = max(self.tokens.shape[-1], other.tokens.shape[-1])
        empty = {"tokens": 0, "attention_mask": False, "prompt_mask": False, "response_mask": False, "step": -1, "confidence": 1}

        def both(name: str) -> Tensor | None:
            values = getattr(self, name), getattr(other, name)
            if any(x is None for x in values):
                return None
            return torch.cat([F.pad(x, (S - x.shape[-1], 0), value=empty[name]) for x in values])

        joined: dict[str, Any] = {name: both(name) for name in empty}
        paths = [x.path_log_prob for x in (self, other) if x.path_log_prob is not None]
        return replace(
            self,
            **joined,
            path_log_prob=torch.cat(paths) if len(paths) == 2 else None,
            num_steps=max(self.num_steps, other.num_steps),
            forwards=self.forwards + other.forwards,
            fed_tokens=self.fed_tokens + other.fed_tokens,
            padded=self.padded or other.padded or self.tokens.shape[-1] != other.tokens.shape[-1],
        )


def given_responses(prompts: Prompts, responses: list[list[int]]) -> Rollout:
    """A rollout made from given token ids, so that the likelihood code can score responses that no sampler drew.

    Args:
        responses: one for each prompt: everything after the prompt, including the given positions of a template.

    Returns:
        G = 1, N = the number of prompts; `step` is −1 and there is no path.
    """
    tokens = prompts.tokens.clone()
    tokens[prompts.attention_mask & ~prompts.prompt_mask] = torch.tensor([token for response in responses for token in response])
    masks = {name: getattr(prompts, name)[None] for name in ("attention_mask", "prompt_mask", "response_mask")}
    step = torch.full((1, *tokens.shape), -1)
    return Rollout(tokens[None], **masks, step=step, path_log_prob=None, num_steps=0, sampler=SamplerConfig(), forwards=0, fed_tokens=0)


@dataclass
class Experience:
    """Weighted rollouts of G prompts, as stored in the buffer: ℓ and w are computed once, after drawing.

    Attributes:
        rollout: the responses.
        position: G places of the prompts in the data stream of the run; they key the random streams.
        reward: [G, N].
        weight: [G, N] float64, w.
        base_weight: [G, N] float64, strength · w_base (0 for the `model` baseline, which depends on the current policy).
        log_old, log_ref: [K, G, N, R, S] float32, token log-probabilities under p_old and p_ref on the masks of each of the K
            gradient steps of a round (K = 1 along the path, where all steps have the same masks), for objectives that use them; else None.
        log_ratio: [G, N] float64 nats, log p_ref − log p_old. coefficient: [G, 1], c. None in checkpoints of version 0.1.0.
    """

    rollout: Rollout
    position: list[int]
    reward: Tensor
    weight: Tensor
    base_weight: Tensor
    log_old: Tensor | None = None
    log_ref: Tensor | None = None
    log_ratio: Tensor | None = None
    coefficient: Tensor | None = None

    def to(self, device: torch.device) -> Experience:
        """The same on another device."""
        return replace(map_tensors(self, lambda x: x.to(device)), rollout=self.rollout.to(device))

    def of_step(self, k: int, prompts: Sequence[int] | None = None) -> Experience:
        """The batch of the k-th gradient step: these prompts (None: all), with the `log_old` and `log_ref` [G, N, R, S] of that step."""
        prompts = range(len(self.position)) if prompts is None else prompts
        index = torch.tensor(list(prompts), device=self.reward.device)
        of_step: dict[str, Any] = {
            name: None if (stored := getattr(self, name)) is None else stored[k % len(stored)] for name in ("log_old", "log_ref")
        }
        chosen = map_tensors(replace(self, **of_step), lambda x: x.index_select(0, index))
        return replace(chosen, rollout=self.rollout.select(index), position=[self.position[i] for i in prompts])


T = TypeVar("T", Prompts, Rollout, Experience)


def map_tensors(batch: T, function: Callable[[Tensor], Tensor]) -> T:
    """A copy with a function applied to every field that is a tensor."""
    values = {f.name: getattr(batch, f.name) for f in fields(batch)}
    changed: dict[str, Any] = {name: function(value) for name, value in values.items() if isinstance(value, Tensor)}
    return replace(batch, **changed)
