"""The scoreboard: every method gets the same, settings are chosen by what they are for, what is stored is exact, a mistake is one line."""

import dataclasses
import json
import math
import multiprocessing
import os
import sys
from collections import defaultdict

import numpy as np
import pytest
import torch

from dmpo_ref.cli import main
from dmpo_ref.models.llada import LLaDAModelLM
from dmpo_ref.presets.loading import load_config
from dmpo_ref.train import train
from toy.acts import load_two_solutions
from toy.scoreboard import run
from toy.scoreboard.command import check_hours, seconds_per_cell
from toy.scoreboard.report import interval, methods_table, sizes_table, write_interval
from toy.scoreboard.run import append, cells_to_run, count_rows, current_rows, measure, read_rows, run_cell, run_cells, together
from toy.scoreboard.suite import PARTS, POINTS, Cell, choose_methods, key_of, list_cells, puzzles_of, read_suite, tuning_cells
from toy.worlds.mixture import TabularPolicy, fit_forward, world_1d, world_2d
from toy.worlds.sudoku import solutions, split_grids

SUITE = read_suite()
METHODS = list(SUITE["methods"])


def row_of(cell, **found):
    """A row as a run writes it, with what is given."""
    row = {"kl_target_policy": 1.0, "kl_policy_target": 1.0, "valid": 0.5, "shares": [0.4, 0.1], "modes": 1, "lost": 1, "seconds": 9.0}
    row |= {"greedy": 0.0, "pass_at_8": 1.0, "entropy": 1.0, "forward_rows": 64}
    return json.loads(json.dumps({"suite": 1, **vars(cell), **row, **found}))


def rows_of_tuning(**best):
    """Tuning rows in which each method does best at one learning rate: `best` by aim, everything else worse."""
    return [
        row_of(
            cell,
            kl_target_policy=abs(math.log(cell.learning_rate / best["target"])) + len(cell.overrides[-2]) / 1e3,
            valid=1 - abs(math.log(cell.learning_rate / best["reward"])) / 10,
        )
        for cell in tuning_cells(SUITE)
    ]


def test_the_puzzles_are_small_of_training_grids_and_what_their_names_say():
    train_grids = set(split_grids()[0])
    number = {"two": 2, "three": 3}
    for name, world in SUITE["worlds"].items():
        if world in ("line", "plane"):
            continue
        for puzzle in puzzles_of(world).split():
            answers = solutions(puzzle)
            assert puzzle.count("0") <= 7 and set(answers) <= train_grids
            assert len(answers) == number.get(name.split()[0], 2)
    assert len(puzzles_of(SUITE["worlds"]["32 puzzles"]).split()) == 32
    for part in (SUITE, *(SUITE[part] for part in POINTS)):
        used = [{p for name in part[kind]["worlds"] for p in puzzles_of(SUITE["worlds"][name]).split()} for kind in ("tuning", "report")]
        assert (used[0] <= {"line", "plane"} or not used[0] & used[1]) and not set(part["tuning"]["seeds"]) & set(part["report"]["seeds"])
    assert len(SUITE["report"]["seeds"]) >= 5


@pytest.mark.parametrize("part", PARTS)
def test_every_method_gets_the_same_rollouts_and_gradient_steps(part):
    rows = rows_of_tuning(target=3e-4, reward=1e-3)
    cells = list(list_cells(SUITE, part, rows))
    settings, counts = defaultdict(set), defaultdict(set)
    for cell in {(cell.method, cell.num_rollouts, cell.rollouts_per_step): cell for cell in cells}.values():
        train = load_config("toy_two_solutions", "output=x", *cell.overrides).train
        assert (train.num_rollouts, train.num_rollouts * train.prompts_per_round) == (cell.num_rollouts, cell.rollouts_per_step)
        counts[cell.rollouts_per_step].add((train.rounds * cell.rollouts_per_step, train.rounds * train.steps_per_round))
    for cell in cells:
        settings[cell.method, cell.num_rollouts, cell.rollouts_per_step].add((cell.part, cell.world, cell.seed))
    assert all(len(found) == 1 for found in counts.values())
    assert len({frozenset(found) for found in settings.values()}) == 1, "other puzzles or seeds"


def test_every_method_has_the_same_grid_of_at_least_five_learning_rates():
    rates = defaultdict(set)
    for cell in list_cells(SUITE, "tuning", []):
        rates[cell.method].add(cell.learning_rate)
    assert set(rates) == set(METHODS) and len(set(map(frozenset, rates.values()))) == 1 and len(rates[METHODS[0]]) >= 5


def test_each_method_is_reported_at_what_tuning_found_best_by_its_own_aim():
    assert not list(list_cells(SUITE, "report", []))
    rows = rows_of_tuning(target=3e-4, reward=1e-3)
    for cell in list_cells(SUITE, "report", rows):
        assert cell.learning_rate == (3e-4 if SUITE["methods"][cell.method]["aim"] == "target" else 1e-3)
        assert "loss.kl=0.2" in cell.overrides or cell.method != "diffu-GRPO, KL"  # its shortest word, so the least KL above
    even = [row | {"valid": {3e-4: 0.996, 1e-3: 0.999, 3e-3: 1.0}.get(row["learning_rate"], 0.9)} for row in rows]
    chosen = {cell.learning_rate for cell in list_cells(SUITE, "report", even) if SUITE["methods"][cell.method]["aim"] == "reward"}
    assert chosen == {3e-4}, "equal to a percent is equal"
    missing = [row for row in rows if row["method"] != "wd1"]
    assert {cell.method for cell in list_cells(SUITE, "report", missing)} == set(METHODS) - {"wd1"}


def test_the_report_takes_the_seeds_in_turn_so_that_it_can_be_stopped():
    cells = list(list_cells(SUITE, "report", rows_of_tuning(target=3e-4, reward=1e-3)))
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)
    assert len(cells) == len(METHODS) * len(SUITE["report"]["worlds"]) * len(SUITE["report"]["seeds"])


def test_a_cell_is_run_once_and_never_with_other_settings(tmp_path):
    cells = list(list_cells(SUITE, "tuning", []))
    assert len({cell.key for cell in cells}) == len(cells)
    rows = [row_of(cells[0])]
    assert key_of(rows[0]) == cells[0].key and cells_to_run(cells, rows, tmp_path) == cells[1:]
    rows[0]["overrides"][0] = "weight.alpha=0.3"
    with pytest.raises(ValueError, match=r"was run with weight\.alpha=0\.3 .* and the suite has changed; remove its rows"):
        cells_to_run(cells, rows, tmp_path)


def test_a_run_goes_on_after_a_line_that_was_cut_off_and_counts_a_cell_once(tmp_path, monkeypatch):
    file, cells = tmp_path / "results.jsonl", list(list_cells(SUITE, "tuning", []))[:3]
    monkeypatch.setattr("toy.scoreboard.run.run_cell", lambda cell: {**vars(cell), "kl_target_policy": cell.learning_rate, "valid": 0.5,
                                                                     "seconds": 1.0})  # fmt: skip
    run_cells(cells[:1], 1, file, workers=1)
    whole = file.read_text()
    file.write_text(whole + whole[:70])
    run_cells(cells_to_run(cells, read_rows(file, 1), file), 1, file, workers=1)
    assert file.read_text().startswith(whole) and [key_of(row) for row in read_rows(file, 1)] == [cell.key for cell in cells]
    append(file, json.dumps({**json.loads(whole), "kl_target_policy": 7.0}) + "\n")  # by another run at the same time
    assert len(file.read_text().splitlines()) == 4
    assert [row["kl_target_policy"] for row in read_rows(file, 1)] == [cell.learning_rate for cell in cells]


@pytest.mark.parametrize("text", ['{"my": "results"}', "notes", '{"suite": 1}\n{"my": "results"}'])
def test_a_file_of_something_else_is_left_alone(text, tmp_path):
    """Its last line has no end, as a line that was cut off."""
    file = tmp_path / "mine.jsonl"
    file.write_text(text)
    with pytest.raises(ValueError, match="the last line is not a result of the scoreboard, and has no end; give another --output"):
        read_rows(file, 1)
    assert file.read_text() == text


def test_a_row_without_numbers_is_no_result(tmp_path):
    cell = next(iter(list_cells(SUITE, "tuning", [])))
    (tmp_path / "r.jsonl").write_text(json.dumps({"suite": 1, **row_of(cell, kl_target_policy="0.1", valid=0.5, seconds=1.0)}) + "\n")
    with pytest.raises(ValueError, match="line 1 is not a result of the scoreboard"):
        read_rows(tmp_path / "r.jsonl", 1)


def test_a_killed_worker_is_one_line_and_rows_stand(tmp_path):
    cells = [*list_cells(read_suite(quick=True), "tuning", [])][:1]
    with pytest.raises(OSError, match=r"a worker was killed.*fewer --workers"):
        run_cells([Killer(**vars(cell)) for cell in cells], 1, tmp_path / "results.jsonl", workers=2)


def test_what_is_stopped_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def stop(cell):
        raise KeyboardInterrupt

    monkeypatch.setattr("toy.scoreboard.run.run_cell", stop)
    assert main(["scoreboard", "tuning", "--quick", "--output", str(tmp_path / "results.jsonl")]) == 130
    assert "dmpo: stopped; what was written stands, and the same command goes on" in capsys.readouterr().err


class Killer(Cell):
    """A cell whose run ends its process, as the system does when memory runs out."""

    def __getattribute__(self, name):
        if name == "part" and multiprocessing.parent_process() is not None:
            os._exit(9)
        return super().__getattribute__(name)


def test_runs_at_what_an_earlier_tuning_chose_are_not_in_the_tables(tmp_path):
    tuning = rows_of_tuning(target=3e-4, reward=1e-3)
    now = [row_of(cell) for cell in list_cells(SUITE, "report", tuning) if cell.method == "SPG"]
    before = [row | {"learning_rate": 1e-4, "kl_target_policy": 9.0, "overrides": [*row["overrides"][:-1], "x"]} for row in now]
    shown = current_rows(SUITE, [*tuning, *before, *now], tmp_path)
    assert [row for row in shown if row["part"] == "report"] == now
    changed = [row | {"overrides": ["weight.alpha=9"]} for row in now]
    with pytest.raises(ValueError, match="was run with weight.alpha=9, and the suite has changed"):
        current_rows(SUITE, [*tuning, *changed], tmp_path)


def test_settings_at_the_edge_of_their_grid_are_marked():
    rows = rows_of_tuning(target=3e-4, reward=3e-5)
    rows += [row_of(cell) for cell in list_cells(SUITE, "report", rows) if cell.method in ("SPG", "ESPO, KL", "log-variance")]
    table = methods_table(SUITE, rows)
    assert " 3e-05!" in table and " 0.0003 loss.kl=0.2! " in table and " 0.0003 " in table
    for row in rows:
        row["kl_target_policy"] += 5 * bool({"loss.kl=0.01", "loss.kl=0.2"} & {*row["overrides"]})
    assert " 0.0003 loss.kl=0.04 " in methods_table(SUITE, rows)


def test_a_part_is_expected_to_take_what_its_cells_have_taken():
    rows = [{"part": "report", "seconds": 10.0}, {"part": "group_size/tuning", "seconds": 30.0}, {"part": "group_size", "seconds": 50.0}]
    assert [seconds_per_cell(part, rows) for part in ("report", "group_size", "mixtures")] == [10.0, 40.0, 30.0]
    assert seconds_per_cell("report", []) == 20.0


def test_every_cell_runs_on_one_thread(monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr("toy.scoreboard.run.run_mixture", lambda cell: {"threads": torch.get_num_threads()})
    assert run_cell(next(iter(list_cells(SUITE, "mixtures", [])))) == {"threads": 1}
    torch.set_num_threads(threads)


def test_the_interval_of_a_median_is_that_of_all_resamples():
    """Of three values, 7 of 27 resamples have the smallest as their median, and 7 the largest."""
    assert interval([1.0, 2.0, 4.0]) == (1.0, 4.0) and interval([3.0] * 5) == (3.0, 3.0)
    assert write_interval([1.0, 2.0, 4.0]) == "–" and write_interval([3.0] * 5) == "3.0000 to 3.0000"
    low, high = interval(list(range(101)))
    assert 35 < low < 45 < 55 < high < 65


def test_measures_are_sums_over_all_answers():
    config = load_config("toy_two_solutions", "weight.alpha=0.2")
    world = load_two_solutions(config)
    found = measure(world, world.policy)
    p = np.exp(world.exact.log_prob.numpy())
    right = [i for i, text in enumerate(world.exact.texts) if text in world.solutions]
    assert found["valid"] == pytest.approx(p[right].sum()) and found["entropy"] == pytest.approx(-(p * np.log(p)).sum())
    tilted = p * np.where(np.isin(np.arange(len(p)), right), math.exp(1 / 0.2), 1.0)
    tilted /= tilted.sum()
    assert sorted(found["target_shares"]) == pytest.approx(sorted(tilted[right]))
    assert found["kl_target_policy"] == pytest.approx((tilted * np.log(tilted / p)).sum())
    assert found["pass_at_8"] == pytest.approx(sum((1 - found["valid"]) ** k * found["valid"] for k in range(8)))
    assert found["modes"] == 0 and found["lost"] == 1  # the reference gives less than half its share to each
    assert found["greedy"] == 0
    world.log_target = (world.exact.log_prob + torch.tensor([text in world.solutions for text in world.exact.texts]) / 3).log_softmax(-1)
    gentle = measure(world, world.policy)  # at α = 3 the reference has less than p* of each solution, but more than half
    assert all(1 / 2 < p / wanted < 1 for p, wanted in zip(gentle["shares"], gentle["target_shares"], strict=True))
    assert gentle["modes"] == 2 and gentle["lost"] == 0
    two = together([found, found | {"kl_target_policy": 3.0, "modes": 2, "lost": 0}])
    assert (two["modes"], two["lost"]) == (2, 1) and two["shares"] == found["shares"] * 2
    assert two["kl_target_policy"] == (found["kl_target_policy"] + 3) / 2


@pytest.mark.parametrize(
    "name",
    ["WDCE, masks", "WDCE, path steps, 1/4 by p_ref", "WDCE, masks, ELBO weights", "WDCE, masks, ELBO weights, 1/4 by p_ref",
     "WDDO, path steps", "REINFORCE, KL"],
)  # fmt: skip
def test_forward_rows_are_those_that_the_model_is_fed(tmp_path, monkeypatch, name):
    puzzle, fed = SUITE["worlds"]["two solutions, A"], []
    forward = LLaDAModelLM.forward

    def counting(self, input_ids, *args, **kwargs):
        fed.append(len(input_ids))
        return forward(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(LLaDAModelLM, "forward", counting)
    monkeypatch.setattr(sys.modules["dmpo_ref.train"], "test_accuracy", lambda *args, **kwargs: 0.0)
    size = ("train.rounds=2", "train.num_rollouts=8", "train.prompts_per_round=1", "train.steps_per_round=2")
    options = (SUITE["methods"] | SUITE["variants"])[name]["options"]
    config = load_config("toy_two_solutions", f"output={tmp_path / 'run'}", *size, *options)
    train(config)
    assert count_rows(config, puzzle) == sum(fed)


def test_the_time_that_is_left_is_that_of_the_cells_on_all_workers():
    check_hours(720, 10.0, "report", 2, 1.0)  # 7,200 s of work on two
    with pytest.raises(ValueError, match=r"report: 721 cells take about 1\.0 hours, and --hours leaves 1;"):
        check_hours(721, 10.0, "report", 2, 1.0)
    check_hours(10**6, 10.0, "report", 1, None)


@pytest.mark.parametrize("world", ["line", "plane"])
def test_a_mixture_is_measured_by_sums_over_its_cells(world):
    """Against the fit itself, called with the cell's settings, and divergences summed in numpy; modes by hand of their shares."""
    suite = read_suite(quick=True)
    cells = [cell for cell in list_cells(suite, "mixtures", []) if cell.method == "uniform"]
    cell = dataclasses.replace(cells[-1], world=world, num_rollouts=8)
    row, plane = run_cell(cell), {"line": world_1d, "plane": world_2d}[world]()
    policy = TabularPolicy(plane)
    fit_forward(plane, policy, num_rollouts=8, groups=2, rounds=4, steps_per_round=2, baseline="uniform", learning_rate=0.1, seed=10)
    p, target = policy.log_prob().detach().exp().numpy(), plane.log_target.exp().numpy()
    assert row["kl_target_policy"] == pytest.approx((target * np.log(target / p)).sum())
    assert row["kl_policy_target"] == pytest.approx((p * np.log(p / target)).sum())
    assert row["reward"] == pytest.approx((p * plane.reward.numpy()).sum())
    ratios = [share / wanted for share, wanted in zip(row["shares"], row["target_shares"], strict=True)]
    assert any(1 / 2 < ratio < 1 for ratio in ratios), "else half and whole would be alike"
    assert row["modes"] == sum(ratio > 1 / 2 for ratio in ratios) and row["lost"] == (row["modes"] < len(ratios))
    assert sum(row["shares"]) == pytest.approx(1) == pytest.approx(sum(row["target_shares"]))


QUICK = ("--quick", "--method", "WDCE, path steps", "--method", "WDCE, path steps, 1/4 by p_ref", "--method", "uniform")


def test_a_quick_run_fills_tables_and_figures_and_goes_on_where_it_was(tmp_path, capsys):
    file = tmp_path / "results.jsonl"
    command = ["scoreboard", *QUICK, "--output", str(file)]
    assert main([*command, "tuning"]) == 0
    lines = file.read_text().splitlines()
    assert main([*command, *PARTS, "--figures", str(tmp_path)]) == 0
    rows = read_rows(file, "1, quick")
    assert file.read_text().splitlines()[: len(lines)] == lines and len({key_of(row) for row in rows}) == len(rows)
    assert {row["part"] for row in rows} == {*PARTS, *(f"{part}/tuning" for part in POINTS)}
    for row in rows:
        if row["world"] in ("line", "plane"):
            continue
        assert row["rollouts"] == sum([row["curve"][-1][0]]) and row["curve"][-1][1] == row["kl_target_policy"]
        assert (drawn := [point[0] for point in row["curve"]]) == sorted(set(drawn)), "a point twice"
        assert row["curve"][0][0] == 0 and len(row["target_shares"]) == 2 * len(row["puzzle"].split())
    before = file.read_text()
    capsys.readouterr()
    assert main([*command, *PARTS]) == 0
    assert file.read_text() == before
    shown = capsys.readouterr().out
    suite = choose_methods(read_suite(quick=True), list(QUICK[2::2]))
    assert shown.strip() == "\n\n".join([methods_table(suite, rows), *(sizes_table(suite, rows, part) for part in POINTS)]).strip()
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [
        "scoreboard.png", "scoreboard_curves.png", "scoreboard_mixtures.png", "scoreboard_shares.png", "scoreboard_sizes.png",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["tunning"], "tunning: choose among tuning, report"),
        (["report", "--method", "PPO"], "--method='PPO' is not in the suite; choose among WDCE, masks; "),
        (["tuning", "--workers", "0"], "--workers=0: must be at least 1"),
        (["tuning", "--quick"], "--quick: give --output FILE.jsonl"),
        (["tuning", "--output", "new.jsonl", "--hours", "0.01"], "hours, and --hours leaves 0.01; give more --hours or --workers"),
        (["--output", "none.jsonl"], "none.jsonl holds no results of these methods; run dmpo scoreboard tuning first"),
        (["--output", "bare.jsonl"], "bare.jsonl: line 1 is not a result of the scoreboard; remove that line"),
        (["tuning", "--quick", "--output", "full.jsonl"], "full.jsonl: line 1 is of version 1 of the suite, and this is 1, quick"),
        (["tuning", "--method", "SPG", "--output", "."], ".: Is a directory; give the name of a file"),
        (["y" * 900], "yyy … yyy"),
        (["--output", "other.jsonl"], "other.jsonl: line 1 is of version 0 of the suite, and this is 1"),
        (["--output", "broken.jsonl"], "broken.jsonl: line 1 is not a result of the scoreboard"),
        (["--figures", "nowhere"], "--figures=nowhere: give a folder that exists"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_run(tmp_path, monkeypatch, capsys, words, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.jsonl").write_text('{"suite": 0}\n')
    (tmp_path / "broken.jsonl").write_text("{\n")
    (tmp_path / "bare.jsonl").write_text('{"suite": 1}\n')
    (tmp_path / "full.jsonl").write_text(json.dumps(row_of(next(tuning_cells(SUITE)))) + "\n")
    monkeypatch.setattr("toy.scoreboard.run.run_cell", pytest.fail)
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert main(["scoreboard", *words]) == 2
    found = capsys.readouterr().err
    assert line in found and len(found.strip().splitlines()) == 1
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


def test_puzzles_are_enumerated_once_for_each_alpha(monkeypatch):
    run.enumerate_puzzles.cache_clear()
    calls, load = [], run.load_puzzles
    monkeypatch.setattr(run, "load_puzzles", lambda config: calls.append(config.weight.alpha) or load(config))
    puzzle = "4123321403400430"
    (world,), (again,), (other,) = (run.enumerate_puzzles(puzzle, alpha) for alpha in (0.2, 0.2, 0.5))
    assert calls == [0.2, 0.5] and again is world
    for found, alpha in ((world, 0.2), (other, 0.5)):  # log p* − log p_ref = r/α − log Z, and the reward of an answer is 0 to 1
        tilt = found.log_target - found.exact.log_prob
        assert (tilt.max() - tilt.min()).item() == pytest.approx(1 / alpha, abs=1e-9)
    run.enumerate_puzzles.cache_clear()
