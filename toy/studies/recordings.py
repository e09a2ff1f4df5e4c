"""The data of the interactive figures: two committed files, so that a page needs no run.

    python -m toy.studies.recordings flow                    # a minute: toy/results/flow.json
    python -m toy.studies.recordings replays                 # a minute: toy/results/replays.json, from the shipped checkpoints
    python -m toy.studies.recordings replays --policy RUN    # the text model's answers by the policy of a run of text_sudoku

flow.json: the exact distribution of a policy over the answers to the puzzle of act (b), round by round, for DMPO and two rivals.
replays.json: the answers of every sampler to the same prompt, in the format of `dmpo_ref.plots.replay`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from dmpo_ref.config import SamplerConfig
from dmpo_ref.masking import stream
from dmpo_ref.plots.replay import group_of
from dmpo_ref.presets.loading import load_config
from dmpo_ref.samplers import sample
from dmpo_ref.tasks.encoding import answer_texts, encode, trajectory
from dmpo_ref.train import train
from toy import RESULTS
from toy.acts import load_two_solutions
from toy.loading import Loaded, load
from toy.oracle import kl_divergence
from toy.studies.objectives import OBJECTIVES, ROLLOUTS_PER_ROUND, STEPS_PER_ROUND, best_learning_rate

METHODS = ("WDCE (DMPO)", "diffu-GRPO", "REINFORCE, KL")
GROUP_SIZE, ROUNDS, EVERY, WRONG = 16, 50, 2, 12
BOARD_ITEMS, TEXT_ITEMS = (3, 11), (1, 4)
BOARD_SAMPLERS = {
    "random order": SamplerConfig(),
    "confidence": SamplerConfig(name="confidence", temperature=0.0),
    "confidence, 4 steps": SamplerConfig(name="confidence", temperature=0.0, steps=4),
    "threshold 0.9": SamplerConfig(name="threshold", temperature=0.0, threshold=0.9),
}
# Overrides of the sampler that text_sudoku is evaluated with: greedy confidence, 32 tokens in blocks of 8.
TEXT_SAMPLERS: dict[str, dict[str, Any]] = {
    "random order": {"name": "random_order", "temperature": 1.0},
    "confidence": {},
    "confidence, 8 steps": {"steps": 8},
    "threshold 0.9": {"name": "threshold", "threshold": 0.9},
    "factor 1": {"name": "factor", "factor": 1.0},
    "WINO 0.6": {"name": "wino", "threshold": 0.6},
}


def record_flow() -> dict[str, Any]:
    """The runs of METHODS with the settings of the study of objectives.

    Returns:
        names: of the two solutions, of the WRONG answers that are most probable under p_ref, and of all others together.
        target: p* of these. runs: method → for every EVERY-th round its number, `probability` of these, and KL(p*‖p_θ) in nats.
    """
    puzzle = load_two_solutions(load_config("toy_two_solutions"))
    where = [puzzle.exact.texts.index(text) for text in puzzle.solutions]
    wrong = puzzle.exact.log_prob.index_fill(0, torch.tensor(where), -torch.inf).topk(WRONG).indices.tolist()

    def shares(log_prob: Tensor) -> list[float]:
        shown = log_prob.exp()[torch.tensor(where + wrong)]
        return [round(p, 5) for p in (*shown.tolist(), 1 - shown.sum().item())]

    def point(done: int, log_prob: Tensor) -> dict[str, Any]:
        return {"round": done, "probability": shares(log_prob), "kl": round(kl_divergence(puzzle.log_target, log_prob), 5)}

    runs = {}
    for name in METHODS:
        points = [point(0, puzzle.exact.log_prob)]

        def on_round(done: int, policy: Module, points: list[dict[str, Any]] = points) -> dict[str, float]:
            if done % EVERY == 0:
                points.append(point(done, puzzle.distribution(policy).log_prob))
            return {}

        size: tuple[str, ...] = (f"train.num_rollouts={GROUP_SIZE}", f"train.prompts_per_round={ROLLOUTS_PER_ROUND // GROUP_SIZE}")
        size += (f"train.steps_per_round={STEPS_PER_ROUND}", f"train.rounds={ROUNDS}")
        overrides = (*OBJECTIVES[name][1], *size, f"optimizer.learning_rate={best_learning_rate(name)}")
        with tempfile.TemporaryDirectory() as folder:
            train(load_config("toy_two_solutions", f"output={folder}/run", *overrides), on_round=on_round)
        runs[name] = points
    others = len(puzzle.exact.texts) - len(where) - WRONG
    names = ["s1", "s2", *(f"w{i + 1}" for i in range(WRONG)), f"{others}\nothers"]
    return {"puzzle": puzzle.item.puzzle, "names": names, "target": shares(puzzle.log_target), "runs": runs}


def record_replays(policy: str | None) -> dict[str, Any]:
    """Every sampler on the same items: puzzles as boards, then as text."""
    board = load(load_config("toy_sudoku"))
    text_config = load_config("text_sudoku", *([f"model.path={policy}"] if policy else []))
    text, asked = load(text_config), text_config.evaluation.sampler
    samplers = {name: replace(asked, **options) for name, options in TEXT_SAMPLERS.items()}
    who = "text model after DMPO" if policy else "text model as shipped"
    boards = groups("board", board, load_config("toy_sudoku").task.test, BOARD_ITEMS, BOARD_SAMPLERS)
    texts = groups(who, text, text_config.task.test, TEXT_ITEMS, samplers)
    return {"title": "Samplers side by side", "groups": [*texts, *boards]}


def groups(
    title: str, loaded: Loaded, source: str, numbers: tuple[int, ...], samplers: dict[str, SamplerConfig]
) -> Iterator[dict[str, Any]]:
    """For each item one group: an answer of each sampler, graded."""
    items = loaded.task.load(source)
    for number in numbers:
        item, answers, titles = items[number], [], []
        for name, config in samplers.items():
            prompts = encode(loaded.tokenizer, loaded.task, [item], config.response_length)
            generators = [stream(0, "recordings", number)]
            rollout = sample(loaded.policy, prompts, config, loaded.vocabulary, num_rollouts=1, generators=generators)
            right = loaded.task.grade(item, answer_texts(loaded.tokenizer, rollout)[0][0]).correct
            answers.append(trajectory(loaded.tokenizer, rollout))
            titles.append(f"{name}: {'right' if right else 'wrong'} in {rollout.forwards} passes")
        yield group_of(f"{title}, test puzzle {number}", loaded.task.show(item), answers, titles)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Record what the figures that can be touched replay.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("flow")
    commands.add_parser("replays").add_argument("--policy", type=Path, help="folder of a run of text_sudoku; else the shipped model")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = record_flow() if args.command == "flow" else record_replays(args.policy and str(args.policy))
    path = RESULTS / f"{args.command}.json"
    path.write_text(json.dumps(found, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
