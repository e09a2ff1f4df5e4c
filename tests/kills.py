"""Training and evaluation killed, starved of disk and damaged, again and again; what is left must end with the numbers of a run that
nobody disturbed. `tests/test_kills.py` runs it, and so may you:

    python -m tests.kills train moments 20       # FOLDER: a temporary one
    python -m tests.kills evaluate events 20

The libraries are imported once, and each run is a fork of this process, which itself never computes: a run then starts at once, and a
kill hits its work and not its imports.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dmpo_ref.cli.commands  # noqa: F401 — all that is slow is imported before the first fork
from dmpo_ref.cli import main
from dmpo_ref.evaluation import answering, results
from dmpo_ref.models.loading import checkpoints

TRAIN = ("train", "toy_sudoku", "train.rounds=6", "train.prompts_per_round=3", "train.num_rollouts=4", "train.steps_per_round=2",
         "train.checkpoint_every=2", "train.keep_checkpoints=2", "train.reuse_rounds=1", "train.resync_every=3", "weight.log_ratio=path",
         "evaluation.num_items=4", "evaluation.num_samples=1", "device=cpu", "threads=1")  # fmt: skip
EVALUATE = ("evaluate", "toy_sudoku", "evaluation.num_items=40", "evaluation.num_samples=2", "device=cpu", "threads=1")
answering.ITEMS_PER_BATCH = results.ITEMS_PER_BATCH = 4  # many moments between two writes
EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")  # of Python's audit of what touches files
PATIENCE = 120.0


class Kind:
    """Training or evaluation into a folder: how it is started or goes on, and what its numbers are."""

    def __init__(self, name: str, root: Path):
        self.name, self.root = name, root
        self.started = 0
        folder = self.new_folder()
        begin = time.perf_counter()
        code, errors = self.run(folder)
        assert code == 0, errors
        self.seconds, self.whole = time.perf_counter() - begin, self.numbers(folder)

    def new_folder(self) -> Path:
        self.started += 1
        return self.root / f"{self.name}_{self.started}"

    def words(self, folder: Path) -> list[str]:
        """The command that starts, or goes on with, what is in the folder."""
        if self.name == "evaluate":
            return [*EVALUATE, "--output", str(folder)]
        return [*TRAIN, f"output={folder}", *(["--resume"] if checkpoints(folder) else [])]

    def numbers(self, folder: Path) -> Any:
        """All that a finished run has written and that must not depend on when it was disturbed."""
        left = [path.name for path in folder.rglob("*") if path.suffix in (".part", ".partial")]
        assert not left, f"left behind: {left}"
        if self.name == "evaluate":
            costs = [json.loads(line) for line in (folder / "sudoku_random_order.timing.jsonl").read_text().splitlines()]
            return (folder / "sudoku_random_order.jsonl").read_text(), sum(cost["answers"] for cost in costs)
        entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        newest = checkpoints(folder)[-1]
        weights = [(newest / name).read_bytes() for name in ("model.safetensors", "reference.safetensors")]
        return [entry | {"seconds": 0} for entry in entries], (folder / "rollouts.jsonl").read_text(), newest.name, weights

    def run(self, folder: Path, *, delay: float | None = None, event: int | None = None) -> tuple[int | None, str]:
        """Run in a fork until it ends, or is killed after a delay, or by itself at the n-th event on a file of the folder.

        Returns:
            The exit code, None if it was killed, and what it has written to stderr.
        """
        errors = self.root / "stderr"
        child = os.fork()
        if child == 0:
            descriptor = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for number in (1, 2):
                os.dup2(descriptor, number)
            if event is not None:
                sys.addaudithook(killer(folder, event, self.root / "events"))
            code = 1
            try:
                code = main(self.words(folder))
            except BaseException as error:
                print(repr(error), file=sys.stderr)
            sys.stderr.flush()
            os._exit(code)
        deadline = time.perf_counter() + (PATIENCE if delay is None else delay)
        while time.perf_counter() < deadline:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return (None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)), errors.read_text()
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert delay is not None, "it hangs"
        return None, errors.read_text()

    def finish(self, folder: Path) -> None:
        """Let it go on undisturbed, and compare."""
        code, errors = self.run(folder)
        assert code == 0, errors
        assert self.numbers(folder) == self.whole, f"other numbers in {folder}"


def killer(folder: Path, last: int, counter: Path) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that kills its own process at the n-th event on a file in a folder; it notes how many there were."""
    seen, inside = 0, str(folder)

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if name in EVENTS and arguments and str(arguments[0]).startswith(inside):
            seen += 1
            if last < 0:
                os.pwrite(descriptor, f"{seen:09d}".encode(), 0)
            if seen == last:
                os.kill(os.getpid(), signal.SIGKILL)

    descriptor = os.open(counter, os.O_WRONLY | os.O_CREAT)
    return hook


def at_moments(kind: Kind, count: int, rng: random.Random) -> int:
    """SIGKILL at random moments, up to three in one run; returns how many."""
    kills = 0
    while kills < count:
        folder = kind.new_folder()
        for _ in range(3):
            code, errors = kind.run(folder, delay=rng.uniform(0.1, 1.1) * kind.seconds)
            assert code in (None, 0), errors
            kills += code is None
        kind.finish(folder)
    return kills


def at_events(kind: Kind, count: int, rng: random.Random) -> int:
    """SIGKILL before a file is opened, renamed or removed: also in the midst of a checkpoint. Then once more when it goes on."""
    kind.run(kind.new_folder(), event=-1)
    total, kills = int((kind.root / "events").read_text()), 0
    while kills < count:
        folder = kind.new_folder()
        for event in (rng.randint(1, total), rng.randint(1, 30)):
            code, errors = kind.run(folder, event=event)
            assert code in (None, 0), errors
            kills += code is None
        kind.finish(folder)
    return kills


def on_a_full_disk(kind: Kind, count: int, rng: random.Random) -> int:
    """A file system in memory that is too small; then it gets more room. Returns how many have failed; 0 if none may be mounted."""
    place = kind.root / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(place)], capture_output=True).returncode:
        return 0
    failed = 0
    try:
        kind.run(place / "measure")
        size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
        shutil.rmtree(place / "measure")
        for number in range(count):
            folder = place / "run"
            remount(place, 4096 + int(size * 1.2 * (number + rng.random()) / count))
            code, errors = kind.run(folder)
            assert code in (0, 2) and (errors.count("\n") == 1 or code == 0), errors
            remount(place, 10 * size)
            if code == 2:
                failed += 1
                assert "cannot be written" in errors or "no folder can be made" in errors, errors
                if "resume" in errors:  # what it advises is what can be done
                    assert ("without --resume" in errors) == (not checkpoints(folder)), errors
            kind.finish(folder)
            shutil.rmtree(folder)
    finally:
        subprocess.run(["umount", str(place)], check=True)
    return failed


def remount(place: Path, size: int) -> None:
    """Give a file system in memory another size."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True)


def with_damage(kind: Kind, count: int, rng: random.Random) -> int:
    """The newest checkpoint cut off or with one byte flipped: the one before it is named, and leads to the same numbers."""
    original = kind.new_folder()
    kind.finish(original)
    for number in range(count):
        folder = kind.new_folder()
        shutil.copytree(original, folder)
        before, newest = checkpoints(folder)
        file = rng.choice(sorted(path for path in newest.iterdir()))
        content = bytearray(file.read_bytes())
        place = rng.randrange(len(content))
        if number % 2:
            content = content[:place]
        else:
            content[place] ^= rng.randrange(1, 256)
        file.write_bytes(content)
        code, errors = kind.run(folder)
        assert code == 2 and errors.count("\n") == 1, errors
        assert f"goes on from {before}, which is whole" in errors, errors
        shutil.rmtree(newest)
        kind.finish(folder)
        shutil.rmtree(folder)
    return count


WAYS = {"moments": at_moments, "events": at_events, "disk": on_a_full_disk, "damage": with_damage}

if __name__ == "__main__":
    name, way, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as root:
        kind = Kind(name, Path(root))
        print(f"{WAYS[way](kind, count, random.Random(0))} of {count} in {kind.started} runs of {kind.seconds:.1f} s, all equal")
