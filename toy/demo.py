"""`dmpo demo`: the method in two acts, a table and a figure of both, and what they cost.

Act (a), *learn to solve*: many puzzles, and the share of test puzzles that are solved. Act (b), *match the target*: one puzzle with two
solutions and a fixed reference, so that p* is known exactly. The acts are in `toy.acts`.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from dmpo_ref.cli.failures import stopping_at_once
from dmpo_ref.cli.parser import Parser
from dmpo_ref.runtime.files import write_atomically


def main(words: list[str]) -> None:
    """`dmpo demo`, from the words that follow it."""
    about = "The method on the toy in two acts: solve rate on Sudoku, exact KL on one puzzle."
    parser = Parser(prog="dmpo demo", description=about, example="dmpo demo --output runs/demo")
    parser.add_argument("--output", default="runs/demo", help="folder of the results (default runs/demo); a finished one is shown again")
    parser.add_argument("--seed", type=int, default=0, help="key of every random stream (default 0)")
    args = parser.read(words)
    run(Path(args.output), seed=args.seed)


def run(output: Path, *, seed: int) -> dict[str, Any]:
    """Run both acts; writes metrics, checkpoints, `summary.json` and `demo.png` to `output`, prints a table.

    A finished demonstration is shown again, an interrupted one continues from its checkpoints.

    Raises:
        ValueError: the folder holds the demonstration with another seed.
    """
    file = output / "summary.json"
    if file.is_file():
        summary = read_summary(file)
        if summary["seed"] != seed:
            raise ValueError(f"{output} holds the demonstration with seed {summary['seed']}; give another --output for seed {seed}")
        print(f"shown again from {file}; remove {output} to run it anew\n")
    else:
        print("Act (a): 4x4 Sudoku, the reference moves with the policy. Act (b): one puzzle with two solutions, the reference stays.")
        summary = play(output, seed=seed)
        write_atomically(file, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    print(table(summary))
    print(f"\nfigure: {output / 'demo.png'}\nnumbers: {file}")
    return summary


def read_summary(file: Path) -> dict[str, Any]:
    """The summary of a finished demonstration; ValueError if the file holds something else."""
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
        table({**summary, "seed": summary["seed"]})  # fails unless all fields are there
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} is not the summary of a demonstration; remove it, and the same command makes it again") from error
    return summary


def play(output: Path, *, seed: int) -> dict[str, Any]:
    """Run both acts and draw the figure. Returns the summary."""
    with stopping_at_once():  # imports take seconds; neither --help nor a finished demonstration needs them
        from toy import acts
        from toy.figures.demo import draw_demo

    start = time.perf_counter()
    act_a = acts.learn_to_solve(output / "act_a", seed=seed)
    act_b = acts.match_target(output / "act_b", acts.TWO_SOLUTIONS[0], seed=seed)
    seconds = {"act_a": act_a.pop("seconds"), "act_b": act_b.pop("seconds"), "total": time.perf_counter() - start}
    summary: dict[str, Any] = {"seed": seed, "act_a": act_a, "act_b": act_b, "seconds": seconds}
    for count in ("rollouts", "gradient_steps", "forward_passes"):
        summary[count] = act_a[count] + act_b[count]
    draw_demo(output, summary)
    return summary


def table(summary: dict[str, Any]) -> str:
    """The result as a short table of text."""
    a, b = summary["act_a"], summary["act_b"]
    moves = "the reference moves with the policy" if a["reference_moves"] else "the reference stays"
    rows = [
        (f"(a) 256 test puzzles ({moves})", "before", "after"),
        ("    solve rate at temperature 1", f"{a['before']['temperature_1']:.3f}", f"{a['after']['temperature_1']:.3f}"),
        *((f"        {kind}", f"{rate:.3f}", f"{a['after']['by_blanks'][kind]:.3f}") for kind, rate in a["before"]["by_blanks"].items()),
        ("    solve rate, greedy", f"{a['before']['greedy']:.3f}", f"{a['after']['greedy']:.3f}"),
        ("(b) one puzzle, exact (the reference stays)", "before", "after"),
        ("    KL(p*‖p_θ), nats", f"{b['before']['kl_target_policy']:.4f}", f"{b['after']['kl_target_policy']:.4f}"),
        ("    KL(p_θ‖p*), nats", f"{b['before']['kl_policy_target']:.4f}", f"{b['after']['kl_policy_target']:.4f}"),
    ]
    for i, share in enumerate(b["target_shares"]):
        rows.append(
            (f"    solution {i + 1}, target share {share:.3f}", f"{b['before']['shares'][i]:.3f}", f"{b['after']['shares'][i]:.3f}")
        )
    seconds = summary["seconds"]
    cost = f"{summary['rollouts']} rollouts, {summary['gradient_steps']} gradient steps, {seconds['total']:.0f} s"
    cost += "\nact (a) shows that the method learns; only act (b), with its fixed target, says anything about covering modes"
    return "\n".join(f"{name:<48}{before:>9}{after:>9}" for name, before, after in rows) + f"\n{cost}"
