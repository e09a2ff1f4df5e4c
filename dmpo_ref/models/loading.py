"""Loading a policy with its tokenizer, and exporting it. Nothing from a model hub is executed."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch.nn import Module
from transformers import AutoConfig, AutoTokenizer, BitsAndBytesConfig, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from dmpo_ref.config import ModelConfig
from dmpo_ref.models.adapters import as_policy, quiet
from dmpo_ref.models.files import first_line, read_object
from dmpo_ref.models.llada import LLaDAConfig, LLaDAModelLM


def load_policy(config: ModelConfig, device: torch.device, *, trainable: bool = False) -> tuple[LLaDAModelLM, PreTrainedTokenizerBase]:
    """Model, in evaluation mode, and tokenizer of a folder, of a run's newest checkpoint, or of a hub name.

    A folder with adapters is loaded onto the base that its adapter_config.json names. Nothing from the hub is executed.

    Args:
        trainable: whether loaded adapters are to be trained further.

    Raises:
        FileNotFoundError: a local folder that is not there or is no checkpoint.
        ValueError: a config that this model class does not implement, or weights that do not fit it.
    """
    path = locate(config.path)
    if base := base_of(path):
        from peft import PeftModel  # seconds of import, for adapters only

        if not (file := Path(path, "adapter_model.safetensors")).is_file():
            raise FileNotFoundError(f"model.path={config.path}: {file} is missing")
        model = load_base(replace(config, path=base), device)
        try:
            with quiet():
                model = as_policy(PeftModel.from_pretrained(model, str(path), is_trainable=trainable))
        except (RuntimeError, ValueError, SafetensorError) as error:
            raise ValueError(f"model.path={config.path}: the adapters do not fit their base {base}: {first_line(error)}") from error
    else:
        model = load_base(config, device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path))
    except Exception as error:  # the library of tokenizers raises nothing more special
        raise ValueError(f"model.path={config.path}: the tokenizer cannot be read: {first_line(error)}") from error
    if tokenizer.mask_token is None:
        # The public LLaDA tokenizer has the token, but only the model's config says that it is the mask.
        tokenizer.mask_token = tokenizer.convert_ids_to_tokens(model.config.mask_token_id)
    return model.eval(), tokenizer


def load_base(config: ModelConfig, device: torch.device) -> LLaDAModelLM:
    """A model without adapters; errors as in `load_policy`.

    A bfloat16 model on CUDA sets this process to multiply float32 matrices in TF32.
    """
    path = locate(config.path)
    read_config(config.path)
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    # What does not fit is reported below, by name.
    options = {"dtype": getattr(torch, config.dtype), "output_loading_info": True, "ignore_mismatched_sizes": True}
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
        with quiet():
            loaded: Any = LLaDAModelLM.from_pretrained(str(path.resolve() if isinstance(path, Path) else path), **options)
    except OSError as error:
        raise FileNotFoundError(f"model.path={config.path}: {first_line(error)}") from error
    except SafetensorError as error:
        problem = f"a file of weights is damaged or cut off: {first_line(error)}"
        raise ValueError(f"model.path={config.path}: {problem}; copy or download it again") from error
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"model.path={config.path}: the weights do not fit the config: {first_line(error)}") from error
    model, report = cast(tuple[LLaDAModelLM, dict[str, Any]], loaded)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(problem):
            first = min(report[problem])
            if not isinstance(first, str):
                name, found, wanted = first
                first = f"{name} {list(found)} instead of {list(wanted)}"
            raise ValueError(f"model.path={config.path}: {problem.replace('_', ' ')} in the weights, first {first}")
    if device.type == "cuda" and config.dtype == "bfloat16":
        # For float32 adapters on it: TF32 has more digits than the base, and the speed of tensor cores.
        torch.set_float32_matmul_precision("high")
    if config.compile != "none":
        for block in model.model["transformer"].blocks:  # not the head, whose number of positions changes from call to call
            block.compile(mode=config.compile)
    return model if config.quantize == "nf4" else Module.to(model, device)


def locate(path: str) -> Path | str:
    """The folder of a checkpoint, or of the newest one of a run; a hub name stays what it is."""
    folder = latest_checkpoint(Path(path)) or Path(path)
    is_hub_name = path.count("/") == 1 and path[0] not in "./" and not folder.parent.is_dir()
    return path if is_hub_name else folder


def base_of(folder: Path | str) -> str | None:
    """`model.path` of the base of the adapters in a folder; None if it holds no adapters.

    A relative path is one from that folder, or from the working directory if nothing is there.

    Raises:
        FileNotFoundError, ValueError: the base is not named, is not there, or holds adapters itself.
    """
    file = Path(folder) / "adapter_config.json"
    if not file.is_file():
        return None
    base, key = read_object(file).get("base_model_name_or_path"), "base_model_name_or_path"
    if not base or not isinstance(base, str):
        raise ValueError(f"{file} does not name the model that the adapters are for: {key}")
    base = str(beside) if (beside := Path(folder, base)).is_dir() else base
    where = locate(base)
    if isinstance(where, Path) and not (where / "config.json").is_file():
        raise FileNotFoundError(f"{file} names the base {base[:200]}, and no checkpoint is there; write into its {key} where it is now")
    if isinstance(where, Path) and (where / "adapter_config.json").is_file():
        raise ValueError(f"{file} names the base {base[:200]}, which holds adapters itself; merge those first with dmpo export --merge")
    return base


def read_config(path: str, *, offline: bool = False) -> LLaDAConfig:
    """The config of a model without adapters.

    Args:
        path: as in `model.path`. offline: look at this disk only, if it is a hub name.

    Raises:
        FileNotFoundError, ValueError: no config, one that cannot be read, or of a model that is not implemented.
    """
    where = locate(path)
    try:
        if isinstance(where, Path):
            if not (where / "config.json").is_file():
                raise FileNotFoundError("no checkpoint there; a folder with config.json and *.safetensors is needed")
            check_type(json.loads((where / "config.json").read_text(encoding="utf-8")).get("model_type"))
        config = AutoConfig.from_pretrained(str(where), trust_remote_code=False, local_files_only=offline)
        check_type(config.model_type)
    except OSError as error:
        raise FileNotFoundError(f"model.path={path}: {first_line(error)}") from error
    except ValueError as error:
        raise ValueError(f"model.path={path}: config.json: {first_line(error)}") from error
    return config


def check_type(name: str | None) -> None:
    """Refuse another architecture, and with it whatever Python a repository has for it."""
    if name != LLaDAConfig.model_type:
        raise ValueError(f"model_type={name!r} is not implemented; only {LLaDAConfig.model_type!r} is")


def latest_checkpoint(output: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None."""
    return next(reversed(checkpoints(output)), None)


def checkpoints(output: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first: the folders named `checkpoint-` and digits, and no others."""
    found = [path for path in output.glob("checkpoint-*") if re.fullmatch("checkpoint-[0-9]+", path.name) and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")))


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
    base = base_of(folder)
    dtype: Any = str(read_config(base or str(folder)).dtype or torch.float32).removeprefix("torch.")
    if merge and not base:
        raise ValueError(f"{source} has no adapters to merge; it is a full checkpoint already, export it without --merge")
    model, tokenizer = load_policy(ModelConfig(path=str(folder), dtype=dtype), torch.device("cpu"))
    temporary = target.with_name(f".{target.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    merged: Any = cast(Any, model).merge_and_unload() if merge else model
    merged.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    temporary.rename(target)
    return "merged checkpoint" if merge else "adapters" if base else "checkpoint"
