"""The forward passes of a round, counted from the config: which sequences go through the model, how often, and which tokens are fed.

Symbols: G prompts, N rollouts of each, P tokens of the prompt, L of the response, K gradient steps, T sampling steps, b block length.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

from dmpo_ref.config import Config, SamplerConfig
from dmpo_ref.objectives import build_objective
from dmpo_ref.samplers.checks import CONFIDENT, PARALLEL, passes_of_block, steps_of


@dataclass
class Phase:
    """One kind of pass: on each process `rows` sequences go through the model len(fed) times, `batch` of them in a call.

    Attributes:
        fed: tokens of a sequence, padding included, that each of these passes feeds.
        scored: positions of a sequence whose logits a pass reads, on average.
        gradient: the pass has a backward pass. samples: tokens are drawn at the scored positions.
        of_base: how many of the passes are of p_ref while it is the policy without its adapters.
        worth: cost of one pass, in forward passes of a sequence of the same length, by the operations of matrix products.
        least, seconds: bound and expectation, on each process. `plan.measure` fills these three in.
    """

    name: str
    fed: list[int]
    rows: int
    batch: int
    scored: float
    num_processes: int
    gradient: bool = False
    samples: bool = False
    of_base: int = 0
    worth: float = 1.0
    least: float = 0.0
    seconds: float = 0.0

    @property
    def sequences(self) -> int:
        """How often a sequence goes through the model, all processes together."""
        return len(self.fed) * self.rows * self.num_processes

    @property
    def tokens(self) -> int:
        """Tokens fed, all processes together."""
        return sum(self.fed) * self.rows * self.num_processes

    @property
    def calls(self) -> int:
        """Calls of the model on each process."""
        return len(self.fed) * ceil(self.rows / self.batch)


def list_phases(config: Config, P: int, L: int, num_processes: int) -> list[Phase]:
    """What each process does in a round, in order: sampling, scoring if there is any, gradient steps."""
    train, loss, log_ratio = config.train, config.loss, config.weight.log_ratio
    rollouts = train.prompts_per_round * train.num_rollouts // num_processes
    in_step = (train.prompts_per_step or train.prompts_per_round) * train.num_rollouts // num_processes
    K, T = train.steps_per_round, steps_of(config.sampler, L)
    objective = build_objective(loss, config.weight)
    masks, scored = loss.num_masks, L / 2  # masks of a rollout in one step, positions scored in each
    if objective.needs_path:
        masks, scored = T if objective.follows_path else min(loss.num_masks, T), L / T
    if loss.name in ("diffu_grpo", "wd1"):  # one mask, all positions
        masks, scored = 1, L
    if loss.name == "coupled_grpo":  # all positions, and each once more in one of two masks
        masks, scored = 3, 2 * L / 3

    is_base = int(config.model.lora_rank > 0 and train.resync_every == 0)  # p_ref; re-synced, it has its own adapters

    def phase(name: str, passes: int, rows: int, micro_batch: int | None, scored: float, **more: Any) -> Phase:
        return Phase(name, [P + L] * passes, rows, min(micro_batch or rows, rows), scored, num_processes, **more)

    phases = [sampling_phase(config, P, L, num_processes)]
    if log_ratio == "path":
        phases.append(phase("scoring p_ref", 1, rollouts * T, train.score_micro_batch, L / T, of_base=is_base))
        if train.num_reference_rollouts:
            drawn = rollouts * train.num_reference_rollouts // train.num_rollouts
            phases.append(phase("scoring p_old", 1, drawn * T, train.score_micro_batch, L / T))
    if log_ratio == "elbo":
        rows = rollouts * config.weight.elbo_num_masks
        phases.append(phase("scoring p_ref, p_old", 2, rows, train.score_micro_batch, L / 2, of_base=is_base))
    stored = ["log p_old"] if objective.uses_log_old or config.weight.baseline == "model" else []
    stored += ["log p_ref"] if objective.uses_log_ref else []
    for name in stored:
        passes = 1 if objective.follows_path else K
        of_base = passes * is_base * (name == "log p_ref")
        phases.append(phase(f"storing {name}", passes, rollouts * masks, train.score_micro_batch, scored, of_base=of_base))
    if loss.micro_batch and not objective.gradient_is_known:  # a loss that is not linear: first its gradient, then the micro-batches
        phases.append(phase("gradient of the loss", K, in_step * masks, loss.micro_batch, scored))
    return [*phases, phase("gradient steps", K, in_step * masks, loss.micro_batch, scored, gradient=True)]


def sampling_phase(config: Config, P: int, L: int, num_processes: int, *, fewest: bool = False) -> Phase:
    """Sampling as `samplers.sample` does it, with the most passes that it can take, or the fewest.

    With guidance a rollout is two sequences, the second one with its prompt masked.
    """
    sampler, copies = config.sampler, 2 if config.sampler.guidance else 1
    rows = copies * config.train.prompts_per_round * config.train.num_rollouts // num_processes
    batch = copies * max(1, (sampler.micro_batch or rows) // copies)
    b = sampler.block_length or L
    n = count_passes(sampler, L, fewest=fewest)
    scored = b / n
    if sampler.name in CONFIDENT:  # all that is still masked: b, then b/n fewer after every pass
        scored = b * (n + 1) / (2 * n)
    if sampler.name == "wino":  # what is masked in the sequence, what is placed in the shadow
        scored = b
    return Phase("sampling", tokens_fed(sampler, P, L, n), rows, min(batch, rows), scored, num_processes, samples=True)


def count_passes(sampler: SamplerConfig, L: int, *, fewest: bool) -> int:
    """Forward passes that fill a block of b positions, at most or at least: `samplers.checks.passes_of_block`, or fewer.

    How many `threshold`, `factor` and `wino` take depends on how confident the model is. Each places at least one token, net of
    what wino takes back, so b are the most. The fewest are one, or for wino what its limit in a pass allows,
    min(max(⌊0.7 m⌋, 5), 20) of m masked positions.
    """
    b, passes = sampler.block_length or L, 0
    if fewest and sampler.name in PARALLEL:
        return 1
    if fewest and sampler.name == "wino":
        while b > 0:
            b, passes = b - min(max(7 * b // 10, 5), 20), passes + 1
        return passes
    return passes_of_block(sampler, L)


def tokens_fed(sampler: SamplerConfig, P: int, L: int, n: int) -> list[int]:
    """Tokens of one sequence that each pass feeds; blocks from left to right, n passes each.

        cache=none      P + L; for wino also a second copy of the block, its shadow
        cache=prefix    P + L in the first pass of a block; then the block and all that follows it
        cache=dual      P + L in the first pass of a block; then the block, b

    A pass attends to the kept keys and values of what it does not feed.
    """
    b, fed = sampler.block_length or L, []
    whole = P + L + (b if sampler.name == "wino" else 0)
    for start in range(0, L, b):
        later = {"none": whole, "prefix": L - start, "dual": b}[sampler.cache]
        fed += [whole] + [later] * (n - 1)
    return fed
