"""State that must survive a kill: the counters of a run, its buffer, and the state of optimiser and learning rate."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import torch
from torch.nn import Module
from torch.optim.lr_scheduler import LambdaLR

from dmpo_ref.config import OptimizerConfig
from dmpo_ref.rollout import Experience


@dataclass
class TrainState:
    """Where a run is.

    Attributes:
        optimizer, schedule: of the weights that are trained; see `build_optimizer`.
        round, step: rounds and gradient steps done.
        buffer: experience of the newest rounds, oldest first.
        counters: rollouts of all processes, forward passes of this one, seconds.
        last_line: of metrics.jsonl, written at the end of the newest round; "" if an earlier version saved the state.
        origin: digests of the data and of the p_ref that the run started from; see `runtime.origin`.
        clock: time at which `counters["seconds"]` was last updated; it is not saved.
    """

    optimizer: torch.optim.Optimizer
    schedule: LambdaLR
    round: int = 0
    step: int = 0
    buffer: list[Experience] = field(default_factory=list)
    counters: dict[str, float] = field(default_factory=lambda: {"rollouts": 0, "forward_passes": 0, "seconds": 0.0})
    last_line: str = ""
    origin: dict[str, str] = field(default_factory=dict)
    clock: float = field(default_factory=time.perf_counter)

    def end_step(self, loss: float, grad_norm: float) -> dict[str, float | None]:
        """Count a gradient step and advance the learning rate; returns the metrics of the step."""
        learning_rate = float(self.schedule.get_last_lr()[0])
        self.schedule.step()
        self.step += 1
        return {"step": self.step, "loss": loss, "grad_norm": grad_norm, "learning_rate": learning_rate}

    def count_seconds(self) -> None:
        """Add the time since the last call."""
        now = time.perf_counter()
        self.counters["seconds"] += now - self.clock
        self.clock = now


def build_optimizer(policy: Module, config: OptimizerConfig, num_steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """AdamW on the weights that are trained, and its learning rate over `num_steps` steps."""
    optimizer = torch.optim.AdamW(
        [p for p in policy.parameters() if p.requires_grad],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
    )
    return optimizer, LambdaLR(optimizer, lambda step: learning_rate_share(config, step, num_steps))


def learning_rate_share(config: OptimizerConfig, step: int, num_steps: int) -> float:
    """Learning rate at a step, as a share of its highest: linear warm-up, then constant or decaying to 0."""
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    progress = min(1.0, (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps))
    return {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}[config.schedule]
