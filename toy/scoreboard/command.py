"""`dmpo scoreboard`: its command line."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import mean

from dmpo_ref.cli.failures import stopping_at_once
from dmpo_ref.cli.parser import Parser, as_name
from dmpo_ref.config import shorten
from toy.scoreboard.suite import PARTS, Rows, choose_methods, list_cells, read_suite

ABOUT = """Compare objectives where the distribution they aim at is known exactly: puzzles small enough to enumerate.

tuning: each method on the tuning puzzles with the same grid of learning rates; report: each at its best setting on other puzzles, five
seeds; group_size, groups_per_step: what becomes of it in smaller groups; many_puzzles: one small group of each of 32 puzzles in a round;
mixtures: baselines on a line and on a plane. All settings are in toy/scoreboard/suite.yaml. Cells that have a
row in the file of results are not run again, so a run that was stopped goes on, and without anything to run the table is shown."""
FILE = Path(__file__).parent.parent / "results" / "scoreboard.jsonl"
SECONDS_PER_CELL = 20.0  # of one CPU core, on the machine of the committed results


def main(words: list[str]) -> None:
    """`dmpo scoreboard`, from the words that follow it."""
    parser = Parser(prog="dmpo scoreboard", description=ABOUT, example="dmpo scoreboard report --workers 2 --hours 3")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"what to run, among {', '.join(PARTS)}; nothing: show the results")
    parser.add_argument("--method", action="append", default=[], metavar="NAME", help="only this method; may be given several times")
    parser.add_argument("--output", type=as_name, metavar="FILE.jsonl", help="file of the results (the committed one; with --quick needed)")
    parser.add_argument(
        "--quick", action="store_true", help="all parts in minutes, with few methods and rounds: to see that it works, not to conclude"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes, one CPU thread each (1)")
    parser.add_argument("--hours", type=float, help="time for all parts together: refuse to start one that would take longer than is left")
    parser.add_argument("--figures", type=as_name, metavar="FOLDER", help="draw the figures into this folder")
    args = parser.read(words)
    for part in args.parts:
        if part not in PARTS:
            raise ValueError(f"{shorten(part)}: choose among {', '.join(PARTS)}")
    if not 1 <= args.workers <= 1024:
        raise ValueError(f"--workers={args.workers}: must be at least 1, and at most 1024")
    if args.quick and args.output is None:
        raise ValueError("--quick: give --output FILE.jsonl, which the committed results stay out of")
    suite = choose_methods(read_suite(quick=args.quick), args.method)
    file = FILE if args.output is None else Path(args.output)
    if args.figures and not Path(args.figures).is_dir():
        raise ValueError(f"--figures={args.figures}: give a folder that exists")
    with stopping_at_once():  # imports of torch and matplotlib take seconds; --help does not need them
        from toy.figures.scoreboard import draw_all
        from toy.scoreboard import report, run

    version, rows, start = suite["version"], run.read_rows(file, suite["version"]), time.monotonic()
    for part in args.parts:
        while cells := run.cells_to_run(list(list_cells(suite, part, rows)), rows, file):  # once more for what had to be tuned first
            left = None if args.hours is None else args.hours - (time.monotonic() - start) / 3600
            check_hours(len(cells), seconds_per_cell(part, rows), part, args.workers, left)
            run.run_cells(cells, version, file, workers=args.workers)
            rows = run.read_rows(file, version)
    if not (shown := run.current_rows(suite, rows, file)):
        raise ValueError(f"{file} holds no results of these methods; run dmpo scoreboard tuning first")
    print(report.show(suite, shown))
    if len(shown) < len(rows) and not args.method:
        print(f"\nleft out: {len(rows) - len(shown)} runs at settings that tuning does not choose now, or of points that are not tuned yet")
    for path in draw_all(shown, Path(args.figures)) if args.figures else ():
        print(f"figure: {path}")


def seconds_per_cell(part: str, rows: Rows) -> float:
    """Mean seconds of the cells of the part that were run, tuning included; else of all that were run; else `SECONDS_PER_CELL`."""
    of_part = [row["seconds"] for row in rows if row["part"].partition("/")[0] == part]
    return mean(of_part or [row["seconds"] for row in rows] or [SECONDS_PER_CELL])


def check_hours(num_cells: int, seconds: float, part: str, workers: int, hours: float | None) -> None:
    """Refuse a part whose cells, of so many seconds each, would take more hours than are left."""
    expected = num_cells * seconds / workers / 3600
    if hours is not None and not expected <= hours:
        more = "give more --hours or --workers, or fewer methods with --method"
        raise ValueError(f"{part}: {num_cells} cells take about {expected:.1f} hours, and --hours leaves {max(0.0, hours):.2g}; {more}")
