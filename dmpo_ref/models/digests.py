"""SHA-256 of files, and of every file of a checkpoint of a run, by which a flipped bit is seen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from dmpo_ref.models.files import read_object

CHUNK_BYTES = 2**22
DIGESTS = "digests.json"  # in a checkpoint of a run: `digest_of_file` of every other file in it; 0.2.0 and earlier wrote none


def digest(folder: Path, names: Iterable[str]) -> str:
    """SHA-256 of names and whole contents of files, a chunk at a time."""
    total = hashlib.sha256()
    for name in names:
        content = hashlib.sha256()
        try:
            with (folder / name).open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    content.update(chunk)
        except OSError as error:
            raise type(error)(f"{folder / name} cannot be read: {error.strerror}") from error
        total.update(f"{name}\0{content.hexdigest()}\n".encode())
    return total.hexdigest()


def digest_of_file(folder: Path, name: str) -> str:
    """SHA-256 of a file; of adapter_config.json, of its fields but for the place of the base, which may change."""
    if name != "adapter_config.json":
        return digest(folder, [name])
    settings = read_object(folder / name) | {"base_model_name_or_path": None}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def write_digests(folder: Path) -> None:
    """Note the digest of every file of a checkpoint in it."""
    (folder / DIGESTS).write_text(json.dumps({name: digest_of_file(folder, name) for name in files_of(folder)}, indent=1))


def check_digests(folder: Path, *, pattern: str = "*") -> None:
    """Refuse a checkpoint in which a file is not as it was written; one without digests is taken as it is.

    Args:
        pattern: of the names of the files that are compared.

    Raises:
        FileNotFoundError, ValueError: a file is missing or another one.
    """
    if (folder / DIGESTS).is_file():
        present = files_of(folder)
        for name, value in read_object(folder / DIGESTS).items():
            if fnmatchcase(name, pattern) and name not in present:
                raise FileNotFoundError(f"{folder / name} is missing")
            if fnmatchcase(name, pattern) and digest_of_file(folder, name) != value:
                remedy = f"put a sound copy in its place, or remove {DIGESTS} if it was changed on purpose"
                raise ValueError(f"{folder / name} is not as it was written; {remedy}")


def files_of(folder: Path) -> list[str]:
    """Names of the files in a folder, as paths below it."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
