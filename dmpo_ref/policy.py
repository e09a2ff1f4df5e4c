"""Loading: a policy with its tokenizer, LoRA adapters on it, and the reference policy that goes with it."""

from __future__ import annotations

import copy
import json
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import Module
from transformers import AutoTokenizer, BitsAndBytesConfig, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from dmpo_ref.config import ModelConfig
from dmpo_ref.masking import stream
from dmpo_ref.model import LLaDAModelLM


def load_policy(config: ModelConfig, device: torch.device, *, trainable: bool = False) -> tuple[Module, PreTrainedTokenizerBase]:
    """Model, in evaluation mode, and tokenizer of a folder, of a run's newest checkpoint, or of a hub name.

    A folder with adapters is loaded onto the base that its adapter_config.json names. Nothing from the hub is executed.

    Args:
        trainable: whether loaded adapters are to be trained further.

    Raises:
        FileNotFoundError: a local folder that is not there or is no checkpoint.
        ValueError: a config that this model class does not implement, or weights that do not fit it.
    """
    path = latest_checkpoint(Path(config.path)) or Path(config.path)
    if (path / "adapter_config.json").is_file():
        from peft import PeftConfig, PeftModel

        base = PeftConfig.from_pretrained(str(path)).base_model_name_or_path
        model = load_base(ModelConfig(**{**vars(config), "path": base}), device)
        try:
            with quiet():
                model = PeftModel.from_pretrained(model, str(path), is_trainable=trainable)
        except (RuntimeError, ValueError, SafetensorError) as error:
            raise ValueError(f"model.path={config.path}: the adapters do not fit their base {base}: {first_line(error)}") from error
    else:
        model = load_base(config, device)
    tokenizer = AutoTokenizer.from_pretrained(str(path) if path.is_dir() else config.path)
    if tokenizer.mask_token is None:
        # The public LLaDA tokenizer has the token, but only the model's config says that it is the mask.
        tokenizer.mask_token = tokenizer.convert_ids_to_tokens(model.config.mask_token_id)
    return model.eval(), tokenizer


def load_base(config: ModelConfig, device: torch.device) -> LLaDAModelLM:
    """A model without adapters; errors as in `load_policy`."""
    path = latest_checkpoint(Path(config.path)) or Path(config.path)
    looks_like_hub_name = config.path.count("/") == 1 and config.path[0] not in "./" and not path.parent.is_dir()
    if not looks_like_hub_name and not (path / "config.json").is_file():
        raise FileNotFoundError(f"model.path={config.path}: no checkpoint there; a folder with config.json and *.safetensors is needed")
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    options = {"dtype": getattr(torch, config.dtype), "output_loading_info": True}
    if config.quantize == "nf4":
        if device.type != "cuda":
            raise ValueError("model.quantize=nf4: 4-bit weights need CUDA; use none")
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=["transformer.ff_out"],
        )
    try:
        # An absolute path, because adapters remember the base that they were trained on.
        model, report = LLaDAModelLM.from_pretrained(str(path.resolve()) if path.is_dir() else config.path, **options)
    except OSError as error:
        raise FileNotFoundError(f"model.path={config.path}: {first_line(error)}") from error
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"model.path={config.path}: the weights do not fit the config: {first_line(error)}") from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(problem):
            raise ValueError(f"model.path={config.path}: {problem.replace('_', ' ')} in the weights, first {sorted(report[problem])[0]}")
    return model if config.quantize == "nf4" else model.to(device)


def latest_checkpoint(output: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None."""
    return max(output.glob("checkpoint-*[0-9]"), default=None)


def first_line(error: Exception) -> str:
    """An error in one line, shortened."""
    return " ".join(str(error).split())[:300]


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
        torch.manual_seed(stream(seed, "adapters").initial_seed())
        return get_peft_model(model, lora)


@contextmanager
def quiet() -> Iterator[None]:
    """PEFT still asks Transformers by names that Transformers has deprecated; that is nothing a user could mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def export(source: Path, target: Path, *, merge: bool) -> str:
    """Write a policy and its tokenizer as a plain Hugging Face or PEFT folder, completely or not at all.

    Args:
        merge: add the adapters to the weights of their base.

    Returns:
        What was written, in words.

    Raises:
        FileNotFoundError: no checkpoint at the source.
        ValueError: the target exists, or there are no adapters to merge.
    """
    if target.exists():
        raise ValueError(f"{target} exists; give a folder that does not")
    folder = latest_checkpoint(source) or source
    has_adapters = (folder / "adapter_config.json").is_file()
    if merge and not has_adapters:
        raise ValueError(f"{source} has no adapters to merge; it is a full checkpoint already, export it without --merge")
    base = folder
    if has_adapters:
        base = Path(json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"])
    dtype = "float32"
    if (base / "config.json").is_file():
        dtype = json.loads((base / "config.json").read_text(encoding="utf-8")).get("dtype") or dtype
    model, tokenizer = load_policy(ModelConfig(path=str(folder), dtype=dtype), torch.device("cpu"))
    temporary = target.with_name(f".{target.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    (model.merge_and_unload() if merge else model).save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    temporary.rename(target)
    return "merged checkpoint" if merge else "adapters" if has_adapters else "checkpoint"


class FrozenReference:
    """p_ref as a copy of the policy, for full fine-tuning."""

    def __init__(self, policy: Module):
        self.copy = copy.deepcopy(policy).eval().requires_grad_(False)

    @contextmanager
    def model(self) -> Iterator[Module]:
        """The reference policy as a model."""
        yield self.copy

    def sync(self, policy: Module) -> None:
        """p_ref ← p_θ."""
        self.copy.load_state_dict(policy.state_dict())

    def state(self) -> dict[str, Tensor]:
        """Its weights, for a checkpoint."""
        return self.copy.state_dict()

    def load(self, state: dict[str, Tensor]) -> None:
        """Take the weights of a checkpoint."""
        self.copy.load_state_dict(state)


class AdapterReference:
    """p_ref as the policy itself with other adapters: none, or those of the last re-sync. No second model in memory."""

    def __init__(self, policy: Module):
        self.policy, self.weights = policy, {}

    @contextmanager
    def model(self) -> Iterator[Module]:
        """The reference policy as a model; on leaving, the policy has its own adapters again."""
        if not self.weights:
            with self.policy.disable_adapter():
                yield self.policy
            return
        own = adapter_weights(self.policy)
        self._put(self.weights)
        try:
            yield self.policy
        finally:
            self._put(own)

    def sync(self, policy: Module) -> None:
        """p_ref ← p_θ."""
        self.weights = adapter_weights(policy)

    def state(self) -> dict[str, Tensor]:
        """Its adapters, for a checkpoint; empty while it is the base."""
        return self.weights

    def load(self, state: dict[str, Tensor]) -> None:
        """Take the adapters of a checkpoint."""
        self.weights = {name: value.to(self.policy.device) for name, value in state.items()}

    @torch.no_grad()
    def _put(self, weights: dict[str, Tensor]) -> None:
        parameters = dict(self.policy.named_parameters())
        for name, value in weights.items():
            parameters[name].copy_(value)


def adapter_weights(policy: Module) -> dict[str, Tensor]:
    """A copy of the adapters of a policy."""
    return {name: value.detach().clone() for name, value in policy.named_parameters() if "lora_" in name}
