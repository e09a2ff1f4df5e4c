"""`dmpo scoreboard`: the words of the command."""

from __future__ import annotations

from pathlib import Path

from dmpo_ref.cli.failures import stopping_at_once
from dmpo_ref.cli.parser import Parser, as_name
from toy.scoreboard.suite import PARTS, choose_methods, list_cells, read_suite

ABOUT = """Compare objectives where the distribution they aim at is known exactly: puzzles small enough to enumerate.

tuning: each method on the tuning puzzles with the same grid of learning rates; report: each at its best setting on other puzzles, five
seeds; group_size, groups_per_step: what becomes of it in smaller groups. All settings are in toy/scoreboard/suite.yaml. Cells that have a
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
        "--quick", action="store_true", help="few methods' worth of time, in all parts: to see that it works, not to conclude"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes, one CPU thread each (1)")
    parser.add_argument("--hours", type=float, help="refuse to start what would take longer")
    parser.add_argument("--figures", type=as_name, metavar="FOLDER", help="draw the figures into this folder")
    args = parser.read(words)
    for part in args.parts:
        if part not in PARTS:
            raise ValueError(f"{part}: choose among {', '.join(PARTS)}")
    if not 1 <= args.workers <= 1024:
        raise ValueError(f"--workers={args.workers}: must be at least 1, and at most 1024")
    if args.quick and args.output is None:
        raise ValueError("--quick: give --output FILE.jsonl, which the committed results stay out of")
    suite = choose_methods(read_suite(quick=args.quick), args.method)
    file = FILE if args.output is None else Path(args.output)
    if args.figures and not Path(args.figures).is_dir():
        raise ValueError(f"--figures={args.figures}: give a folder that exists")
    with stopping_at_once():  # seconds of torch and matplotlib, which --help does not need
        from toy.figures.scoreboard import draw_all
        from toy.scoreboard import report, run

    version, rows = suite["version"], run.read_rows(file, suite["version"])
    for part in args.parts:
        while cells := run.cells_to_run(list(list_cells(suite, part, rows)), rows, file):  # once more for what had to be tuned first
            check_hours(len(cells), part, args.workers, args.hours)
            run.run_cells(cells, version, file, workers=args.workers)
            rows = run.read_rows(file, version)
    if not rows:
        raise ValueError(f"{file} holds no results; run dmpo scoreboard tuning first")
    print(report.show(suite, rows))
    for path in draw_all(suite, rows, Path(args.figures)) if args.figures else ():
        print(f"figure: {path}")


def check_hours(num_cells: int, part: str, workers: int, hours: float | None) -> None:
    """Refuse a part whose cells would take more hours than there are."""
    expected = num_cells * SECONDS_PER_CELL / workers / 3600
    if hours is not None and not expected <= hours:
        more = "give more --hours or --workers, or fewer methods with --method"
        raise ValueError(f"{part}: {num_cells} cells take about {expected:.1f} hours, and --hours={hours:g}; {more}")
