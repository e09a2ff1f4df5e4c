"""Crash-safe state. A checkpoint is written beside its place and renamed, so a folder of that name is always complete.

Every checkpoint folder is also a plain Hugging Face model folder: `model.path=runs/x` loads the newest one of a run.
Random streams are keyed by what they are for (`masking.stream`), so there is no generator state to save.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Module
from transformers import PreTrainedTokenizerBase

from dmpo_ref.config import Config, SamplerConfig, flat
from dmpo_ref.models.loading import first_line, latest_checkpoint
from dmpo_ref.presets.loading import load_config, to_yaml
from dmpo_ref.rollout import Experience, Rollout
from dmpo_ref.runtime.files import force_to_disk

# A resumed run may differ from the interrupted one in these, and in `evaluation`, and still be trained to the same numbers up to
# float tolerance; with LoRA dropout, which follows `loss.micro_batch`, up to what is dropped.
FREE_ON_RESUME = ("output", "device", "threads", "log_with", "log_prompts", "micro_batch", "checkpoint_every", "keep_checkpoints")


def save_checkpoint(
    output: Path,
    *,
    config: Config,
    policy: Module,
    tokenizer: PreTrainedTokenizerBase,
    reference: dict[str, Tensor],
    buffers: list[list[Experience]],
    state: dict[str, Any],
    weights: dict[str, Tensor] | None = None,
    parts: Sequence[Path] = (),
) -> Path:
    """Write `checkpoint-<round>` completely, then let it appear by a rename, then remove all but the newest `keep_checkpoints`.

    Args:
        reference: weights of p_ref, if it is no longer the policy the run started from; else empty.
        buffers: for each process the rollouts that a later round may reuse.
        state: `round`, counters, and the state of optimiser and schedule.
        weights: those of the policy, where it has shares of them only; None: its own.
        parts: files with a dot before their name, written beside, that go into the checkpoint without it.

    Raises:
        OSError: it cannot be written, as on a full disk; those before it stay.
    """
    folder = output / f"checkpoint-{state['round']:06d}"
    temporary = output / f".{folder.name}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        policy.save_pretrained(temporary, state_dict=weights)
        tokenizer.save_pretrained(temporary)
        (temporary / "run.yaml").write_text(to_yaml(config), encoding="utf-8")
        if reference:
            save_file({name: value.contiguous() for name, value in reference.items()}, temporary / "reference.safetensors")
        stored = [[dataclasses.asdict(experience) for experience in buffer] for buffer in buffers]
        torch.save(state | {"buffers": stored}, temporary / "state.pt")
        for part in parts:
            part.rename(temporary / part.name[1:])
        for written in (*(p for p in temporary.rglob("*") if p.is_file()), temporary, *output.glob("*.jsonl")):
            force_to_disk(written)
    except torch.OutOfMemoryError:
        raise
    except (OSError, RuntimeError, SafetensorError) as error:  # the last two are what torch and safetensors make of a full disk
        shutil.rmtree(temporary, ignore_errors=True)
        for part in parts:
            part.unlink(missing_ok=True)
        problem = f"{folder} cannot be written: {first_line(error)}"
        raise OSError(f"{problem}; make room or mend the folder, then go on with --resume") from error
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    force_to_disk(output)
    for older in sorted(output.glob("checkpoint-*[0-9]"))[: -config.train.keep_checkpoints]:
        shutil.rmtree(older)
    return folder


@dataclasses.dataclass
class Checkpoint:
    """A loaded checkpoint: its folder (policy and tokenizer are in it), the state of the run, the weights of p_ref if it
    has moved, and for each process the rollouts to reuse."""

    folder: Path
    state: dict[str, Any]
    reference: dict[str, Tensor]
    buffers: list[list[Experience]]


def load_checkpoint(output: Path, config: Config) -> Checkpoint | None:
    """The newest checkpoint of a run; None if there is none yet.

    Raises:
        ValueError: the run was started with another config (the first key that differs is named), or a file is missing or damaged.
    """
    folder = latest_checkpoint(output)
    if folder is None:
        return None
    try:
        then, now = flat(load_config(folder / "run.yaml")), flat(config)
        # Mapped, not read: with shares every process has this file, and needs only a part of it.
        state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True, mmap=True)
        buffers = [[as_experience(stored) for stored in buffer] for buffer in state.pop("buffers")]
        reference = load_file(folder / "reference.safetensors") if (folder / "reference.safetensors").is_file() else {}
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError, SafetensorError, UnpicklingError) as error:
        problem = f"{folder} is incomplete or damaged, so it cannot be resumed from: {first_line(error)}"
        raise ValueError(f"{problem}; put a copy of it back, or remove the run and start again") from error
    for key, value in now.items():
        # More rounds leave those that were run as they are, unless the learning rate falls to its end with them.
        is_longer = key == "train.rounds" and value > then[key] and config.optimizer.schedule == "constant"
        if then[key] != value and not is_longer and not key.endswith(FREE_ON_RESUME) and not key.startswith("evaluation."):
            remedy = f"resume with the same config, or choose another output; from model.path={output} its policy is the new p_ref"
            raise ValueError(f"{output} was run with {key}={then[key]}, not {value}; {remedy}")
    return Checkpoint(folder, state, reference, buffers)


def as_experience(stored: dict[str, Any]) -> Experience:
    """Experience from the nested dictionaries that a checkpoint holds."""
    rollout = stored["rollout"]
    return Experience(**stored | {"rollout": Rollout(**rollout | {"sampler": SamplerConfig(**rollout["sampler"])})})
