"""The command that replays what a run has logged."""

from __future__ import annotations

import argparse
from pathlib import Path

from dmpo_ref.plots.replay import read_groups, save_replay


def run_replay(args: argparse.Namespace) -> None:
    """`dmpo replay`."""
    run, output = Path(args.run_folder), Path(args.output)
    groups = read_groups(run, args.round)
    save_replay(output, {"title": f"Rollouts of {(run if run.is_dir() else run.parent).resolve().name}", "groups": groups})
    answers = sum(len(group["trajectories"]) for group in groups)
    counts = f"{answers} answer{'s' * (answers != 1)} to {len(groups)} prompt{'s' * (len(groups) != 1)}"
    print(f"{counts} in {output}; open it in a browser")
