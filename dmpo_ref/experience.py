"""From prompts to experience: rollouts and rewards; then ℓ, w and w_base, computed once, and the log-probabilities that a loss subtracts.

Algorithm 1 of arXiv 2510.08233, the part before the gradient steps.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module
from transformers import PreTrainedTokenizerBase

from dmpo_ref.config import Config, WeightConfig
from dmpo_ref.likelihood import Vocabulary, elbo, path_log_prob, token_log_prob
from dmpo_ref.masking import Masks, draw_masks, streams
from dmpo_ref.models.llada import LLaDAModelLM
from dmpo_ref.models.reference import Reference
from dmpo_ref.objectives.base import Objective
from dmpo_ref.rollout import Experience, Prompts, Rollout
from dmpo_ref.samplers import sample
from dmpo_ref.tasks.base import Task
from dmpo_ref.tasks.encoding import answer_texts, encode, end_ids
from dmpo_ref.tasks.rewards import score_answers
from dmpo_ref.weights import group_weights


class Collected(NamedTuple):
    """A round's experience, the texts of its rollouts [G][N], the mean of each reward component over the rollouts that the
    policy drew, and the number of rollouts drawn."""

    experience: Experience
    texts: list[list[str]]
    components: dict[str, float]
    num_drawn: int


def collect(
    policy: LLaDAModelLM,
    reference: Reference | None,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    task: Task,
    items: list[Any],
    objective: Objective,
    config: Config,
    *,
    position: Sequence[int] | None = None,
    reward: Callable[[Any, str], float] | None = None,
    spare: Iterable[tuple[list[Any], list[int]]] = (),
) -> Collected:
    """One round: N rollouts of the policy for each of G items, their rewards and weights.

    Args:
        position: places of the items in the data stream of a run, which key the random streams; None: 0, 1, …
        reward: replaces the task's reward, as in `train`.
        spare: (items, places) for each further attempt to replace groups whose rewards are all equal (`train.skip_equal_groups`).
    """

    def draw(items: list[Any], position: list[int]) -> Drawn:
        prompts = encode(tokenizer, task, items, config.sampler.response_length).to(next(policy.parameters()).device)
        rollout = draw_rollouts(policy, reference, prompts, vocabulary, position, end_ids(tokenizer), config)
        texts = answer_texts(tokenizer, rollout)
        own = config.train.num_rollouts - config.train.num_reference_rollouts
        return Drawn(rollout, position, texts, *score_answers(task, items, texts, reward, own=own))

    kept = draw(items, list(range(len(items)) if position is None else position))
    components, num_drawn = kept.components, kept.reward.numel()
    for others, places in spare:
        if not (equal := kept.equal_groups()):
            if reference is not None and config.train.num_reference_rollouts:
                with reference.model():  # another process may sample from it, and all must exchange their adapters equally often
                    pass
            continue
        new = draw(others[: len(equal)], places[: len(equal)])
        components = average(components, num_drawn, new.components, new.reward.numel())
        num_drawn += new.reward.numel()
        kept = kept.with_groups_of(new, equal)
    experience = weigh(policy, reference, vocabulary, objective, kept.rollout, kept.reward, config, position=kept.position)
    return Collected(experience, kept.texts, components, num_drawn)


def draw_rollouts(
    policy: Module,
    reference: Reference | None,
    prompts: Prompts,
    vocabulary: Vocabulary,
    position: Sequence[int],
    end_tokens: Collection[int],
    config: Config,
) -> Rollout:
    """Draw N rollouts of each prompt from p_old; with `train.reference_share`, the last k = round(εN) of them from p_ref.

    `path_log_prob` is always that of p_old, also for rollouts drawn from p_ref; with k > 0 it is None if the weights do not need it.
    """
    k = config.train.num_reference_rollouts

    def draw(model: Module, num_rollouts: int, purpose: str) -> Rollout:
        generators = streams(config.seed, purpose, list(position))
        drawn = (model, prompts, config.sampler, vocabulary)
        return sample(*drawn, num_rollouts=num_rollouts, generators=generators, end_tokens=end_tokens)

    rollout = draw(policy, config.train.num_rollouts - k, "rollout")
    if k == 0:
        return rollout
    if reference is None:
        raise ValueError(f"train.reference_share={config.train.reference_share}: a reference policy is needed")
    with reference.model() as model:
        others = draw(model, k, "reference rollout")
    if config.weight.log_ratio != "path":
        return replace(rollout, path_log_prob=None).beside(replace(others, path_log_prob=None))
    log_old = path_log_prob(policy, others, vocabulary, micro_batch=config.train.score_micro_batch)
    return rollout.beside(replace(others, path_log_prob=log_old))


@dataclass
class Drawn:
    """Rollouts of G prompts before they are weighed: places of the prompts, texts [G][N], reward [G, N], mean of each component."""

    rollout: Rollout
    position: list[int]
    texts: list[list[str]]
    reward: Tensor
    components: dict[str, float]

    def equal_groups(self) -> list[int]:
        """Indices of the groups whose rewards are all equal: no rollout in them is better than another."""
        return (self.reward.amax(dim=-1) == self.reward.amin(dim=-1)).nonzero().flatten().tolist()

    def with_groups_of(self, new: Drawn, places: list[int]) -> Drawn:
        """A copy in which the groups at `places` are replaced by groups of `new` whose rewards differ, as long as there are any."""
        G = len(self.position)
        useful = [G + g for g in range(len(new.position)) if g not in new.equal_groups()]
        index = list(range(G))
        for place, g in zip(places, useful, strict=False):  # there may be fewer useful groups than places
            index[place] = g
        position, texts, at = self.position + new.position, self.texts + new.texts, torch.tensor(index)
        return Drawn(
            self.rollout.join(new.rollout).select(at.to(self.rollout.tokens.device)),
            [position[g] for g in index],
            [texts[g] for g in index],
            torch.cat([self.reward, new.reward])[at],
            self.components,
        )


def average(first: dict[str, float], num_first: int, second: dict[str, float], num_second: int) -> dict[str, float]:
    """Mean of each component over two sets of rollouts together, from the means over each; a component of only one set keeps its mean."""
    both = {name: (num_first * first[name] + num_second * second[name]) / (num_first + num_second) for name in first.keys() & second.keys()}
    return first | second | both


def weigh(
    policy: Module,
    reference: Reference | None,
    vocabulary: Vocabulary,
    objective: Objective,
    rollout: Rollout,
    reward: Tensor,
    config: Config,
    *,
    position: Sequence[int] | None = None,
) -> Experience:
    """Everything that is computed only once for a round's rollouts: ℓ, w, w_base, and the log-probabilities that the objective subtracts.

    Args:
        policy: p_old, the policy that drew the rollouts.
        reference: p_ref; None where neither the log-ratio nor the objective needs it.
        reward: [G, N].
        position: G places of the prompts in the data stream of a run, which key the random streams; None: 0, 1, …
    """
    position = list(range(len(reward)) if position is None else position)
    reward = reward.to(rollout.tokens.device)
    generators, micro_batch = streams(config.seed, "elbo", position), config.train.score_micro_batch
    log_ratio = estimate_log_ratio(policy, reference, rollout, vocabulary, config.weight, generators, micro_batch=micro_batch)
    share = config.train.num_reference_rollouts / config.train.num_rollouts
    weights = group_weights(reward, log_ratio, config.weight, reference_share=share, log_old=rollout.path_log_prob)
    log_old, log_ref = score_on_masks(policy, reference, vocabulary, objective, rollout, position, config)
    return Experience(rollout, position, reward, weights.weight, weights.base_weight, log_old, log_ref, log_ratio, weights.coefficient)


def estimate_log_ratio(
    policy: Module,
    reference: Reference | None,
    rollout: Rollout,
    vocabulary: Vocabulary,
    config: WeightConfig,
    generators: list[torch.Generator],
    *,
    micro_batch: int | None = None,
) -> Tensor:
    """log p_ref − log p_old of each rollout, [G, N] float64 nats: along its path, by ELBOs on the same masks, or 0.

    Args:
        policy: p_old.
        generators: one for each prompt, for the masks of the ELBOs.
        micro_batch: sequences in one forward pass; None for all.

    Raises:
        ValueError: the config needs a reference or a path probability, and there is none.
    """
    if config.log_ratio == "none":
        return torch.zeros(rollout.tokens.shape[:2], dtype=torch.float64, device=rollout.tokens.device)
    if reference is None:
        raise ValueError(f"weight.log_ratio={config.log_ratio}: a reference policy is needed")
    if config.log_ratio == "path":
        if rollout.path_log_prob is None:
            raise ValueError(f"weight.log_ratio=path: rollouts of sampler.name={rollout.sampler.name} have no path probability; use elbo")
        with reference.model() as model:
            return path_log_prob(model, rollout, vocabulary, micro_batch=micro_batch) - rollout.path_log_prob
    masks = draw_masks(config.elbo_masks, rollout.response_mask, config.elbo_num_masks, generators)
    with reference.model() as model:
        log_ref = elbo(model, rollout, masks, vocabulary, micro_batch=micro_batch)
    return log_ref - elbo(policy, rollout, masks, vocabulary, micro_batch=micro_batch)


@torch.no_grad()
def score_on_masks(
    policy: Module,
    reference: Reference | None,
    vocabulary: Vocabulary,
    objective: Objective,
    rollout: Rollout,
    position: list[int],
    config: Config,
) -> tuple[Tensor | None, Tensor | None]:
    """log p_old and log p_ref on the masks of each of the round's K steps, [K, G, N, R, S]; None if not subtracted.

    Along the path log p_old is the log-probability that the rollouts were drawn with, at their temperature; everything else
    is computed at temperature 1, as in the `elbo` log-ratio.
    """
    num_sets = 1 if objective.follows_path else config.train.steps_per_round
    sets = [step_masks(objective, rollout, position, config.seed, k) for k in range(num_sets * objective.reuses_masks)]

    def score_sets(model: Module, temperature: float = 1.0) -> Tensor:
        micro_batch = config.train.score_micro_batch
        scores = [token_log_prob(model, rollout, masks, vocabulary, temperature=temperature, micro_batch=micro_batch) for masks in sets]
        return torch.stack(scores)

    log_old = log_ref = None
    if objective.uses_log_old:
        log_old = score_sets(policy, config.sampler.temperature if objective.needs_path else 1.0)
    if objective.uses_log_ref:
        if reference is None:
            raise ValueError("the objective subtracts log p_ref: a reference policy is needed")
        with reference.model() as model:
            log_ref = score_sets(model)
    return log_old, log_ref


def step_masks(objective: Objective, rollout: Rollout, position: list[int], seed: int, k: int, step: int = 0) -> Masks:
    """The objective's masks for one gradient step: fresh ones, or those on which log p_old or log p_ref was stored.

    Args:
        position: G places of the prompts in the data stream, `Experience.position`.
        k: number of the step in its round, which chooses among stored masks. step: number in the run, which keys fresh ones.
    """
    return objective.masks(rollout, streams(seed, "masks", position, k if objective.reuses_masks else f"step {step}"))
