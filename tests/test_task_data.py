"""Reading of data files and of hub data sets, without a network; rewards; what a task of one's own lacks."""

import json
import sys

import datasets
import numpy as np
import pytest
import torch

from dmpo_ref.config import TaskConfig
from dmpo_ref.tasks import TASKS, build_task
from dmpo_ref.tasks.base import ChatTask, check_task, fill_in
from dmpo_ref.tasks.data import read_rows
from dmpo_ref.tasks.gsm8k import GSM8K, Problem
from dmpo_ref.tasks.math500 import MATH500
from dmpo_ref.tasks.math500 import Problem as MATHProblem
from dmpo_ref.tasks.rewards import LARGEST, score_answers
from dmpo_ref.tasks.sudoku import Sudoku, read_puzzles

ROWS = [{"question": "Say “two”, or\n2?", "answer": "#### 2"}, {"question": "Three?", "answer": "#### 3"}]
COLUMNS = ("question", "answer")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", 'question,answer\n"Say “two”, or\n2?",#### 2\nThree?,#### 3\n'),
        ("marked.csv", '\ufeffquestion,answer\n"Say “two”, or\n2?",#### 2\nThree?,#### 3\n'),
        ("rows.json", json.dumps(ROWS)),
        ("rows.jsonl", "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n\n"),
    ],
)
def test_a_file_is_read_by_its_ending(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    assert read_rows(str(tmp_path / name), COLUMNS) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"question\nThree?\n", r"a\.csv, row 1: the columns question, answer are needed; got .*Three"),
        ("a.csv", b"question,answer\nThree?\n", r"a\.csv, row 1: the columns question, answer are needed"),
        ("a.csv", b"question,answer\n", r"a\.csv holds no row"),
        ("a.csv", b"", r"a\.csv holds no row"),
        ("a.csv", b"question,answer\n\xff,1\n", r"a\.csv cannot be read as csv: .*can't decode"),
        ("a.json", b'[{"question": "Three?", "ans', r"a\.json cannot be read as json: Unterminated string"),
        ("a.json", b"", r"a\.json cannot be read as json"),
        ("a.json", b"[]", r"a\.json holds no row"),
        ("a.json", b'{"question": "Three?"}', r"a\.json holds no row: a list of at least one is needed"),
        ("a.json", b"7", r"a\.json holds no row: a list"),
        ("a.json", b"[7]", r"a\.json, row 1: the columns question, answer are needed; got 7"),
        ("a.json", b'[{"question": "Three?", "answer": null}]', r"a\.json, row 1: the columns"),
        ("a.json", b"[" * 100_000, r"a\.json cannot be read as json"),
        (
            "a.jsonl",
            b'{"question": "q", "answer": "a"}\n\n{"question": "Th',
            r"a\.jsonl cannot be read as jsonl: line 3: Unterminated string",
        ),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl cannot be read as jsonl"),
        ("a.jsonl", b"\n\n", r"a\.jsonl holds no row"),
        ("a.txt", b"question", r"a\.txt: the ending must be \.csv, \.json or \.jsonl"),
        ("a", b"question", r"a: the ending must be"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line_that_says_why(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_rows(str(tmp_path / name), COLUMNS)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("source", ["nowhere.csv", "nowhere", "", "openai/gsm8k", "a:b:c:d/e"])
def test_what_is_neither_a_file_nor_a_data_set_is_named(source):
    with pytest.raises(FileNotFoundError, match="give a .csv, .json or .jsonl file, or a hub data set as name:split") as caught:
        read_rows(source, COLUMNS)
    assert f"no data file {source}" in str(caught.value)


@pytest.fixture
def hub_folder(tmp_path, monkeypatch):
    """A data set as the hub holds it: Parquet files under `data/`, a split in each name."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "gsm8k"
    for split, rows in (("train", ROWS), ("test", ROWS[1:])):
        (folder / "data").mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list(rows).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return str(folder)


def test_a_folder_in_the_layout_of_the_hub_is_read_by_its_splits(hub_folder):
    assert read_rows(f"{hub_folder}:train", COLUMNS) == ROWS
    assert read_rows(f"{hub_folder}:test", COLUMNS) == ROWS[1:]
    assert read_rows(f"{hub_folder}:default:test", COLUMNS) == ROWS[1:]
    task = GSM8K(TaskConfig(name="gsm8k", train="-", test="-"))
    assert task.load(f"{hub_folder}:test") == [Problem("Three?", "3")]


def test_a_split_or_a_column_that_a_data_set_does_not_have_is_one_line(hub_folder):
    with pytest.raises(ValueError, match="cannot load the data set .*:dev: .*; a local file of the same columns works too") as caught:
        read_rows(f"{hub_folder}:dev", COLUMNS)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="row 1: the columns problem are needed"):
        read_rows(f"{hub_folder}:test", ("problem",))


@pytest.mark.parametrize("source", ["nobody/nothing:train", "nobody/nothing:main:train"])
def test_a_data_set_that_cannot_be_reached_is_one_line(source):
    with pytest.raises(ValueError, match=f"cannot load the data set {source}: .*; a local file of the same columns works too") as caught:
        read_rows(source, COLUMNS)
    assert "\n" not in str(caught.value)


def test_without_the_library_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"nobody/nothing:train .* pip install 'dmpo-ref\[benchmarks\]'"):
        read_rows("nobody/nothing:train", COLUMNS)


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        *(
            (
                "gsm8k",
                {"question": "q", "answer": f"#### {truth}"},
                f"row 1: a number is needed after ####.*'#### {truth}'",
            )
            for truth in ("1,2,3", "1,00", "12,34", "1,2345", "1,234,5", "--5", "5-")
        ),
        ("gsm8k", {"question": ["q"], "answer": "#### 1"}, r"row 1: the question must be a text, got .*q"),
        ("math500", {"problem": "p", "answer": ["1", "2"]}, r"row 1: problem and answer must be text; got 'p' and .*1"),
        ("math500", {"problem": "p", "solution": ["\\boxed{1}"]}, r"row 1: an answer is needed"),
        ("math500", {"problem": 7, "answer": "1"}, r"row 1: problem and answer must be text; got '7'"),
        *(
            ("math500", {"problem": "p", "answer": answer}, r"row 1: the answer .* in JSON each backslash of LaTeX is written twice")
            for answer in ("\frac{1}{2}", "2\beta", "5\text{ cm}", "\rho", "x\neq 3", "\ufeff12", "a\x00")
        ),
    ],
)
def test_a_truth_that_would_be_read_as_something_else_is_refused_with_its_row(tmp_path, task, row, message):
    """JSON's \\f, \\b, \\t, \\r and \\n are also the beginnings of \\frac, \\beta, \\text, \\rho and \\neq."""
    (tmp_path / "rows.json").write_text(json.dumps([row]))
    with pytest.raises(ValueError, match=message) as caught:
        build_task(TaskConfig(name=task, train="-", test="-")).load(str(tmp_path / "rows.json"))
    assert "\n" not in str(caught.value) and str(tmp_path / "rows.json") in str(caught.value)


def test_a_truth_with_line_breaks_or_of_another_number_type_is_taken(tmp_path):
    rows = [{"problem": "p", "answer": "\\begin{pmatrix}\n1\\\\\n2\\end{pmatrix}"}, {"problem": "p", "answer": 7}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    assert [item.answer[-1] for item in MATH500(TaskConfig(name="math500", train="-", test="-")).load(str(tmp_path / "rows.json"))] == [
        "}",
        "7",
    ]
    assert MATH500.from_record("p", "\\frac12") == MATHProblem("p", "\\frac12")
    with pytest.raises(ValueError, match="written twice"):
        MATH500.from_record("p", "\frac12")


def test_a_byte_order_mark_is_no_part_of_a_prompt(tmp_path):
    (tmp_path / "p.txt").write_text("\ufeffAnswer {question}", encoding="utf-8")
    task = GSM8K(TaskConfig(name="gsm8k", train="-", test="-", prompt_file=str(tmp_path / "p.txt")))
    assert task.prompt(Problem("Why?", "1")) == [{"role": "user", "content": "Answer Why?"}]


@pytest.mark.parametrize("length", [10, 200_000])
def test_a_quote_that_is_not_closed_in_a_puzzle_file_is_one_line(tmp_path, length):
    (tmp_path / "p.csv").write_text('Puzzle,Solution\n"1204301201434320,1234341221434321\n' + "1" * length)
    with pytest.raises(ValueError, match=r"p\.csv") as caught:
        read_puzzles(tmp_path / "p.csv")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    if length > 100_000:
        assert "is a quote not closed?" in str(caught.value)


NO_REWARDS = [b"0.7", bytearray(b"1"), "0.7", None, [1], 1e308, -1e308, 10**400, float("nan"), float("inf"), 1j, np.ones((2, 2)),
              torch.tensor(1j), torch.ones(2), torch.ones((), device="meta")]  # fmt: skip


@pytest.mark.parametrize("value", NO_REWARDS, ids=str)
def test_a_reward_that_is_no_number_or_too_large_is_refused(value):
    """Squares of 1e308 have no float: the spread of the group would be NaN."""
    task = GSM8K(TaskConfig(name="gsm8k", train="-", test="-"))
    with pytest.raises(ValueError, match=r"reward\(item, text\) returned .* for the answer 'a'; return a (finite )?number") as caught:
        score_answers(task, [Problem("?", "1")], [["a", "b"]], lambda item, text: value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"returned .* as 'part' for the answer 'a'; return a (finite )?number") as caught:
        score_answers(Rewarding({"fine": 0.5, "part": value}), [None], [["a", "b"]])
    assert "\n" not in str(caught.value)


class Rewarding:
    """A task that gives every answer the same reward."""

    def __init__(self, parts):
        self.parts = parts

    def reward(self, item, text):
        return self.parts


@pytest.mark.parametrize("parts", [0.5, None, [0.5], torch.tensor(0.5)], ids=str)
def test_a_task_s_reward_that_is_no_dictionary_is_refused(parts):
    with pytest.raises(ValueError, match=r"returned .* for the answer 'a'; a task's reward returns a dictionary of its parts, such as"):
        score_answers(Rewarding(parts), [None], [["a"]])


def test_parts_of_other_number_types_become_plain_numbers_that_json_can_hold():
    parts = {"a": np.float32(0.5), "b": torch.tensor(0.25), "c": True, "d": np.int64(2)}
    total, metrics = score_answers(Rewarding(parts), [None], [["x", "y"]])
    assert total.tolist() == [[3.75, 3.75]]
    assert json.loads(json.dumps(metrics)) == {"reward/a": 0.5, "reward/b": 0.25, "reward/c": 1.0, "reward/d": 2.0}


def test_a_reward_of_the_largest_size_and_of_other_number_types_is_taken():
    task = GSM8K(TaskConfig(name="gsm8k", train="-", test="-"))
    rewards = iter([LARGEST, -LARGEST, np.float32(0.5), torch.tensor(0.25), True])
    total, metrics = score_answers(task, [Problem("?", "1")], [["a"] * 5], lambda item, text: next(rewards))
    assert total.tolist() == [[1e30, -1e30, 0.5, 0.25, 1.0]] and torch.isfinite(total.var()) and metrics["reward/custom"] == 1.75 / 5


# Tasks of one's own


class Asking(ChatTask):
    """The same question for every item, and no worked example."""

    question = r"Say {a} word in \boxed{}."

    def fields(self, item):
        return {}


def test_a_question_without_fields_is_asked_as_it_stands(tmp_path):
    assert Asking(TaskConfig()).prompt(1) == [{"role": "user", "content": Asking.question}]
    (tmp_path / "p.txt").write_text("Say {b}.")
    assert Asking(TaskConfig(prompt_file=str(tmp_path / "p.txt"))).ask(1) == "Say {b}."
    assert fill_in("{n}, {n} and {{m}}, {x}", {"n": 3, "m": "4"}) == "3, 3 and {4}, {x}"


def test_a_prompt_file_is_compared_with_the_fields_also_where_there_is_no_worked_example(tmp_path):
    (tmp_path / "p.txt").write_text("Say it.")
    task = type("Naming", (Asking,), {"fields": lambda self, item: {"name": item}})(TaskConfig(prompt_file=str(tmp_path / "p.txt")))
    with pytest.raises(ValueError, match="p.txt does not contain {name}, where the item is to be put"):
        task.prompt("x")


def test_what_a_task_in_words_lacks_is_named_as_its_own():
    with pytest.raises(ValueError, match="task.few_shot=1: Asking has 0 worked examples; give 0 to that many"):
        Asking(TaskConfig(few_shot=1))
    with pytest.raises(ValueError, match="task Silent has no question; set it"):
        type("Silent", (ChatTask,), {})(TaskConfig())
    with pytest.raises(ValueError, match="task Bare has no fields; write the method"):
        type("Bare", (ChatTask,), {"question": "?"})(TaskConfig()).ask(1)


@pytest.mark.parametrize("build", [*TASKS.values()], ids=lambda build: build.__name__)
def test_the_project_s_own_tasks_have_what_train_needs(build):
    check_task(build(TaskConfig(train="a", test="b")))


def test_what_a_task_from_python_lacks_is_named():
    with pytest.raises(ValueError, match=r"task=Sudoku is a class; give an object of it, as in task=Sudoku\(\)"):
        check_task(Sudoku)
    with pytest.raises(ValueError, match="task Asking has no load, grade, reward; dmpo_ref.tasks.base.Task says what each must be"):
        check_task(Asking(TaskConfig()))
    with pytest.raises(ValueError, match="task object has no load, prompt, template, grade, alphabet, prefill;"):
        check_task(object(), has_reward=True)
    task = Sudoku(TaskConfig())
    task.grade = None
    with pytest.raises(ValueError, match="task Sudoku has no grade;"):
        check_task(task)
    task = Sudoku(TaskConfig())
    task.alphabet = ""
    with pytest.raises(ValueError, match="task Sudoku has an empty alphabet; give the characters that may be generated, or None for free"):
        check_task(task)
