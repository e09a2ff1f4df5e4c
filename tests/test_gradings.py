"""Grading of files: published files made by hand, intervals and pass@k by other computations, bad input in one line each."""

import itertools
import json
from fractions import Fraction
from pathlib import Path

import pytest

from dmpo_ref.cli import main
from dmpo_ref.evaluation.gradings import grade_files, pass_at_k, summarise, wilson
from dmpo_ref.evaluation.report import format_scores
from dmpo_ref.evaluation.table import as_columns, read_runs

GRID = "1234341221434321"
PUZZLE = "1200341221434321"  # blanks: cells 2 and 3


def published_file(folder, name, records, **settings):
    path = folder / f"{name}_generations.json"
    path.write_text(json.dumps({"generations": records, "gen_length": 256, **settings}))
    return path


def record(question, truth, text):
    return {"question": question, "ground_truth": truth, "generations": text}


def results_text(*lines, task="sudoku", length=None):
    """A results file of `dmpo evaluate`; a line that is a text already stands as it is."""
    header = {"setting": {"task.name": task, "evaluation.sampler.response_length": length}, "fingerprint": None}
    return "".join((text if isinstance(text, str) else json.dumps(text)) + "\n" for text in (header, *lines))


def line(index=0, sample=0, generation=GRID):
    return {"index": index, "sample": sample, "question": PUZZLE, "ground_truth": GRID, "generation": generation, "num_tokens": 16}


COUNTDOWN = [
    record("Numbers: [1, 2, 3], target 6", [[1, 2, 3], 6], "so \\boxed{1+2+3}</answer>"),  # right
    record("Numbers: [1, 2, 3], target 6", [[1, 2, 3], 6], "so \\boxed{1*2*3}<|eot_id|>"),  # right
    record("Numbers: [1, 2, 3], target 6", [[1, 2, 3], 6], "\\boxed{6}"),  # a number is missing
    record("Numbers: [1, 2, 3], target 6", [[1, 2, 3], 6], ""),
]


def test_a_published_file_gives_the_shares_counted_by_hand(tmp_path):
    path = published_file(tmp_path, "countdown_instruct_256_128_0", COUNTDOWN)
    items, problems = grade_files([path])
    assert not problems
    scores = summarise(items)
    assert [(s.task, s.length, s.grading, s.right, s.total) for s in scores] == [
        ("countdown", 256, "published", 2, 4),
        ("countdown", 256, "strict", 2, 4),
    ]
    assert "50.00 %" in format_scores(scores)


def test_shards_of_one_setting_are_one_row_and_settings_are_kept_apart(tmp_path):
    for rank in range(3):
        published_file(tmp_path, f"countdown_instruct_256_128_{rank}", COUNTDOWN[rank:])
    published_file(tmp_path, "countdown_base_256_128_0", COUNTDOWN[:1])
    published_file(tmp_path, "countdown_instruct_512_256_0", COUNTDOWN[2:], gen_length=512)
    scores = [s for s in summarise(grade_files(sorted(tmp_path.glob("*.json")))[0]) if s.grading == "published"]
    assert [(s.length, s.right, s.total) for s in scores] == [(256, 1, 1), (256, 2 + 1 + 0, 4 + 3 + 2), (512, 0, 2)]


def test_shards_that_cannot_be_of_one_evaluation_are_named(tmp_path):
    def grade(*shards):
        files = [published_file(tmp_path, f"countdown_instruct_256_128_{rank}", records) for rank, records in shards]
        return grade_files(files)[1]

    half, rest = ([record(f"Numbers: [1, 2, 3], target {n}", [[1, 2, 3], n], "") for n in numbers] for numbers in ((4, 5, 6), (7, 8, 9)))
    assert grade((0, half), (1, rest)) == [] and grade((3, half)) == []
    assert grade((0, half), (1, [*rest, half[0]])) == []  # a puzzle that the data have twice
    assert grade((0, half), (1, rest), (2, half[:1])) == [
        f"{tmp_path}/countdown_instruct_256_128_2_generations.json has the questions of "
        f"{tmp_path}/countdown_instruct_256_128_0_generations.json, and both are counted; give each answer once"
    ]
    assert grade((0, half), (2, rest)) == [
        f"{tmp_path}/countdown_instruct_256_128: the file of process 1 is missing, and its answers with it"
    ]


def test_a_link_to_itself_is_one_line(tmp_path):
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    (problem,) = grade_files([tmp_path / "loop.jsonl"])[1]
    assert "loop.jsonl" in problem and "\n" not in problem


def test_sudoku_counts_blank_cells_as_published_and_puzzles_strictly(tmp_path):
    half = GRID[:3] + "1" + GRID[4:]
    question = f"Solve the following Sudoku puzzle: {PUZZLE}\n"
    records = [record(question, GRID, f"<answer>\n{GRID}\n</answer>"), record(question, GRID, f"<answer>\n{half}\n</answer>")]
    scores = summarise(grade_files([published_file(tmp_path, "sudoku_instruct_256_128_0", records)])[0])
    assert [(s.grading, s.right, s.total, s.num_items) for s in scores] == [("published", 3, 4, 2), ("strict", 1, 2, 2)]


def test_gsm8k_and_math_files_are_read(tmp_path):
    gsm8k = [
        record("How many?", 18.0, "\\boxed{18}"),
        record("How many?", 18.0, "\\boxed{$18.00}"),
        record("How many?", None, "\\boxed{18}"),
    ]
    math_items = [record("What?", "\\frac{1}{2}", "\\boxed{\\frac12}"), record("What?", "\\frac{1}{2}", "\\boxed{0.50}")]
    files = [published_file(tmp_path, "gsm8k_instruct_256_128_0", gsm8k), published_file(tmp_path, "math_instruct_256_128_0", math_items)]
    scores = summarise(grade_files(files)[0])
    # A truth of null is never right as published, and left out by strict; 0.50 equals 1/2, which the published comparison does not see.
    assert [(s.task, s.grading, s.right, s.total) for s in scores] == [
        ("gsm8k", "published", 2, 3),
        ("gsm8k", "strict", 2, 2),
        ("math500", "published", 1, 2),
        ("math500", "strict", 2, 2),
    ]


def test_the_published_length_comes_from_the_file_or_from_its_name(tmp_path):
    path = tmp_path / "countdown_instruct_128_64_0_generations.json"
    path.write_text(json.dumps({"generations": COUNTDOWN}))
    assert grade_files([path])[0][0].length == 128


BAD = [
    (
        "countdown_x_256_128_0_generations.json",
        '{"generations": [{"question": "q", "generations": "t"}]}',
        "item 0: the field 'ground_truth' is missing",
    ),
    ("countdown_x_256_128_0_generations.json", json.dumps({"generations": [record("q", GRID, "t")]}), "item 0: "),
    ("gsm8k_x_256_128_0_generations.json", json.dumps({"generations": [record("q", [[1, 2], 3], "t")]}), "item 0: "),
    ("sudoku_x_256_128_0_generations.json", json.dumps({"generations": [record("q", "12", "t")]}), "item 0: "),
    ("countdown_x_256_128_0_generations.json", json.dumps({"generations": [record("q", [[1, 2], 3], 7)]}), "the generation must be a text"),
    ("countdown_x_256_128_0_generations.json", json.dumps({"generations": [record("q", [[1, 2], 3], None)]}), "must be a text, got null"),
    ("countdown_x_256_128_0_generations.json", '{"generations": [], "gen_length": "abc"}', "must be a whole number above 0, got 'abc'"),
    ("countdown_x_256_128_0_generations.json", "[1, 2]", "not a file of generations"),
    ("countdown_x_256_128_0_generations.json", "", "not a file of generations"),
    ("countdown_x_256_128_0_generations.json", '{"generations": []}', "generations.json holds no answers"),
    ("countdown_x_256_128_0_generations.json", '{"generations": [7]}', "item 0: an object with the fields of an answer is needed, got '7'"),
    ("x.jsonl", results_text("[1]"), "line 2: an object with the fields of an answer is needed, got '[1]'"),
    ("chess_x_256_128_0_generations.json", '{"generations": []}', "unknown task 'chess'"),
    ("x.jsonl", '{"index": 0}\n', "the first line must say what was evaluated"),
    ("x.jsonl", "", "the first line must say what was evaluated"),
    ("x.jsonl", results_text(task=["sudoku"]), "unknown task"),
    ("x.jsonl", results_text(length="abc"), "must be a whole number above 0, got 'abc'"),
    ("x.jsonl", results_text(line(index=[0])), "line 2: index must be a whole number from 0, got '[0]'"),
    ("x.jsonl", results_text(line(sample=None)), "line 2: sample must be a whole number from 0, got 'None'"),
    ("x.jsonl", results_text(line(generation=7)), "line 2: the generation must be a text, got '7'"),
    ("x.jsonl", results_text("[" * 100_000), "line 2: "),
]


@pytest.mark.parametrize(("name", "text", "message"), BAD)
def test_what_cannot_be_graded_is_one_line_and_good_items_are_scored(name, text, message, tmp_path, capsys):
    good = published_file(tmp_path, "countdown_good_256_128_0", COUNTDOWN)
    bad = tmp_path / name
    bad.write_text(text)
    assert main(["grade", str(bad), str(good)]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert "2/4" in captured.out


def test_of_many_items_of_a_file_that_cannot_be_read_the_first_few_are_told(tmp_path):
    bad = [record("How many?", "eighteen", "\\boxed{18}")] * 1000
    paths = [published_file(tmp_path, f"gsm8k_{name}_256_128_0", bad) for name in ("one", "two")]
    items, problems = grade_files(paths)
    assert not items and len(problems) == 12
    for path, told in zip(paths, (problems[:6], problems[6:]), strict=True):
        assert [line.partition(":")[0] for line in told[:5]] == [f"{path}, item {index}" for index in range(5)]
        assert told[5] == f"{path}: and 995 more that could not be read"


def test_of_a_file_that_is_cut_off_the_whole_items_are_scored(tmp_path, capsys):
    path = published_file(tmp_path, "countdown_instruct_256_128_0", COUNTDOWN)
    text = path.read_text()
    path.write_text(text[: text.index("\\boxed{6}")])
    items, problems = grade_files([path])
    assert len(items) == 2
    assert problems == [f"{path}: the JSON is cut off or broken after 2 items; what stands before is graded"]
    assert items[0].length == 256  # from the name


def test_a_line_of_results_that_is_broken_is_named(tmp_path):
    from dmpo_ref.evaluation.results import describe_evaluation
    from dmpo_ref.presets.loading import load_config

    header = describe_evaluation(load_config("toy_sudoku"))
    path = tmp_path / "sudoku.jsonl"
    path.write_text("\n".join([json.dumps(header), json.dumps(line(0)), json.dumps(line(1))[:-9], json.dumps(line(2))]) + "\n")
    items, problems = grade_files([path])
    assert [item.index for item in items] == [0, 2]
    assert len(problems) == 1 and problems[0].startswith(f"{path}, line 3: ")


def test_output_and_explanation(tmp_path, capsys):
    path = published_file(tmp_path, "countdown_instruct_256_128_0", COUNTDOWN)
    assert main(["grade", str(path), "--output", str(tmp_path / "graded.jsonl"), "--explain", "2"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "graded.jsonl").read_text().splitlines()]
    assert [(line["index"], line["task"], line["length"], line["published"], line["strict"]) for line in lines] == [
        (0, "countdown", 256, True, True),
        (1, "countdown", 256, True, True),
        (2, "countdown", 256, False, False),
        (3, "countdown", 256, False, False),
    ]
    assert lines[0]["answer"] == "1+2+3" and lines[0]["file"] == str(path)
    printed = capsys.readouterr().out
    assert "item 2, sample 0 (countdown, length 256)" in printed and "read '6' from" in printed
    assert main(["grade", str(path), "--explain", "9"]) == 2
    assert "--explain 9: no file holds an item of that index" in capsys.readouterr().err


@pytest.mark.parametrize(("right", "n"), [(0, 10), (10, 10), (1, 3), (53, 256), (1000, 1319)])
def test_wilsons_interval_ends_where_the_normal_test_just_rejects(right, n):
    # By bisection: the largest distance from the share at which |share − p| ≤ z √(p(1−p)/n) still holds.
    share, z = right / n, 1.959963984540054

    def edge(outer):
        inside = share
        for _ in range(200):
            middle = (inside + outer) / 2
            ok = (share - middle) ** 2 <= z**2 * middle * (1 - middle) / n
            inside, outer = (middle, outer) if ok else (inside, middle)
        return inside

    low, high = wilson(share, n)
    assert low == pytest.approx(edge(0.0), abs=1e-9)
    assert high == pytest.approx(edge(1.0), abs=1e-9)


def test_pass_at_k_is_the_share_of_subsets_that_hold_a_right_answer():
    samples = [[True, False, False, False], [False] * 4, [True, True, False, True], [False, False, True, True]]
    for k, value in pass_at_k(samples).items():
        subsets = [[any(item[i] for i in chosen) for chosen in itertools.combinations(range(4), k)] for item in samples]
        assert value == pytest.approx(float(sum(Fraction(sum(s), len(s)) for s in subsets) / 4))
    assert list(pass_at_k(samples)) == [1, 2, 4]
    assert pass_at_k([[True], [False]]) == {}


def test_the_interval_counts_items_not_cells_or_samples(tmp_path):
    question = f"Solve the following Sudoku puzzle: {PUZZLE}\n"
    path = published_file(tmp_path, "sudoku_instruct_256_128_0", [record(question, GRID, f"<answer>{GRID}</answer>")] * 8)
    published = summarise(grade_files([path])[0])[0]
    assert published.total == 16 and published.interval == wilson(1.0, 8)


def test_runs_of_the_same_last_folder_are_kept_apart_by_their_whole_path(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder, generation in (("a/base", GRID), ("c/base", "")):
        Path(folder).mkdir(parents=True)
        Path(folder, "sudoku_blanks.jsonl").write_text(results_text(line(0, generation=generation)))
    assert main(["grade", "a/base/sudoku_blanks.jsonl", "c/base/sudoku_blanks.jsonl"]) == 0
    rows = [row.split() for row in capsys.readouterr().out.splitlines() if " strict " in row]
    assert [(row[0], row[4]) for row in rows] == [("a/base/sudoku_blanks", "1/1"), ("c/base/sudoku_blanks", "0/1")]
    # In the order given; a folder that is given twice is one column.
    columns = as_columns(read_runs(["c/base", "a/base", "./c/base"])[0])
    assert [(column.name, column.values["sudoku", None][0]) for column in columns if "strict" in column.name] == [
        ("c/base, blanks, strict", 0.0),
        ("a/base, blanks, strict", 100.0),
    ]


def test_a_file_given_twice_is_read_once(tmp_path):
    path = published_file(tmp_path, "countdown_instruct_256_128_0", COUNTDOWN)
    items, problems = grade_files([path, tmp_path / ".." / tmp_path.name / path.name, tmp_path / "none.jsonl", tmp_path / "none.jsonl"])
    assert [(item.file, item.index) for item in items] == [(path, i) for i in range(4)]
    assert problems == [f"no file {tmp_path / 'none.jsonl'}"]


def test_files_of_costs_are_passed_over(tmp_path, capsys):
    (tmp_path / "sudoku.jsonl").write_text(results_text(line()))
    (tmp_path / "sudoku.timing.jsonl").write_text('{"first": 0, "answers": 1}\n')
    files = [str(path) for path in sorted(tmp_path.glob("*.jsonl"))]
    assert len(files) == 2 and main(["grade", *files]) == 0
    assert main(["table", str(tmp_path)]) == 0
    (tmp_path / "sudoku.jsonl").unlink()
    capsys.readouterr()
    assert main(["grade", files[1]]) == 2 and "hold no answers" in capsys.readouterr().err
    assert main(["table", str(tmp_path)]) == 2 and "holds no results" in capsys.readouterr().err


def test_no_file_is_overwritten(tmp_path, capsys):
    path, notes = published_file(tmp_path, "countdown_instruct_256_128_0", COUNTDOWN), tmp_path / "notes.jsonl"
    notes.write_text("mine")
    before = path.read_bytes()
    for taken in (path, tmp_path / ".." / tmp_path.name / path.name, notes, "/dev/null", tmp_path / "README.md"):
        assert main(["grade", str(path), "--output", str(taken)]) == 2
        assert "give the name of a .jsonl file that is not there yet" in capsys.readouterr().err
    assert path.read_bytes() == before and notes.read_text() == "mine"


def test_a_puzzle_that_was_never_asked_counts_with_all_its_blanks(tmp_path):
    path = tmp_path / "sudoku.jsonl"
    path.write_text(results_text(line(0), line(1, generation=None)))
    scores = summarise(grade_files([path])[0])
    assert [(s.grading, s.right, s.total) for s in scores] == [("published", 2, 4), ("strict", 1, 2)]


def test_index_is_the_items_number_whatever_line_it_stands_in(tmp_path, capsys):
    path = tmp_path / "sudoku.jsonl"
    path.write_text(results_text(*(line(i, n, GRID if n else "") for i in (2, 3) for n in (0, 1))))
    assert main(["grade", str(path), "--explain", "3", "--output", str(tmp_path / "graded.jsonl")]) == 0
    explained = [text.split(" (")[0] for text in capsys.readouterr().out.splitlines() if text.startswith(str(path))]
    assert explained == [f"{path}, item 3, sample 0", f"{path}, item 3, sample 1"]
    graded = [json.loads(text) for text in (tmp_path / "graded.jsonl").read_text().splitlines()]
    assert [(g["index"], g["sample"], g["strict"]) for g in graded] == [(2, 0, False), (2, 1, True), (3, 0, False), (3, 1, True)]
    assert main(["grade", str(path), "--explain", "0"]) == 2


def test_a_line_that_is_there_twice_counts_once_and_is_named(tmp_path, capsys):
    path = tmp_path / "sudoku.jsonl"
    path.write_text(results_text(line(0), line(0, 1, ""), line(0)))
    assert main(["grade", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"dmpo: {path}, line 4: item 0, sample 0 is in line 2 already, which is graded; remove one of them\n"
    assert "1/2" in captured.out


def test_byte_order_marks_are_no_part_of_a_file(tmp_path):
    for path in (published_file(tmp_path, "countdown_instruct_256_128_0", COUNTDOWN), tmp_path / "sudoku.jsonl"):
        text = path.read_text() if path.exists() else results_text(line())
        path.write_text("\ufeff" + text, encoding="utf-8")
        items, problems = grade_files([path])
        assert items and not problems and items[0].grade.correct


def test_a_truth_that_is_null_is_left_out_by_strict_and_counted_as_published(tmp_path, capsys):
    """Published files of GSM8K hold null for a negative truth. Published, such an answer is wrong whatever it says."""
    records = [record("How many?", truth, "\\boxed{18}") for truth in (18.0, None, 17.0, None)]
    path = published_file(tmp_path, "gsm8k_instruct_256_128_0", records)
    assert main(["grade", str(path), "--explain", "1", "--output", str(tmp_path / "graded.jsonl")]) == 0
    out = capsys.readouterr().out
    rows = {row.split()[3]: row for row in out.splitlines() if "gsm8k  " in row and "%" in row}
    assert "1/4" in rows["published"] and "1/2" in rows["strict"] and rows["strict"].endswith("2 without a ground truth left out")
    assert "strict    left out: read None from nowhere; the ground truth is null" in out
    graded = [json.loads(text) for text in (tmp_path / "graded.jsonl").read_text().splitlines()]
    assert [(g["published"], g["strict"]) for g in graded] == [(True, True), (False, None), (False, False), (False, None)]
    strict = next(score for score in summarise(grade_files([path])[0]) if score.grading == "strict")
    assert strict.interval == wilson(0.5, 2) and strict.left_out == 2
    assert any("2 answers without a ground truth are left out" in column.source for column in as_columns(read_runs([path])[0]))
    path = published_file(tmp_path, "gsm8k_instruct_512_256_0", records[1:2], gen_length=512)
    assert [score.grading for score in summarise(grade_files([path])[0])] == ["published"]


def test_files_that_are_not_there_leave_no_output(tmp_path, capsys):
    output = tmp_path / "graded.jsonl"
    assert main(["grade", str(tmp_path / "missing_generations.json"), "--output", str(output)]) == 2
    assert "no file" in capsys.readouterr().err and not output.exists()
    path = published_file(tmp_path, "countdown_instruct_256_128_0", COUNTDOWN)
    assert main(["grade", str(path), "--output", str(output)]) == 0 and len(output.read_text().splitlines()) == 4
