"""DMPO on the text model: every row of the tables of the page "A text model", one line of a committed file each.

    python -m toy.studies.text run countdown          # half an hour a run on one core: toy/results/text.jsonl
    python -m toy.studies.text run sudoku
    python -m toy.studies.text run spelling --only exact   # after the commands in the first lines of the preset text_spelling
    python -m toy.studies.text samplers countdown     # every sampler on the trained policy and the reference: text_samplers.jsonl
    python -m toy.studies.text lengths countdown      # answers of 32, 64 and 128 tokens: text_lengths.jsonl
    python -m toy.studies.text show                   # the tables
    python -m toy.studies.text draw book/figures      # text_curves.png, text_samplers.png

Runs that are in the file are not run again. Each leaves its folder in runs/text, from which an interrupted one continues.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from tabulate import tabulate
from tqdm import tqdm

from dmpo_ref.config import Config, SamplerConfig
from dmpo_ref.evaluation.answering import ITEMS_PER_BATCH
from dmpo_ref.evaluation.gradings import grade_files, wilson
from dmpo_ref.models.loading import latest_checkpoint
from dmpo_ref.plots.style import COLORS, use_style
from dmpo_ref.presets.loading import load_config
from toy import RESULTS
from toy.acts import train_or_resume
from toy.loading import Loaded, load
from toy.sampling import answer, forwards_alone, num_right
from toy.studies.acts import by_name, read

TASKS = ("countdown", "sudoku")
GYM = "spelling"  # a generator of reasoning-gym, whose policy is not shipped
RUNS = Path("runs/text")
RECIPE: tuple[str, ...] = ("sampler.name=confidence", "sampler.cache=prefix", "sampler.temperature=0.2", "weight.log_ratio=elbo")
RECIPE += ("loss.masks=antithetic", "optimizer.learning_rate=8e-5")  # 4e-5 ends alike, 2e-4 lower
# name → (seeds, overrides of a preset text_*)
VARIANTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "exact": (3, ()),
    "published recipe": (3, RECIPE),
    "published recipe, learning rate 4e-5": (1, (*RECIPE, "optimizer.learning_rate=4e-5")),
    "published recipe, learning rate 2e-4": (1, (*RECIPE, "optimizer.learning_rate=2e-4")),
    "published recipe, no baseline": (1, (*RECIPE, "weight.baseline=none")),
    "published recipe, negative": (1, (*RECIPE, "weight.baseline=negative")),
    "exact, no baseline": (1, ("weight.baseline=none",)),
    "exact, model": (1, ("weight.baseline=model",)),
    "exact, negative": (1, ("weight.baseline=negative",)),
    "exact, N = 4": (1, ("train.num_rollouts=4", "train.prompts_per_round=16")),
    "exact, N = 16": (1, ("train.num_rollouts=16", "train.prompts_per_round=4")),
    "exact, N = 4, α × 1.5": (1, ("train.num_rollouts=4", "train.prompts_per_round=16")),
    "exact, N = 16, α × 0.75": (1, ("train.num_rollouts=16", "train.prompts_per_round=4")),
    "exact, LoRA": (1, ("model.lora_rank=16", "model.lora_alpha=32", "optimizer.learning_rate=2e-3")),
    "WDDO": (3, ("loss.name=wddo", "loss.masks=antithetic", "weight.baseline=none")),
    "diffu-GRPO": (1, ("loss.name=diffu_grpo", "weight.log_ratio=none", "weight.baseline=none")),
}
# α in units of the preset's. N normalised weights diverge from equal ones by ln N nats at most, so α falls as 1 / ln N from N = 8 on.
ALPHA_FACTORS = {"exact, N = 4, α × 1.5": 1.5, "exact, N = 16, α × 0.75": 0.75}
HEADLINE = "exact"
ITEMS = 128  # in a test file
# The settings of the samplers in `samplers`, at temperature 0; lists make a curve.
SAMPLERS: dict[str, list[dict[str, Any]]] = {
    "confidence": [{"steps": steps} for steps in (32, 16, 8)],
    "confidence, prefix": [{"cache": "prefix", "steps": steps} for steps in (32, 16, 8)],
    "confidence, dual": [{"cache": "dual", "steps": steps} for steps in (32, 16, 8)],
    "threshold": [{"threshold": threshold} for threshold in (0.95, 0.9, 0.7, 0.5)],
    "threshold, dual": [{"cache": "dual", "threshold": threshold} for threshold in (0.95, 0.9, 0.7, 0.5)],
    "factor": [{"factor": factor} for factor in (0.5, 1.0, 2.0)],
    "wino": [{"threshold": threshold} for threshold in (0.9, 0.6)],
}
# Those of `lengths`, in blocks of 8 as all others.
LENGTHS: dict[str, list[dict[str, Any]]] = {
    "confidence": [{"response_length": length} for length in (32, 64, 128)],
    "threshold": [{"threshold": 0.9, "response_length": length} for length in (32, 64, 128)],
}


def run(task: str, names: list[str]) -> None:
    """The runs of a task that are not in the file yet, seed by seed, so that every variant has its first before any has its second."""
    done = {(row["task"], row["name"], row["seed"]) for row in read("text")}
    jobs = [(name, seed) for seed in range(3) for name, (seeds, _) in VARIANTS.items() if seed < seeds and name in names]
    for name, seed in tqdm([job for job in jobs if (task, *job) not in done], desc=task, disable=None):
        row = one_run(task, name, seed)
        with (RESULTS / "text.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def folder_of(task: str, name: str, seed: int) -> Path:
    """Where a run is kept."""
    return RUNS / f"{task}_{name.replace(', ', '_').replace(' ', '_').replace('=', '')}_{seed}"


def one_run(task: str, name: str, seed: int) -> dict[str, Any]:
    """Train, on one thread; test accuracies in the course of it, and of every round the reward, its components and the ESS."""
    overrides = VARIANTS[name][1]
    if name in ALPHA_FACTORS:
        overrides += (f"weight.alpha={ALPHA_FACTORS[name] * load_config(f'text_{task}').weight.alpha:g}",)
    config = load_config(f"text_{task}", f"output={folder_of(task, name, seed)}", f"seed={seed}", "threads=1", *overrides)
    trained = train_or_resume(config)
    rounds = list({entry["round"]: entry for entry in trained.metrics}.values())  # the last step of each
    curves = {key: [round(entry[key], 4) for entry in rounds] for key in rounds[0] if key in ("reward", "ess") or key.startswith("reward/")}
    accuracy = {entry["round"] + 1: entry["evaluation/accuracy"] for entry in rounds if "evaluation/accuracy" in entry}
    last = rounds[-1]
    cost = {"rollouts": last["rollouts"], "gradient_steps": last["step"], "seconds": round(last["seconds"], 1)}
    return {"task": task, "name": name, "seed": seed, "overrides": list(overrides), "accuracy": accuracy, "curves": curves, **cost}


def policies(task: str) -> Iterator[tuple[str, Config]]:
    """Name and config of the policy that the first headline run has trained, if it is there, and of the reference."""
    trained = folder_of(task, HEADLINE, 0)
    if latest_checkpoint(trained) is not None:
        yield "DMPO", load_config(f"text_{task}", f"model.path={trained}")
    yield "reference", load_config(f"text_{task}")


def samplers(task: str, settings: dict[str, list[dict[str, Any]]], file: str) -> None:
    """Accuracy, forward passes, fed tokens and seconds of an answer, for every setting and policy that are not in the file yet."""
    torch.set_num_threads(1)
    done = {(row["task"], row["policy"], row["sampler"], json.dumps(row["options"])) for row in read(file)}
    for policy, config in policies(task):
        loaded, items = load(config), None
        for name, options in tqdm([(name, options) for name, many in settings.items() for options in many], desc=f"{task}, {policy}"):
            if (task, policy, name, json.dumps(options)) not in done:
                items = items or loaded.task.load(config.task.test)
                row = {"task": task, "policy": policy, "sampler": name, "options": options}
                row |= ask(loaded, items, replace(config.evaluation.sampler, name=name.partition(",")[0], **options))
                with (RESULTS / f"{file}.jsonl").open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(row) + "\n")


def ask(loaded: Loaded, items: list[Any], sampler: SamplerConfig) -> dict[str, Any]:
    """One answer to each item; `forwards` is the number that an answer alone takes, on average."""
    right, forwards, fed, start = 0, 0.0, 0, time.perf_counter()
    for first in range(0, len(items), ITEMS_PER_BATCH):
        asked = items[first : first + ITEMS_PER_BATCH]
        rollout = answer(loaded, asked, sampler, first=first)
        right += num_right(loaded, asked, rollout)
        forwards += forwards_alone(rollout).sum().item()
        fed += rollout.fed_tokens
    seconds, n = time.perf_counter() - start, len(items)
    return {"right": right, "total": n, "forwards": forwards / n, "fed_tokens": fed / n, "seconds": round(seconds / n, 4)}


def show() -> None:
    """The tables of all stored rows."""
    rows = read("text")
    for task in (*TASKS, GYM):
        print(tabulate(table_of_runs([row for row in rows if row["task"] == task]), (task, *HEADERS), "plain", disable_numparse=True))
    for file in ("text_samplers", "text_lengths"):
        print(tabulate(table_of_samplers(read(file)), SAMPLER_HEADERS, "plain", disable_numparse=True))


HEADERS = ("seeds", "after, %", "95 %", "reward, first round", "last", "minutes")


def table_of_runs(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Name, seeds, greedy test accuracy after the last round (mean of the seeds, and the interval of their answers together), mean
    reward of the first and of the last round, minutes of a run."""
    lines = []
    for name, of_name in by_name(rows).items():
        after = [final(row) for row in of_name]
        low, high = wilson(statistics.mean(after), ITEMS * len(after))
        first, last = (statistics.mean(row["curves"]["reward"][i] for row in of_name) for i in (0, -1))
        cells = [f"{100 * statistics.mean(after):.1f}", f"{100 * low:.1f} – {100 * high:.1f}", f"{first:.2f}", f"{last:.2f}"]
        lines.append([name, str(len(after)), *cells, f"{statistics.mean(row['seconds'] for row in of_name) / 60:.0f}"])
    return lines


def final(row: dict[str, Any]) -> float:
    """Greedy test accuracy after the last round."""
    return list(row["accuracy"].values())[-1]


SAMPLER_HEADERS = ("task", "policy", "sampler", "", "right", "forwards", "fed tokens", "ms")


def table_of_samplers(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Right answers, and the cost of one."""
    return [
        [
            *(row[key] for key in ("task", "policy", "sampler")),
            ", ".join(f"{key} {value}" for key, value in row["options"].items() if key != "cache"),
            f"{row['right']}/{row['total']}",
            f"{row['forwards']:.1f}",
            f"{row['fed_tokens']:,.0f}",
            f"{1000 * row['seconds']:.0f}",
        ]
        for row in rows
    ]


def draw(folder: Path) -> None:
    """The learning curves of the headline runs, of WDDO and of the published recipe; accuracy against forward passes for every sampler."""
    use_style()
    runs, asked = read("text"), [row for row in read("text_samplers") if row["policy"] == "DMPO"]
    tasks = [task for task in TASKS if any(row["task"] == task for row in runs)]
    figure, axes = plt.subplots(len(tasks), 2, figsize=(9, 3.4 * len(tasks)), layout="constrained", squeeze=False)
    for panels, task in zip(axes, tasks, strict=True):
        draw_curves(panels, [row for row in runs if row["task"] == task])
        panels[0].set(title=TITLES[task], xlabel="round", ylabel=f"reward, mean of {MEAN_OF} rounds")
        panels[1].set(title=TITLES[task], xlabel="round", ylabel="greedy test accuracy", ylim=(0, 1))
        panels[1].axhline(accuracy_before(task), color="0.4", linestyle=":", label="as shipped")
        for panel in panels:
            panel.legend(fontsize=8)
        for panel in panels:
            panel.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(folder / "text_curves.png")
    sampled = [task for task in TASKS if any(row["task"] == task for row in asked)]
    figure, axes = plt.subplots(1, len(sampled), figsize=(6 * len(sampled), 3.8), layout="constrained", squeeze=False)
    for panel, task in zip(axes[0], sampled, strict=True):
        draw_samplers(panel, [row for row in asked if row["task"] == task])
        panel.set(title=f"{TITLES[task]}, after DMPO", xlabel="forward passes of an answer", ylabel="greedy test accuracy", ylim=(0, 1))
    axes[0, 0].legend(fontsize=8)
    figure.savefig(folder / "text_samplers.png")
    plt.close("all")
    print(f"figures: {folder / 'text_curves.png'}, {folder / 'text_samplers.png'}")


def accuracy_before(task: str) -> float:
    """Greedy test accuracy of the shipped model, from its stored answers."""
    items, _ = grade_files([RESULTS / "text" / "reference" / f"{task}_32_confidence.jsonl"])
    return sum(item.grade.correct for item in items) / len(items)


MEAN_OF = 5  # rounds; that of one round varies with its eight prompts
TITLES = {"countdown": "Countdown, three numbers", "sudoku": "4x4 Sudoku in chat"}


def draw_curves(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Mean reward of the last rounds and accuracy where it was measured, a line for each run."""
    for name, color in zip((HEADLINE, "WDDO", "published recipe"), COLORS, strict=False):
        for i, row in enumerate(by_name(rows).get(name, [])):
            reward = row["curves"]["reward"]
            means = [statistics.mean(reward[end - MEAN_OF : end]) for end in range(MEAN_OF, len(reward) + 1)]
            axes[0].plot(range(MEAN_OF, len(reward) + 1), means, color=color, alpha=0.8, label=name if i == 0 else None)
            axes[1].plot([int(done) for done in row["accuracy"]], row["accuracy"].values(), "o-", color=color, ms=4, alpha=0.8)


def draw_samplers(panel: Axes, rows: list[dict[str, Any]]) -> None:
    """A curve for each sampler, a point for each of its settings."""
    for i, name in enumerate(SAMPLERS):
        points = sorted((row["forwards"], row["right"] / row["total"]) for row in rows if row["sampler"] == name)
        if points:
            panel.plot(*zip(*points, strict=True), marker="os^vDPX"[i], ms=5, lw=1, color=COLORS[i % len(COLORS)], label=name)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="DMPO on the text model.")
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("task", choices=(*TASKS, GYM))
    running.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="NAME", help="variants; else all")
    commands.add_parser("samplers").add_argument("task", choices=TASKS)
    commands.add_parser("lengths").add_argument("task", choices=TASKS)
    commands.add_parser("show")
    commands.add_parser("draw").add_argument("folder", type=Path)
    args = parser.parse_args()
    if args.command == "run":
        run(args.task, args.only)
    elif args.command == "draw":
        draw(args.folder)
    elif args.command == "samplers":
        samplers(args.task, SAMPLERS, "text_samplers")
    elif args.command == "lengths":
        samplers(args.task, LENGTHS, "text_lengths")
    else:
        show()


if __name__ == "__main__":
    main()
