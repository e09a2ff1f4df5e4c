"""Files that survive a crash: written whole or not at all, and a folder that one process alone writes to."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def claim(output: Path) -> Iterator[None]:
    """A folder that only this process writes to. If it was created here and nothing was written, it is removed again.

    Raises:
        ValueError: another process of this machine is writing there.
        OSError: the folder cannot be made.
    """
    made = [folder for folder in (output, *output.parents) if not folder.exists()]
    try:
        output.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ValueError(f"output={output} is a file; a folder is needed") from None
    except OSError as error:
        raise OSError(f"output={output}: no folder can be made there ({error.strerror}); choose another output") from error
    descriptor = os.open(output, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when the process ends, in whatever way
    except BlockingIOError:
        os.close(descriptor)
        raise ValueError(f"output={output} is being written by another process; wait for it, or choose another output") from None
    except OSError:
        pass  # a file system without locks
    try:
        yield
    finally:
        for folder in made:
            with suppress(OSError):  # not empty, as it should be
                folder.rmdir()
        os.close(descriptor)


def force_to_disk(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk, so that a power cut does not lose it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that it is either the old or the new one, never half of one."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    force_to_disk(temporary)
    os.replace(temporary, path)


def read_entries(path: Path, *, before_round: int) -> list[dict[str, Any]]:
    """The entries of metrics.jsonl or rollouts.jsonl that belong to rounds before this one; [] if there is no file."""
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else [""]
    # What follows the last line break was cut off by a crash; its round is run again.
    entries = [json.loads(line) for line in lines[:-1]]
    return [entry for entry in entries if entry["round"] < before_round]


class EntryFile:
    """A file of JSON lines: metrics of a gradient step, or answers to a prompt."""

    def __init__(self, path: Path, entries: list[dict[str, Any]]):
        """Start the file with the entries of the rounds before the checkpoint; later ones are dropped."""
        write_atomically(path, as_lines(entries))
        self.path = path

    def write(self, entries: list[dict[str, Any]]) -> None:
        """Append lines."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(as_lines(entries))


def as_lines(entries: list[dict[str, Any]]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(entry) + "\n" for entry in entries)
