"""The two acts of the demonstration, which the studies repeat with other settings.

Act (a), *learn to solve*: a distribution of puzzles, solve rate on puzzles whose grids were never trained on. It shows that
the method works; it is not evidence of mass covering, least of all with a reference that moves with the policy.
Act (b), *match the target*: one puzzle with two solutions and a fixed reference, so that p* is fixed and known exactly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import Module

from dmpo_ref.config import Config, SamplerConfig
from dmpo_ref.evaluation.answering import evaluate
from dmpo_ref.models.loading import latest_checkpoint
from dmpo_ref.presets.loading import load_config
from dmpo_ref.runtime.processes import build_accelerator
from dmpo_ref.tasks.sudoku import Puzzle
from dmpo_ref.train import Trained, train
from toy import DATA
from toy.loading import Loaded, load
from toy.oracle import Exact, exact_distribution, kl_divergence, rewards, tilted
from toy.worlds.sudoku import solutions

GREEDY = SamplerConfig(name="confidence", temperature=0.0)
EXACT_EVALUATIONS = 10  # in the course of act (b), the last one at its end
TWO_SOLUTIONS = [DATA / f"two_solutions_{i}.csv" for i in (1, 2, 3)]


def learn_to_solve(output: Path, *, seed: int, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """Act (a): train on puzzles of the training grids, measure the solve rate on the 256 fixed test puzzles."""
    start = time.perf_counter()
    config = load_config("toy_sudoku", f"output={output}", f"seed={seed}", *overrides)
    before = solve_rates(config, config.model.path)
    trained = train_or_resume(config)
    after = solve_rates(config, str(output))
    return {
        "reference_moves": config.weight.log_ratio == "none" or config.train.resync_every > 0,
        "before": before,
        "after": after,
        **counts(trained),
        "seconds": time.perf_counter() - start,
    }


def solve_rates(config: Config, path: str) -> dict[str, Any]:
    """Solve rate at temperature 1 (also by number of blanks) and greedily, and the greedy answers."""
    loaded = load(replace(config, model=replace(config.model, path=path)), build_accelerator(config).device)
    items = loaded.task.load(config.task.test)[: config.evaluation.num_items]
    asked = (loaded.policy, loaded.tokenizer, loaded.task, items)
    sampled = evaluate(*asked, SamplerConfig(), loaded.vocabulary, num_samples=config.evaluation.num_samples)
    greedy = evaluate(*asked, GREEDY, loaded.vocabulary)
    return {
        "temperature_1": sampled.accuracy,
        "by_blanks": sampled.by_kind,
        "greedy": greedy.accuracy,
        "greedy_answers": {item.puzzle: answers[0] for item, answers in zip(items[:10], greedy.answers[:10], strict=True)},
    }


@dataclass
class TwoSolutions(Loaded):
    """A puzzle small enough to enumerate, with its reference policy (`policy`).

    Attributes:
        item: the puzzle.
        exact: distribution of the reference over all C answers.
        log_target: [C] log p*, the tilted reference.
        solutions: the right answers.
    """

    item: Puzzle
    exact: Exact
    log_target: Tensor
    solutions: list[str]

    def distribution(self, policy: Module) -> Exact:
        """Exact distribution of a policy over the answers to the puzzle."""
        return exact_distribution(policy, self.tokenizer, self.task, self.item, self.vocabulary)

    @property
    def target_shares(self) -> list[float]:
        """p* of each solution."""
        return [self.log_target[self.exact.texts.index(text)].exp().item() for text in self.solutions]

    def compare(self, exact: Exact) -> dict[str, Any]:
        """Both divergences of a distribution from p*, in nats, and its probability of each solution."""
        return {
            "kl_target_policy": kl_divergence(self.log_target, exact.log_prob),
            "kl_policy_target": kl_divergence(exact.log_prob, self.log_target),
            "shares": [exact.probability_of(text) for text in self.solutions],
        }


def load_two_solutions(config: Config) -> TwoSolutions:
    """The first training puzzle of a config, enumerated under the policy that the config starts from."""
    return next(load_puzzles(config))


def load_puzzles(config: Config) -> Iterator[TwoSolutions]:
    """Each training puzzle of a config, enumerated under the policy that the config starts from."""
    loaded = load(config)
    for item in loaded.task.load(config.task.train):
        exact = exact_distribution(loaded.policy, loaded.tokenizer, loaded.task, item, loaded.vocabulary)
        log_target = tilted(exact.log_prob, rewards(loaded.task, item, exact), config.weight.alpha)
        yield TwoSolutions(**vars(loaded), item=item, exact=exact, log_target=log_target, solutions=solutions(item.puzzle))


def match_target(output: Path, puzzle_file: Path, *, seed: int, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """Act (b): train on one puzzle with the reference fixed; exact KL to p* of the initial reference, before and after."""
    start = time.perf_counter()
    files = (f"task.train={puzzle_file}", f"task.test={puzzle_file}")
    config = load_config("toy_two_solutions", f"output={output}", f"seed={seed}", *files, *overrides)
    puzzle = load_two_solutions(config)

    def on_round(done: int, policy: Module) -> dict[str, float]:
        if done % max(1, config.train.rounds // EXACT_EVALUATIONS) and done != config.train.rounds:
            return {}
        return {f"exact/{name}": value for name, value in puzzle.compare(puzzle.distribution(policy)).items()}

    trained = train_or_resume(config, on_round=on_round)
    return {
        "puzzle": puzzle.item.puzzle,
        "solutions": puzzle.solutions,
        "alpha": config.weight.alpha,
        "reference_moves": config.train.resync_every > 0,
        "target_shares": puzzle.target_shares,
        "before": puzzle.compare(puzzle.exact),
        "after": puzzle.compare(puzzle.distribution(trained.policy)),
        **counts(trained),
        "seconds": time.perf_counter() - start,
    }


def train_or_resume(config: Config, on_round: Callable | None = None) -> Trained:
    """Train, starting from the newest checkpoint if an earlier attempt left one."""
    return train(config, on_round=on_round, resume=latest_checkpoint(Path(config.output)) is not None)


def counts(trained: Trained) -> dict[str, int]:
    """The cost of the run."""
    last = trained.metrics[-1]
    return {"rollouts": last["rollouts"], "gradient_steps": last["step"], "forward_passes": last["forward_passes"]}
