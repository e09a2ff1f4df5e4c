"""Digests of the files that determine the answers of a policy: two folders with equal digests give the same answers."""

from __future__ import annotations

from dmpo_ref.models.files import digest, digest_all, digests_of_model
from dmpo_ref.models.loading import base_of, on_disk

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.*.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
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
    if (folder := on_disk(path)) is None:
        return {"hub name": f"{path}, not in the cache"}
    words = sorted(file for pattern in TOKENIZER_FILES for file in folder.glob(pattern))
    tokenizer = {"tokenizer": digest_all(folder, words)} if words else {}
    if base := base_of(folder):
        named = {"adapter_config.json": "adapter_config.json", "weights": "adapter_model.safetensors"}
        parts = {part: digest(folder / name) for part, name in named.items()} | tokenizer
        below = fingerprint_parts(base)
        return parts | {f"base {name}": value for name, value in below.items() if not (words and name == "tokenizer")}
    return digests_of_model(folder) | tokenizer
