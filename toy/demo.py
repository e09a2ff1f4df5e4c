"""The demonstration in two acts, and the experiments behind the results table of the README.

Act (a), *learn to solve*: a distribution of puzzles, solve rate on puzzles whose grids were never trained on. It shows that
the method works; it is no evidence of mass covering, least of all with a reference that moves with the policy.
Act (b), *match the target*: one puzzle with two solutions and a fixed reference, so that p* is fixed and known exactly.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dmpo_ref.config import Config, SamplerConfig
from dmpo_ref.evaluation.answering import evaluate
from dmpo_ref.likelihood import build_vocabulary
from dmpo_ref.models.loading import latest_checkpoint, load_policy
from dmpo_ref.presets.loading import PRESETS, load_config
from dmpo_ref.runtime.files import write_atomically
from dmpo_ref.runtime.processes import build_accelerator
from dmpo_ref.tasks import build_task
from dmpo_ref.train import Trained, train
from toy.oracle import exact_distribution, kl_divergence, rewards, tilted
from toy.worlds.sudoku import solutions

GREEDY = SamplerConfig(name="confidence", temperature=0.0)
EXACT_EVALUATIONS = 10  # in the course of act (b), the last one at its end
TWO_SOLUTIONS = [PRESETS.parent.parent / "toy" / "data" / f"two_solutions_{i}.csv" for i in (1, 2, 3)]


def run(output: Path, *, seed: int) -> dict[str, Any]:
    """Both acts; leaves metrics, checkpoints, `summary.json` and `demo.png` in `output`, prints a table.

    A finished demonstration is shown again, an interrupted one goes on from its checkpoints.
    """
    file = output / "summary.json"
    if file.is_file():
        summary = json.loads(file.read_text(encoding="utf-8"))
        if summary["seed"] != seed:
            raise ValueError(f"{output} holds the demonstration with seed {summary['seed']}; give another --output for seed {seed}")
        print(f"shown again from {file}; remove {output} to run it anew\n")
    else:
        print("Act (a): 4x4 Sudoku, the reference moves with the policy. Act (b): one puzzle with two solutions, the reference stays.")
        start = time.perf_counter()
        act_a = learn_to_solve(output / "act_a", seed=seed)
        act_b = match_target(output / "act_b", TWO_SOLUTIONS[0], seed=seed)
        summary = {"seed": seed, "act_a": act_a, "act_b": act_b, "seconds": {"act_a": act_a.pop("seconds"), "act_b": act_b.pop("seconds")}}
        summary["seconds"]["total"] = time.perf_counter() - start
        for count in ("rollouts", "gradient_steps", "forward_passes"):
            summary[count] = act_a[count] + act_b[count]
        from toy.figures.demo import draw_demo

        draw_demo(output, summary)
        write_atomically(file, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    print(table(summary))
    print(f"\nfigure: {output / 'demo.png'}\nnumbers: {file}")
    return summary


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
    policy, tokenizer = load_policy(type(config.model)(**{**vars(config.model), "path": path}), build_accelerator(config).device)
    task = build_task(config.task)
    items = task.load(config.task.test)[: config.evaluation.num_items]
    vocabulary = build_vocabulary(tokenizer, policy.config.embedding_size, alphabet=task.alphabet)
    sampled = evaluate(policy, tokenizer, task, items, SamplerConfig(), vocabulary, num_samples=config.evaluation.num_samples)
    greedy = evaluate(policy, tokenizer, task, items, GREEDY, vocabulary)
    return {
        "temperature_1": sampled.accuracy,
        "by_blanks": sampled.by_kind,
        "greedy": greedy.accuracy,
        "greedy_answers": {item.puzzle: answers[0] for item, answers in zip(items[:10], greedy.answers[:10], strict=True)},
    }


def match_target(output: Path, puzzle_file: Path, *, seed: int, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """Act (b): train on one puzzle with the reference fixed; exact KL to p* of the initial reference, before and after."""
    start = time.perf_counter()
    files = (f"task.train={puzzle_file}", f"task.test={puzzle_file}")
    config = load_config("toy_two_solutions", f"output={output}", f"seed={seed}", *files, *overrides)
    reference, tokenizer = load_policy(config.model, torch.device("cpu"))
    task = build_task(config.task)
    item = task.load(config.task.train)[0]
    vocabulary = build_vocabulary(tokenizer, reference.config.embedding_size, alphabet=task.alphabet)
    initial = exact_distribution(reference, tokenizer, task, item, vocabulary)
    log_target = tilted(initial.log_prob, rewards(task, item, initial), config.weight.alpha)
    answers = solutions(item.puzzle)

    def exactly(policy) -> dict[str, Any]:
        exact = exact_distribution(policy, tokenizer, task, item, vocabulary)
        return {
            "kl_target_policy": kl_divergence(log_target, exact.log_prob),
            "kl_policy_target": kl_divergence(exact.log_prob, log_target),
            "shares": [exact.probability_of(text) for text in answers],
        }

    def on_round(done: int, policy) -> dict[str, float]:
        if done % max(1, config.train.rounds // EXACT_EVALUATIONS) and done != config.train.rounds:
            return {}
        return {f"exact/{name}": value for name, value in exactly(policy).items()}

    trained = train_or_resume(config, on_round=on_round)
    return {
        "puzzle": item.puzzle,
        "solutions": answers,
        "alpha": config.weight.alpha,
        "reference_moves": config.train.resync_every > 0,
        "target_shares": [log_target[initial.texts.index(text)].exp().item() for text in answers],
        "before": exactly(reference),
        "after": exactly(trained.policy),
        **counts(trained),
        "seconds": time.perf_counter() - start,
    }


def train_or_resume(config: Config, on_round: Callable | None = None) -> Trained:
    """Train, from the newest checkpoint if an earlier attempt left one."""
    return train(config, on_round=on_round, resume=latest_checkpoint(Path(config.output)) is not None)


def counts(trained: Trained) -> dict[str, int]:
    """What the run cost."""
    last = trained.metrics[-1]
    return {"rollouts": last["rollouts"], "gradient_steps": last["step"], "forward_passes": last["forward_passes"]}


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
