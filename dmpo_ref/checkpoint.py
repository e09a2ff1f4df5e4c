"""Crash-safe state. A checkpoint is written beside its place and renamed, so a folder of that name is always complete.

Every checkpoint folder is also a plain Hugging Face model folder: `model.path=runs/x` loads the newest one of a run.
Random streams are keyed by what they are for (`masking.stream`), so there is no generator state to save.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from dmpo_ref.config import Config, ModelConfig, SamplerConfig, describe_options, get_option, load_config, to_yaml
from dmpo_ref.losses import Experience
from dmpo_ref.model import LLaDAModelLM
from dmpo_ref.rollout import Rollout

# A resumed run may differ from the interrupted one in these and still give the same numbers (up to float tolerance).
FREE_ON_RESUME = ("output", "device", "threads", "log_with", "micro_batch", "checkpoint_every")


def load_policy(config: ModelConfig, device: torch.device) -> tuple[LLaDAModelLM, PreTrainedTokenizerBase]:
    """Model, in evaluation mode, and tokenizer of a folder or hub name. Nothing from the hub is executed.

    Raises:
        FileNotFoundError: a local folder that is not there or is no checkpoint.
        ValueError: a config that this model class does not implement, or weights that do not fit it.
    """
    newest = latest_checkpoint(Path(config.path))
    path = Path(config.path) if newest is None else newest
    looks_like_hub_name = config.path.count("/") == 1 and config.path[0] not in "./" and not path.parent.is_dir()
    if not looks_like_hub_name and not (path / "config.json").is_file():
        raise FileNotFoundError(f"model.path={config.path}: no checkpoint there; a folder with config.json and *.safetensors is needed")
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    try:
        dtype = getattr(torch, config.dtype)
        model, report = LLaDAModelLM.from_pretrained(str(path), dtype=dtype, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(str(path))
    except OSError as error:
        raise FileNotFoundError(f"model.path={config.path}: {' '.join(str(error).split())}") from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(problem):
            raise ValueError(f"model.path={config.path}: {problem.replace('_', ' ')} in the weights, first {sorted(report[problem])[0]}")
    if tokenizer.mask_token is None:
        # The public LLaDA tokenizer has the token, but only the model's config says that it is the mask.
        tokenizer.mask_token = tokenizer.convert_ids_to_tokens(model.config.mask_token_id)
    return model.to(device).eval(), tokenizer


def latest_checkpoint(output: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None."""
    return max(output.glob("checkpoint-*[0-9]"), default=None)


def save_checkpoint(
    output: Path,
    *,
    config: Config,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    reference: PreTrainedModel | None,
    buffer: list[Experience],
    state: dict[str, Any],
) -> Path:
    """Write `checkpoint-<round>` completely, then let it appear by a rename, then remove the one before it.

    Args:
        reference: p_ref, if it is no longer the policy the run started from.
        buffer: rollouts that a later round may reuse.
        state: `round`, counters, and the state of optimiser and schedule.
    """
    folder = output / f"checkpoint-{state['round']:06d}"
    temporary = output / f".{folder.name}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    policy.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    (temporary / "run.yaml").write_text(to_yaml(config), encoding="utf-8")
    if reference is not None:
        reference.save_pretrained(temporary / "reference")
    torch.save(state | {"buffer": [dataclasses.asdict(experience) for experience in buffer]}, temporary / "state.pt")
    flush(temporary)
    older = latest_checkpoint(output)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    flush(output)
    if older is not None and older != folder:
        shutil.rmtree(older)
    return folder


@dataclasses.dataclass
class Checkpoint:
    """A loaded checkpoint: its folder (policy and tokenizer are in it), the state of the run, the rollouts to reuse."""

    folder: Path
    state: dict[str, Any]
    buffer: list[Experience]


def load_checkpoint(output: Path, config: Config) -> Checkpoint | None:
    """The newest checkpoint of a run; None if there is none yet.

    Raises:
        ValueError: the run was started with another config; the first key that differs is named.
    """
    folder = latest_checkpoint(output)
    if folder is None:
        return None
    then, now = flat(load_config(folder / "run.yaml")), flat(config)
    for key, value in now.items():
        if then[key] != value and not key.endswith(FREE_ON_RESUME):
            raise ValueError(f"{output} was run with {key}={then[key]}, not {value}; resume with the same config, or choose another output")
    state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    buffer = []
    for stored in state.pop("buffer"):
        rollout = Rollout(**stored.pop("rollout"))
        rollout.sampler = SamplerConfig(**rollout.sampler)
        buffer.append(Experience(rollout=rollout, **stored))
    return Checkpoint(folder, state, buffer)


def flat(config: Config) -> dict[str, Any]:
    """Every option of a config by its dotted key."""
    return {key: get_option(config, key) for key in describe_options()}


def flush(folder: Path) -> None:
    """Force the files of a folder, and the folder itself, to the disk."""
    for path in [*(p for p in folder.rglob("*") if p.is_file()), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that it is either the old or the new one, never half of one."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


class MetricsFile:
    """One JSON object a line for every gradient step; a resumed run drops the lines after its checkpoint."""

    def __init__(self, path: Path, *, keep_rounds: int):
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        # A line cut off by a crash belongs to a round that is run again.
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["round"] < keep_rounds]
        write_atomically(path, "".join(line + "\n" for line in kept))
        self.path = path

    def write(self, metrics: dict[str, Any]) -> None:
        """Append one line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
