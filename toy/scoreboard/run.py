"""One cell of the scoreboard: train, then measure the policy exactly. Results are lines of a file, written as soon as they are known."""

from __future__ import annotations

import fcntl
import io
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr
from dataclasses import asdict, fields
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch.nn import Module
from tqdm import tqdm

from dmpo_ref.config import Config, shorten
from dmpo_ref.forecast.phases import list_phases
from dmpo_ref.masking import stream
from dmpo_ref.presets.loading import load_config
from dmpo_ref.runtime.files import read_lines
from dmpo_ref.samplers import sample
from dmpo_ref.tasks.encoding import answer_texts, encode
from dmpo_ref.tasks.sudoku import Puzzle, write_puzzles
from dmpo_ref.train import train
from toy.acts import GREEDY, TwoSolutions, load_puzzles
from toy.oracle import Exact, kl_divergence
from toy.scoreboard.suite import PARTS, Cell, Rows, key_of, list_cells
from toy.worlds.mixture import TabularPolicy, fit_forward, world_1d, world_2d
from toy.worlds.sudoku import solutions

PASS_AT = 8
START = b'{"suite": '  # of every line
NEEDED = {*(field.name for field in fields(Cell)), "kl_target_policy", "valid", "seconds"}  # the fields of every row


def run_cells(cells: list[Cell], version: int | str, file: Path, *, workers: int) -> None:
    """Run the cells, with several workers in separate processes; each row is appended to the file as soon as it is there.

    Raises:
        OSError: the file cannot be written, which is found before anything is run, or a worker was killed.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab"):
        pass
    try:
        for row in tqdm(finish(cells, workers), desc="scoreboard", total=len(cells)):
            append(file, json.dumps({"suite": version, **row}, ensure_ascii=False) + "\n")
    except BrokenProcessPool:
        raise OSError("a worker was killed, as by a lack of memory; try fewer --workers, the cells that have a row stand") from None


def append(file: Path, line: str) -> None:
    """Append a line in one piece, even if other processes append too; an incomplete last line, left by a crash, is removed."""
    with file.open("r+b") as lines:
        fcntl.flock(lines, fcntl.LOCK_EX)  # until the file is closed
        lines.truncate(lines.read().rfind(b"\n") + 1)
        lines.seek(0, os.SEEK_END)
        lines.write(line.encode())


def finish(cells: list[Cell], workers: int) -> Iterator[dict[str, Any]]:
    """The rows of the cells, in the order in which they are finished."""
    if workers == 1:
        yield from map(run_cell, cells)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            yield from (done.result() for done in as_completed([pool.submit(run_cell, cell) for cell in cells]))
        finally:
            pool.shutdown(cancel_futures=True)


def read_rows(file: Path, version: int | str) -> Rows:
    """The rows of earlier runs, one for each cell; none if there is no file. A last line that was cut off is left out.

    Raises:
        ValueError: a line is broken, or was written by another version of the suite.
    """
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    cut_off = file.read_bytes().rpartition(b"\n")[2] if file.is_file() else b""
    if not cut_off.startswith(START[: len(cut_off)]):
        raise ValueError(f"{file}: the last line is not a result of the scoreboard, and has no end; give another --output, or remove it")
    for number, row in enumerate(read_lines(file) if file.is_file() else [], start=1):
        if row is None or "suite" not in row:
            raise ValueError(f"{file}: line {number} is not a result of the scoreboard; remove that line")
        if row["suite"] != version:
            other = f"{file}: line {number} is of version {shorten(row['suite'])} of the suite, and this is {version}"
            raise ValueError(f"{other}; give another --output, or remove the file to run all again")
        if not row.keys() >= NEEDED or not all(isinstance(row[name], int | float) for name in ("kl_target_policy", "seconds")):
            raise ValueError(f"{file}: line {number} is not a result of the scoreboard; remove that line")
        rows.setdefault(key_of(row), row)  # two runs at once may have had the same cell
    return list(rows.values())


def current_rows(suite: dict[str, Any], rows: Rows, file: Path) -> Rows:
    """The rows of the cells that the suite has now. Others have settings of an earlier tuning, or a method not selected.

    Raises:
        ValueError: a row of one of the cells was run with other settings than the suite has now.
    """
    cells = [cell for part in PARTS for cell in list_cells(suite, part, rows)]
    cells_to_run(cells, rows, file)
    keys = {cell.key for cell in cells}
    return [row for row in rows if key_of(row) in keys]


def cells_to_run(cells: list[Cell], rows: Rows, file: Path) -> list[Cell]:
    """The cells that have no row yet.

    Raises:
        ValueError: a row of one of them was run with other settings than the suite has now.
    """
    found = {key_of(row): row for row in rows}
    for cell in cells:
        row = found.get(cell.key)
        if row is not None and (row["overrides"], row["puzzle"]) != (list(cell.overrides), cell.puzzle):
            name, with_what = f"{cell.part}, {cell.world}, {cell.method}", shorten(" ".join(map(str, row["overrides"])))
            raise ValueError(f"{file}: {name!r} was run with {with_what}, and the suite has changed; remove its rows")
    return [cell for cell in cells if cell.key not in found]


def run_cell(cell: Cell) -> dict[str, Any]:
    """Run a cell on one thread; returns it with the results."""
    torch.set_num_threads(1)
    return run_mixture(cell) if cell.part.startswith("mixtures") else run_puzzles(cell)


def run_mixture(cell: Cell) -> dict[str, Any]:
    """Train with the baseline that is the cell's method, on a line or a plane; a mode is all cells nearest to one bump of the reward."""
    start, world = time.perf_counter(), {"line": world_1d, "plane": world_2d}[cell.world]()
    sizes = {
        name: int(value) for name, _, value in (word.removeprefix("train.").partition("=") for word in cell.overrides if "train." in word)
    }
    policy = TabularPolicy(world)
    history = fit_forward(
        world,
        policy,
        num_rollouts=cell.num_rollouts,
        groups=sizes["prompts_per_round"],
        rounds=sizes["rounds"],
        steps_per_round=sizes["steps_per_round"],
        baseline=cell.method,
        learning_rate=cell.learning_rate,
        seed=cell.seed,
    )
    shares, target = world.mode_mass(policy.log_prob()).tolist(), world.mode_mass(world.log_target).tolist()
    modes = sum(share > wanted / 2 for share, wanted in zip(shares, target, strict=True))
    return asdict(cell) | {
        "kl_target_policy": history.forward_kl[-1],
        "kl_policy_target": history.reverse_kl[-1],
        "reward": history.reward[-1],
        "shares": shares,
        "target_shares": target,
        "modes": modes,
        "lost": int(modes < len(target)),
        "valid": None,
        "seconds": round(time.perf_counter() - start, 1),
    }


def run_puzzles(cell: Cell) -> dict[str, Any]:
    """Train the policy of a cell and measure it exactly, in the mean over its puzzles; returns the cell with the results."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        puzzle_file = write_puzzle_file(Path(folder), cell.puzzle)
        files = (f"output={folder}/run", f"task.train={puzzle_file}", f"task.test={puzzle_file}", f"seed={cell.seed}")
        config = load_config("toy_two_solutions", *files, "train.checkpoint_every=1000000", "evaluation.num_items=1", *cell.overrides)
        worlds, curve = enumerate_puzzles(cell.puzzle, config.weight.alpha), []
        every = max(1, config.train.rounds // cell.measurements)

        def on_round(done: int, policy: Module) -> dict[str, float]:
            if done % every == 0 and done < config.train.rounds:
                curve.append([done * cell.rollouts_per_step, mean(distance(world, world.distribution(policy)) for world in worlds)])
            return {}

        with redirect_stderr(io.StringIO()):  # no progress bar and warnings, which every cell would print
            trained = train(config, on_round=on_round)
        measured = together([measure(world, trained.policy) for world in worlds])
    last = trained.metrics[-1]
    curve = [[0, mean(distance(world, world.exact) for world in worlds)], *curve, [last["rollouts"], measured["kl_target_policy"]]]
    return asdict(cell) | measured | {
        "curve": curve,
        "rewards": [round(entry["reward"], 4) for entry in trained.metrics if entry["step"] % config.train.steps_per_round == 0],
        "rollouts": last["rollouts"],
        "gradient_steps": last["step"],
        "forward_rows": count_rows(config, cell.puzzle.split()[0]),
        "seconds": round(time.perf_counter() - start, 1),
    }  # fmt: skip


@lru_cache(maxsize=2)  # a worker has many cells of one puzzle after another, and seven blanks take half a minute
def enumerate_puzzles(puzzles: str, alpha: float) -> list[TwoSolutions]:
    """The puzzles with the exact distribution of the reference policy and p*."""
    with tempfile.TemporaryDirectory() as folder:
        puzzle_file = write_puzzle_file(Path(folder), puzzles)
        return list(load_puzzles(load_config("toy_two_solutions", f"task.train={puzzle_file}", f"weight.alpha={alpha}")))


def write_puzzle_file(folder: Path, puzzles: str) -> Path:
    """A file with the puzzles, one or more with a space between them, each with one of its solutions."""
    file = folder / "puzzles.csv"
    write_puzzles(file, [Puzzle(puzzle, solutions(puzzle)[0]) for puzzle in puzzles.split()])
    return file


def distance(world: TwoSolutions, exact: Exact) -> float:
    """KL(p*‖p_θ) in nats."""
    return kl_divergence(world.log_target, exact.log_prob)


def measure(world: TwoSolutions, policy: Module) -> dict[str, Any]:
    """Exact measures of a policy on one puzzle: divergences, entropy, the probability of each solution, its share of p*, that of a right
    answer, and of one in `PASS_AT`; modes with more than half their share of p*; whether taking the most probable token of the most
    confident blank, each time, solves it.
    """
    exact = world.distribution(policy)
    found = world.compare(exact)
    valid = math.fsum(found["shares"])
    modes = sum(share > wanted / 2 for share, wanted in zip(found["shares"], world.target_shares, strict=True))
    return found | {
        "target_shares": world.target_shares,
        "modes": modes,
        "lost": int(modes < len(world.solutions)),
        "valid": valid,
        "pass_at_8": 1 - max(0.0, 1 - valid) ** PASS_AT,
        "entropy": -(exact.log_prob.exp() * exact.log_prob).sum().item(),
        "greedy": float(solves_greedily(world, policy)),
    }


def together(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """The measures of several puzzles: shares one after the other, modes and puzzles that lost one added up, means of everything else."""
    found: dict[str, Any] = {}
    for name in measured[0]:
        values = [one[name] for one in measured]
        if name in ("shares", "target_shares"):
            found[name] = [share for shares in values for share in shares]
        else:
            found[name] = sum(values) if name in ("modes", "lost") else mean(values)
    return found


def solves_greedily(world: TwoSolutions, policy: Module) -> bool:
    """Whether the answer that takes the most probable token of the most confident position is right."""
    prompts = encode(world.tokenizer, world.task, [world.item])
    rollout = sample(policy, prompts, GREEDY, world.vocabulary, num_rollouts=1, generators=[stream(0, "greedy")])
    return answer_texts(world.tokenizer, rollout)[0][0] in world.solutions


def count_rows(config: Config, puzzle: str) -> int:
    """Sequences that go through the model in a run: sampling, scoring and gradient steps, without the measurements."""
    L = puzzle.count("0")
    return config.train.rounds * sum(phase.sequences for phase in list_phases(config, len(puzzle) - L, L, 1))
