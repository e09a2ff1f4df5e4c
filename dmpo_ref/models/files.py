"""Reading the files of a checkpoint, which may come from anywhere: an error is one line that names the file.

In a checkpoint of a run `digests.json` holds the SHA-256 of every other file, so that a flipped bit is detected.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

FLOATS = ("F64", "F32", "F16", "BF16")
# Files that decide answers: each that is in a checkpoint is in its digests.json too.
LISTED = (
    *("*.safetensors", "*config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json"),
    *("*.jinja", "vocab*", "merges.txt", "state.pt", "checkpoint.json"),
)
DIGESTS = "digests.json"  # version 0.2.0 and earlier wrote none
CHUNK_BYTES = 2**22


def read_object(file: Path) -> dict[str, Any]:
    """The fields of a JSON file that holds an object; OSError or ValueError if it does not."""
    try:
        return parse_object(read_bytes(file))
    except ValueError as error:
        raise ValueError(f"{file} {error}; put a sound copy in its place") from error


def parse_object(text: bytes) -> dict[str, Any]:
    """The fields of a JSON object; ValueError if it is something else."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not valid JSON: {first_line(error)}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"holds a {type(fields).__name__}, not an object of fields")
    return fields


def read_bytes(file: Path) -> bytes:
    """The contents of a file."""
    with naming(file, "read"):
        return file.read_bytes()


@contextmanager
def naming(file: Path, done: Literal["read", "written"]) -> Iterator[None]:
    """Within it, an error while a file is read or written names the file and says what to do, which not every library error does."""
    try:
        yield
    except OSError as error:
        remedy = "; make space or repair the folder" if done == "written" else ""
        raise type(error)(f"{file} cannot be {done}: {error.strerror or error}{remedy}") from error


def digest(file: Path) -> str:
    """SHA-256 of a file; for adapter_config.json, of its fields except the path of the base, which may change."""
    total = hashlib.sha256()
    if file.name == "adapter_config.json":
        total.update(json.dumps(read_object(file) | {"base_model_name_or_path": None}, sort_keys=True).encode())
        return total.hexdigest()
    with naming(file, "read"), file.open("rb") as content:
        while chunk := content.read(CHUNK_BYTES):
            total.update(chunk)
    return total.hexdigest()


def digest_all(folder: Path, files: list[Path]) -> str:
    """SHA-256 of the paths below a folder, and the contents, of several files."""
    lines = [f"{file.relative_to(folder)} {digest(file)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def digests_of_model(folder: Path) -> dict[str, str]:
    """SHA-256 of config.json and of the weights of a model without adapters. Every byte is read."""
    return {"config.json": digest(folder / "config.json"), "weights": digest_all(folder, weight_files(folder))}


def write_digests(folder: Path) -> None:
    """Write the digest of every file of a checkpoint into it."""
    (folder / DIGESTS).write_text(json.dumps({name: digest(folder / name) for name in files_of(folder)}, indent=1))


def check_digests(folder: Path, *, skip: tuple[str, ...] = ()) -> None:
    """Refuse a checkpoint in which a file has changed since it was written; one without digests is accepted unchecked.

    Args:
        skip: names of files that are not compared.

    Raises:
        FileNotFoundError, ValueError: a file is missing, has changed, or is one of `LISTED` without a digest.
    """
    if not (folder / DIGESTS).is_file():
        return
    present, digests = files_of(folder), read_object(folder / DIGESTS)
    remedy = f"put a sound copy in its place, or remove {DIGESTS} if it was changed on purpose"
    if unlisted := [name for name in present if name not in digests and any(fnmatchcase(name, listed) for listed in LISTED)]:
        raise ValueError(f"{folder / DIGESTS} has no digest of {unlisted[0]}; {remedy}")
    for name in sorted(digests.keys() - set(skip)):
        if name not in present:
            raise FileNotFoundError(f"{folder / name} is missing")
        if digest(folder / name) != digests[name]:
            raise ValueError(f"{folder / name} is not as it was written; {remedy}")


def files_of(folder: Path) -> list[str]:
    """Names of the files in a folder, as paths below it."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights of a model: one, or those that an index names.

    Raises:
        FileNotFoundError, ValueError: there are none, one is missing, or the index does not list files in this folder.
    """
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if not index.is_file():
        raise FileNotFoundError(f"no file named model.safetensors, nor an index of shards, in {folder}; other formats are not read")
    names = read_object(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ValueError(f"{index} has no weight_map of names to files; put a sound copy in its place")
    for name in names.values():
        if not isinstance(name, str) or not re.fullmatch(r"[^/\\\0]+\.safetensors", name):
            raise ValueError(f"{index}: {str(name)[:100]!r} is not the name of a safetensors file in this folder")
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing, which {index.name} names; copy or download it again")
    return [folder / name for name in sorted(set(names.values()))]


def read_shapes(file: Path) -> dict[str, list[int]]:
    """Names and sizes of the tensors in a file of weights, without loading them.

    Raises:
        FileNotFoundError, ValueError: it is missing or damaged, or holds other numbers than floats of 16 bits or more.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; only weights in safetensors files are read")
    try:
        with safe_open(file, framework="pt") as weights:
            slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118  # no mapping
            shapes = {name: list(weight.get_shape()) for name, weight in slices.items()}
            kinds = {name: weight.get_dtype() for name, weight in slices.items()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file}: this file of weights is damaged or cut off; copy or download it again: {first_line(error)}") from error
    for name, kind in kinds.items():
        if kind not in FLOATS:
            raise ValueError(f"{file}: {name[:200]} holds {kind} numbers; weights must be among {', '.join(FLOATS)}, not quantised")
    return shapes


def check_shapes(given: dict[str, list[int]], wanted: dict[str, list[int]], *, where: str) -> None:
    """Refuse weights that are not exactly those wanted, by name and size.

    Raises:
        ValueError: the first that is missing, not expected, or of another size.
    """
    for kind, names in (("missing", wanted.keys() - given.keys()), ("unexpected", given.keys() - wanted.keys())):
        if names:
            raise ValueError(f"{where}: {kind} keys in the weights, first {min(names)[:200]}")
    for name in wanted:
        if given[name] != wanted[name]:
            raise ValueError(f"{where}: mismatched keys in the weights, first {name} {given[name]} instead of {wanted[name]}")


def first_line(error: Exception) -> str:
    """An error of a library in one line: its first sentence, with its kind where that may say nothing, as of a KeyError."""
    text = " ".join(str(error).split())
    text = re.split(r"(?<!e\.g)(?<!i\.e)\. (?=[A-Z])", text, maxsplit=1)[0][:300].rstrip(".")
    return text if isinstance(error, (ValueError, RuntimeError, OSError, SafetensorError)) else f"{type(error).__name__}: {text}"
