"""`dmpo table`: runs beside the published numbers, as text and as bars."""

import json
import math

import pytest

from dmpo_ref.cli import main
from dmpo_ref.evaluation.gradings import wilson
from dmpo_ref.evaluation.table import PUBLISHED, Accuracy, Column, as_columns, draw_table, format_table, read_runs, with_numbers
from tests.test_gradings import COUNTDOWN, line, published_file, record, results_text


def test_the_table_puts_runs_beside_the_published_numbers_with_their_sources(tmp_path, capsys):
    published_file(tmp_path, "countdown_instruct_256_128_0", COUNTDOWN)
    figure = tmp_path / "figures" / "table.png"
    assert main(["table", str(tmp_path), "--markdown", "--figure", str(figure)]) == 0
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if line.startswith("| Countdown"))
    low, high = wilson(0.5, 4)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["Countdown", "256", "19.5", "14.5", "80.9", *[f"50.0 [{100 * low:.1f}, {100 * high:.1f}]"] * 2]
    assert "arXiv 2510.08233v2, Figure 1" in printed and "arXiv 2504.12216" in printed
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert main(["table", str(tmp_path / "figures")]) == 2
    assert "holds no results" in capsys.readouterr().err
    assert main(["table", "--figure", "x.doc"]) == 2


def test_a_file_named_like_its_task_is_a_column_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gsm8k.json").write_text(json.dumps({"generations": [record("How many?", 18.0, "\\boxed{18}")]}))
    assert [column.name for column in as_columns(read_runs(["gsm8k.json"])[0])] == ["gsm8k, published", "gsm8k, strict"]


def test_in_a_folder_the_logs_of_a_run_and_grades_are_skipped(tmp_path, capsys):
    results = tmp_path / "sudoku_x.jsonl"
    (tmp_path / "metrics.jsonl").write_text('{"round": 0, "step": 1, "loss": 0.5}\n')
    (tmp_path / "rollouts.jsonl").write_text('{"round": 0, "prompt": "1", "answers": []}\n')
    with pytest.raises(FileNotFoundError, match="holds no results"):
        read_runs([tmp_path])
    results.write_text(results_text(line()))
    assert main(["grade", str(results), "--output", str(tmp_path / "graded.jsonl")]) == 0
    assert main(["table", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert "x, strict" in captured.out and captured.err == ""
    assert main(["table", str(tmp_path / "metrics.jsonl")]) == 2  # named itself, it is refused
    (tmp_path / "own.jsonl").write_text("mine\n")
    assert main(["table", str(tmp_path)]) == 2
    assert "own.jsonl: the first line must say what was evaluated" in capsys.readouterr().err


def test_two_runs_that_the_table_would_call_the_same_are_refused(tmp_path):
    for name in ("sudoku_x", "x_sudoku"):
        (tmp_path / f"{name}.jsonl").write_text(results_text(line()))
    with pytest.raises(ValueError, match=r"x_sudoku: another run of .*, x has sudoku at length None too"):
        as_columns(read_runs([tmp_path])[0])


@pytest.mark.parametrize(
    ("policy", "options", "is_one_run"),
    [
        ({"weights": "b"}, {}, False),
        ({"weights": "a"}, {"seed": 3}, False),
        ({"weights": "a"}, {"evaluation.sampler.temperature": 1.0}, False),
        ({"weights": "a"}, {"evaluation.sampler.steps": 64, "evaluation.num_samples": 2}, True),
    ],
)
def test_what_stands_in_one_column_was_made_by_one_policy_in_one_way(policy, options, is_one_run, tmp_path):
    for length, made_by, more in ((128, {"weights": "a"}, {}), (256, policy, options)):
        header, *answers = results_text(line(), length=length).splitlines(keepends=True)
        made = json.loads(header)
        made |= {"policy": made_by, "setting": made["setting"] | {"seed": 0, "evaluation.sampler.temperature": 0.0} | more}
        (tmp_path / f"sudoku_{length}_x.jsonl").write_text("".join([json.dumps(made) + "\n", *answers]))
    scores, _ = read_runs([tmp_path])
    if is_one_run:
        assert len(as_columns(scores)) == 2  # published and strict
        return
    with pytest.raises(ValueError, match=r"sudoku_128_x and .*sudoku_256_x would stand in one column, but have other policies"):
        as_columns(scores)


def test_published_files_of_three_lengths_are_one_column_named_by_its_pace(tmp_path):
    for name in ("instruct_128_64_0", "instruct_256_128", "instruct_256_256_0", "instruct_512_256_0", "my_7_256_64_0"):
        length = int(name.removesuffix("_0").split("_")[-2])
        published_file(tmp_path, f"gsm8k_{name}", [record("How many?", 18.0, "\\boxed{18}")], gen_length=length)
    lengths = {column.name: [length for _, length in column.values] for column in as_columns(read_runs([tmp_path])[0])}
    assert {name.removeprefix(f"{tmp_path.as_posix()}, "): found for name, found in lengths.items() if "strict" in name} == {
        "instruct, 2 tokens a step, strict": [128, 256, 512],
        "instruct, 1 token a step, strict": [256],
        "my_7, 4 tokens a step, strict": [256],
    }


def test_bars_stand_in_the_middle_and_no_two_columns_look_the_same(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn, savefig = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: (drawn.append(figure), savefig(figure, path))[1])
    own = [Column(f"run {i}", "here", {("countdown", 256): Accuracy(50.0, (40.0, 60.0))}) for i in range(24)]
    draw_table([*PUBLISHED, *own], tmp_path / "table.png")
    axes = drawn[0].axes[0]
    assert axes.get_xlim() == (-0.5, 0.5)
    assert len({(bar.get_facecolor(), bar.get_hatch()) for bar in axes.patches}) == len(axes.patches) == 27
    middle = [bar.get_x() + bar.get_width() / 2 for bar in axes.patches]
    assert sum(middle) == pytest.approx(0.0) and max(middle) < 0.4


def test_the_table_without_runs_is_the_published_one():
    text = format_table([*PUBLISHED, *as_columns(read_runs([])[0])])
    assert all(title in text for title in ("GSM8K", "MATH-500", "Countdown", "4x4 Sudoku"))
    assert math.isclose(PUBLISHED[2].values["countdown", 256][0], 80.9)


def test_published_columns_stand_beside_runs_of_their_lengths_only():
    own = {length: Column(f"run {length}", "here", {("countdown", length): Accuracy(50.0)}) for length in (32, 128)}
    assert with_numbers([*PUBLISHED, own[32]]) == [own[32]]
    assert with_numbers([*PUBLISHED, own[128]]) == [PUBLISHED[0], own[128]]
    assert with_numbers(PUBLISHED) == PUBLISHED
