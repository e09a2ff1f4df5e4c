"""Loading a policy with its tokenizer, and exporting it. Nothing that comes with a checkpoint is executed."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import try_to_load_from_cache
from torch.nn import Module
from transformers import BitsAndBytesConfig, PreTrainedTokenizerBase
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from dmpo_ref.config import ModelConfig
from dmpo_ref.models.adapters import load_adapters, quiet
from dmpo_ref.models.files import check_digests, check_shapes, digests_of_model, first_line, read_object, read_shapes, weight_files
from dmpo_ref.models.llada import LLaDAConfig, LLaDAModelLM
from dmpo_ref.models.tokenizers import has_tokenizer, load_tokenizer

# Fields of config.json that ask for weights of another kind, or from another file.
NOT_READ = ("quantization_config", "transformers_weights")
FOR_TRAINING = ("state.pt", "reference.safetensors")  # large files of a run's checkpoint that decide no answer
CHECKPOINT = "checkpoint-[0-9]+"  # the name of its folder
RECORD = "checkpoint.json"  # of a run's checkpoint: its round and, for adapters, digests of their base; 0.2.0 and earlier wrote none


def load_policy(
    config: ModelConfig, device: torch.device, *, trainable: bool = False, base: str | None = None
) -> tuple[LLaDAModelLM, PreTrainedTokenizerBase]:
    """Model, in evaluation mode, and tokenizer of a folder, of a run's newest checkpoint, or of a hub name.

    A folder with adapters is loaded onto the base that its adapter_config.json names, and has the tokenizer of the base if it has
    none. No code of a checkpoint is ever executed, and the user is not asked whether to.

    Args:
        trainable: whether loaded adapters are to be trained further.
        base: `model.path` of the base of adapters, if the caller knows better than adapter_config.json where it is now.

    Raises:
        FileNotFoundError: a local folder that is missing or is not a checkpoint.
        ValueError: a config that this model class does not implement, weights or adapters that do not fit it, a tokenizer that
            cannot be read or whose mask token is another one; a checkpoint under the number of another round, or adapters whose
            base has other contents than the one they were trained on (the caller who gives `base` compares).
    """
    path = locate(config.path)
    record = read_record(Path(path))
    check_number(Path(path), record.get("round"))
    below = base_of(path) if base is None else base
    if below:
        check_digests(Path(path), skip=FOR_TRAINING)
        network = load_base(replace(config, path=below), device)
        if base is None:
            check_base(Path(path), below, record)
        model = load_adapters(network, Path(path), trainable=trainable, lean=config.lora_lean)
    else:
        model = load_base(config, device)
    words = path if not below or has_tokenizer(path) else locate(below)
    return model.eval(), load_tokenizer(words, model.config)


def read_record(folder: Path) -> dict[str, Any]:
    """What a checkpoint says of itself, see `RECORD`; {} if it has no such file."""
    return read_object(folder / RECORD) if (folder / RECORD).is_file() else {}


def check_number(folder: Path, number: Any) -> None:
    """Refuse a folder named `checkpoint-` and digits that holds another round than these: the newest one is found by its number."""
    if number is not None and re.fullmatch(CHECKPOINT, folder.name) and number_of(folder) != number:
        raise ValueError(f"{folder} holds the state after round {number!r:.50}, not {number_of(folder)}; rename it, or move it away")


def check_base(folder: Path, base: str, record: dict[str, Any]) -> None:
    """Refuse adapters on another base than theirs, by contents; where it lies does not matter. Without a record they are accepted."""
    where = on_disk(base)
    if "base" in record and where is not None and record["base"] != digests_of_model(where):
        problem = f"the weights or the config.json of the base {base} are not those that these adapters were trained on"
        remedy = f"put that base back, or remove {RECORD} and digests.json if it was changed on purpose"
        raise ValueError(f"{folder}: {problem}; {remedy}")


def load_base(config: ModelConfig, device: torch.device) -> LLaDAModelLM:
    """A model without adapters; errors as in `load_policy`.

    A bfloat16 model on CUDA sets this process to multiply float32 matrices in TF32.
    """
    path = locate(config.path)
    settings = read_config(config.path)
    check_digests(Path(path), skip=FOR_TRAINING)
    # An absolute path, because adapters remember the base that they were trained on.
    settings.name_or_path = name = os.path.realpath(path) if isinstance(path, Path) else path
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    # What does not fit is reported below, by name.
    options = {"dtype": getattr(torch, config.dtype), "output_loading_info": True, "ignore_mismatched_sizes": True}
    options |= {"config": settings, "use_safetensors": True}
    if config.quantize == "nf4":
        if importlib.util.find_spec("bitsandbytes") is None:
            raise ValueError("model.quantize=nf4: 4-bit weights need bitsandbytes: pip install 'dmpo-ref[gpu]', or use none")
        if device.type == "cpu":
            options["device_map"] = device  # bitsandbytes would take a GPU if there is one
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=["transformer.ff_out"],
        )
    try:
        if isinstance(path, Path):
            check_weights_fit(path, settings)
        with quiet():
            loaded: Any = LLaDAModelLM.from_pretrained(name, **options)
    except torch.OutOfMemoryError:
        raise
    except OSError as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else OSError
        raise kind(f"model.path={config.path}: {first_line(error)}") from error
    except Exception as error:  # the libraries raise many kinds of errors for invalid fields and weights
        raise ValueError(f"model.path={config.path}: the model cannot be loaded: {first_line(error)}") from error
    model, report = cast(tuple[LLaDAModelLM, dict[str, Any]], loaded)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(problem):
            first = min(report[problem])
            if not isinstance(first, str):
                name, found, wanted = first
                first = f"{name} {list(found)} instead of {list(wanted)}"
            raise ValueError(f"model.path={config.path}: {problem.replace('_', ' ')} in the weights, first {first}")
    model.float32_logits = config.float32_logits
    if device.type == "cuda" and config.dtype == "bfloat16":
        # For float32 adapters on it: TF32 has more digits than the base, and the speed of tensor cores.
        torch.set_float32_matmul_precision("high")
    if config.compile != "none":
        compile_blocks(model, config.compile)
    return model if config.quantize == "nf4" else Module.to(model, device)


def compile_blocks(model: LLaDAModelLM, mode: str) -> None:
    """Compile every block when it is first called; not the head, whose number of positions changes from call to call.

    All blocks share one function, and so its graphs: one for each way in which it is called, whatever the sizes are. Torch's guards
    tell these ways apart: with a gradient or not, whether the input has one (that of the first block has none), adapters on, off or
    with dropout, a cache that records or that is used, a mask or none, and in the last block positions to go on with. A round of LoRA
    with a cache needs about 10 graphs, and a batch of one sequence others, because torch does not treat a size of 1 as variable. At its
    default limit, 8, torch would run everything new without compiling, for the rest of the process.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    for block in model.model["transformer"].blocks:
        block.compile(mode=mode, dynamic=True)


def locate(path: str) -> Path | str:
    """The folder of a checkpoint, or of the newest one of a run; a hub name is returned unchanged."""
    folder = latest_checkpoint(Path(path)) or Path(path)
    is_hub_name = path.count("/") == 1 and path[0] not in "./" and not folder.parent.is_dir()
    return path if is_hub_name else folder


def on_disk(path: str) -> Path | None:
    """`locate`, with the folder in the cache for a hub name: that of the files that loading it would take; None if it has none."""
    if isinstance(where := locate(path), Path):
        return where
    cached = [try_to_load_from_cache(where, name) for name in ("adapter_config.json", "config.json")]
    return next((Path(file).parent for file in cached if isinstance(file, str)), None)


def base_of(folder: Path | str) -> str | None:
    """`model.path` of the base of the adapters in a folder; None if it holds no adapters.

    A relative path starts from that folder, or from the working directory if nothing is there.

    Raises:
        FileNotFoundError, ValueError: the base is not named, is not there, or holds adapters itself.
    """
    file = Path(folder) / "adapter_config.json"
    if not file.is_file():
        return None
    base, key = read_object(file).get("base_model_name_or_path"), "base_model_name_or_path"
    if not base or not isinstance(base, str):
        raise ValueError(f"{file} does not name the model that the adapters are for: {key}")
    try:
        base = str(beside) if (beside := Path(folder, base)).is_dir() else base
        where = locate(base)
    except OSError as error:
        raise OSError(f"{file}: {key}={base[:100]!r}: {error.strerror}; write into it where the base is now") from error
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
        file = where / "config.json" if isinstance(where, Path) else Path(cached_file(where, "config.json", local_files_only=offline) or "")
    except OSError as error:
        problem = f"model.path={path}: no folder of that name, and of the hub: {first_line(error)}"
        raise FileNotFoundError(f"{problem}; check the name and the network, or give a local folder") from error
    if not file.is_file():
        raise FileNotFoundError(f"model.path={path}: no checkpoint there; a folder with config.json and *.safetensors is needed")
    fields = read_object(file)
    try:
        if (kind := fields.get("model_type")) != LLaDAConfig.model_type:
            raise ValueError(f"model_type={kind!r:.50} is not implemented; only {LLaDAConfig.model_type!r} is")
        for name in fields:
            if callable(getattr(LLaDAConfig, name, None)):
                raise ValueError(f"{name!r:.50} is no name of a field")
            plain = {"rope_type": "default", "rope_theta": fields.get("rope_theta", 500000.0)}
            if name in ("rope_scaling", "rope_parameters") and fields[name] and plain != plain | dict(fields[name]):
                raise ValueError(f"{name}={fields[name]!r:.100} is not implemented; only rope_theta is, without scaling")
            if name in NOT_READ and fields[name]:
                raise ValueError(f"{name} is not implemented; full weights in *.safetensors are needed (model.quantize makes them 4-bit)")
        dtype = fields.get("dtype") or fields.get("torch_dtype") or "float32"
        if not isinstance(getattr(torch, str(dtype), None), torch.dtype):
            raise ValueError(f"dtype={dtype!r:.50} is no number type of torch")
        config = LLaDAConfig.from_dict(fields)
        config._attn_implementation = "sdpa"  # a name of the hub here would fetch a kernel from there, and run it
    except Exception as error:  # fields of a wrong type may raise any error
        raise ValueError(f"model.path={path}: config.json: {first_line(error)}") from error
    return config


def check_weights_fit(folder: Path, config: LLaDAConfig) -> None:
    """Refuse weight files that are damaged or do not match the config, before memory for the weights is allocated."""
    given = {name: shape for file in weight_files(folder) for name, shape in read_shapes(file).items()}
    if config.n_layers > len(given):
        raise ValueError(f"config.json says n_layers={config.n_layers}, but there are {len(given)} weights in all")
    with torch.device("meta"):
        wanted = {name: list(weight.shape) for name, weight in LLaDAModelLM(config).state_dict().items()}
    check_shapes(given, wanted, where=str(folder))


def latest_checkpoint(output: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None."""
    return next(reversed(checkpoints(output)), None)


def checkpoints(output: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first: the folders named `checkpoint-` and digits, and no others."""
    return sorted((path for path in output.glob("checkpoint-*") if re.fullmatch(CHECKPOINT, path.name) and path.is_dir()), key=number_of)


def number_of(checkpoint: Path) -> int:
    """The number in the name of a checkpoint: rounds done."""
    return int(checkpoint.name.removeprefix("checkpoint-"))
