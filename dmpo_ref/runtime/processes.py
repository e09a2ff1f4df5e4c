"""Several processes on one machine: what a run does differently under DDP, FSDP2 and DeepSpeed's ZeRO-2.

Which it is, the config file of `accelerate launch` says (`presets/accelerate`). With DDP and ZeRO-2 every process holds all
weights; ZeRO-2 divides the states of the optimiser. With FSDP2 a process holds a share of each weight and fetches the rest,
one block at a time, for each forward and backward pass. So all processes must make equally many passes, in the same order,
whatever their rollouts need: see `Lockstep`.
"""

from __future__ import annotations

import importlib.util
import os
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Module

from dmpo_ref.config import Config, ModelConfig
from dmpo_ref.runtime.sharding import Lockstep, gather_optimizer, shard, spread_optimizer

# What `accelerate launch` sets from its config file: the name there, and the value that this project keeps to.
LAUNCH = {
    "ACCELERATE_USE_FSDP": {
        "FSDP_VERSION": ("fsdp_version", "2"),
        "FSDP_RESHARD_AFTER_FORWARD": ("fsdp_reshard_after_forward", "true"),
        "FSDP_OFFLOAD_PARAMS": ("fsdp_offload_params", "false"),
        "FSDP_CPU_RAM_EFFICIENT_LOADING": ("fsdp_cpu_ram_efficient_loading", "false"),
        "FSDP_ACTIVATION_CHECKPOINTING": ("fsdp_activation_checkpointing", "false"),  # model.gradient_checkpointing does it
    },
    "ACCELERATE_USE_DEEPSPEED": {
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": ("zero_stage", "2"),
        "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": ("offload_optimizer_device", "none"),
        "ACCELERATE_DEEPSPEED_CONFIG_FILE": ("deepspeed_config_file", "none"),
    },
}
ALWAYS = {
    "ACCELERATE_MIXED_PRECISION": ("mixed_precision", "no"),  # model.dtype says the type of the weights
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("gradient_accumulation_steps", "1"),  # loss.micro_batch does it
}


def is_on(variable: str) -> bool:
    """Whether `accelerate launch` has switched something on."""
    return os.environ.get(variable, "false").lower() == "true"


def is_first_process() -> bool:
    """Whether this is the process that writes, as the launcher says; known before there is an `Accelerator`."""
    return os.environ.get("RANK", "0") == "0"


def check_launch(model: ModelConfig) -> None:
    """Refuse settings of `accelerate launch` that would be ignored or do not work here.

    Raises:
        ValueError: the first one, with the value that is needed.
    """
    settings = dict(ALWAYS)
    for switch in LAUNCH:
        settings |= LAUNCH[switch] if is_on(switch) else {}
    for variable, (name, needed) in settings.items():
        if (given := os.environ.get(variable, needed).lower()) != needed:
            raise ValueError(f"{name}={given} in the accelerate config is not supported; use {needed}, as in presets/accelerate")
    if is_on("ACCELERATE_USE_FSDP") and model.quantize != "none":
        raise ValueError(f"model.quantize={model.quantize}: 4-bit weights cannot be divided by FSDP; use none, or ddp_8_gpus.yaml")


def build_accelerator(config: Config) -> Accelerator:
    """Accelerate on the device of the config.

    Raises:
        ValueError: CUDA, or the package of a tracker, is asked for and not there; a setting of `accelerate launch` that is not supported.
    """
    check_launch(config.model)
    has_cuda = torch.cuda.is_available()
    if config.log_with != "none" and importlib.util.find_spec(config.log_with) is None:
        raise ValueError(f"log_with={config.log_with}: that package is not installed; pip install {config.log_with}, or use none")
    if config.device == "cuda" and not has_cuda:
        raise ValueError("device=cuda: torch sees no CUDA device here; use device=cpu, or install a CUDA build of torch")
    if config.threads:
        torch.set_num_threads(config.threads)
    tracker = {} if config.log_with == "none" else {"log_with": config.log_with, "project_dir": config.output}
    # Processes wait for the slowest; the default of ten minutes is less than one may need for its answers.
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=12))
    return Accelerator(cpu=config.device == "cpu" or not has_cuda, kwargs_handlers=[patience], **tracker)


class Processes:
    """What depends on how many processes there are and what they share; with one of them, as if it were not there.

    Attributes:
        accelerator: Accelerate's, as it was launched.
        count, index: of processes, and which one this is.
        shares: FSDP2, each process holds a share of every weight. zero: DeepSpeed's ZeRO-2.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator, self.device = accelerator, accelerator.device
        self.count, self.index, self.is_main = accelerator.num_processes, accelerator.process_index, accelerator.is_main_process
        self.shares = is_on("ACCELERATE_USE_FSDP") and self.count > 1
        self.zero = accelerator.distributed_type == DistributedType.DEEPSPEED
        self.lockstep: Lockstep | None = None

    def divide(self, model: Module) -> None:
        """With FSDP2, leave this process its share of the weights of a model, in place. To be called before an optimiser is made."""
        if self.shares:
            shard(model, self.device)
            self.lockstep = self.lockstep or Lockstep(self.device)
            self.lockstep.watch(model)

    def prepare(self, policy: Module, optimizer: torch.optim.Optimizer, *, max_grad_norm: float) -> Module:
        """The policy as it is called for forward passes with a gradient."""
        self.optimizer, self.max_grad_norm = optimizer, max_grad_norm
        if self.shares:  # `divide` has put its hooks into the policy itself
            self.wrapped = policy
            return policy
        if self.zero:
            # DeepSpeed clips in the same call in which it steps. The batch size it asks for is not used.
            fixed = {"gradient_clipping": max_grad_norm, "gradient_accumulation_steps": 1, "train_micro_batch_size_per_gpu": 1}
            self.accelerator.state.deepspeed_plugin.deepspeed_config.update(fixed)
        self.wrapped, _ = self.accelerator.prepare(policy, optimizer)
        return self.wrapped

    @property
    def for_company(self) -> bool:
        """Whether the forward pass under way is one that only another process needs."""
        return self.lockstep is not None and self.lockstep.for_company

    def join(self) -> None:
        """With FSDP2, wait until no process makes a forward pass without a gradient any more."""
        if self.lockstep is not None:
            self.lockstep.join()

    def most(self, number: int) -> int:
        """Of backward passes: the largest of the processes' numbers where gradients are exchanged in each; with DDP, this one."""
        if not (self.shares or self.zero):
            return number
        self.join()
        return int(self.accelerator.gather(torch.tensor([number], device=self.device)).max())

    def accumulate(self, *, is_last: bool) -> AbstractContextManager:
        """Around each forward and backward pass of a gradient step. DDP exchanges gradients in the last; FSDP2 and ZeRO-2 in every
        one, because a whole gradient would take the memory that they save."""
        if self.zero:
            self.wrapped.set_gradient_accumulation_boundary(is_last)
        if is_last or self.shares or self.zero:
            return nullcontext()
        return self.accelerator.no_sync(self.wrapped)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient."""
        # Accelerate's own `backward` would take an optimiser step under DeepSpeed.
        (self.wrapped if self.zero else self.accelerator).backward(loss)

    def clip_gradients(self) -> Tensor:
        """Scale the gradients down to the largest norm allowed; returns the norm that they had. DeepSpeed also steps."""
        if self.zero:
            self.wrapped.step()
            return torch.as_tensor(self.wrapped.get_global_grad_norm())
        norm = self.accelerator.clip_grad_norm_(self.wrapped.parameters(), self.max_grad_norm)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def step(self) -> None:
        """A step of the optimiser, after which there are no gradients."""
        if not self.zero:
            self.optimizer.step()
            self.optimizer.zero_grad()

    def optimizer_state(self, output: Path) -> tuple[dict[str, Any], list[Path]]:
        """State of the optimiser, for the main process to save: whole; or, with ZeRO-2, files in which each process has put its part."""
        if not self.zero:
            return gather_optimizer(self.optimizer, keep=self.is_main), []
        # A hidden name, until the checkpoint takes it.
        torch.save(self.optimizer.state_dict(), output / f".optimizer-{self.index:05d}.pt")
        self.accelerator.wait_for_everyone()
        return {}, [output / f".optimizer-{index:05d}.pt" for index in range(self.count)]

    def check_resume(self, folder: Path, buffers: list[list[Any]]) -> None:
        """Refuse a checkpoint of which a part belongs to each process, if there are other processes now."""
        then, parts = len(buffers), len(list(folder.glob("optimizer-*.pt")))
        if then != self.count and (parts or any(buffers)):
            raise ValueError(f"{folder} was written by {then} processes, with a part each; resume with {then}, not {self.count}")
        if bool(parts) != self.zero:
            raise ValueError(f"{folder} was written {'with' if parts else 'without'} DeepSpeed; resume with the same accelerate config")

    def load_optimizer(self, state: dict[str, Any], folder: Path) -> None:
        """The opposite of `optimizer_state`, with as many processes as then."""
        if self.zero:
            state = torch.load(folder / f"optimizer-{self.index:05d}.pt", map_location="cpu", weights_only=True)
        self.optimizer.load_state_dict(state if self.zero else spread_optimizer(state, self.optimizer))

    def mean(self, values: dict[str, float | None]) -> dict[str, float | None]:
        """Metrics averaged over the processes, which have equally many prompts each."""
        if self.count == 1:
            return values
        numbers = {name: value for name, value in values.items() if isinstance(value, float)}
        averaged = [total / self.count for total in self.sum(list(numbers.values()))]
        return values | dict(zip(numbers, averaged, strict=True))

    def sum(self, values: list[float]) -> list[float]:
        """Of each value over the processes."""
        if self.count == 1:
            return values
        return self.accelerator.reduce(torch.tensor(values, dtype=torch.float64, device=self.device), "sum").tolist()

    def any(self, flag: bool) -> bool:
        """Whether it is so on any process."""
        return self.sum([float(flag)])[0] > 0
