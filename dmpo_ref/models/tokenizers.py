"""The tokenizer of a checkpoint: read without running what comes with it, and written so that older releases read it too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from dmpo_ref.models.files import first_line, read_object
from dmpo_ref.models.llada import LLaDAConfig

CONFIG = "tokenizer_config.json"
# Fields that Transformers 5 writes for its own use, or that point to Python files, which a folder written here does not hold.
NOT_WRITTEN = ("backend", "is_local", "local_files_only", "auto_map")


def has_tokenizer(folder: Path | str) -> bool:
    """Whether there are files of a tokenizer in a folder."""
    return any((Path(folder) / name).is_file() for name in (CONFIG, "tokenizer.json"))


def load_tokenizer(path: Path | str, model: LLaDAConfig) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder or of a hub name, whose mask token is that of the model.

    Raises:
        FileNotFoundError: a folder without a tokenizer.
        ValueError: it cannot be read or used, it needs Python code of the checkpoint, or its mask token has another id than the model's.
    """
    if Path(path).is_dir() and not has_tokenizer(path):
        raise FileNotFoundError(f"{path}: no tokenizer there; tokenizer.json and {CONFIG} are needed beside the weights")
    for file in (Path(path, CONFIG), Path(path, "special_tokens_map.json")):
        if file.is_file():
            read_object(file)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
        # For `save_tokenizer`; the library forgets what it does not use itself.
        tokenizer.source_fields = get_tokenizer_config(str(path))
        tokenizer.decode(tokenizer("1", add_special_tokens=False).input_ids, skip_special_tokens=True)  # settings of a wrong type fail here
    except Exception as error:  # the library of tokenizers raises nothing more special
        raise ValueError(f"{path}: the tokenizer cannot be read (code of a checkpoint is never run): {first_line(error)}") from error
    wanted = model.mask_token_id
    name: Any = tokenizer.convert_ids_to_tokens(wanted)
    if tokenizer.mask_token is None and name in tokenizer.get_added_vocab() and "mask" in name.lower():
        # The public LLaDA tokenizer has the token, but only the model's config says that it is the mask.
        tokenizer.mask_token = name
    if tokenizer.mask_token_id != wanted:
        found = f"is {tokenizer.mask_token!r:.50} with id {tokenizer.mask_token_id}" if tokenizer.mask_token else "is not named"
        problem = f"config.json says mask_token_id={wanted}, which is {name!r:.50}, but the mask_token of the tokenizer {found}"
        raise ValueError(f"{path}: {problem}; put the tokenizer of this model there, or set mask_token in {CONFIG}")
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a tokenizer as Transformers does, but with the class and the fields of the source, which release 4 understands.

    Raises:
        OSError: it cannot be written, as on a full disk.
    """
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:  # the library of tokenizers raises nothing more special
        raise OSError(f"the tokenizer cannot be written: {first_line(error)}") from error
    source: dict[str, Any] = getattr(tokenizer, "source_fields", {})
    written = read_object(folder / CONFIG)
    if isinstance(extra := written.pop("extra_special_tokens", None), list):
        written["additional_special_tokens"] = extra
    fields = source | written
    known = source.get("tokenizer_class") or written["tokenizer_class"]
    fields["tokenizer_class"] = "PreTrainedTokenizerFast" if known == "TokenizersBackend" else known  # release 5 renamed it
    if isinstance(fields.get("extra_special_tokens"), list):  # release 5 again, in the source
        del fields["extra_special_tokens"]
    fields = {name: value for name, value in fields.items() if name not in NOT_WRITTEN and name[:1] != "_"}
    (folder / CONFIG).write_text(json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
