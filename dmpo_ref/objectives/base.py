"""`Objective`: two functions, and what `train` must know about them.

`masks(rollout, generators)` says which positions are hidden and scored; `loss(token_log_prob, masks, experience, weight)` turns the
token log-probabilities under those masks into a scalar and is pure. `train` runs the model between them and knows nothing else about
the objective.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dmpo_ref.masking import Masks, path_masks
from dmpo_ref.rollout import Experience, Rollout


@dataclass(frozen=True)
class Objective:
    """The two functions (see above), and what `train` must know about them.

    Attributes:
        masks: returns the masks of one gradient step, from one generator for each prompt.
        loss: returns a scalar from token log-probabilities [G, N, R, S], their masks, the experience and w_real [G, N].
        uses_log_old: log p_old is subtracted, so each step reuses the masks on which it was stored.
        is_linear: the loss is linear in the token log-probabilities, so its gradient is known before the forward pass.
        uses_log_ref: as `uses_log_old`, for log p_ref; the run then has a reference, even if the weights need none.
        follows_path: the masks are the rollout's own order, the same in every step.
        draws_steps: the masks are some steps of the rollout's own order, new ones in every gradient step.
        uses_weight: the loss reads w_real; if not, α is the only weight option that matters.
        reads: names of the options of `LossConfig` that change it, but for `micro_batch`, which all have.
    """

    masks: Callable[[Rollout, list[torch.Generator]], Masks]
    loss: Callable[[Tensor, Masks, Experience, Tensor], Tensor]
    uses_log_old: bool = False
    is_linear: bool = False
    uses_log_ref: bool = False
    follows_path: bool = False
    draws_steps: bool = False
    uses_weight: bool = False
    reads: Collection[str] = ()

    def with_baseline(self, baseline: str) -> Objective:
        """A copy for a weight baseline: `model` needs log p_old too."""
        return replace(self, uses_log_old=True) if baseline == "model" else self

    @property
    def needs_path(self) -> bool:
        """Whether the masks come from the rollout's own order, so that the sampler must know its path probability."""
        return self.follows_path or self.draws_steps

    @property
    def reuses_masks(self) -> bool:
        """Whether gradient steps reuse masks on which log-probabilities were stored when the rollouts were drawn."""
        return self.uses_log_old or self.uses_log_ref

    @property
    def gradient_is_known(self) -> bool:
        """Whether the gradient with respect to the token log-probabilities is known without a forward pass."""
        return self.is_linear and not self.reuses_masks


def follow_path(rollout: Rollout, generators: object = None) -> Masks:
    """`Objective.masks` of objectives on the exact log p(o; σ): each rollout's own order; nothing is random."""
    return path_masks(rollout.step, rollout.num_steps)


def need(stored: Tensor | None) -> Tensor:
    """Return `experience.log_old` or `experience.log_ref`, which `train` stores for objectives that need it.

    Raises:
        ValueError: it was not stored.
    """
    if stored is None:
        raise ValueError("the experience lacks log p_old or log p_ref; weigh the rollouts with the objective that needs it")
    return stored
