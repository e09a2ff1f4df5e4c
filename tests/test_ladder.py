"""The ladder: what is measured is within the plan, what is stored is what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from dmpo_ref.models.loading import read_config
from dmpo_ref.tasks.sudoku import read_puzzles
from toy import ladder
from toy.options import TextPretrainConfig

SMALL = TextPretrainConfig(width=64, layers=2)
FEW = ("train.prompts_per_round=4", "train.num_rollouts=4", "train.steps_per_round=1", "loss.masks=exact", "loss.micro_batch=16")
MACHINE = {"flop_per_second": 1e10, "bytes_per_second": 1e10}


def test_the_memory_of_a_round_is_planned_within_15_percent():
    row = ladder.measure_rung(ladder.Rung("toy", "toy_sudoku", ("train.prompts_per_round=16",)), MACHINE)
    assert 0.85 < row["measured"]["memory"] / row["planned"]["memory"] <= 1
    assert row["generated"] == 16 * 4 * 8 and row["measured"]["seconds"] > 0


@pytest.mark.parametrize(
    ("overrides", "least"), [((), 0.75), (("model.lora_rank=8",), 0.7), (("model.gradient_checkpointing=true",), 0.55)]
)
def test_a_gradient_step_of_a_text_model_needs_at_most_what_is_planned(overrides, least):
    """These masks score half of a response on average, and may score all of it, which is what is planned."""
    rung = ladder.Rung("small", "text_countdown", (*FEW, *overrides), model=TextPretrainConfig(width=64, layers=4))
    row = ladder.measure_rung(rung, MACHINE)
    assert least < row["measured"]["memory"] / row["planned"]["memory"] <= 1


def test_what_is_held_is_weights_reference_and_moments(small_run):
    run = ladder.prepare_run(small_run("weight.log_ratio=path"))
    weights = sum(p.nbytes for p in run.policy.parameters())
    assert ladder.held_bytes(run) == 2 * weights
    ladder.play_round(run, 0)
    counters = sum(1 for _ in run.policy.parameters()) * 4  # AdamW counts the steps of each tensor
    assert ladder.held_bytes(run) == 4 * weights + counters


def test_a_model_to_forecast_needs_no_weights(tmp_path):
    bare, whole = (ladder.make_model(tmp_path / name, SMALL, weights=name == "whole") for name in ("bare", "whole"))
    assert [path.name for path in Path(bare).iterdir()] == ["config.json"]
    assert read_config(bare).to_dict() == read_config(whole).to_dict() and read_config(bare).d_model == 64


def test_the_bigger_text_model_is_pretrained_in_ten_minutes_by_the_plan():
    assert 95e6 < ladder.read()["100 M"]["parameters"] < 110e6
    assert ladder.read()["100 M"]["pretraining"] == pytest.approx(ladder.pretraining_seconds(ladder.BIG))
    assert ladder.pretraining_seconds(ladder.BIG) < 600
    head = Path("dmpo_ref/presets/text_100m.yaml").read_text(encoding="utf-8")
    options = re.search(r"pretrain-toy text (.*) output=", head)[1].split()
    assert {f"{key}={getattr(ladder.BIG, key)}" for key in ("lessons", "width", "layers", "batch_size", "steps")} <= set(options)


@pytest.mark.parametrize("name", ["toy", "text"])
def test_the_stored_rounds_are_within_15_percent_of_the_plan(name):
    row = ladder.read()[name]
    assert 0.85 < row["measured"]["memory"] / row["planned"]["memory"] < 1.15


def test_the_page_has_the_table_of_the_stored_rounds():
    page = Path("book/ladder.md").read_text(encoding="utf-8")
    blanks = [puzzle.puzzle.count("0") for puzzle in read_puzzles("toy/data/train.csv")]
    assert f"The boards of `toy_sudoku` have {min(blanks)} to {max(blanks)} blanks of 16 cells; these are planned with 8" in page
    assert ladder.read()["toy"]["generated"] == ladder.read()["toy"]["rollouts"] * 8
    for cells in ladder.table(ladder.read()):
        assert f"| {' | '.join(cells)} |" in page
    rows = ladder.read()
    shares = [row["measured"]["memory"] / row["planned"]["memory"] for row in rows.values() if "measured" in row]
    assert f"was {min(shares):.2f} to {max(shares):.2f} of it" in page
    times = [row["measured"]["seconds"] / row["planned"]["seconds"] for row in rows.values() if "measured" in row]
    assert f"{min(times):.2f} to {max(times):.2f} of what is planned" in page
    assert f"{rows['100 M']['pretraining'] / 60:.1f} minutes on one H100" in page
    assert page.startswith(f"# The ladder: {round(rows['toy']['parameters'], -3):,}, 3 million, 8 billion")


def test_the_figure_is_drawn(tmp_path):
    ladder.draw(tmp_path)
    assert (tmp_path / "ladder.png").stat().st_size > 10_000
    assert torch.get_num_threads() == 1
