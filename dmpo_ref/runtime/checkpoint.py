"""Crash-safe state. A checkpoint is written under a temporary name and then renamed, so a folder with its name is always complete.

Every checkpoint folder is also a plain Hugging Face model folder: `model.path=runs/x` loads the newest one of a run.
Random streams are keyed by their purpose (`masking.stream`), so there is no generator state to save.
"""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from operator import index
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dmpo_ref.config import Config, SamplerConfig, flat
from dmpo_ref.models.adapters import trained_weights
from dmpo_ref.models.files import check_digests, first_line, write_digests
from dmpo_ref.models.loading import RECORD, check_number, checkpoints
from dmpo_ref.models.reference import Reference
from dmpo_ref.models.sharding import gather_optimizer, gather_shards, shard_optimizer
from dmpo_ref.models.tokenizers import save_tokenizer
from dmpo_ref.presets.loading import PATHS, load_run_config, to_yaml
from dmpo_ref.rollout import Experience, Rollout
from dmpo_ref.runtime.files import discard, force_to_disk, written_whole
from dmpo_ref.runtime.origin import digests_of_base, record_checkpoint
from dmpo_ref.runtime.processes import Processes, is_first_process
from dmpo_ref.runtime.state import TrainState

# A resumed run may differ from the interrupted one in these options and in `evaluation`, and still gives the same numbers up to float
# tolerance; with LoRA dropout, which depends on `loss.micro_batch`, up to what is dropped.
FREE_ON_RESUME = ("output", "device", "threads", "log_with", "log_prompts", "micro_batch", "checkpoint_every", "keep_checkpoints")


def save_checkpoint(
    config: Config,
    state: TrainState,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    reference: Reference | None,
    processes: Processes,
) -> None:
    """Collect the state of all processes; the main one writes it. All processes must call it.

    Raises:
        OSError: it cannot be written, as on a full disk; the checkpoints before it stay.
    """
    train, cpu = config.train, torch.device("cpu")
    kept = state.buffer[-train.reuse_rounds :] if train.reuse_rounds else []
    buffers = processes.gather([experience.to(cpu) for experience in kept])
    weights = gather_shards(trained_weights(policy), keep=processes.is_main) if processes.shards else None
    moved = gather_shards(reference.state(), keep=processes.is_main) if reference and has_moved(config, state.round) else {}
    saved = {
        "round": state.round,
        "step": state.step,
        "counters": state.counters,
        "last_line": state.last_line,
        "origin": state.origin,
        "optimizer": gather_optimizer(state.optimizer, keep=processes.is_main),
        "schedule": state.schedule.state_dict(),
        "buffers": [[dataclasses.asdict(experience) for experience in buffer] for buffer in buffers],
    }
    if processes.is_main:
        write_checkpoint(config, policy, tokenizer, weights, moved, saved)


def has_moved(config: Config, rounds: int) -> bool:
    """Whether p_ref is no longer the policy that the run started from, after so many rounds."""
    return 0 < config.train.resync_every <= rounds


def write_checkpoint(
    config: Config,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    weights: dict[str, Tensor] | None,
    reference: dict[str, Tensor],
    saved: dict[str, Any],
) -> None:
    """Write `checkpoint-<round>` under a temporary name, rename it, then remove all but the newest `keep_checkpoints`.

    Args:
        weights: of the policy, if it holds only shards of them; None: take those it holds.
        reference: weights of p_ref, if it is no longer the policy that the run started from; else empty.
        saved: the rest of the state, for `state.pt`.
    """
    output = Path(config.output)
    folder = output / f"checkpoint-{saved['round']:06d}"
    go_on = "go on with --resume" if checkpoints(output) else "start again, without --resume: there is no checkpoint yet"
    with written_whole(folder, go_on) as temporary:
        policy.save_pretrained(temporary, state_dict=weights)
        save_tokenizer(tokenizer, temporary)
        (temporary / "run.yaml").write_text(to_yaml(config), encoding="utf-8")
        if reference:
            save_file({name: value.contiguous() for name, value in reference.items()}, temporary / "reference.safetensors")
        torch.save(saved, temporary / "state.pt")
        base = digests_of_base(saved.get("origin", {})) if config.model.lora_rank else {}
        (temporary / RECORD).write_text(json.dumps({"round": saved["round"]} | ({"base": base} if base else {})) + "\n")
        write_digests(temporary)
        for log in output.glob("*.jsonl"):
            force_to_disk(log)
    force_to_disk(output)
    record_checkpoint(output, saved["round"])
    for older in checkpoints(output)[: -config.train.keep_checkpoints]:
        # Folders of other programs stay, and the new one even where another has a higher number.
        if (older / "run.yaml").is_file() and not older.is_symlink() and older != folder:
            discard(older)


@dataclasses.dataclass
class Checkpoint:
    """A loaded checkpoint: its folder (policy and tokenizer are in it), the state of the run, the weights of p_ref if it
    has moved, and for each process the rollouts to reuse."""

    folder: Path
    state: dict[str, Any]
    reference: dict[str, Tensor]
    buffers: list[list[Experience]]

    def restore(self, state: TrainState, processes: Processes) -> None:
        """Put counters, buffer, optimiser and learning rate into the state of a run; policy and reference are loaded separately."""
        then = len(self.buffers)
        if then != processes.count and any(self.buffers):
            parts = f"{then} process{'es' * (then != 1)}, with a part each"
            raise ValueError(f"{self.folder} was written by {parts}; resume with {then}, not {processes.count}")
        try:
            state.round, state.step = self.state["round"], index(self.state["step"])
            state.last_line = self.state.get("last_line", "")
            state.counters = {name: self.state["counters"][name] + 0 for name in state.counters}
            if state.step and not self.state["optimizer"]["state"]:
                raise ValueError("state.pt: the optimiser has no state")
            state.optimizer.load_state_dict(shard_optimizer(self.state["optimizer"], state.optimizer))
            state.schedule.load_state_dict(self.state["schedule"])
        except DAMAGED as error:
            raise ValueError(describe_damage(self.folder, error)) from error
        if any(self.buffers):
            state.buffer = [experience.to(processes.device) for experience in self.buffers[processes.index]]


def load_checkpoint(output: Path, config: Config) -> Checkpoint | None:
    """The newest checkpoint of a run; None if there is none yet.

    Raises:
        ValueError: the run was started with another config (the first key that differs is named), or a file is missing or damaged;
            then the newest intact one before it is named, if there is one.
    """
    if not (found := checkpoints(output)):
        return None
    try:
        then, checkpoint = read_checkpoint(found[-1])
    except DAMAGED as error:
        raise ValueError(describe_damage(found[-1], error)) from error
    check_number(found[-1], checkpoint.state["round"])
    check_same(then, config, may_move="origin" in checkpoint.state)
    return checkpoint


# Errors raised while reading a checkpoint whose files are damaged or were changed.
DAMAGED = (OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, SafetensorError, UnpicklingError)


def read_checkpoint(folder: Path) -> tuple[Config, Checkpoint]:
    """The config of a checkpoint, and the checkpoint. Raises what `DAMAGED` lists."""
    if is_first_process():  # the others need not read every byte too
        check_digests(folder)
    then = load_run_config(folder / "run.yaml")
    # Mapped, not read: with shards every process has this file, and needs only a part of it.
    state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True, mmap=True)
    buffers = [[as_experience(stored) for stored in buffer] for buffer in state.pop("buffers")]
    reference = load_file(folder / "reference.safetensors") if (folder / "reference.safetensors").is_file() else {}
    state["round"] = index(state["round"])
    return then, Checkpoint(folder, state, reference, buffers)


def describe_damage(folder: Path, error: Exception) -> str:
    """What is wrong with a checkpoint, and how to continue: from the newest intact one before it."""
    known = checkpoints(folder.parent)
    remedy = "put a copy of it back, or remove the run and start again"
    for older in reversed(known[: known.index(folder)]):
        with suppress(*DAMAGED):
            check_number(older, read_checkpoint(older)[1].state["round"])
            remedy = f"move it away, and --resume goes on from {older}, which is whole"
            break
    return f"{folder} is incomplete or damaged, so it cannot be resumed from: {first_line(error).partition(';')[0]}; {remedy}"


def check_same(then: Config, now: Config, *, may_move: bool = False) -> None:
    """Refuse to resume a run with another config, naming the first key that would change its numbers.

    Args:
        may_move: another `model.path` is allowed where the old one is gone; its contents are compared instead (`check_origin`).
    """
    before = flat(then)
    for key, value in flat(now).items():
        if key == "model.path" and may_move and not Path(before[key]).exists():
            continue
        if key in PATHS and Path(before[key] or "").resolve() == Path(value or "").resolve():
            continue  # the same place, written in another way
        # More rounds do not change those already run, unless the learning rate depends on their number.
        is_longer = key == "train.rounds" and value > before[key] and now.optimizer.schedule == "constant"
        if before[key] != value and not is_longer and not key.endswith(FREE_ON_RESUME) and not key.startswith("evaluation."):
            remedy = f"resume with the same config, or choose another output; from model.path={now.output} its policy is the new p_ref"
            if key == "train.rounds" and value > before[key]:
                remedy = f"rounds can grow only with optimizer.schedule=constant, and this run has {now.optimizer.schedule}; {remedy}"
            raise ValueError(f"{now.output} was run with {key}={before[key]}, not {value}; {remedy}")


def as_experience(stored: dict[str, Any]) -> Experience:
    """Experience from the nested dictionaries that a checkpoint holds."""
    if "log_prob" in (rollout := stored["rollout"]):  # its name in version 0.1.0
        rollout["path_log_prob"] = rollout.pop("log_prob")
    experience = Experience(**stored | {"rollout": Rollout(**rollout | {"sampler": SamplerConfig(**rollout["sampler"])})})
    for name in ("reward", "weight", "base_weight"):
        if not getattr(experience, name).isfinite().all():
            raise ValueError(f"state.pt: a {name} in the buffer is not a finite number")
    return experience
