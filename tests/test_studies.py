"""The tables and figures of studies, from their stored rows: what they print and plot are the means and medians of these rows."""

import json
import statistics

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from dmpo_ref.objectives.base import Objective, follow_path
from dmpo_ref.presets.loading import load_config
from dmpo_ref.train import train
from toy import RESULTS
from toy.studies import acts, objectives, paper, unimodal, variance


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def rows_of(name: str) -> list[dict]:
    return [json.loads(line) for line in (RESULTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def cells_of(printed: str) -> dict[str, list[str]]:
    """The cells of each printed row, by its name, which two spaces end."""
    rows = [line.strip().split("  ") for line in printed.splitlines() if line.strip()]
    return {row[0]: [cell.strip() for cell in row[1:] if cell.strip()] for row in rows}


def test_the_table_of_the_acts_has_the_means_and_medians_of_the_stored_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # it draws a figure too
    (tmp_path / "book/figures").mkdir(parents=True)
    acts.show()
    printed = capsys.readouterr().out
    shown = cells_of(printed)
    for name, rows in acts.by_name(rows_of("act_a")).items():
        rates = [statistics.mean(row[when]["temperature_1"] for row in rows) for when in ("before", "after")]
        assert shown[name][:3] == [str(len(rows)), *(f"{rate:.3f}" for rate in rates)]
    for experiment in ("act_b", "variants"):
        section = cells_of(printed.split(f"\n{experiment},")[1].split("\n\n")[0])
        for name, rows in acts.by_name(rows_of(experiment)).items():
            before, after = ([row[when]["kl_target_policy"] for row in rows] for when in ("before", "after"))
            medians = [f"{x:.4f}" for x in (statistics.median(before), statistics.median(after), max(after))]
            assert section[name][:4] == [str(len(rows)), *medians]
    assert (tmp_path / "book/figures/group_size.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_of_objectives_names_each_and_its_median(capsys):
    objectives.show()
    printed = capsys.readouterr().out
    finals = [row for row in rows_of("objectives") if row["kind"] == "final"]
    for name, rows in acts.by_name(finals).items():
        for N in {row["num_rollouts"] for row in rows}:
            median = statistics.median(row["after"]["kl_target_policy"] for row in rows if row["num_rollouts"] == N)
            assert any(line.strip().startswith(name) and f" {median:.4f} " in line for line in printed.splitlines()), (name, N)


def test_the_table_of_variances_has_every_scheme(capsys):
    rows = rows_of("variance")
    variance.show(rows)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    found = [line for line in lines if line[-1:] and line[-1].replace(".", "").isdigit()]
    assert [float(line[-1]) for line in found] == pytest.approx([row["gradient_uniform_rows"] for row in rows], abs=5e-5)
    assert [float(line[-4]) for line in found] == pytest.approx([row["log_prob_mse_rows"] for row in rows], abs=5e-5)


def test_what_the_target_leaves_out_is_shown_and_drawn(tmp_path, capsys, monkeypatch):
    rows = rows_of("unimodal")
    unimodal.show(rows)
    printed = capsys.readouterr().out
    runs = [row for row in rows if "run" in row]
    assert [line.split("KL(p*‖p) ")[1][:6] for line in printed.splitlines() if "seed" in line] == [
        f"{row['curve'][-1]['kl_paper']:.4f}" for row in runs
    ]
    monkeypatch.setattr(plt, "close", lambda *_: None)
    unimodal.draw(rows, tmp_path / "u.png")
    monkeypatch.undo()
    curves = plt.gcf().axes[len(unimodal.CASES)].get_lines()
    assert [list(line.get_ydata()) for line in curves] == [[point["kl_flat"] for point in row["curve"]] for row in runs]


def test_the_table_and_the_bars_of_figures_1_and_4_are_means_of_the_seeds(capsys):
    paper.show()
    printed, final = capsys.readouterr().out.split("\nfinal")[1], [row for row in rows_of("paper") if row["kind"] == "final"]
    _, (bars, curves) = plt.subplots(1, 2)
    paper.draw_bars(bars, final)
    paper.draw_rewards(curves, final)
    heights = [bar.get_height() for bar in bars.patches]
    assert heights[0] == pytest.approx(statistics.mean(row["before"]["temperature_1"] for row in final))
    for place, name in ((1, "diffu-GRPO"), (2, "DMPO")):
        chosen = [row for row in final if row["name"] == name]
        means = [statistics.mean(row["after"][what] for row in chosen) for what in ("temperature_1", "greedy")]
        assert heights[2 * place : 2 * place + 2] == pytest.approx(means)
        assert cells_of(printed)[name][2:4] == [f"{mean:.3f}" for mean in means]
        line = next(line for line in curves.get_lines() if line.get_label() == name)
        assert line.get_ydata()[0] == pytest.approx(np.mean([row["rewards"][:5] for row in chosen]))


def test_figure_5_is_the_median_and_the_quartiles_of_its_runs(monkeypatch):
    monkeypatch.setattr(paper, "RUNS", range(3))
    _, axes = plt.subplots(2)
    paper.draw_baselines(axes, 4)
    runs = [paper.baseline_curve("negative", 4, seed) for seed in range(3)]
    line = next(line for line in axes[1].get_lines() if line.get_label() == "negative")
    np.testing.assert_allclose(line.get_ydata(), [statistics.median(at) for at in zip(*(run.forward_kl for run in runs), strict=True)])


def test_all_figures_of_the_paper_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(paper, "RUNS", range(1))
    paper.draw(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"paper_{name}.png" for name in ("1_and_4", "2", "3", "5")]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())


def test_medians_of_runs_by_hand():
    ends = [{"kl": 3.0, "shares": [0.5, 0.1]}, {"kl": 1.0, "shares": [0.2, 0.6]}, {"kl": 2.0, "shares": [0.3, 0.4]}]
    assert objectives.medians([{"after": end} for end in ends]) == {"kl": 2.0, "rarer": 0.2}


SMALL = ("train.rounds=1", "train.num_rollouts=4", "train.prompts_per_round=2", "train.steps_per_round=1")


def test_a_run_on_the_puzzle_is_that_of_the_preset_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = train(load_config("toy_two_solutions", f"output={tmp_path / 'kept'}", *SMALL))
    found = objectives.train_once(*SMALL)
    weights = [[p for p in trained.policy.parameters()] for trained in (expected, found)]
    assert all(torch.equal(*pair) for pair in zip(*weights, strict=True))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_an_objective_of_ones_own_is_trained_in_place_of_the_presets():
    """One whose loss has no gradient leaves the reference as it is."""
    seen = []
    still = Objective(follow_path, lambda log_prob, *_: seen.append(log_prob.shape) or 0 * log_prob.sum(), uses_weight=True)
    trained = objectives.train_once(*SMALL, objective=still)
    reference = objectives.load_puzzle().policy
    assert seen and all(torch.equal(*pair) for pair in zip(trained.policy.parameters(), reference.parameters(), strict=True))
