"""What the figures that can be touched replay: the committed files against the oracle and the graders, and the page against the files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from dmpo_ref import load_config
from dmpo_ref.plots.replay import problem_of
from dmpo_ref.tasks import build_task
from toy import RESULTS
from toy.oracle import kl_divergence
from toy.studies import recordings
from toy.studies.objectives import load_puzzle

PAGE = re.sub(r"\s+", " ", Path("book/play.md").read_text(encoding="utf-8"))


def stored(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def test_every_run_starts_at_the_exact_reference_and_the_marks_are_the_exact_target():
    puzzle, flow = load_puzzle(), stored("flow")
    assert flow["puzzle"] == puzzle.item.puzzle and len(flow["names"]) == len(flow["target"]) == 2 + 12 + 1
    where = [puzzle.exact.texts.index(text) for text in puzzle.solutions]
    p_ref, target = puzzle.exact.log_prob.exp(), puzzle.log_target.exp()
    wrong = sorted((p for i, p in enumerate(p_ref.tolist()) if i not in where), reverse=True)[:12]
    start = [*p_ref[where].tolist(), *wrong]
    assert flow["target"][:2] == pytest.approx(target[where].tolist(), abs=1e-5)
    for points in flow["runs"].values():
        assert [point["round"] for point in points] == list(range(0, 51, 2))
        assert points[0]["probability"] == pytest.approx([*start, 1 - sum(start)], abs=2e-5)
        assert points[0]["kl"] == pytest.approx(kl_divergence(puzzle.log_target, puzzle.exact.log_prob), abs=1e-5)
        assert all(sum(point["probability"]) == pytest.approx(1, abs=1e-4) for point in points)
    assert sum(flow["target"]) == pytest.approx(1, abs=1e-4)
    assert flow["names"][-1].split("\n")[0] == str(4**5 - 2 - 12)


def test_the_page_says_of_the_runs_what_was_recorded():
    flow = stored("flow")
    dmpo, grpo, reinforce = (flow["runs"][name][-1] for name in recordings.METHODS)
    assert "DMPO brings up both solutions in the proportions of the target" in PAGE and dmpo["kl"] < 0.02
    assert "finds one of them and forgets the other" in PAGE and min(grpo["probability"][:2]) < 1e-3 < 0.99 < max(grpo["probability"][:2])
    assert "reaches the target too" in PAGE and reinforce["kl"] < 0.02


def test_a_short_recording_has_the_numbers_of_the_committed_one_where_both_start(monkeypatch):
    """Two rounds of one method: the same start, and after training another distribution, exactly enumerated."""
    monkeypatch.setattr(recordings, "METHODS", recordings.METHODS[:1])
    monkeypatch.setattr(recordings, "ROUNDS", 2)
    found, known = recordings.record_flow(), stored("flow")
    [points] = found["runs"].values()
    assert found["target"] == known["target"] and points[0] == known["runs"][recordings.METHODS[0]][0]
    assert [point["round"] for point in points] == [0, 2] and points[1]["kl"] < points[0]["kl"]


def test_replayed_answers_are_graded_as_their_titles_say_and_take_as_many_passes():
    replays = stored("replays")
    tasks = {True: build_task(load_config("toy_sudoku").task), False: build_task(load_config("text_sudoku").task)}
    items = {key: task.load(load_config("toy_sudoku" if key else "text_sudoku").task.test) for key, task in tasks.items()}
    assert len(replays["groups"]) == len(recordings.BOARD_ITEMS) + len(recordings.TEXT_ITEMS)
    for group in replays["groups"]:
        number = int(group["title"].rpartition(" ")[2])
        for shown in group["trajectories"]:
            assert problem_of({"prompt": "", "answers": [shown | {"reward": 0, "weight": 0}]}) is None
            text = "".join(shown["pieces"]).partition("<|eot_id|>")[0]
            right = tasks[shown["board"]].grade(items[shown["board"]][number], text).correct
            assert shown["title"].endswith(f": {'right' if right else 'wrong'} in {max(shown['step']) + 1} passes")


@torch.no_grad()
def test_boards_are_those_that_the_shipped_policy_draws():
    [again] = recordings.groups(
        "board",
        recordings.load(load_config("toy_sudoku")),
        load_config("toy_sudoku").task.test,
        recordings.BOARD_ITEMS[:1],
        recordings.BOARD_SAMPLERS,
    )
    [known] = [group for group in stored("replays")["groups"] if group["title"] == again["title"]]
    for now, then in zip(again["trajectories"], known["trajectories"], strict=True):
        assert (now["pieces"], now["step"], now["title"]) == (then["pieces"], then["step"], then["title"])
        assert now["confidence"] == pytest.approx(then["confidence"], abs=2e-3)
