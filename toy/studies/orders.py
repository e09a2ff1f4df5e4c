"""Why the baseline `uniform` fails on masks: it gives up what makes the orders of a policy agree.

    python -m toy.studies.orders         # 15 runs of act (b), about twelve minutes: toy/results/orders.jsonl
    python -m toy.studies.orders show    # the tables: these runs, and exact steps on two tokens

In expectation over rollouts of p_θ a step of WDCE with `uniform` moves along Σ_{o,σ} (p*(o, σ) − p_θ(o, σ)) ∇S, where S is what the loss
scores, and a step without a baseline along Σ p* ∇S. On the path S = log p_θ(o; σ), and Σ p_θ ∇ log p_θ = 0: the two agree, and
`uniform` only takes away noise. On masks S is the ELBO, log p_θ(o) − gap(o), and Σ_o p_θ(o) ∇ELBO(o) = −Σ_o p_θ(o) ∇gap(o). Subtracting
it raises the gap on the policy's own answers. The gap is 0 only if all orders give an answer the same probability. So every policy with
p_θ(o) = p*(o) is stationary, however much its orders disagree; and where they disagree, so do the weights of one and the same answer.
More masks take noise away and leave this. At a strength below 1 some of the step without a baseline remains, which brings the orders
together.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from math import log
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dmpo_ref.presets.loading import load_config
from toy import RESULTS
from toy.acts import TWO_SOLUTIONS, load_two_solutions, match_target
from toy.loading import load
from toy.tabular import two_tokens

UNIFORM = "weight.baseline=uniform"
RUNS: dict[str, tuple[str, ...]] = {
    "none, 2 masks": ("loss.masks=exact",),
    "uniform, 2 masks": ("loss.masks=exact", UNIFORM),
    "uniform, 32 masks": ("loss.masks=exact", UNIFORM, "loss.num_masks=32"),
    "uniform at strength ½, 2 masks": ("loss.masks=exact", UNIFORM, "weight.baseline_strength=0.5"),
    "uniform, path": ("loss.masks=path", UNIFORM),
}
SEEDS = range(3)


@dataclass
class Ends:
    """Where exact steps end: KL(p*‖p_θ) of answers, that of answers with their orders, and the gap, the mean of log p(o) − ELBO(o) over
    the policy's answers; all in nats."""

    answers: float
    paths: float
    gap: float


def expected_step(theta: Tensor, log_target: Tensor, baseline: str, likelihood: str) -> Tensor:
    """The expected step of WDCE from p_old = p_θ, a sum over all answers and both orders.

    Args:
        theta: [2, 3] of `two_tokens`. log_target: [4] log p*(o); each order has half of it.
        baseline: `none` or `uniform`. likelihood: `masks` (the ELBO) or `path`.
    """
    theta = theta.detach().requires_grad_()
    model = two_tokens(theta)
    path, target = model.path_log_probs(), (log_target - log(2)).exp()
    weight = target - (baseline == "uniform") * (path.detach() - log(2)).exp()
    score = path if likelihood == "path" else model.elbo().expand(2, -1)
    return torch.autograd.grad((weight * score).sum(), theta)[0]


def ends(theta: Tensor, log_target: Tensor, baseline: str, likelihood: str, *, steps: int = 3000, rate: float = 0.3) -> Ends:
    """The policy of two tokens after so many exact steps."""
    for _ in range(steps):
        theta = theta + rate * expected_step(theta, log_target, baseline, likelihood)
    model = two_tokens(theta)
    log_prob, path = model.log_prob(), model.path_log_probs()
    answers = (log_target.exp() * (log_target - log_prob)).sum()
    paths = (log_target.exp() * (log_target - path.mean(dim=0))).sum()
    return Ends(answers.item(), paths.item(), (log_prob.exp() * (log_prob - model.elbo())).sum().item())


def run() -> None:
    """Every run that the file does not have yet; each is appended at its end."""
    done = {(row["name"], row["seed"]) for row in read()}
    for name, seed in tqdm([(name, seed) for name in RUNS for seed in SEEDS], desc="orders", disable=None):
        if (name, seed) in done:
            continue
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "run"
            after = match_target(output, TWO_SOLUTIONS[0], seed=seed, overrides=RUNS[name])["after"]
            puzzle = load_two_solutions(load_config("toy_two_solutions"))
            exact = puzzle.distribution(load(load_config("toy_two_solutions", f"model.path={output}")).policy)
        gap = (exact.log_prob.exp() * (exact.log_prob - exact.elbo)).sum().item()
        row = {"name": name, "seed": seed, "overrides": list(RUNS[name]), "kl_target_policy": after["kl_target_policy"], "gap": gap}
        with (RESULTS / "orders.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def read() -> list[dict[str, Any]]:
    """The stored runs."""
    file = RESULTS / "orders.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def medians(name: str) -> tuple[float, float]:
    """KL(p*‖p_θ) and gap of the runs of one name, medians, nats."""
    rows = [row for row in read() if row["name"] == name]
    return median(row["kl_target_policy"] for row in rows), median(row["gap"] for row in rows)


def show() -> None:
    """Print both tables."""
    print(f"{'act (b), first puzzle, medians, nats':<40}{'KL(p*‖p_θ)':>12}{'gap':>8}")
    for name in dict.fromkeys(row["name"] for row in read()):
        kl, gap = medians(name)
        print(f"{name:<40}{kl:>12.4f}{gap:>8.3f}")
    theta = torch.tensor([[0.3, -0.8, 0.6], [-0.2, 1.0, 0.4]], dtype=torch.float64)
    log_target = torch.tensor([0.45, 0.05, 0.05, 0.45], dtype=torch.float64).log()
    print(f"\n{'two tokens, exact steps, nats':<40}{'KL answers':>12}{'KL paths':>10}{'gap':>8}")
    for baseline, likelihood in (("none", "masks"), ("uniform", "masks"), ("none", "path"), ("uniform", "path")):
        end = ends(theta, log_target, baseline, likelihood)
        print(f"{baseline + ', ' + likelihood:<40}{end.answers:>12.4f}{end.paths:>10.4f}{end.gap:>8.4f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Why the baseline uniform fails on masks.")
    parser.add_argument("what", nargs="?", choices=["show"])
    if parser.parse_args().what is None:
        run()
    show()
