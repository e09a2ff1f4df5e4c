"""`dmpo bench`: the words of the command, and its table. What is measured, and how, is in `toy.measurements`, run in other processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tabulate import tabulate

from dmpo_ref.cli.failures import stopping_at_once
from dmpo_ref.cli.parser import Parser, as_name

NAMES = ("loss", "elbo", "samplers", "round", "grading")
ABOUT = """Measure this library on this machine: time, peak memory and operations, beside the straightforward way of doing the same.

loss: forward and backward pass of a gradient step; elbo: ELBOs of two models; samplers: responses to a batch; round: one round of
training; grading: the longest time for one answer. Without --config the models are random and small.

Each row is measured in a process of its own, and a line on stderr says which is under way. Compare rows of one table: this machine may
be busy with other things."""
# Otherwise glibc hands each large tensor's memory back to the system at once, and the next forward pass waits while the system clears
# the same pages again: nearly half of a batch's time on a virtual machine, none of a single row's, whose tensors are small.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**33)}  # older glibc takes no more than 2**25
HEADERS: tuple[str, ...] = ("", "seconds", "relative", "peak MB", "relative", "tokens/s", "GFLOP/s", "of matrix rate")
HEADERS += ("of bandwidth", "forwards", "fed", "outside model")


def main(words: list[str]) -> None:
    """`dmpo bench`, from the words that follow it."""
    parser = Parser(prog="dmpo bench", description=ABOUT, example="dmpo bench samplers loss --json bench.json")
    parser.add_argument("names", nargs="+", metavar="NAME", help=f"among {', '.join(NAMES)}; and options of the config, key=value")
    parser.add_argument("--config", type=as_name, metavar="CONFIG", help="YAML file or preset: its model, prompts and sizes are measured")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each row after one to warm up, of which the median counts (5)")
    parser.add_argument("--seconds", type=float, default=60.0, help="no further run of a row after so many; four times as many end it (60)")
    parser.add_argument("--json", type=as_name, metavar="FILE", help="also write all numbers to this new file, with the machine")
    parser.set_defaults(overrides=[])
    given = parser.read(words)
    names, overrides = [w for w in given.names if "=" not in w], [*(w for w in given.names if "=" in w), *given.overrides]
    for name in names:
        if name not in NAMES:
            raise ValueError(f"{name}: choose among {', '.join(NAMES)}")
    if not names:
        raise ValueError(f"nothing to measure; choose among {', '.join(NAMES)}")
    for option, value in (("--repeats", given.repeats), ("--seconds", given.seconds)):
        if not value > 0:
            raise ValueError(f"{option}={value}: must be above 0")
    if given.json and (Path(given.json).exists() or not Path(given.json).absolute().parent.is_dir()):
        raise ValueError(f"--json={given.json}: give a file that does not exist, in a folder that does")
    fixed = [word for word in overrides if word.startswith("model.") and not word.startswith("model.dtype=")]
    if fixed and given.config is None and not {"round", "grading"}.issuperset(names):
        raise ValueError(f"{fixed[0]}: without --config the model is random, and only its dtype can be chosen; give --config")
    with stopping_at_once():  # seconds of torch and transformers, which --help does not need
        from dmpo_ref.presets.loading import load_config
        from toy.grading_times import bench_grading, format_grading
        from toy.machine import describe

    config = load_config(given.config or "toy_sudoku", *overrides)  # so that what is wrong with it is said once
    found: dict[str, Any] = {"command": ["dmpo", "bench", *words], "machine": describe()}
    rows: list[dict[str, Any]] = []
    if "grading" in names:
        found["grading"] = bench_grading()
        print(format_grading(found["grading"]))
    if names := [name for name in names if name != "grading"]:
        device, dtype = chosen_device(config), config.model.dtype
        ceilings = output_of(f"machine.measure_ceilings({device!r}, {dtype!r})", timeout=600)
        rows = list(measure_rows(names, given.config, overrides, given.repeats, given.seconds))
        print(format_table(rows, ceilings))
        found |= {"ceilings": ceilings, "rows": rows}
    if given.json:
        with open(given.json, "x", encoding="utf-8") as file:
            json.dump(found, file, indent=1)
    if failed := sum("failed" in row.get("why", "") for row in rows):
        raise ValueError(f"{failed} of {len(rows)} measurements failed, see the lines below the table")


def chosen_device(config: Any) -> str:
    """`cuda` or `cpu`, as a run would choose."""
    import torch  # seconds, which --help does not need

    return "cpu" if config.device == "cpu" or not torch.cuda.is_available() else "cuda"


def measure_rows(names: list[str], config: str | None, overrides: list[str], repeats: int, seconds: float) -> Iterator[dict[str, Any]]:
    """The rows of some measurements, one after the other; before each a line on stderr, since it may take a minute."""
    from toy.measurements import CASES  # seconds of torch, which --help does not need

    cases = [(name, way) for name in names for way in CASES[name]]
    for i, (name, way) in enumerate(cases, start=1):
        print(f"bench: {name}, {way} ({i} of {len(cases)})", file=sys.stderr, flush=True)
        row = output_of(f"measurements.measure({name!r}, {way!r}, {config!r}, {overrides!r}, {repeats}, {seconds})", timeout=4 * seconds)
        yield {"measured": name, "way": way, **row}


def output_of(call: str, *, timeout: float) -> dict[str, Any]:
    """What a function of `toy` prints, called in a process of its own; `why` there is nothing, if it takes longer or fails."""
    command = [sys.executable, "-c", f"from toy import machine, measurements; {call}"]
    try:
        done = subprocess.run(command, env=os.environ | KEEP_MEMORY, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {"why": f"took more than {timeout:g} s"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"why": f"failed: {last.removeprefix('ValueError: ')}"}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def format_table(rows: list[dict[str, Any]], ceilings: dict[str, Any]) -> str:
    """The rows as a table, and below it those that are not there; relative is to the first row of each kind, if it is there."""
    lines, missing, first, ceiling = [], [], dict[str, dict[str, Any]](), ceilings.get("flop_per_second")
    for row in rows:
        cells, base = [f"{row['measured']}: {row['way']}"], first.setdefault(row["measured"], row)
        if "why" in row:
            missing.append(f"{cells[0]} {row['why']:.200}")
            continue
        rate = row["flop"] / row["seconds"]
        compared = [f"{row[key] / base[key]:.2f}" if base.get(key) else "" for key in ("seconds", "peak")]
        cells += [f"{row['seconds']:.3g}", compared[0], f"{row['peak'] / 1e6:,.0f}", compared[1], f"{row['tokens'] / row['seconds']:,.0f}"]
        cells += [f"{rate / 1e9:,.3g}", f"{rate / ceiling:.0%}" if ceiling else ""]
        read = row["read"] / row["seconds"] / ceilings["bytes_per_second"] if ceiling and "read" in row else None
        cells += ["" if read is None else f"{read:.0%}", str(row.get("forwards", "")), str(row.get("fed", ""))]
        cells.append(f"{row['outside']:.1%}" if "outside" in row else "")
        lines.append(cells)
    table = tabulate(lines or [[""] * len(HEADERS)], HEADERS, "plain", disable_numparse=True, colalign=["left", *["right"] * 11])
    foot = f"the machine was not measured: {ceilings.get('why')}"
    if ceiling:
        rates = f"{ceiling / 1e9:,.0f} GFLOP/s in a large matrix product, {ceilings['bytes_per_second'] / 1e9:,.1f} GB/s in a copy"
        foot = f"{ceilings['device']}, {ceilings['dtype']}, {ceilings['threads']} threads: {rates}"
    return "\n".join([table, *missing, foot])
