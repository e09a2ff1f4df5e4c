"""LoRA adapters on a policy, by PEFT."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Module
from transformers.utils import logging as transformers_logging

from dmpo_ref.config import ModelConfig
from dmpo_ref.masking import stream
from dmpo_ref.models.llada import LLaDAModelLM


def add_adapters(model: LLaDAModelLM, config: ModelConfig, *, seed: int) -> Module:
    """LoRA adapters on linear layers of every block; everything else is frozen.

    They start as no change at all, drawn from a stream of their own, and are float32 whatever the base is.

    Raises:
        ValueError: a target that matches no layer of the blocks.
    """
    from peft import LoraConfig, get_peft_model

    layers = {name.rsplit(".", 1)[1] for name, _ in model.named_modules() if ".blocks." in name and name.count(".") == 4}
    if unknown := sorted(set(config.lora_targets) - layers):
        known = ", ".join(sorted(name for name in layers if not name.endswith("norm")))
        raise ValueError(f"model.lora_targets: {unknown[0]!r} matches no layer of the blocks; there are {known}")
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        # By the whole path: the vocabulary head has the same last name as a layer of the blocks.
        target_modules=rf".*\.blocks\.\d+\.({'|'.join(config.lora_targets)})",
    )
    with torch.random.fork_rng(devices=[]), quiet():
        torch.default_generator.manual_seed(stream(seed, "adapters").initial_seed())
        return get_peft_model(model, lora)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what a user could not mend (PEFT asks Transformers by deprecated names) or is told in one line (keys that do not fit)."""
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
