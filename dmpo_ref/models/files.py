"""Reading the files of a checkpoint, which may come from anywhere: what is wrong with one is said in one line that names it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

DAMAGED = "is damaged or cut off; copy or download it again"


def read_object(file: Path) -> dict[str, Any]:
    """The fields of a JSON file that holds an object.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, or something else than an object.
    """
    try:
        fields = json.loads(file.read_bytes())
    except OSError as error:
        raise OSError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not valid JSON: {first_line(error)}; put a sound copy in its place") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{file} holds a {type(fields).__name__}, not an object of fields; put a sound copy in its place")
    return fields


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights of a model: one, or those that an index names.

    Raises:
        FileNotFoundError, ValueError: there are none, one is missing, or the index is not one of files in this folder.
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
    """The names and sizes in a file of weights, without the weights.

    Raises:
        FileNotFoundError, ValueError: it is not there, or it is damaged.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; only weights in safetensors files are read")
    try:
        with safe_open(file, framework="pt") as weights:
            return {name: list(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file}: this file of weights {DAMAGED}: {first_line(error)}") from error


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
    """The beginning of an error, in one line: its first sentence, if it has more."""
    text = " ".join(str(error).split())
    return re.split(r"(?<!e\.g)(?<!i\.e)\. (?=[A-Z])", text, maxsplit=1)[0][:300].rstrip(".")


def describe(error: Exception) -> str:
    """An error of a library in one line; with its kind, where the text alone may say nothing, as that of a KeyError."""
    return first_line(error) if isinstance(error, (ValueError, RuntimeError, OSError)) else f"{type(error).__name__}: {first_line(error)}"
