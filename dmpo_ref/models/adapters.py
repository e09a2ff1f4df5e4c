"""LoRA adapters on a policy, by PEFT."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from torch.nn import Module
from transformers.utils import logging as transformers_logging

from dmpo_ref.config import ModelConfig
from dmpo_ref.masking import stream
from dmpo_ref.models.llada import LLaDAModelLM

if TYPE_CHECKING:
    from peft import PeftModel


def add_adapters(model: LLaDAModelLM, config: ModelConfig, *, seed: int) -> LLaDAModelLM:
    """LoRA adapters on linear layers of every block; everything else is frozen.

    They start as no change at all, drawn from a stream of their own, and are float32 whatever the base is.

    Raises:
        ValueError: a target that matches no layer of the blocks.
    """
    from peft import LoraConfig, get_peft_model  # seconds of import, for LoRA only

    layers = {name.rsplit(".", 1)[1] for name, _ in model.named_modules() if ".blocks." in name and name.count(".") == 4}
    if unknown := sorted(set(config.lora_targets) - layers):
        known = ", ".join(sorted(name for name in layers if not name.endswith("norm")))
        raise ValueError(f"model.lora_targets: {unknown[0]!r} matches no layer of the blocks; there are {known}")
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]  # PEFT only divides it by the rank
        lora_dropout=config.lora_dropout,
        # By the whole path: the vocabulary head has the same last name as a layer of the blocks.
        target_modules=rf".*\.blocks\.\d+\.({'|'.join(config.lora_targets)})",
    )
    with torch.random.fork_rng(devices=[]), quiet():
        torch.default_generator.manual_seed(stream(seed, "adapters").initial_seed())
        return as_policy(get_peft_model(model, lora))


def as_policy(wrapped: PeftModel) -> LLaDAModelLM:
    """A PEFT model under the type of the model inside it, all of whose attributes it has."""
    return cast(LLaDAModelLM, wrapped)


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings that a user cannot act on (PEFT uses deprecated names of Transformers) or that become one line of ours."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def trained_weights(policy: Module) -> dict[str, Tensor]:
    """What a checkpoint of a policy holds, by name: its adapters, or all weights if it has none."""
    weights = policy.state_dict()
    return {name: value for name, value in weights.items() if "lora_" in name} or weights


def adapter_weights(policy: Module) -> dict[str, Tensor]:
    """A copy of the adapters of a policy."""
    return {name: value.detach().clone() for name, value in policy.named_parameters() if "lora_" in name}
