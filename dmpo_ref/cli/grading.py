"""`dmpo grade` and `dmpo table`: answers in files. They need no policy, so they import neither torch nor transformers."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from dmpo_ref.cli.terminal import complain
from dmpo_ref.evaluation.gradings import grade_files, summarise
from dmpo_ref.evaluation.report import as_result, describe_item, format_scores
from dmpo_ref.evaluation.table import PUBLISHED, as_columns, draw_table, format_table, read_runs, with_numbers
from dmpo_ref.runtime.files import write_atomically


def run_grade(args: argparse.Namespace) -> None:
    """`dmpo grade`."""
    if args.output and not Path(args.output).absolute().parent.is_dir():
        raise ValueError(f"--output {args.output}: there is no folder {Path(args.output).parent}")
    if args.output and (Path(args.output).exists() or Path(args.output).suffix != ".jsonl"):
        raise ValueError(f"--output {args.output}: give the name of a .jsonl file that is not there yet")
    items, problems = grade_files(args.files)
    if not items and not problems:
        problems.append("these files hold no answers; give NAME.jsonl of dmpo evaluate, or TASK_…_generations.json")
    if items:
        print(format_scores(summarise(items)))
    for item in items:
        if item.index in args.explain:
            print(f"\n{describe_item(item)}")
    if missing := sorted(set(args.explain) - {item.index for item in items}):
        problems.append(f"--explain {missing[0]}: no file holds an item of that index")
    if args.output and items:
        write_atomically(Path(args.output), "".join(json.dumps(as_result(item)) + "\n" for item in items))
    report_problems(problems)


def run_table(args: argparse.Namespace) -> None:
    """`dmpo table`."""
    if args.figure and Path(args.figure).suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"--figure {args.figure}: the ending must be .png, .svg or .pdf")
    scores, problems = read_runs(args.runs)
    columns = with_numbers([*PUBLISHED, *as_columns(scores)])
    print(format_table(columns, markdown=args.markdown))
    if args.figure:
        draw_table(columns, Path(args.figure))
    report_problems(problems)


def report_problems(problems: list[str]) -> None:
    """Print all problems but the last on stderr; raise the last one as an error.

    Raises:
        ValueError: there is a problem.
    """
    for problem in problems[:-1]:
        complain(problem, code=2)
    if problems:
        raise ValueError(problems[-1])
