"""The ladder from the toy to LLaDA-8B: a round of the same command on each rung, measured on this machine or forecast.

    python -m toy.ladder measure              # what is missing in toy/results/ladder.jsonl: minutes, on one thread
    python -m toy.ladder show                 # the table
    python -m toy.ladder draw book/figures    # the figure, ladder.png

Memory is that of the tensors: what a run holds all the time (weights, reference, AdamW's moments), and the most that a round needs besides
that. The forecast is that of `dmpo plan`, without its allowance for CUDA.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib import pyplot as plt
from tabulate import tabulate

from dmpo_ref.config import ModelConfig
from dmpo_ref.experience import collect, step_masks
from dmpo_ref.forecast.hardware import DEFAULT_GPU, GPUS, choose_gpu
from dmpo_ref.forecast.plan import OVERHEAD, Plan, make_plan
from dmpo_ref.forecast.work import call_work, step_work
from dmpo_ref.gradient import choose_batch, gradient_step
from dmpo_ref.models.llada import LLaDAConfig
from dmpo_ref.plots.style import COLORS, use_style
from dmpo_ref.presets.loading import load_config
from dmpo_ref.runtime.files import as_lines, read_lines, write_atomically
from dmpo_ref.runtime.setup import RunParts, prepare_run
from toy import RESULTS
from toy.bench import output_of
from toy.machine import LiveBytes
from toy.options import TextPretrainConfig
from toy.small_llada import write_checkpoint
from toy.text_reference import build_tasks, build_text_model, train_tokenizer

FILE = RESULTS / "ladder.jsonl"
# As the first lines of the preset text_100m have it.
BIG = TextPretrainConfig(lessons="plus_minus_twice", width=768, layers=15, batch_size=128, steps=6000)
LESSON_TOKENS, MASKED = 112, 18  # of a lesson in a step of `dmpo pretrain-toy text`, and of them hidden, on average


@dataclass(frozen=True)
class Rung:
    """A preset on the ladder.

    Attributes:
        overrides: of the run.
        measured: a round is measured here; else it is only forecast.
        model: options that make its model, here with random weights; None: the model that the preset names.
    """

    name: str
    preset: str
    overrides: tuple[str, ...] = ()
    measured: bool = True
    model: TextPretrainConfig | None = None


SMALL_BATCH: tuple[str, ...] = ("train.prompts_per_round=1", "train.num_rollouts=4", "train.steps_per_round=1")
SMALL_BATCH += ("model.dtype=float32", "sampler.response_length=16")
RUNGS = (
    Rung("toy", "toy_sudoku"),
    Rung("text", "text_countdown"),
    Rung("100 M, small batch", "text_100m", SMALL_BATCH, model=BIG),
    Rung("100 M", "text_100m", measured=False, model=BIG),
    Rung("LLaDA-8B", "llada_countdown", measured=False),
)


def measure() -> None:
    """Measure the rungs that are not in the file yet."""
    rows = read()
    one_thread = "import torch; torch.set_num_threads(1); machine.measure_ceilings('cpu', 'float32')"
    machine = rows.get("machine") or {"rung": "machine", **output_of(one_thread, timeout=240)}
    for rung in RUNGS:
        if rung.name not in rows:
            rows |= {"machine": machine, rung.name: measure_rung(rung, machine)}
            write_atomically(FILE, as_lines(list(rows.values())))
            print(f"{rung.name}: {rows[rung.name]}", flush=True)


def read() -> dict[str, dict[str, Any]]:
    """The rows of the file by their rung."""
    return {row["rung"]: row for row in read_lines(FILE) if row}


def measure_rung(rung: Rung, machine: dict[str, Any]) -> dict[str, Any]:
    """A row: the forecast for one GPU, and what was measured here with the forecast for this machine."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(rung.preset, f"output={folder}/run", "device=cpu", *rung.overrides)
        if rung.model is not None:
            config.model.path = make_model(Path(folder) / "model", rung.model, weights=rung.measured)
        row: dict[str, Any] = {"rung": rung.name, "preset": rung.preset}
        if not rung.measured:
            return row | forecast(make_plan(config)) | ({} if rung.model is None else {"pretraining": pretraining_seconds(rung.model)})
        config.threads = 1
        run = prepare_run(config)
        play_round(run, 0)  # warms up, and makes AdamW's moments
        start = time.perf_counter()
        play_round(run, 1)
        seconds = time.perf_counter() - start
        with LiveBytes() as made:
            P, L = play_round(run, 2)
        measured = {"seconds": seconds, "memory": held_bytes(run) + made.peak}
        here = choose_gpu(DEFAULT_GPU, flops=machine["flop_per_second"], bandwidth=machine["bytes_per_second"])
        config.sampler.response_length = L  # for the puzzles of the grid, which say themselves how many cells are blank
        return row | forecast(make_plan(config, prompt_length=P, gpu=here)) | {"measured": measured}


def make_model(folder: Path, options: TextPretrainConfig, *, weights: bool) -> str:
    """The folder of a model of this size; without its weights a forecast can still read it."""
    words = train_tokenizer(build_tasks(), options.seed)
    with torch.device("cpu" if weights else "meta"):
        model, fields = build_text_model(options, words)
    folder.mkdir()
    if weights:
        write_checkpoint(folder, model.bfloat16(), fields, words)
    else:
        (folder / "config.json").write_text(json.dumps(fields))
    return str(folder)


def play_round(run: RunParts, number: int) -> tuple[int, int]:
    """A round of `train` without files and evaluation; what its longest sequence is given, and how many tokens are generated on average."""
    config, (items, position) = run.config, run.prompts.of_round(number)
    models = run.policy, run.reference, run.tokenizer, run.vocabulary
    experience = collect(*models, run.task, items, run.objective, config, position=position).experience
    for k in range(config.train.steps_per_round):
        batch = choose_batch([experience], k, config, number)
        masks = step_masks(run.objective, batch.rollout, batch.position, config.seed, k, k)
        gradient_step(run.policy, run.state.optimizer, run.vocabulary, run.objective, batch, masks, config)
    generated = round(experience.rollout.response_mask.sum(dim=-1).double().mean().item())
    return int(experience.rollout.attention_mask.sum(dim=-1).max()) - generated, generated


def held_bytes(run: RunParts) -> int:
    """Weights of policy and reference, and what the optimiser keeps."""
    moments = [value for state in run.state.optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    tensors = [*run.policy.parameters(), *moments]
    if run.reference is not None:
        with run.reference.model() as model:
            tensors += model.parameters()
    return sum({tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}.values())


def forecast(plan: Plan) -> dict[str, Any]:
    """The forecast of a plan for a round."""
    counts = {"parameters": plan.parameters, "rollouts": plan.rollouts, "rounds": plan.rounds}
    tokens = {"generated": plan.rollouts * plan.response_length, "fed": sum(phase.tokens for phase in plan.phases)}
    return counts | tokens | {"planned": {"seconds": plan.seconds, "memory": plan.peak - OVERHEAD}}


def pretraining_seconds(options: TextPretrainConfig) -> float:
    """Expected time of `dmpo pretrain-toy text` with these options on one GPU, by the same count of operations and bytes; making the
    lessons, and AdamW, are not in it."""
    with torch.device("meta"):
        _, fields = build_text_model(options, train_tokenizer(build_tasks(), options.seed))
    model, types = LLaDAConfig(**fields), ModelConfig(dtype="bfloat16")
    work = step_work(model, types, LESSON_TOKENS, MASKED) * options.batch_size
    work += call_work(model, types, 1, "ddp", scored=MASKED * options.batch_size, gradient=True)
    return options.steps * work.expected(types, GPUS[DEFAULT_GPU])


HEADERS = ("rung", "weights", "tokens drawn, plan", "tokens fed, plan", "s", "s, plan", "MB", "MB, plan", "MB / plan", "on")


def table(rows: dict[str, dict[str, Any]]) -> list[list[str]]:
    """The cells of the table, a rung a line: of a round, measured and as planned."""
    lines = []
    for rung in RUNGS:
        row = rows[rung.name]
        measured, planned = row.get("measured"), row["planned"]
        line = [rung.name, f"{row['parameters']:,}", f"{row['generated']:,}", f"{row['fed']:,}"]
        line += [f"{measured['seconds']:.1f}" if measured else "–", f"{planned['seconds']:.1f}"]
        line += [f"{measured['memory'] / 1e6:,.0f}" if measured else "–", f"{planned['memory'] / 1e6:,.0f}"]
        line += [f"{measured['memory'] / planned['memory']:.2f}" if measured else "–", "one CPU thread" if measured else "one H100"]
        lines.append(line)
    return lines


def draw(folder: Path) -> None:
    """Memory and time of a round against the number of weights, measured and as planned."""
    use_style()
    rows, (memory, seconds) = read(), (panels := plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained"))[1]
    for panel, key, unit in ((memory, "memory", 1e-9), (seconds, "seconds", 1.0)):
        for device, color, marker in (("one CPU thread", COLORS[0], "o"), ("one H100", COLORS[1], "s")):
            chosen = [rows[rung.name] for rung in RUNGS if rung.measured == (device == "one CPU thread")]
            x = [row["parameters"] for row in chosen]
            panel.plot(x, [row["planned"][key] * unit for row in chosen], marker, mfc="none", ms=9, color=color, label=f"planned, {device}")
            if chosen[0].get("measured"):
                panel.plot(x, [row["measured"][key] * unit for row in chosen], marker, ms=4, color=color, label=f"measured, {device}")
        panel.set(xscale="log", yscale="log", xlabel="weights", xlim=(3e4, 5e11))
    for rung in RUNGS:
        row = rows[rung.name]
        at = (row["parameters"], row["planned"]["memory"] * 1e-9)
        memory.annotate(rung.name, at, textcoords="offset points", xytext=(8, -10), fontsize=8)
    memory.set(title="tensors at their most", ylabel="GB")
    seconds.set(title="a round", ylabel="seconds")
    seconds.legend(fontsize=8, loc="lower right")
    panels[0].savefig(folder / "ladder.png")
    plt.close(panels[0])
    print(f"figure: {folder / 'ladder.png'}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="A round of the same command from 85,000 weights to 8 billion.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("measure")
    commands.add_parser("show")
    commands.add_parser("draw").add_argument("folder", type=Path)
    args = parser.parse_args()
    if args.command == "measure":
        measure()
    elif args.command == "show":
        print(tabulate(table(read()), HEADERS, "plain", disable_numparse=True))
    else:
        draw(args.folder)


if __name__ == "__main__":
    main()
