"""Replay with the balance heuristic: weights by hand, each policy's own score of each rollout, and without replay the library's loop."""

import copy
import re
from math import log
from pathlib import Path
from statistics import mean, median

import pytest
import torch

from dmpo_ref import load_config, train
from dmpo_ref.config import SamplerConfig, WeightConfig
from dmpo_ref.likelihood import path_log_prob
from dmpo_ref.masking import stream
from dmpo_ref.samplers import sample
from dmpo_ref.tasks.encoding import encode
from dmpo_ref.weights import group_weights
from toy.scoreboard.run import write_puzzle_file
from toy.studies import small_groups
from toy.studies.small_groups import N, Remedy, Window, best_rate, list_runs, load_world, of_report, real_weights, run_key, train_small

PUZZLE = "two solutions, A"


@pytest.fixture(scope="module")
def puzzle():
    return load_world(PUZZLE, None)


def row(*values):
    return torch.tensor([values], dtype=torch.float64)


def test_weights_of_two_policies_by_hand():
    # q = (3/8, 5/8); w ∝ (1/2, 2 · 1/2) / q = (4/3, 8/5); w_base ∝ (1/4, 3/4) / q = (2/3, 6/5)
    log_p = torch.stack([row(1 / 2, 1 / 2), row(1 / 4, 3 / 4)]).log()
    found = real_weights(row(0, 0.2 * log(2)), row(1 / 2, 1 / 2).log(), log_p, 0.0, 0.2)
    torch.testing.assert_close(found, row(5 / 11 - 5 / 14, 6 / 11 - 9 / 14))


def test_weights_of_two_policies_and_the_reference_by_hand():
    # q = 3/4 · (3/8, 5/8) + 1/4 · (1/2, 1/2) = (13/32, 19/32); w ∝ (16/13, 32/19); w_base ∝ (8/13, 24/19)
    log_p = torch.stack([row(1 / 2, 1 / 2), row(1 / 4, 3 / 4)]).log()
    found = real_weights(row(0, 0.2 * log(2)), row(1 / 2, 1 / 2).log(), log_p, 0.25, 0.2)
    torch.testing.assert_close(found, row(19 / 45 - 19 / 58, 26 / 45 - 39 / 58))


@pytest.mark.parametrize("share", [0, 0.25, 0.5])
def test_weights_of_one_policy_are_the_methods(share):
    reward, log_ref, log_old = torch.randn(3, 1, 4, generator=stream(0, "scores"), dtype=torch.float64)
    config = WeightConfig(alpha=0.2, baseline="uniform", log_ratio="path")
    wanted = group_weights(reward, log_ref - log_old, config, reference_share=share, log_old=log_old)
    torch.testing.assert_close(real_weights(reward, log_ref, log_old[None], share, 0.2), wanted.weight - wanted.base_weight)


def test_a_window_has_the_last_rounds_and_the_score_of_each_policy(puzzle):
    policy, window, seen = copy.deepcopy(puzzle.policy), Window(puzzle, 2), []
    prompts = encode(puzzle.tokenizer, puzzle.task, [puzzle.item])
    for t in range(4):
        rollout = sample(policy, prompts, SamplerConfig(), puzzle.vocabulary, num_rollouts=3, generators=[stream(t, "rollout")])
        window.add(policy, rollout, row(t, t, t))
        seen.append((copy.deepcopy(policy), rollout))
        with torch.no_grad():
            for weight in policy.parameters():
                weight += 0.05 * torch.randn(weight.shape, generator=stream(t, "push"))
        every, reward, log_ref, log_p = window.together()
        last = seen[-2:]
        assert reward.tolist() == [[float(s) for s in range(max(0, t - 1), t + 1) for _ in range(3)]]
        torch.testing.assert_close(every.tokens, torch.cat([drawn.tokens for _, drawn in last], dim=1))
        wanted = [torch.cat([path_log_prob(model, drawn, puzzle.vocabulary) for _, drawn in last], dim=1) for model, _ in last]
        torch.testing.assert_close(log_p, torch.stack(wanted))
        torch.testing.assert_close(log_ref, torch.cat([path_log_prob(puzzle.policy, drawn, puzzle.vocabulary) for _, drawn in last], dim=1))
    assert len({x.item() for x in log_p[:, 0, 0]}) == 2  # the policies differ


@pytest.mark.parametrize("by_reference", [0, 1])
def test_without_replay_it_is_the_loop_of_the_library(puzzle, tmp_path, by_reference):
    file = write_puzzle_file(tmp_path, puzzle.item.puzzle)
    words = f"task.train={file} task.test={file} output={tmp_path / 'run'} train.rounds=3 train.num_rollouts={N} train.steps_per_round=1"
    words += f" loss.masks=path weight.baseline=uniform seed=3 optimizer.learning_rate=0.001 train.reference_share={by_reference / N}"
    wanted = train(load_config("toy_two_solutions", *words.split())).policy
    found, rows = train_small(puzzle, Remedy(by_reference=by_reference), learning_rate=1e-3, seed=3, rounds=3)
    torch.testing.assert_close(
        found.state_dict(), wanted.state_dict(), rtol=0, atol=1e-4
    )  # it reads logits everywhere, `train` where needed
    moved = max((a - b).abs().max().item() for a, b in zip(found.parameters(), puzzle.policy.parameters(), strict=True))
    assert moved > 1e-3
    L = puzzle.item.puzzle.count("0")
    assert rows == 3 * L * 4 * N  # drawn, scored by p_old and by p_ref, and in the gradient step


def test_replay_lets_more_rows_through(puzzle):
    _, rows = train_small(puzzle, Remedy(window=2), learning_rate=1e-3, seed=3, rounds=3)
    # drawn and scored by p_ref: 3 rounds; by policies: 1 + 3 + 3 groups; in gradient steps: 1 + 2 + 2
    assert rows == puzzle.item.puzzle.count("0") * N * (3 + 3 + 7 + 5)


def test_runs_are_tuned_with_the_shipped_reference_then_reported_and_not_done_twice(monkeypatch):
    monkeypatch.setattr(small_groups, "REMEDIES", {"own rollouts": Remedy()})
    first = list(list_runs([]))
    assert [(run["reference"], run["learning_rate"]) for run in first] == [("shipped", rate) for rate in small_groups.RATES]
    rows = [run | {"kl_target_policy": kl} for run, kl in zip(first, (0.4, 0.3, 0.1, 0.2), strict=True)]
    assert best_rate(rows[:3], "own rollouts") is None
    assert best_rate(rows, "own rollouts") == 3e-4
    second = list(list_runs(rows))
    named = [(run["reference"], run["world"], run["seed"], run["learning_rate"]) for run in second]
    assert named == [(reference, PUZZLE, seed, 3e-4) for reference in ("shipped", "weaker") for seed in range(5)]
    rows += [run | {"kl_target_policy": 0.1} for run in second]
    assert not list(list_runs(rows))
    assert {run_key(one) for one in of_report(rows, "shipped", "own rollouts")} == {run_key(run) for run in second[:5]}


ROWS = small_groups.read_stored()


def test_every_run_is_stored():
    assert not list(list_runs(ROWS)) and len(ROWS) == 5 * (4 + 2 * 5)


def test_the_page_has_the_table_and_the_sentences_of_the_stored_runs():
    page = re.sub(r"\s+", " ", Path("book/scoreboard.md").read_text(encoding="utf-8"))
    found = {(r, name): of_report(ROWS, r, name) for r in ("shipped", "weaker") for name in small_groups.REMEDIES}
    kl = {place: median(row["kl_target_policy"] for row in rows) for place, rows in found.items()}
    for (reference, name), rows in found.items():
        worst, right = max(row["kl_target_policy"] for row in rows), mean(row["valid"] for row in rows)
        lost = sum(row["modes"] < len(row["shares"]) for row in rows)
        numbers = f"{kl[reference, name]:.4f} | {worst:.3f} | {right:.3f} | {lost}/{len(rows)} | {rows[0]['forward_rows']:,}"
        assert f"| {reference} | {name} | {numbers} |" in page
    rank = {r: sorted(small_groups.REMEDIES, key=lambda name, r=r: kl[r, name]) for r in ("shipped", "weaker")}
    assert rank["shipped"][:2] == ["1/4 by p_ref", "replay of 16 rounds"] and rank["shipped"][-1] == "own rollouts"
    assert rank["weaker"][0] == "replay of 4 rounds" and rank["weaker"][-2:] == ["1/4 by p_ref", "1/2 by p_ref"]
    own, share = found["weaker", "own rollouts"], found["weaker", "1/4 by p_ref"]
    before = [rows[0]["valid_before"] for rows in (own, found["shipped", "own rollouts"])]
    assert f"right in {before[0] * 100:.0f} % of its answers, in place of {before[1] * 100:.0f} %" in page
    assert f"{kl['weaker', '1/4 by p_ref']:.3f} nats in place of {kl['weaker', 'own rollouts']:.3f}" in page
    assert f"{mean(row['valid'] for row in share):.3f} right in place of {mean(row['valid'] for row in own):.3f}" in page
    assert (
        round(found["shipped", "replay of 16 rounds"][0]["forward_rows"] / own[0]["forward_rows"]) == 12
        and "at twelve times the rows" in page
    )


def test_the_figure_and_the_table_are_made_from_stored_runs(tmp_path, capsys):
    small_groups.draw(ROWS, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    small_groups.show(ROWS)
    assert len(capsys.readouterr().out.splitlines()) == 1 + 2 * 5
