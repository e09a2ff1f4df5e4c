"""The two objectives of DMPO: weighted denoising cross-entropy (WDCE) and weighted direct discriminative optimisation (WDDO).

An objective is two functions. `masks(rollout, generators)` says which positions are hidden and scored; `loss(log_prob,
masks, experience, weight)` turns the token log-probabilities under those masks into a scalar and is pure. `train` runs
the model between them and knows nothing else about an objective. Other people's objectives, in the same form, are in `rivals`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dmpo_ref.masking import Masks, path_masks
from dmpo_ref.rollout import Experience, Rollout


def follow_path(rollout: Rollout, generators: object = None) -> Masks:
    """`Objective.masks` of objectives on the exact log p(o; σ): each rollout's own order, in which nothing is random."""
    return path_masks(rollout.step, rollout.num_steps)


@dataclass
class Objective:
    """`masks` and `loss` (see above), and what `train` must know of them.

    Attributes:
        uses_log_old: the loss subtracts log p_old, so each step re-uses the masks on which it was stored.
        is_linear: the loss is linear in the token log-probabilities, so its gradient is known before the forward pass.
        uses_log_ref: the same as `uses_log_old` for log p_ref; the run then keeps a reference, whatever the weights need.
        follows_path: the masks are the rollout's own order, alike in every step.
    """

    masks: Callable[[Rollout, list[torch.Generator]], Masks]
    loss: Callable[[Tensor, Masks, Experience, Tensor], Tensor]
    uses_log_old: bool
    is_linear: bool
    uses_log_ref: bool = False
    follows_path: bool = False
