"""DMPO and other objectives on one puzzle with two solutions and a fixed reference, where p* is known exactly.

    python -m toy.studies.objectives        # run what is missing in toy/results/objectives.jsonl, then print the table
    python -m toy.studies.objectives show   # the table alone

Every run draws 64 rollouts in each of 50 rounds, 3,200 in all, in groups of N = 4, 16 or 64, with 2 gradient steps a round.
First a sweep: each objective at N = 16 with three learning rates and a separate seed. Each keeps the one that is best by its
own goal: the exact probability of a correct answer for those that maximise the reward, exact KL(p*‖p_θ) for those that aim at
p*, DMPO among them. Then N = 4, 16, 64 with three other seeds. α = 0.2; REINFORCE with a KL term has the same strength.

Two targets are enumerated: p* of the reference, and E_σ[p_ref(o;σ) e^{r/α} / Z(σ)]. KL-regularised REINFORCE has its optimum at
the second only where no two orders share a conditional; `regularised_optimum` computes it where they do.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from itertools import permutations
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from tqdm import tqdm

from dmpo_ref.objectives.base import Objective
from dmpo_ref.presets.loading import load_config
from dmpo_ref.tasks.encoding import encode
from dmpo_ref.train import Trained, train
from toy import RESULTS
from toy.acts import TwoSolutions, counts, load_two_solutions
from toy.oracle import conditional_log_prob, kl_divergence, rewards
from toy.studies.acts import by_name, print_row
from toy.studies.acts import read as read_results

FILE = RESULTS / "objectives.jsonl"
ROLLOUTS_PER_ROUND, STEPS_PER_ROUND = 64, 2
SIZES = (4, 16, 64)
SWEEP_SIZE, SWEEP_SEED, SEEDS = 16, 10, (0, 1, 2)
LEARNING_RATES = (1e-4, 3e-4, 1e-3)

# name → (what it aims at, overrides of the preset toy_two_solutions)
NO_WEIGHTS = "weight.log_ratio=none"
OBJECTIVES: dict[str, tuple[str, tuple[str, ...]]] = {
    "WDCE (DMPO)": ("target", ()),
    "diffu-GRPO": ("reward", ("loss.name=diffu_grpo", NO_WEIGHTS)),
    "diffu-GRPO, β 0.04": ("reward", ("loss.name=diffu_grpo", NO_WEIGHTS, "loss.kl=0.04")),
    "wd1": ("reward", ("loss.name=wd1", NO_WEIGHTS)),
    "REINFORCE": ("reward", ("loss.name=reinforce", NO_WEIGHTS)),
    "REINFORCE, KL": ("target", ("loss.name=reinforce", NO_WEIGHTS, "loss.kl=0.2")),
    "log-variance": ("target", ("loss.name=log_variance", NO_WEIGHTS)),
}
Job = tuple[str, str, int, float, int]  # kind, name, N, learning rate, seed


def run() -> None:
    """Every run that is not in the file yet, appended to it."""
    FILE.parent.mkdir(exist_ok=True)
    for jobs in (sweep_jobs, final_jobs):  # the second needs the results of the first
        done = {(row["kind"], row["name"], row["num_rollouts"], row["learning_rate"], row["seed"]) for row in read()}
        for job in tqdm([job for job in jobs() if job not in done], desc=jobs.__name__, disable=None):
            row = one_run(*job)
            with FILE.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def sweep_jobs() -> Iterator[Job]:
    """Three learning rates for each objective."""
    for name in OBJECTIVES:
        for learning_rate in LEARNING_RATES:
            yield "sweep", name, SWEEP_SIZE, learning_rate, SWEEP_SEED


def final_jobs() -> Iterator[Job]:
    """Each objective at its best learning rate, in groups of 4, 16 and 64."""
    for name in OBJECTIVES:
        for N in SIZES:
            for seed in SEEDS:
                yield "final", name, N, best_learning_rate(name), seed


def best_learning_rate(name: str) -> float:
    """The best of the sweep by the objective's own goal."""
    after = {row["learning_rate"]: row["after"] for row in read() if row["kind"] == "sweep" and row["name"] == name}
    if OBJECTIVES[name][0] == "reward":
        return max(after, key=lambda learning_rate: after[learning_rate]["solved"])
    return min(after, key=lambda learning_rate: after[learning_rate]["kl_target_policy"])


def one_run(kind: str, name: str, num_rollouts: int, learning_rate: float, seed: int) -> dict[str, Any]:
    """Train once and measure the policy exactly."""
    groups = ROLLOUTS_PER_ROUND // num_rollouts
    size = (f"train.num_rollouts={num_rollouts}", f"train.prompts_per_round={groups}", f"train.steps_per_round={STEPS_PER_ROUND}")
    overrides = (*OBJECTIVES[name][1], *size, f"optimizer.learning_rate={learning_rate}", f"seed={seed}")
    start = time.perf_counter()
    trained = train_once(*overrides)
    before, target = reference_measures()
    return {
        "kind": kind,
        "name": name,
        "num_rollouts": num_rollouts,
        "learning_rate": learning_rate,
        "seed": seed,
        "overrides": list(overrides),
        "target": target,
        "before": before,
        "after": measure(trained.policy),
        "rewards": [entry["reward"] for entry in trained.metrics if entry["step"] % STEPS_PER_ROUND == 0],
        **counts(trained),
        "seconds": time.perf_counter() - start,
    }


def train_once(*overrides: str, objective: Objective | None = None) -> Trained:
    """Train on the puzzle; the folder of the run is not kept.

    Args:
        overrides: of the preset toy_two_solutions.
        objective: in place of the one that `loss.name` says.
    """
    with tempfile.TemporaryDirectory() as folder:
        return train(load_config("toy_two_solutions", f"output={folder}/run", *overrides), objective=objective)


def measure(policy: Module) -> dict[str, Any]:
    """Exact divergences from both targets, probability of each solution, and of solving the puzzle."""
    puzzle = load_puzzle()
    exact = puzzle.distribution(policy)
    found = puzzle.compare(exact)
    to_second = kl_divergence(log_order_target(), exact.log_prob)
    return {**found, "kl_order_target_policy": to_second, "solved": sum(found["shares"])}


@cache
def reference_measures() -> tuple[dict[str, Any], dict[str, Any]]:
    """The reference itself, and the two targets: shares of the solutions, and the divergence between them."""
    puzzle, second = load_puzzle(), log_order_target()
    index = [puzzle.exact.texts.index(text) for text in puzzle.solutions]
    shares = {"target": puzzle.log_target[index].exp().tolist(), "order_target": second[index].exp().tolist()}
    return measure(puzzle.policy), {**shares, "kl": kl_divergence(puzzle.log_target, second)}


@cache
def load_puzzle() -> TwoSolutions:
    """The puzzle with its reference policy and log p* over all answers."""
    return load_two_solutions(load_config("toy_two_solutions"))


@cache
def log_order_target() -> Tensor:
    """Log of the second target over all answers to the puzzle, [C]."""
    puzzle, alpha = load_puzzle(), load_config("toy_two_solutions").weight.alpha
    log_ref = order_log_prob(puzzle.policy, puzzle.tokenizer, puzzle.task, puzzle.item, puzzle.vocabulary)
    return order_target(log_ref, rewards(puzzle.task, puzzle.item, puzzle.exact), alpha)


def order_log_prob(model, tokenizer, task, item: Any, vocabulary) -> Tensor:
    """log p(o; σ) of every order σ of the n blanks and every answer o, [n!, C] float64; answers as in `exact_distribution`."""
    return along_orders(*conditionals(model, tokenizer, task, item, vocabulary))


def conditionals(model, tokenizer, task, item: Any, vocabulary) -> tuple[Tensor, Tensor]:
    """log π of each of K symbols at each of n blanks in each state, [S, n, K], and the states, [S, n]: 0 hidden, a ≥ 1 filled."""
    prompts = encode(tokenizer, task, [item])
    blanks = prompts.response_mask[0].nonzero().squeeze(-1)
    symbols = vocabulary.allowed.nonzero().squeeze(-1)
    states = every_state(len(blanks), len(symbols))
    return conditional_log_prob(model, prompts, blanks, symbols, states, vocabulary, 1.0), states


def every_state(n: int, num_symbols: int) -> Tensor:
    """All partial answers to n blanks, [(K+1)^n, n]: 0 where hidden; state s has digit i of s, in base K+1, at blank i."""
    base = num_symbols + 1
    return torch.arange(base**n).unsqueeze(-1) // base ** torch.arange(n) % base


def along_orders(log_pi: Tensor, states: Tensor) -> Tensor:
    """log p(o; σ) of every order and every answer from the conditionals, [n!, C]."""
    n, place = states.shape[1], (log_pi.shape[-1] + 1) ** torch.arange(states.shape[1])
    answers = states[(states > 0).all(dim=-1)]
    rows = []
    for order in permutations(range(n)):
        state, log_prob = torch.zeros(len(answers), dtype=torch.long), torch.zeros(len(answers), dtype=torch.float64)
        for d in order:
            log_prob = log_prob + log_pi[state, d, answers[:, d] - 1]
            state = state + answers[:, d] * place[d]
        rows.append(log_prob)
    return torch.stack(rows)


def regularised_optimum(log_ref: Tensor, states: Tensor, reward: Tensor, alpha: float) -> Tensor:
    """log π* that maximises E_{σ,o}[r(o) − α (log p(o;σ) − log p_ref(o;σ))] over all conditionals, each shared by the orders.

        V(o) = r(o),   V(s) = mean over hidden blanks d of u(s, d),   u(s, d) = α log Σ_a π_ref(a | s) e^{V(s + a at d)/α},
        π*(a at d | s) = π_ref(a | s) e^{(V(s + a at d) − u(s, d))/α}

    The order is drawn, not chosen, so the logarithm stands inside the mean over d: backward induction over partial answers.

    Args:
        log_ref, states: as `conditionals` returns them.
        reward: [C] r of the complete answers.

    Returns:
        [S, n, K] as `log_ref`; 0 at blanks that are filled.
    """
    value, best = torch.zeros(len(states), dtype=torch.float64), torch.zeros_like(log_ref)
    hidden, symbols = states == 0, torch.arange(1, log_ref.shape[-1] + 1)
    step = (log_ref.shape[-1] + 1) ** torch.arange(states.shape[1]).unsqueeze(-1) * symbols  # [n, K], from a state to the next
    value[~hidden.any(dim=-1)] = reward / alpha  # values in units of α
    for number in range(1, states.shape[1] + 1):
        for d in range(states.shape[1]):
            here = (hidden[:, d] & (hidden.sum(dim=-1) == number)).nonzero().squeeze(-1)
            tilted = log_ref[here, d] + value[here.unsqueeze(-1) + step[d]]
            best[here, d] = tilted.log_softmax(dim=-1)
            value[here] += tilted.logsumexp(dim=-1) / number
    return best


def order_target(log_ref: Tensor, reward: Tensor, alpha: float) -> Tensor:
    """log E_σ[ p_ref(o;σ) e^{r/α} / Z(σ) ], the tilt normalised in each order: [orders, C] and [C] → [C]."""
    return (log_ref + reward / alpha).log_softmax(dim=-1).logsumexp(dim=0) - math.log(len(log_ref))


def read() -> list[dict[str, Any]]:
    """Results so far."""
    return read_results(FILE.stem)


def lost_a_solution(row: dict[str, Any]) -> bool:
    """Whether a solution has less than a tenth of its share of p*."""
    return any(share < wanted / 10 for share, wanted in zip(row["after"]["shares"], row["target"]["target"], strict=True))


def medians(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Median over runs of each number in `after`; `rarer` is the probability of the rarer solution."""
    ends = [row["after"] for row in rows]
    found = {key: statistics.median(end[key] for end in ends) for key in ends[0] if key != "shares"}
    return {**found, "rarer": statistics.median(min(end["shares"]) for end in ends)}


def show() -> None:
    """Print the sweep and the table."""
    for kind, sizes in (("sweep", (SWEEP_SIZE,)), ("final", SIZES)):
        header = ("learning rate", "KL(p*‖p_θ)", "largest", "to E_σ", "solved", "rarer", "lost one")
        print_row(f"\n{kind}: median over the seeds", "N", *header)
        for name, rows in by_name([row for row in read() if row["kind"] == kind]).items():
            for N in sizes:
                for learning_rate in sorted({row["learning_rate"] for row in rows}):
                    chosen = [r for r in rows if (r["num_rollouts"], r["learning_rate"]) == (N, learning_rate)]
                    if chosen:
                        print_row(f"  {name}", N, f"{learning_rate:g}", *table_cells(chosen))


def table_cells(rows: list[dict[str, Any]]) -> list[str]:
    """Medians of the runs of one setting: divergences, probability of solving, of the rarer solution; runs that lost one."""
    middle, largest = medians(rows), max(row["after"]["kl_target_policy"] for row in rows)
    numbers = (middle["kl_target_policy"], largest, *(middle[key] for key in ("kl_order_target_policy", "solved", "rarer")))
    return [f"{number:.4f}" for number in numbers] + [f"{sum(map(lost_a_solution, rows))}/{len(rows)}"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="DMPO and other objectives on one puzzle.")
    parser.add_argument("what", nargs="?", default="run", choices=["run", "show"])
    if parser.parse_args().what == "run":
        run()
    show()
