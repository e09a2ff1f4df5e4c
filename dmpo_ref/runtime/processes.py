"""Several processes on one machine: what a run does differently under DDP and FSDP2. With one process none of it has an effect.

The config file of `accelerate launch` decides which (`presets/accelerate`). With DDP every process holds all weights. With
FSDP2 a process holds a shard of each weight and fetches the rest, one block at a time, for each forward and backward pass. So
all processes must make equally many passes, in the same order, whatever their rollouts need: see `Lockstep`.
"""

from __future__ import annotations

import importlib.util
import os
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, gather_object
from torch import distributed
from torch.nn import Module

from dmpo_ref.config import Config, TrainConfig
from dmpo_ref.models.sharding import shard

# What `accelerate launch` sets from its config file: the name there, and the only value that this project supports.
ALWAYS = {
    "ACCELERATE_MIXED_PRECISION": ("mixed_precision", "no"),  # model.dtype says the type of the weights
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("gradient_accumulation_steps", "1"),  # loss.micro_batch does it
}
WITH_FSDP = {
    "FSDP_VERSION": ("fsdp_version", "2"),
    "FSDP_RESHARD_AFTER_FORWARD": ("fsdp_reshard_after_forward", "true"),
    "FSDP_OFFLOAD_PARAMS": ("fsdp_offload_params", "false"),
    "FSDP_CPU_RAM_EFFICIENT_LOADING": ("fsdp_cpu_ram_efficient_loading", "false"),
    "FSDP_ACTIVATION_CHECKPOINTING": ("fsdp_activation_checkpointing", "false"),  # model.gradient_checkpointing does it
}


def is_on(variable: str) -> bool:
    """Whether `accelerate launch` has switched something on."""
    return os.environ.get(variable, "false").lower() == "true"


def is_first_process() -> bool:
    """Whether this is the process that writes, as the launcher says; known before there is an `Accelerator`.

    A RANK without a WORLD_SIZE above 1 is of no launcher: it must not switch off the lock on a folder.
    """
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def check_launch(config: Config) -> None:
    """Refuse settings of `accelerate launch` that would be ignored or do not work here.

    Raises:
        ValueError: the first one, with the value that is needed.
    """
    if is_on("ACCELERATE_USE_DEEPSPEED"):
        raise ValueError("DeepSpeed was removed in version 0.2.0; use ddp_8_gpus.yaml (adapters) or fsdp2_8_gpus.yaml (all weights)")
    if is_on("ACCELERATE_USE_MEGATRON_LM"):
        raise ValueError("Megatron-LM is not supported; use ddp_8_gpus.yaml (adapters) or fsdp2_8_gpus.yaml (all weights)")
    for variable, (name, needed) in (ALWAYS | (WITH_FSDP if is_on("ACCELERATE_USE_FSDP") else {})).items():
        if (given := os.environ.get(variable, needed).lower()) != needed:
            raise ValueError(f"{name}={given} in the accelerate config is not supported; use {needed}, as in presets/accelerate")
    if is_on("ACCELERATE_USE_FSDP"):
        check_quantize(config, "FSDP")


def check_quantize(config: Config, strategy: str) -> None:
    """Refuse 4-bit weights where they would have to be sharded."""
    if config.model.quantize != "none":
        raise ValueError(f"model.quantize={config.model.quantize}: 4-bit weights cannot be sharded by {strategy}; use none, or ddp")


def check_division(config: TrainConfig, num_processes: int) -> None:
    """Refuse numbers of prompts that the processes cannot share evenly."""
    for key in ("prompts_per_round", "prompts_per_step"):
        if (value := getattr(config, key)) is not None and value % num_processes:
            raise ValueError(f"train.{key}={value}: cannot be shared evenly by {num_processes} processes; choose a multiple")


def build_accelerator(config: Config) -> Accelerator:
    """Accelerate on the device of the config.

    Raises:
        ValueError: CUDA, or the package of a tracker, is requested but missing; a setting of `accelerate launch` that is not supported.
    """
    check_launch(config)
    has_cuda = torch.cuda.is_available()
    if config.log_with != "none" and importlib.util.find_spec(config.log_with) is None:
        raise ValueError(f"log_with={config.log_with}: that package is not installed; pip install {config.log_with}, or use none")
    if config.device == "cuda" and not has_cuda:
        raise ValueError("device=cuda: torch sees no CUDA device here; use device=cpu, or install a CUDA build of torch")
    if config.threads:
        torch.set_num_threads(config.threads)
    tracker: dict[str, Any] = {} if config.log_with == "none" else {"log_with": config.log_with, "project_dir": config.output}
    # Processes wait for the slowest; the default of ten minutes is less than one may need for its answers.
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=12))
    return Accelerator(cpu=config.device == "cpu" or not has_cuda, kwargs_handlers=[patience], **tracker)


class Processes:
    """Everything that depends on the number of processes and on what they share.

    Attributes:
        accelerator: Accelerate's, as it was launched; None for one process outside a run, as in a notebook.
        count, index: number of processes, and index of this one. is_main: this one writes.
        shards: FSDP2, each process holds a shard of every weight.
    """

    def __init__(self, accelerator: Accelerator | None = None):
        self.accelerator = accelerator
        self.device = accelerator.device if accelerator else torch.device("cpu")
        self.count: int = accelerator.num_processes if accelerator else 1
        self.index: int = accelerator.process_index if accelerator else 0
        self.is_main = self.index == 0
        self.shards = is_on("ACCELERATE_USE_FSDP") and self.count > 1
        self.lockstep: Lockstep | None = None
        self.prepared: tuple[Module, Module] | None = None

    def shard(self, model: Module) -> None:
        """With FSDP2, leave this process its shard of the weights of a model, in place. Call it before an optimiser is made."""
        if self.shards:
            shard(model, self.device)
            self.lockstep = self.lockstep or Lockstep(self.device)
            self.lockstep.watch(model)

    def prepare(self, policy: Module) -> None:
        """Let DDP exchange the gradients of the policy; FSDP2 has put its hooks into the policy itself."""
        if self.accelerator and not self.shards:
            self.prepared = policy, self.accelerator.prepare(policy)

    def wrapped(self, policy: Module) -> Module:
        """The module to call for forward passes of the policy with a gradient."""
        return self.prepared[1] if self.prepared and self.prepared[0] is policy else policy

    def join(self) -> None:
        """With FSDP2, wait until no process makes a forward pass without a gradient any more."""
        if self.lockstep is not None:
            self.lockstep.join()

    def most(self, number: int) -> int:
        """Number of backward passes to make: with FSDP2, which exchanges gradients in each, the largest of any process; else `number`."""
        if not self.shards or self.accelerator is None:
            return number
        self.join()
        return int(self.accelerator.gather(torch.tensor([number], device=self.device)).max())

    def accumulate(self, policy: Module, *, is_last: bool) -> AbstractContextManager:
        """Around each forward and backward pass of a gradient step. DDP exchanges gradients in the last; FSDP2 in every one, because
        a whole gradient would take the memory that it saves."""
        if is_last or self.shards or self.accelerator is None:
            return nullcontext()
        return self.accelerator.no_sync(self.wrapped(policy))

    def mean(self, values: dict[str, float | None]) -> dict[str, float | None]:
        """Metrics averaged over the processes, which have equally many prompts each."""
        numbers = {name: value for name, value in values.items() if isinstance(value, float)}
        averaged = [total / self.count for total in self.sum(list(numbers.values()))]
        return values | dict(zip(numbers, averaged, strict=True))

    def sum(self, values: list[float]) -> list[float]:
        """Sum of each value over the processes."""
        if self.count == 1 or self.accelerator is None:
            return values
        return self.accelerator.reduce(torch.tensor(values, dtype=torch.float64, device=self.device), "sum").tolist()

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any process."""
        return self.sum([float(flag)])[0] > 0

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in order."""
        return gather_object([value]) if self.accelerator else [value]


class Lockstep:
    """Lets all processes make equally many forward passes without a gradient, although their rollouts need different numbers.

    Before each pass the processes agree on whose model is run next: the first one that any of them needs. The others run it on one
    token, a filler pass. Passes with a gradient are not voted on: all processes must make equally many.
    Before each of them, and in `join`, a process waits until the others have made all their passes without a gradient.
    """

    def __init__(self, device: torch.device):
        self.models: list[Module] = []
        self.device, self.is_filler = device, False

    def watch(self, model: Module) -> None:
        """Vote before each pass of this model too. All processes must name their models in the same order."""
        model.register_forward_pre_hook(partial(self._before_pass, len(self.models)), prepend=True)  # before FSDP fetches weights
        self.models.append(model)

    def join(self) -> None:
        """Make filler passes until no process needs to run a model. Call it before any other exchange between processes."""
        self._wait_for(len(self.models))

    def _before_pass(self, wanted: int, *_: Any) -> None:
        if not self.is_filler:
            self._wait_for(len(self.models) if torch.is_grad_enabled() else wanted)

    def _wait_for(self, wanted: int) -> None:
        while (turn := self._vote(wanted)) != wanted:
            token = torch.zeros(1, 1, dtype=torch.long, device=self.device)
            self.is_filler = True
            with torch.no_grad():
                self.models[turn](input_ids=token, select=torch.zeros_like(token, dtype=torch.bool))
            self.is_filler = False

    def _vote(self, wanted: int) -> int:
        ballot = torch.tensor(wanted, device=self.device)
        distributed.all_reduce(ballot, distributed.ReduceOp.MIN)
        return int(ballot)
