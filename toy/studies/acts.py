"""The experiments behind the results table: every row of it is one line of a committed file, with its command and seconds.

    python -m toy.studies.acts act_a        # solve rate, 3 seeds, the reference moving and fixed
    python -m toy.studies.acts act_a_more   # twice the rounds; groups whose rewards are all equal replaced, and 4 masks
    python -m toy.studies.acts act_b        # exact KL on three two-solution puzzles, 5 seeds each
    python -m toy.studies.acts group_size   # the same 3,200 rollouts in groups of 4, 16, 64 and 256
    python -m toy.studies.acts variants     # baselines and losses on the two-solution puzzles
    python -m toy.studies.acts path_steps   # two steps of the path in place of all, `uniform` baseline: as act_b
    python -m toy.studies.acts curve        # act (a) round by round: reward, ESS, solve rates, with and without reuse of rollouts
    python -m toy.studies.acts show         # print the tables and draw the figure from the committed results

Results that are already in the file are not run again; remove the file to start again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dmpo_ref.config import SamplerConfig
from dmpo_ref.evaluation.answering import evaluate
from dmpo_ref.models.llada import LLaDAModelLM
from dmpo_ref.presets.loading import load_config
from dmpo_ref.train import train
from toy import RESULTS
from toy.acts import TWO_SOLUTIONS, counts, learn_to_solve, match_target
from toy.figures.demo import draw_group_size
from toy.loading import load

EXPERIMENTS = ("act_a", "act_a_more", "act_b", "group_size", "variants", "path_steps", "curve")
ROLLOUTS = 3200
Job = tuple[str, str, int, int, tuple[str, ...]]  # act, name, seed, puzzle, overrides

# name → overrides of act (a)
ACT_A: dict[str, tuple[str, ...]] = {
    "reference moves (log_ratio none)": (),
    "reference fixed (log_ratio path)": ("weight.log_ratio=path",),
}
# the effect of more rounds, or of more in each round
ACT_A_MORE: dict[str, tuple[str, ...]] = {
    "240 rounds": ("train.rounds=240",),
    "equal groups replaced, 4 masks": ("train.skip_equal_groups=2", "loss.num_masks=4"),
}
# name → (N, groups per round, gradient steps per round); the same number of rollouts in each
GROUPS = {
    "N=4, 1 group": (4, 1, 1),
    "N=4, 16 groups": (4, 16, 4),
    "N=16": (16, 1, 1),
    "N=64": (64, 1, 4),
    "N=256": (256, 1, 16),
}
VARIANTS: dict[str, tuple[str, ...]] = {
    "wdce, none": (),
    "wdce, uniform": ("weight.baseline=uniform",),
    "wdce, model": ("weight.baseline=model", "loss.masks=path"),
    "wdce, negative": ("weight.baseline=negative",),
    "wdce, none, path likelihood": ("loss.masks=path",),
    "wdce, uniform, path likelihood": ("weight.baseline=uniform", "loss.masks=path"),
    "wdce, none, path steps": ("loss.masks=path_steps",),
    "wdce, uniform, path steps": ("weight.baseline=uniform", "loss.masks=path_steps"),
    "wddo, path likelihood": ("loss.name=wddo", "loss.masks=path"),
    "wddo, elbo": ("loss.name=wddo",),
    "wdce, none, elbo weights": ("weight.log_ratio=elbo",),
}
PATH_STEPS = "wdce, uniform, path steps"

# name → overrides of act (a); 480 gradient steps in each, on 23,040 rollouts or on a quarter of them
CURVES: dict[str, tuple[str, ...]] = {
    "120 rounds": (),
    "120 rounds, reuse 1": ("train.reuse_rounds=1",),
    "120 rounds, reuse 3": ("train.reuse_rounds=3",),
    "30 rounds": ("train.rounds=30", "train.steps_per_round=16"),
    "30 rounds, reuse 3": ("train.rounds=30", "train.steps_per_round=16", "train.reuse_rounds=3"),
}
MEASURED = (1 / 24, 1 / 12, 1 / 6, 1 / 3, 2 / 3, 1)  # shares of a run after which its solve rates are taken


def jobs(experiment: str) -> Iterator[Job]:
    """Every run of an experiment."""
    if experiment in ("act_a", "act_a_more"):
        for name, overrides in (ACT_A if experiment == "act_a" else ACT_A_MORE).items():
            for seed in range(3):
                yield "a", name, seed, 0, overrides
    elif experiment == "act_b":
        for puzzle in range(3):
            for seed in range(5):
                yield "b", "N=64", seed, puzzle, ()
    elif experiment == "path_steps":  # its first three runs are those of the variant of this name
        for puzzle in range(3):
            for seed in range(5):
                yield "b", PATH_STEPS, seed, puzzle, VARIANTS[PATH_STEPS]
    elif experiment == "group_size":
        for name, (N, groups, steps) in GROUPS.items():
            size = (f"train.num_rollouts={N}", f"train.prompts_per_round={groups}", f"train.steps_per_round={steps}")
            for puzzle in range(3):
                for seed in range(3):
                    yield "b", name, seed, puzzle, (*size, f"train.rounds={ROLLOUTS // (N * groups)}")
    elif experiment == "curve":
        for name, overrides in CURVES.items():
            yield "curve", name, 0, 0, overrides
    else:
        for name, overrides in VARIANTS.items():
            for seed in range(3):
                yield "b", name, seed, 0, overrides


def run(experiment: str) -> None:
    """Run what is not in the result file yet; every finished run is appended at once."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{experiment}.jsonl"
    done = {(r["name"], r["seed"], r["puzzle"]) for r in read(experiment)}
    for act, name, seed, puzzle, overrides in tqdm(list(jobs(experiment)), desc=experiment, disable=None):
        if (name, seed, puzzle) in done:
            continue
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "run"
            if act == "a":
                result = learn_to_solve(output, seed=seed, overrides=overrides)
            elif act == "curve":
                result = learning_curve(output, seed=seed, overrides=overrides)
            else:
                result = match_target(output, TWO_SOLUTIONS[puzzle], seed=seed, overrides=overrides)
        row = {"name": name, "seed": seed, "puzzle": puzzle, "overrides": list(overrides)} | {
            k: v for k, v in result.items() if k != "puzzle"
        }
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def learning_curve(output: Path, *, seed: int, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Act (a) with its metrics: reward and ESS of every round, test solve rates at temperature 1 in the course of it."""
    start = time.perf_counter()
    config = load_config("toy_sudoku", f"output={output}", f"seed={seed}", "evaluation.every=0", *overrides)
    loaded = load(config)
    items = loaded.task.load(config.task.test)
    measured: list[dict[str, Any]] = []

    def measure(done: int, policy: LLaDAModelLM) -> dict[str, float]:
        if done == 0 or done in {max(1, int(share * config.train.rounds)) for share in MEASURED}:
            asked = (policy, loaded.tokenizer, loaded.task, items)
            result = evaluate(*asked, SamplerConfig(), loaded.vocabulary, num_samples=config.evaluation.num_samples)
            measured.append({"round": done, "solve_rate": result.accuracy, "by_blanks": result.by_kind})
        return {}

    measure(0, loaded.policy)
    trained = train(config, on_round=measure)
    last = {entry["round"]: entry for entry in trained.metrics}.values()
    rounds = {name: [round(entry[name], 4) for entry in last] for name in ("rollouts", "reward", "ess", "grad_norm")}
    return {"rounds": rounds, "measured": measured, **counts(trained), "seconds": time.perf_counter() - start}


def read(experiment: str) -> list[dict[str, Any]]:
    """Committed results of an experiment."""
    file = RESULTS / f"{experiment}.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def by_name(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows grouped by the name of the setting, in the order in which they were run."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["name"]].append(row)
    return dict(groups)


def show() -> None:
    """Print the tables and draw `book/figures/group_size.png`."""
    print_row("act (a), solve rate on 256 test puzzles", "seeds", "T=1 before", "T=1 after", "greedy before", "greedy after", "seconds")
    for name, rows in by_name(read("act_a") + read("act_a_more")).items():
        rates = [statistics.mean(r[when][what] for r in rows) for what in ("temperature_1", "greedy") for when in ("before", "after")]
        print_row(name, len(rows), *(f"{x:.3f}" for x in rates), f"{statistics.mean(r['seconds'] for r in rows):.0f}")
    print_row("\nlearning curves, test solve rate at T=1", "rollouts", "steps", "before", "after", "seconds")
    for row in read("curve"):
        before, after = (f"{row['measured'][i]['solve_rate']:.3f}" for i in (0, -1))
        print_row(row["name"], row["rollouts"], row["gradient_steps"], before, after, f"{row['seconds']:.0f}")
    for experiment in ("act_b", "group_size", "variants", "path_steps"):
        print_row(f"\n{experiment}, exact KL(p*‖p_θ), nats", "runs", "before", "median", "largest", "share error", "lost a mode")
        for name, rows in by_name(read(experiment)).items():
            start, end = ([r[when]["kl_target_policy"] for r in rows] for when in ("before", "after"))
            kl = (f"{x:.4f}" for x in (statistics.median(start), statistics.median(end), max(end)))
            print_row(name, len(rows), *kl, f"{max(map(share_error, rows)):.3f}", sum(map(lost_mode, rows)))
    print(f"\nfigure: {draw_group_size(by_name(read('group_size')), Path('book/figures/group_size.png'))}")


def print_row(name: str, *cells: Any) -> None:
    """One row of a table of text."""
    print(f"{name:<42}" + "".join(f"{cell:>14}" for cell in cells))


def share_error(row: dict[str, Any]) -> float:
    """Largest distance of a solution's probability from its target share."""
    return max(abs(a - b) for a, b in zip(row["after"]["shares"], row["target_shares"], strict=True))


def lost_mode(row: dict[str, Any]) -> bool:
    """Whether a solution has less than a tenth of its target share."""
    return any(a < b / 10 for a, b in zip(row["after"]["shares"], row["target_shares"], strict=True))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Experiments behind the results table.")
    parser.add_argument("experiment", nargs="?", default="all", choices=[*EXPERIMENTS, "show", "all"])
    chosen = parser.parse_args().experiment
    for experiment in EXPERIMENTS if chosen == "all" else (chosen,):
        if experiment != "show":
            run(experiment)
    show()
