"""Files that survive a crash: written whole or not at all, and a folder that one process alone writes to."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from dmpo_ref.models.files import first_line, naming, parse_object, read_bytes

LEFT_OVER = r"\.(checkpoint-\d+|.+\.(jsonl|json|yaml|part))\.partial"  # half-written files of a process that died


@contextmanager
def claim(output: Path, *, option: str = "output=") -> Iterator[None]:
    """Lock a folder so that only this process writes to it. Half-written files of a process that died are removed.

    If the folder was created here and nothing was written, it is removed again.

    Args:
        option: the option that names the folder, for error messages.

    Raises:
        ValueError: another process of this machine is writing there.
        OSError: the folder cannot be made.
    """
    made = [folder for folder in (output, *output.parents) if not folder.exists()]
    try:
        output.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ValueError(f"{option}{output} is a file; a folder is needed") from None
    except OSError as error:
        raise OSError(f"{option}{output}: no folder can be made there ({error.strerror}); choose another output") from error
    descriptor = os.open(output, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when the process ends, however it ends
    except BlockingIOError:
        os.close(descriptor)
        raise ValueError(f"{option}{output} is being written by another process; wait for it, or choose another output") from None
    except OSError:
        pass  # a file system without locks
    try:
        for path in output.glob(".*.partial"):
            if re.fullmatch(LEFT_OVER, path.name):
                discard(path)
        yield
    finally:
        for folder in made:
            with suppress(OSError):  # not empty, as it should be
                folder.rmdir()
        os.close(descriptor)


def discard(path: Path) -> None:
    """Remove a file, a link or a folder with its contents, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def force_to_disk(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk, so that a power cut does not lose it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file atomically: it is either the old or the new one, never a part, and a failed attempt leaves nothing behind."""
    temporary = path.with_name(f".{path.name}.partial")
    with naming(path, "written"):
        try:
            temporary.write_text(text, encoding="utf-8")
            force_to_disk(temporary)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise


@contextmanager
def written_whole(folder: Path, go_on: str) -> Iterator[Path]:
    """A temporary folder next to this one to write to. It is renamed to this one on success, and otherwise removed with its contents.

    Args:
        go_on: what to do after an error, for its message.

    Raises:
        OSError: it cannot be written, as on a full disk.
    """
    temporary = folder.with_name(f".{folder.name}.partial")
    try:
        if temporary.is_symlink() or temporary.is_file():
            temporary.unlink()
        temporary.mkdir(parents=True, exist_ok=True)  # an existing one is kept: the caller may have claimed it
        for left in temporary.iterdir():
            discard(left)
        yield temporary
        for path in (*temporary.rglob("*"), temporary):
            force_to_disk(path)
        temporary.rename(folder)  # fails if something of that name exists
    except BaseException as error:
        discard(temporary)
        # torch and safetensors report a full disk by the last two.
        if not isinstance(error, (OSError, RuntimeError, SafetensorError)) or "out of memory" in str(error):
            raise
        raise OSError(f"{folder} cannot be written: {first_line(error)}; make space or repair the folder, then {go_on}") from error


def read_lines(path: Path) -> list[dict[str, Any] | None]:
    """The lines of a file of JSON objects, None for each that holds something else; [] if there is no file.

    Text after the last line break was cut off by a crash, and is left out.

    Raises:
        ValueError: something else than a file, such as a pipe, which would be waited for.
    """
    if not path.exists():
        return []
    if not path.is_file():
        raise ValueError(f"{path} is not a file; move it away, or give another name")
    lines: list[dict[str, Any] | None] = []
    for line in read_bytes(path).split(b"\n")[:-1]:
        try:
            lines.append(parse_object(line))
        except ValueError:
            lines.append(None)
    return lines


def read_entries(path: Path, *, before_round: int) -> list[dict[str, Any]]:
    """The entries of metrics.jsonl or rollouts.jsonl that belong to rounds before this one; [] if there is no file.

    Raises:
        ValueError: a line that no run has written, or that comes after a later round or step.
    """
    entries: list[dict[str, Any]] = []
    before: tuple[Any, Any] = (-1, 0)
    for number, line in enumerate(read_lines(path), start=1):
        entry = line or {}
        place = entry.get("round"), entry.get("step", number)  # answers have no step
        if not all(type(count) is int for count in place) or place <= before:
            remedy = "remove the line, or move the file away if no run wrote it"
            raise ValueError(f"{path}, line {number}: not an entry of a run, a JSON object with its round, in order; {remedy}")
        entries.append(entry)
        before = place
    return [entry for entry in entries if entry["round"] < before_round]


class EntryFile:
    """A file of JSON lines: metrics of a gradient step, answers to a prompt or to test items."""

    def __init__(self, path: Path, entries: list[dict[str, Any]]):
        """Start the file with the entries to keep; everything else in it is dropped."""
        write_atomically(path, as_lines(entries))
        self.path = path

    def write(self, entries: list[dict[str, Any]]) -> None:
        """Append lines."""
        with naming(self.path, "written"), self.path.open("a", encoding="utf-8") as file:
            file.write(as_lines(entries))


def as_lines(entries: list[dict[str, Any]]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(entry) + "\n" for entry in entries)
