"""Digests of the files that determine the answers of a policy: two folders with equal digests give the same answers."""

from __future__ import annotations

import hashlib
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from dmpo_ref.models.files import digest, weight_files
from dmpo_ref.models.loading import base_of, locate

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja"),
    *("vocab.json", "vocab.txt", "merges.txt", "tokenizer.model"),
)


def fingerprint_parts(path: str) -> dict[str, str]:
    """SHA-256 digests by the name of the part, so that a caller can say which part has changed; a copy of the folder in another
    place has the same ones. Every byte of the weights is read: about a second for 1 to 2 GB, so once for an evaluation or a run.

    "config.json", "weights" and "tokenizer", which includes the chat template. Adapters have "adapter_config.json" (but for the
    place of their base), "weights", and the parts of their base: "base config.json", "base weights"; "base tokenizer" if they have
    no tokenizer of their own.

    Args:
        path: as in `model.path`. A hub name stands for the files of it in the cache, those that loading it would take or has
            taken; if there are none, the only part is "hub name".

    Raises:
        FileNotFoundError, ValueError: no checkpoint there, or a file of it is missing or broken.
    """
    folder = locate(path)
    if isinstance(folder, str):
        cached = [try_to_load_from_cache(folder, name) for name in ("adapter_config.json", "config.json")]
        if not (found := [file for file in cached if isinstance(file, str)]):
            return {"hub name": f"{folder}, not in the cache"}
        folder = Path(found[0]).parent
    words = sorted(file for pattern in TOKENIZER_FILES for file in folder.glob(pattern))
    tokenizer = {"tokenizer": digest_all(folder, words)} if words else {}
    if base := base_of(folder):
        named = {"adapter_config.json": "adapter_config.json", "weights": "adapter_model.safetensors"}
        parts = {part: digest(folder / name) for part, name in named.items()} | tokenizer
        below = fingerprint_parts(base)
        return parts | {f"base {name}": value for name, value in below.items() if not (words and name == "tokenizer")}
    return {"config.json": digest(folder / "config.json"), "weights": digest_all(folder, weight_files(folder))} | tokenizer


def digest_all(folder: Path, files: list[Path]) -> str:
    """SHA-256 of the paths below a folder, and the contents, of several files."""
    lines = [f"{file.relative_to(folder)} {digest(file)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
