"""LoRA adapters on a policy, by PEFT."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from torch.nn import Module
from transformers.utils import logging as transformers_logging

from dmpo_ref.config import ModelConfig
from dmpo_ref.masking import stream
from dmpo_ref.models.files import check_shapes, first_line, read_object, read_shapes
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
        return as_policy(get_peft_model(model, lora).eval())  # as the model was; new layers would drop while sampling


def load_adapters(base: LLaDAModelLM, folder: Path, *, trainable: bool) -> LLaDAModelLM:
    """The base with the LoRA adapters in a folder. They may have been made for any task: it changes no number.

    Raises:
        FileNotFoundError, ValueError: the adapters are of another kind, damaged, or not exactly those that their own
            adapter_config.json puts on this base, by name and shape.
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
    except Exception as error:  # whatever PEFT makes of settings that are not what they should be
        raise ValueError(f"{folder}: the adapters cannot be put on their base {base.name_or_path}: {first_line(error)}") from error
    wanted = {name: list(weight.shape) for name, weight in weights.items()}
    check_shapes(given, wanted, where=f"{folder}: the adapters do not fit their base {base.name_or_path}")
    with quiet():
        wrapped.load_adapter(str(folder), "default", is_trainable=trainable)
    return as_policy(wrapped)


def check_settings(file: Path, *, largest: int) -> None:
    """Refuse an adapter_config.json that is not one of LoRA, or whose numbers cannot be; `largest` is the largest size in the weights."""
    settings = read_object(file)
    if (kind := settings.get("peft_type")) != "LORA":
        raise ValueError(f"{file}: peft_type={kind!r:.50} is not implemented; only 'LORA' is")
    if settings.get("megatron_config"):  # would import a module that the file names
        raise ValueError(f"{file}: megatron_config is not implemented; only layers of this model get adapters")
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if type(rank) is not int or not 1 <= rank <= largest:
        raise ValueError(f"{file}: r={rank!r:.50} is not the rank of these adapters, whose largest size is {largest}")
    if not isinstance(alpha, (int, float)) or alpha is True or not 0 < abs(alpha) < 1e300:
        raise ValueError(f"{file}: lora_alpha={alpha!r:.50} must be a finite number, and not 0")


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
            warnings.simplefilter("ignore")
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
