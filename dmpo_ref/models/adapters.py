"""LoRA adapters on a policy, with PEFT."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import Module
from torch.nn import functional as F
from transformers.utils import logging as transformers_logging

from dmpo_ref.config import ModelConfig
from dmpo_ref.masking import stream
from dmpo_ref.models.files import check_shapes, first_line, read_object, read_shapes
from dmpo_ref.models.llada import LLaDAModelLM

if TYPE_CHECKING:
    from peft import PeftModel

MOST_ALPHA = 1e6  # as lora_alpha; a thousand times what anyone trains with


def add_adapters(model: LLaDAModelLM, config: ModelConfig, *, seed: int) -> LLaDAModelLM:
    """LoRA adapters on linear layers of every block; everything else is frozen.

    They are drawn from a separate random stream, change nothing at first, and are float32 whatever the type of the base.

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
        wrapped = get_peft_model(model, lora).eval()  # evaluation mode, as before: new layers would apply dropout while sampling
        return as_policy(wrapped, lean=config.lora_lean)


def load_adapters(base: LLaDAModelLM, folder: Path, *, trainable: bool, lean: bool) -> LLaDAModelLM:
    """The base with the LoRA adapters in a folder. Their task type does not matter: it changes no number.

    Raises:
        FileNotFoundError, ValueError: the adapters are of another kind, damaged, or not exactly those that their
            adapter_config.json describes for this base, by name and shape.
    """
    from peft import LoraConfig, PeftModel, get_peft_model_state_dict  # seconds of import, for adapters only

    given = read_shapes(folder / "adapter_model.safetensors")
    check_settings(folder / "adapter_config.json", largest=max((size for shape in given.values() for size in shape), default=0))
    try:
        with quiet():
            lora = LoraConfig.from_pretrained(str(folder))
            lora.task_type, lora.inference_mode, lora.base_model_name_or_path = None, not trainable, base.name_or_path
            wrapped = PeftModel(base, lora)
            weights = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # PEFT raises many kinds of errors for invalid settings
        raise ValueError(f"{folder}: the adapters cannot be put on their base {base.name_or_path}: {first_line(error)}") from error
    wanted = {name: list(weight.shape) for name, weight in weights.items()}
    check_shapes(given, wanted, where=f"{folder}: the adapters do not fit their base {base.name_or_path}")
    with quiet():
        wrapped.load_adapter(str(folder), "default", is_trainable=trainable)
    return as_policy(wrapped, lean=lean)


def check_settings(file: Path, *, largest: int) -> None:
    """Refuse an adapter_config.json that is not for LoRA or has impossible numbers; `largest` is the largest size in the weights."""
    settings = read_object(file)
    if (kind := settings.get("peft_type")) != "LORA":
        raise ValueError(f"{file}: peft_type={kind!r:.50} is not implemented; only 'LORA' is")
    if settings.get("megatron_config"):  # would import a module that the file names
        raise ValueError(f"{file}: megatron_config is not implemented; only layers of this model get adapters")
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    patterns = {name: settings.get(name, {}) for name in ("rank_pattern", "alpha_pattern")}
    for name, pattern in patterns.items():
        if not isinstance(pattern, dict):
            raise ValueError(f"{file}: {name}={pattern!r:.50} is not an object of layers and numbers")
    for name, value in {"r": rank, **in_pattern("rank_pattern", patterns)}.items():
        if type(value) is not int or not 1 <= value <= largest:
            raise ValueError(f"{file}: {name}={value!r:.50} is not the rank of these adapters, whose largest size is {largest}")
    for name, value in {"lora_alpha": alpha, **in_pattern("alpha_pattern", patterns)}.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < abs(value) <= MOST_ALPHA:
            raise ValueError(f"{file}: {name}={value!r:.50} must be a number other than 0, of at most {MOST_ALPHA:g}")


def in_pattern(name: str, patterns: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The numbers that a pattern sets for some layers, by the pattern's name and theirs."""
    return {f"{name}, {layer}": value for layer, value in patterns[name].items()}


def as_policy(wrapped: PeftModel, *, lean: bool) -> LLaDAModelLM:
    """A PEFT model, typed as the model inside it, all of whose attributes it has; its adapters as in `Lean`, or as in PEFT."""
    from peft.tuners.lora import LoraLayer  # seconds of import, for adapters only

    for module in wrapped.modules():
        if lean and isinstance(module, LoraLayer) and isinstance(module.get_base_layer(), nn.Linear):
            module.__class__ = lean_class(type(module))
    return cast(LLaDAModelLM, wrapped)


@cache
def lean_class(kind: type) -> type:
    """A lean subclass of one of PEFT's linear layers with adapters."""
    return type(f"Lean{kind.__name__}", (Lean, kind), {})


class Lean:
    """A bfloat16 layer with float32 adapters, in passes without a gradient: y = W x + (α/r) B (A x) with A and B rounded to bfloat16.

    PEFT makes a float32 copy of x and three float32 tensors as wide as y. Here only A x is a new tensor, and B times it is added to W x in
    place: adapters move a fifth of the bytes. A and B are rounded anew in each pass, so that a step, a re-sync or a load takes
    effect at once; that costs what is saved on about 30 tokens, at rank 128 of LLaDA-8B.

    Logits are then as far from those in exact arithmetic as PEFT's are: within 1.1 times, or 1.5 times where adapters count more than W.
    So log p_old and log p_ref, both without a gradient, are as exact as they were. In a pass with a gradient A and B stay float32 and
    nothing differs from PEFT, so log p_θ there differs from log p_old by such rounding even before the first step, and ratios are
    not exactly 1. With `loss.micro_batch` a loss that is not linear is first taken without a gradient: its ratios are then exactly
    1, and its derivative is taken at these rounded scores. With float32 weights nothing differs at all.
    """

    def forward(self: Any, x: Tensor) -> Tensor:
        pairs = [(self.lora_A[name].weight, self.lora_B[name], self.scaling[name]) for name in self.active_adapters if name in self.lora_A]
        differs = self.disable_adapters or self.merged or self.lora_variant or self.training or any(B.bias is not None for _, B, _ in pairs)
        if torch.is_grad_enabled() or differs or x.dtype != torch.bfloat16:
            return super().forward(x)  # type: ignore[misc]  # PEFT's
        y = self.base_layer(x)
        for A, B, scale in pairs:
            low = F.linear(x, A.to(x.dtype))
            y.view(-1, y.shape[-1]).addmm_(low.view(-1, low.shape[-1]), B.weight.to(x.dtype).T, alpha=scale)
        return y


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings that a user cannot act on (PEFT uses deprecated names of Transformers) or that become one line of ours."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def trained_weights(policy: Module) -> dict[str, Tensor]:
    """The weights that a checkpoint of a policy holds, by name: its adapters, or all weights if it has none."""
    weights = policy.state_dict()
    return {name: value for name, value in weights.items() if "lora_" in name} or weights


def adapter_weights(policy: Module) -> dict[str, Tensor]:
    """A copy of the adapters of a policy."""
    return {name: value.detach().clone() for name, value in policy.named_parameters() if "lora_" in name}
