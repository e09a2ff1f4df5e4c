"""Warnings on stderr when a run goes wrong, each once, with what to try; and a copy of the batch of a step that was not finite."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from dmpo_ref.config import Config, ModelConfig
from dmpo_ref.models.files import first_line
from dmpo_ref.presets.checks import idle_options
from dmpo_ref.rollout import Experience
from dmpo_ref.runtime.files import force_to_disk

FEW = 1.25  # an effective sample size, in rollouts, at which one rollout dominates
MOST_GROUPS = 0.75  # a share of groups
STEEP = 100.0  # a gradient norm, in units of the norm that it is scaled down to
SLACK = 1.0  # nats of noise in a mean log-ratio


class Watch:
    """Looks at every round of a run and warns, once for each kind of trouble.

    Attributes:
        own_objective: whether `config.loss` names another objective than the one that is trained.
        lowest, highest: rewards that were seen so far.
        said: kinds of trouble that were reported.
    """

    def __init__(self, config: Config, *, own_objective: bool = False):
        self.config, self.own_objective, self.said = config, own_objective, set[str]()
        self.lowest, self.highest = float("inf"), float("-inf")

    def look(self, metrics: Mapping[str, float | None], steps: Sequence[Mapping[str, float | None]], reward: Tensor) -> None:
        """Warn of what is new in a round: its metrics (`logs.describe_round`), those of its gradient steps, rewards [G, N]."""
        self.lowest, self.highest = min(self.lowest, reward.min().item()), max(self.highest, reward.max().item())
        for kind, message in self.troubles(metrics, steps):
            if kind not in self.said:
                self.said.add(kind)
                tqdm.write(f"dmpo: warning: {message}", file=sys.stderr)

    def troubles(self, metrics: Mapping[str, float | None], steps: Sequence[Mapping[str, float | None]]) -> Iterator[tuple[str, str]]:
        """(kind, what is wrong and what to try) of a round.

        The bound on the distance to p_ref: log p*(o) − log p_ref(o) = r/α − log Z ≤ (max r − min r)/α for every answer, so a policy
        that has become p* is at most that far away, on average over its own answers.
        """
        weight, sampler, N = self.config.weight, self.config.sampler, self.config.train.num_rollouts
        value = {name: number for name, number in metrics.items() if number is not None}
        if "ess" in value and value["ess"] * N < FEW:
            problem = f"the effective sample size is {value['ess'] * N:.2f} of {N} rollouts: one of each group has nearly all the weight"
            yield "ess", f"{problem}; try a larger weight.alpha or train.num_rollouts, or set weight.target_ess"
        is_low = value["reward"] <= (self.lowest + self.highest) / 2
        if value["frac_reward_zero_std"] >= MOST_GROUPS and is_low:
            problem = f"in {value['frac_reward_zero_std']:.0%} of the groups all rewards are equal, so nothing says which answer is better"
            yield (
                "equal",
                f"{problem}; try easier prompts, more train.num_rollouts, a finer reward, or train.skip_equal_groups (biased)",
            )
        if sampler.response_length is not None and value["answer_length"] >= sampler.response_length:
            problem = f"no answer ends within its {sampler.response_length} tokens"
            yield "length", f"{problem}; try a larger sampler.response_length, and check that model.path is instruction-tuned"
        far = (self.highest - self.lowest) / weight.alpha
        if weight.log_ratio != "none" and -value["log_ratio_mean"] > far + SLACK:
            problem = f"log p_old − log p_ref is {-value['log_ratio_mean']:.1f} nats on average, more than the {far:.1f} that p* allows"
            yield "far", f"{problem} ((max r − min r)/α); try a lower optimizer.learning_rate or train.steps_per_round"
        steepest, limit = max(step["grad_norm"] or 0.0 for step in steps), self.config.optimizer.max_grad_norm
        if steepest > STEEP * limit:
            problem = f"a gradient has the norm {steepest:.3g}, {steepest / limit:.0f} times optimizer.max_grad_norm"
            yield "steep", f"{problem}; try a lower optimizer.learning_rate, or a larger weight.alpha"
        yield from self.idle_options()

    def idle_options(self) -> Iterator[tuple[str, str]]:
        """(kind, message) of options that promise what the run does not do."""
        model, default, optimizer = self.config.model, ModelConfig(), self.config.optimizer
        num_steps = self.config.train.rounds * self.config.train.steps_per_round
        if model.lora_rank == 0 and (model.lora_alpha, model.lora_dropout) != (default.lora_alpha, default.lora_dropout):
            yield "lora", "without model.lora_rank all weights are trained, and model.lora_alpha and model.lora_dropout do nothing"
        if optimizer.warmup_steps >= num_steps:
            problem = f"optimizer.warmup_steps={optimizer.warmup_steps}, and the run has {num_steps} gradient steps"
            yield "warm-up", f"{problem}: the learning rate stays below optimizer.learning_rate"
        for key, message in idle_options(self.config):
            if not (self.own_objective and key.startswith("loss.")):
                yield key, message


def keep_batch(output: Path, batch: Experience, step: int, process: int = 0) -> str:
    """Write the batch of a gradient step, as checkpoints hold their buffer, for `torch.load(…, weights_only=True)`. Says where it is.

    A full disk must not hide what was wrong with the step: the returned text then says so, and no file is left.
    """
    path = output / f"not_finite_step_{step}_process_{process}.pt"
    try:
        torch.save(dataclasses.asdict(batch.to(torch.device("cpu"))), path)
        force_to_disk(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk by the second
        path.unlink(missing_ok=True)
        return f"its batch could not be kept ({first_line(error)})"
    return f"its batch is in {path}"


def explain_not_finite(error: Exception, kept: str, newest: Path | None) -> str:
    """How to continue after a loss or gradient that is not finite: resuming would only repeat it."""
    if newest is None:
        return f"{error}; {kept}; no checkpoint was written yet: start a new run with a lower optimizer.learning_rate"
    go_on = f"start a new run from the last good checkpoint, model.path={newest}, with a lower optimizer.learning_rate"
    return f"{error}; {kept}; to resume would repeat the step: {go_on}"
