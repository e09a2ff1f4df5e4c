"""Groups of four: what brings back an answer that is about to be lost? Replay of earlier rounds against rollouts of p_ref.

    python -m toy.studies.small_groups         # run what toy/results/small_groups.jsonl has not, print the table, draw
    python -m toy.studies.small_groups show    # table and figure of the stored runs

Replay keeps the rollouts of the last W rounds. Each is weighted as a draw from the mixture of all policies that drew them (the balance
heuristic of Veach and Guibas, 1995), with the policy of now as baseline:

    q(o) = (1/W) Σ_j p_j(o),   w = softmax(r/α + log p_ref − log q),   w_base = softmax(log p_now − log q)

over the W·N rollouts together; E_q[(p_now/q) ∇log p_now] = 0, so at p_now = p* nothing moves but for self-normalising. p_j(o) is known
for every pair, so each new policy scores the old rollouts, and each old policy the new ones. With W = 1 this is the baseline `uniform`,
and with a share ε of rollouts of p_ref it is `train.reference_share`: q(o) = (1 − ε) p_old(o) + ε p_ref(o).

All on the whole path of a puzzle that can be enumerated, one group in each gradient step; once with the policy that is shipped as
reference, once with a weaker one, that was taught by answers of which half as many were right. Rates are tuned on another puzzle, with
the policy that is shipped.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from math import log, log1p
from pathlib import Path
from statistics import mean, median
from typing import Any

import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.nn import Module
from tqdm import tqdm

from dmpo_ref.config import OptimizerConfig, SamplerConfig
from dmpo_ref.gradient import clip_gradients
from dmpo_ref.likelihood import path_log_prob, sequence_log_prob, token_log_prob
from dmpo_ref.losses import wdce
from dmpo_ref.masking import path_masks, stream
from dmpo_ref.plots.style import COLORS, use_style
from dmpo_ref.presets.loading import load_config, load_options
from dmpo_ref.rollout import Rollout
from dmpo_ref.runtime.state import build_optimizer
from dmpo_ref.samplers import sample
from dmpo_ref.tasks.encoding import answer_texts, encode
from toy import RESULTS
from toy.acts import TwoSolutions, load_two_solutions
from toy.options import PretrainConfig
from toy.oracle import rewards
from toy.reference import pretrain
from toy.scoreboard.run import measure, write_puzzle_file
from toy.scoreboard.suite import read_suite

FILE, FIGURE = RESULTS / "small_groups.jsonl", RESULTS.parents[1] / "book/figures/small_groups.png"
ALPHA, N, ROUNDS = 0.2, 4, 800
RATES = (3e-5, 1e-4, 3e-4, 1e-3)
TUNING, REPORT = ("tuning A", 10), [("two solutions, A", seed) for seed in range(5)]
REFERENCES = {"shipped": None, "weaker": 0.125}  # share of right answers that a reference learned from; None: the one that is shipped
Row = dict[str, Any]


@dataclass(frozen=True)
class Remedy:
    """W, the number of rounds whose rollouts a step uses, and how many of the N in a round p_ref draws."""

    window: int = 1
    by_reference: int = 0


REMEDIES = {
    "own rollouts": Remedy(),
    "1/4 by p_ref": Remedy(by_reference=1),
    "1/2 by p_ref": Remedy(by_reference=2),
    "replay of 4 rounds": Remedy(window=4),
    "replay of 16 rounds": Remedy(window=16),
}


@dataclass
class Kept:
    """Rollouts of one round, their rewards and log p_ref, [1, N], and their log p, [1, N], under each policy of the window."""

    rollout: Rollout
    reward: Tensor
    log_ref: Tensor
    log_p: deque[Tensor]


class Window:
    """The last W rounds: their policies, their rollouts, and the probability of each rollout under each policy."""

    def __init__(self, puzzle: TwoSolutions, size: int):
        self.puzzle, self.size = puzzle, size
        self.policies: deque[Module] = deque(maxlen=size)
        self.rounds: deque[Kept] = deque()
        self.passes = 0  # rows that were scored

    def score(self, model: Module, rollout: Rollout) -> Tensor:
        """log p(o; σ) along the rollouts' own orders, [1, N]."""
        self.passes += rollout.step.shape[1] * rollout.num_steps
        return path_log_prob(model, rollout, self.puzzle.vocabulary)

    def add(self, policy: Module, rollout: Rollout, reward: Tensor) -> None:
        """Let the oldest round go; score the new rollouts by all policies and p_ref, the kept ones by the new policy."""
        if len(self.rounds) == self.size:
            self.rounds.popleft()
        self.policies.append(copy.deepcopy(policy))
        for kept in self.rounds:
            kept.log_p.append(self.score(policy, kept.rollout))
        log_p = deque([self.score(model, rollout) for model in self.policies], maxlen=self.size)
        self.rounds.append(Kept(rollout, reward, self.score(self.puzzle.policy, rollout), log_p))

    def together(self) -> tuple[Rollout, Tensor, Tensor, Tensor]:
        """All rollouts of the window, [1, W·N]: themselves, rewards, log p_ref, and [W, 1, W·N] log p of each policy, the newest last."""
        first, *others = [kept.rollout for kept in self.rounds]
        for other in others:
            first = first.beside(other)
        log_p = torch.cat([torch.stack(list(kept.log_p)) for kept in self.rounds], dim=-1)
        reward, log_ref = (torch.cat([getattr(kept, name) for kept in self.rounds], dim=-1) for name in ("reward", "log_ref"))
        return first, reward, log_ref, log_p


def real_weights(reward: Tensor, log_ref: Tensor, log_p: Tensor, share: float, alpha: float) -> Tensor:
    """w − w_base of rollouts of W policies and p_ref, all weighted as draws from their mixture.

    Args:
        reward, log_ref: [1, W·N]. log_p: [W, 1, W·N], log p of each policy, that of now last. share: the part that p_ref drew.
    """
    log_q = log_p.logsumexp(dim=0) - log(len(log_p))
    if share:
        log_q = torch.logaddexp(log_q + log1p(-share), log_ref + log(share))
    return (reward / alpha + log_ref - log_q).softmax(dim=-1) - (log_p[-1] - log_q).softmax(dim=-1)


def train_small(puzzle: TwoSolutions, remedy: Remedy, *, learning_rate: float, seed: int, rounds: int = ROUNDS) -> tuple[Module, int]:
    """A policy after so many rounds of N rollouts and one gradient step each; and the rows that went through the model."""
    policy, vocabulary = copy.deepcopy(puzzle.policy), puzzle.vocabulary
    optimizer, schedule = build_optimizer(policy, OptimizerConfig(learning_rate=learning_rate, schedule="linear"), rounds)
    prompts = encode(puzzle.tokenizer, puzzle.task, [puzzle.item])
    reward_of = dict(zip(puzzle.exact.texts, rewards(puzzle.task, puzzle.item, puzzle.exact).tolist(), strict=True))
    window, rows = Window(puzzle, remedy.window), 0

    def draw(model: Module, num_rollouts: int, purpose: str, t: int) -> Rollout:
        generators = [stream(seed, purpose, t)]
        return sample(model, prompts, SamplerConfig(), vocabulary, num_rollouts=num_rollouts, generators=generators)

    for t in range(rounds):
        rollout = draw(policy, N - remedy.by_reference, "rollout", t)
        if remedy.by_reference:
            rollout = rollout.beside(draw(puzzle.policy, remedy.by_reference, "reference rollout", t))
        texts = answer_texts(puzzle.tokenizer, rollout)[0]
        window.add(policy, rollout, torch.tensor([[reward_of[text] for text in texts]], dtype=torch.float64))
        every, reward, log_ref, log_p = window.together()
        weight = real_weights(reward, log_ref, log_p, remedy.by_reference / N, ALPHA)
        masks = path_masks(every.step, every.num_steps)
        wdce(sequence_log_prob(token_log_prob(policy, every, masks, vocabulary), masks) / every.num_steps, weight).backward()
        clip_gradients(policy, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        rows += (N + reward.numel()) * every.num_steps  # drawn, and in the gradient step
    return policy, rows + window.passes


def list_runs(rows: list[Row]) -> Iterator[Row]:
    """The runs that have no row yet: each rate on the tuning puzzle, then, where these have one, the best rate on the other."""
    done = {run_key(row) for row in rows}
    for reference in REFERENCES:
        for name in REMEDIES:
            tuning = [describe_run(reference, name, *TUNING, rate) for rate in RATES] if reference == "shipped" else []
            best = best_rate(rows, name)
            report = [describe_run(reference, name, *where, best) for where in REPORT] if best is not None else []
            yield from (run for run in tuning + report if run_key(run) not in done)


def describe_run(reference: str, remedy: str, world: str, seed: int, learning_rate: float) -> Row:
    """The fields that name a run."""
    return {"reference": reference, "remedy": remedy, "world": world, "seed": seed, "learning_rate": learning_rate}


def run_key(row: Row) -> tuple[Any, ...]:
    """What distinguishes a run from others."""
    return tuple(row[name] for name in ("reference", "remedy", "world", "seed", "learning_rate"))


def best_rate(rows: list[Row], remedy: str) -> float | None:
    """The rate with the least divergence on the tuning puzzle; None while a rate has no run."""
    found = [row for row in rows if (row["remedy"], row["world"]) == (remedy, TUNING[0])]
    return min(found, key=lambda row: row["kl_target_policy"])["learning_rate"] if len(found) == len(RATES) else None


def load_world(world: str, model: str | None) -> TwoSolutions:
    """A puzzle of the scoreboard, enumerated under a reference policy; None for the one that is shipped."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_puzzle_file(Path(folder), read_suite()["worlds"][world])
        own = () if model is None else (f"model.path={model}",)
        return load_two_solutions(load_config("toy_two_solutions", f"task.train={path}", f"weight.alpha={ALPHA}", *own))


def run_all(folder: Path) -> None:
    """Run what is missing; a row is written as soon as it is known. The weaker reference is trained into the folder, minutes."""
    torch.set_num_threads(1)
    worlds: dict[tuple[str, str], TwoSolutions] = {}
    with FILE.open("a", encoding="utf-8") as file:
        while runs := list(list_runs(read_stored())):  # the best rates are known when the tuning is
            for run in tqdm(runs, desc="small groups"):
                place = run["reference"], run["world"]
                if place not in worlds:
                    worlds[place] = load_world(run["world"], reference_path(run["reference"], folder))
                file.write(json.dumps(run | run_one(worlds[place], run)) + "\n")
                file.flush()


def reference_path(reference: str, folder: Path) -> str | None:
    """The checkpoint of a reference policy, which is trained if it has to be; None for the one that is shipped."""
    share, path = REFERENCES[reference], folder / reference
    if share is not None and not path.exists():
        pretrain(load_options(PretrainConfig, f"correct_share={share}", f"output={path}"))
    return None if share is None else str(path)


def run_one(puzzle: TwoSolutions, run: Row) -> Row:
    """Train and measure."""
    start = time.perf_counter()
    policy, rows = train_small(puzzle, REMEDIES[run["remedy"]], learning_rate=run["learning_rate"], seed=run["seed"])
    found = measure(puzzle, policy)
    kept = {name: found[name] for name in ("kl_target_policy", "kl_policy_target", "shares", "target_shares", "modes", "valid")}
    before = sum(puzzle.exact.probability_of(text) for text in puzzle.solutions)
    return kept | {"valid_before": before, "forward_rows": rows, "seconds": round(time.perf_counter() - start, 1)}


def read_stored() -> list[Row]:
    """The stored runs."""
    return [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()] if FILE.is_file() else []


def of_report(rows: list[Row], reference: str, remedy: str) -> list[Row]:
    """The runs of a remedy that the table shows: those at its best rate, not on the tuning puzzle."""
    chosen = (reference, remedy, REPORT[0][0], best_rate(rows, remedy))
    return [row for row in rows if (row["reference"], row["remedy"], row["world"], row["learning_rate"]) == chosen]


def show(rows: list[Row]) -> None:
    """Where the runs of each remedy ended: divergence, probability of a right answer, runs that lost a solution, rows."""
    print(f"{'reference':<12}{'remedy':<22}{'rate':>8}{'KL, median':>12}{'largest':>9}{'right':>8}{'lost':>7}{'rows':>10}")
    for reference in REFERENCES:
        for remedy in REMEDIES:
            if chosen := of_report(rows, reference, remedy):
                kl, lost = [row["kl_target_policy"] for row in chosen], sum(row["modes"] < len(row["shares"]) for row in chosen)
                right, seen = mean(row["valid"] for row in chosen), f"{lost}/{len(chosen)}"
                numbers = f"{median(kl):>12.4f}{max(kl):>9.3f}{right:>8.3f}{seen:>7}{chosen[0]['forward_rows']:>10,}"
                print(f"{reference:<12}{remedy:<22}{chosen[0]['learning_rate']:>8.0e}{numbers}")


def draw(rows: list[Row], path: Path) -> None:
    """The divergence of every run, a panel for each reference; a bar at the median."""
    use_style()
    figure, axes = plt.subplots(1, len(REFERENCES), figsize=(9, 2.8), layout="constrained", sharey=True, sharex=True)
    for ax, reference in zip(axes, REFERENCES, strict=True):
        for height, remedy in enumerate(reversed(REMEDIES)):
            kl = [row["kl_target_policy"] for row in of_report(rows, reference, remedy)]
            ax.scatter(kl, [height] * len(kl), s=26, color=COLORS[0], alpha=0.7, linewidth=0)
            ax.plot([median(kl)] * 2, [height - 0.3, height + 0.3], color=COLORS[1], linewidth=2)
        before = next(row["valid_before"] for row in rows if row["reference"] == reference and row["world"] == REPORT[0][0])
        ax.set(
            xscale="log",
            xlim=(0.001, 0.1),
            xlabel="KL(p*‖p$_θ$), nats",
            title=f"{reference} reference: {before:.0%} of its answers are right",
        )
        ax.title.set_fontsize(10)
        ax.set_xticks([0.001, 0.003, 0.01, 0.03, 0.1], ["0.001", "0.003", "0.01", "0.03", "0.1"])
        ax.minorticks_off()
        ax.set_yticks(range(len(REMEDIES)), list(reversed(REMEDIES)))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Run what is missing; or show the stored runs."""
    parser = argparse.ArgumentParser(prog="python -m toy.studies.small_groups", description=main.__doc__)
    parser.add_argument("what", nargs="?", choices=("run", "show"), default="run")
    parser.add_argument("--references", type=Path, help="folder in which the weaker reference is made, or is already (a temporary one)")
    args = parser.parse_args()
    if args.what == "run":
        with tempfile.TemporaryDirectory() as folder:
            run_all(args.references or Path(folder))
    show(read_stored())
    draw(read_stored(), FIGURE)
    print(f"figure: {FIGURE}")


if __name__ == "__main__":
    main()
