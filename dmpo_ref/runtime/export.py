"""Exporting a policy as a plain folder of Hugging Face or PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch

from dmpo_ref.config import ModelConfig
from dmpo_ref.models.loading import RECORD, base_of, latest_checkpoint, load_policy, read_config, read_record
from dmpo_ref.models.tokenizers import save_tokenizer
from dmpo_ref.runtime.files import claim, written_whole


def export(source: Path, target: Path, *, merge: bool) -> str:
    """Write a policy and its tokenizer, completely or not at all.

    Args:
        merge: add the adapters to the weights of their base.

    Returns:
        What was written, in words.

    Raises:
        FileNotFoundError: no checkpoint at the source.
        ValueError: the target exists or is being written by another process, or there are no adapters to merge.
        OSError: it cannot be written, as on a full disk.
    """
    check_absent(target)
    folder = latest_checkpoint(source) or source
    base = base_of(folder)
    dtype: Any = str(read_config(base or str(folder)).dtype or torch.float32).removeprefix("torch.")
    if merge and not base:
        raise ValueError(f"{source} has no adapters to merge; it is a full checkpoint already, export it without --merge")
    model, tokenizer = load_policy(ModelConfig(path=str(folder), dtype=dtype), torch.device("cpu"))
    merged: Any = cast(Any, model).merge_and_unload() if merge else model
    if broken := [name for name, weight in merged.state_dict().items() if not weight.isfinite().all()]:
        raise ValueError(f"{source}: the weights {broken[0]} are not finite, so nothing is written; take an earlier checkpoint")
    record = {name: value for name, value in read_record(folder).items() if name == "base" and not merge}
    with claim(target.with_name(f".{target.name}.partial"), option=""), written_whole(target, "repeat the command") as folder:
        check_absent(target)  # another process may have written it since
        merged.save_pretrained(folder)
        save_tokenizer(tokenizer, folder)
        if record:
            (folder / RECORD).write_text(json.dumps(record) + "\n")
    return "merged checkpoint" if merge else "adapters" if base else "checkpoint"


def check_absent(target: Path) -> None:
    """Refuse to write where something is."""
    if target.exists() or target.is_symlink():
        raise ValueError(f"{target} exists; give a folder that does not")
