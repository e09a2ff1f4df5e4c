"""MATH-500: both gradings against cases worked by hand, the published rewriting rule by rule, the bounded comparison, rewards."""

import os
import random
import re
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dmpo_ref.config import TaskConfig
from dmpo_ref.tasks.answers import comparison, equality
from dmpo_ref.tasks.answers import helper as helpers
from dmpo_ref.tasks.answers.comparison import parse
from dmpo_ref.tasks.answers.equality import are_equal
from dmpo_ref.tasks.answers.helper import Helper
from dmpo_ref.tasks.answers.latex import normalise, published_equal
from dmpo_ref.tasks.answers.marked import published_box
from dmpo_ref.tasks.math500 import MATH500, Problem, from_row, published_format

CASES = yaml.safe_load(Path("tests/cases/math500.yaml").read_text(encoding="utf-8"))
TOKENS = [
    *(
        "\\boxed{",
        "\\boxed ",
        "\\fbox{",
        "}",
        "{",
        "\\{",
        "$",
        "<answer>",
        "</answer>",
        "\n",
        " ",
        "<|eot_id|>",
        "\\frac",
        "\\sqrt",
        "\\text{ ",
    ),
    *(
        "1",
        "2",
        "x",
        "/",
        "=",
        ".",
        ",",
        "^",
        "_",
        "\\left(",
        "\\right)",
        "\\\\",
        "\\%",
        "\\pm",
        "\\begin{",
        "\x00",
        "\ud800",
        "²",
        "odd",
        "-",
    ),
]
soups = st.lists(st.sampled_from(TOKENS), max_size=30).map("".join)


def math(**options) -> MATH500:
    return MATH500(TaskConfig(name="math500", train="-", test="-", **options))


@pytest.fixture
def no_comparison(monkeypatch):
    """Without the process that compares; what it would be asked is undecided."""
    monkeypatch.setattr(comparison, "are_equal", lambda truth, answer: None)


@pytest.fixture
def helper(monkeypatch):
    """A process of the test's own, with a time limit of a second and no check of what it is given."""
    monkeypatch.setattr(helpers, "SECONDS", 1)
    monkeypatch.setattr(equality, "HUGE", re.compile("(?!)"))
    own = Helper("dmpo_ref.tasks.answers.equality:equal_by_math_verify")
    monkeypatch.setattr(helpers, "HELPERS", {(os.getpid(), own.function): own})
    yield own
    own.stop()


@pytest.mark.parametrize(
    ("text", "source", "reason"),
    [
        (r"so \boxed{7}", r"the last \boxed", "the same string once both are rewritten"),
        (r"so \boxed{8}", r"the last \boxed", "not the same string once both are rewritten"),
        ("7", r"the whole text, as there is no \boxed", "the same string once both are rewritten"),
        (r"\boxed{}<answer>7</answer>", r"the first <answer>, as the last \boxed holds nothing", "the same string once both are rewritten"),
        (r"\boxed{}", r"the first <answer>, as the last \boxed holds nothing", "no answer"),
    ],
)
def test_a_published_verdict_says_what_it_read_and_why(text, source, reason):
    verdict = MATH500.grade(Problem("?", "7", "level 3"), text).published
    assert (verdict.source, verdict.reason) == (source, reason)
    nothing = MATH500.grade(Problem("?", "", "level 3"), r"\boxed{7}").published
    assert (nothing.right, nothing.reason) == (0, "the right answer is not known")


@pytest.mark.parametrize(
    ("truth", "answer", "equal"),
    [
        (r"\sqrt{2}", r"\sqrt{2}+\frac{5}{10^{41}}", True),  # 3.5e-41 of it: 40 digits agree
        (r"\sqrt{2}", r"\sqrt{2}+\frac{2}{10^{40}}", False),  # 1.4e-40 of it
        ("1", " 1" + "+0" * 249, True),  # 500 characters
        ("1", "1" + "+0" * 250, None),  # 501
        ("x", "2", False),
        ("2", "x", False),
    ],
)
def test_how_many_digits_and_characters_are_compared(truth, answer, equal):
    assert equality.are_equal(truth, answer) is equal


@pytest.mark.parametrize(("text", "truth", "strict", "published", "why"), CASES, ids=[case[0][:40] for case in CASES])
def test_both_gradings_of_a_case_worked_by_hand(text, truth, strict, published, why):
    grade = MATH500.grade(Problem("?", truth, "level 3"), text.replace("⏎", "\n"))
    assert (grade.strict.right, grade.published.right) == (strict, published), (why, grade)
    assert grade.strict.total == grade.published.total == 1 and grade.correct is strict and grade.kind == "level 3"
    for verdict in (grade.strict, grade.published):
        assert verdict.source and verdict.reason and "\n" not in verdict.reason


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb\\!c", "abc"),
        (r"1\\2", r"1\2"),
        (r"\tfrac{1}{2}\dfrac{3}{4}", r"\frac{1}{2}\frac{3}{4}"),
        (r"\left(1\right)", "(1)"),
        (r"\leftarrow", "arrow"),
        (r"90^{\circ}+45^\circ", "90+45"),
        (r"\$5", "5"),
        ("$5", "$5"),
        (r"5\text{ cm} more", "5"),
        (r"5\text{cm}", r"5\text{cm}"),
        (r"50\%", "50"),
        (r"a .5{.5}", "a0.5{0.5}"),
        ("a.5", "a.5"),
        (r"\text{ cm}", ""),
        ("", ""),
        (".25", "0.25"),
        ("x=5", "5"),
        ("xy=5", "5"),
        ("=5", "5"),
        ("xyz=5", "xyz=5"),
        ("x=y=5", "x=y=5"),
        (r"\sqrt3+\sqrt{5}", r"\sqrt{3}+\sqrt{5}"),
        (r"\sqrt 3", r"\sqrt{}3"),
        (r"\sqrt[3]{2}", r"\sqrt{[}3]{2}"),
        ("1 0", "10"),
        (r"\frac12", r"\frac{1}{2}"),
        (r"\frac123", r"\frac{1}{2}3"),
        (r"\frac1{23}", r"\frac{1}{23}"),
        (r"\frac{1}2", r"\frac{1}{2}"),
        (r"\frac{1}{2}", r"\frac{1}{2}"),
        (r"\frac{1}", r"\frac{1}"),
        (r"\frac{1", r"\frac{1"),
        (r"\frac{\frac12}3", r"\frac{\frac{1}{2}}3"),  # \frac splits the text before braces are looked at
        (r"\frac12+\frac3", r"\frac12+\frac3"),
        (r"\frac12+\frac", r"\frac12+\frac"),
        ("0.5", r"\frac{1}{2}"),
        (".5", r"\frac{1}{2}"),
        ("10.5", "10.5"),
        ("1/2", r"\frac{1}{2}"),
        ("-1/2", r"\frac{-1}{2}"),
        ("01/2", "01/2"),
        ("+1/2", "+1/2"),
        ("1/2/3", "1/2/3"),
        ("k=1/2", r"\frac{1}{2}"),
    ],
)
def test_the_published_rewriting_rule_by_rule(text, expected):
    assert normalise(text) == expected


@pytest.mark.parametrize("text", [r"5\text{ a}\text{ b}", r"2\sqrt", "a/b", "1/x", "/", "1.5/2", f"{'9' * 5000}/2"])
def test_where_the_rewriting_fails_answers_are_compared_as_they_are(text):
    with pytest.raises(ValueError):
        normalise(text)
    assert published_equal(text, text) and not published_equal(text, text + " ") and not published_equal(text + " ", text)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        *((text, "") for text in ("5", "(5)", "", "x+1", r"3\pmod{7}")),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "matrix [2, 2]"),
        (r"(1,2)\cup(3,4)", "∪"),
        *((text, "{}") for text in ("1,2", r"\{1,2\}", r"\pm2", "(1,2),(3,4)", r"1\text{ or }2", "x=1,2")),
        *(("(1,2)", "()"), ("[1,2)", "[)"), ("(1,2]", "(]"), ("[1,2]", "[]"), ("((1,2),3)", "()"), ("p=(1,2)", "()"), ("(1)+(2,3)", "()")),
    ][:-1],
)
def test_what_holds_a_list_together(text, form):
    assert parse(text).form == form


def test_a_comparison_that_does_not_end_is_given_up_and_the_next_one_is_made(helper):
    assert are_equal("5", "2+3") is True
    first = helper.process
    assert are_equal("5", "9^{9^{9}}") is None and first.poll() is not None
    assert are_equal("5", "2+3") is True and helper.process is not first


def test_a_process_that_was_killed_or_answers_nothing_is_replaced(helper):
    assert are_equal("5", "2+3") is True
    helper.process.kill()
    helper.process.wait()
    assert are_equal("5", "2+3") is True
    helper.process.stdin.close()
    assert are_equal("5", "2+3") is None
    assert are_equal("5", "2+3") is True


def test_what_is_huge_or_long_is_not_even_tried(monkeypatch):
    monkeypatch.setattr(Helper, "ask", lambda *_: pytest.fail("asked"))
    for answer in ("9^{9^{9}}", "10^{100000}", "x^{-12345}", "2^ 99999", "100000!", "9!!", "1+" * 400 + "1"):
        assert are_equal("5", answer) is None


def test_ordinary_powers_and_factorials_are_compared():
    for truth, answer in (("1024", "2^{10}"), ("x^2+y^2", "y^2+x^2"), ("120", "5!"), ("2^{100}", "4^{50}"), ("x^{2}", "x^{2}+0")):
        assert are_equal(truth, answer) is True


def test_an_answer_is_compared_in_threads_and_in_other_processes():
    found = []
    threads = [Thread(target=lambda n=n: found.append((n, are_equal(str(n), f"{n - 1}+1")))) for n in (5, 6, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [(5, True), (6, True), (7, True)]
    program = "from equality import are_equal; print(are_equal('5', '2+3'), are_equal('5', '2+4'))"
    ended = subprocess.run([sys.executable, "-c", program], cwd=Path(equality.__file__).parent, capture_output=True, text=True)
    assert ended.stdout.split() == ["True", "False"] and not ended.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_does_not_share_the_pipes_of_its_parent():
    assert are_equal("5", "2+3") is True
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writes, b"1" if are_equal("6", "2+4") and len(helpers.HELPERS) == 2 else b"0")
        helpers.stop_helpers()
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reads, 1) == b"1"
    assert are_equal("5", "2+3") is True
    os.close(reads)
    os.close(writes)


def test_without_math_verify_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(equality.importlib.util, "find_spec", lambda name: None)
    for call in (math, lambda: are_equal("5", "2+3")):
        with pytest.raises(ValueError, match=r"math-verify: pip install 'dmpo-ref\[benchmarks\]'") as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("", 0.25),  # any text earns it
        ("7", 0.25),
        ("\\boxed{7}", 0.5),
        ("<answer>7</answer>", 0.75),
        ("<answer>7", 0.75),
        ("<answer>\\boxed{7}</answer>", 1.0),
        ("<answer>7</answer>\\boxed{7}", 0.75),
        ("<answer>7</answer><answer>\\boxed{7}</answer>", 0.75),  # the first one
    ],
)
def test_the_published_format_reward_of_cases_worked_by_hand(text, form):
    assert published_format(text) == form
    reward = math(reward="published").reward(Problem("?", "7"), text)
    assert reward == {"correct": 2.0 * (text == "7" or "boxed" in text), "format": form}


@pytest.mark.parametrize(
    ("text", "correct", "form"),
    [
        ("", 0.0, 0.0),
        ("7", 0.0, 0.0),
        ("\\boxed{7}", 2.0, 0.0),
        ("<answer>7</answer>", 2.0, 0.5),
        ("<answer>7", 2.0, 0.0),
        ("<answer>\\boxed{7}</answer>", 2.0, 1.0),
        ("<answer>\\boxed{3+4}</answer>", 2.0, 1.0),
        ("<answer>\\boxed{8}</answer>", 0.0, 1.0),
        ("<answer>\\boxed{7</answer>", 2.0, 0.5),  # the tag closes the box too
        ("<answer>7</answer><answer>\\boxed{7}</answer>", 2.0, 0.0),
    ],
)
def test_the_mended_rewards_of_cases_worked_by_hand(text, correct, form):
    assert math(reward="recipe").reward(Problem("?", "7"), text) == {"correct": correct, "format": form}
    assert math().reward(Problem("?", "7"), text) == {"solved": correct / 2}


def test_a_prefilled_start_belongs_to_what_is_rewarded():
    """Where there is no box, the published rule compares the whole text."""
    assert math(reward="published").reward(Problem("?", "7"), "7") == {"correct": 2.0, "format": 0.25}
    assert math(reward="published", prefill=True).reward(Problem("?", "7"), "7") == {"correct": 0.0, "format": 0.25}


def test_a_prompt_asks_the_problem_after_the_worked_examples():
    item = Problem(r"What is $\frac{1}{2}$ of {problem}?", "7")
    (message,) = math().prompt(item)
    assert message["role"] == "user" and message["content"].startswith(item.problem + "\n")
    assert (
        all(part in message["content"] for part in ("<reasoning>\n", "</reasoning>\n<answer>\n", "\\boxed{"))
        and "7" not in message["content"]
    )
    turns = math(few_shot=4, prefill=True).prompt(item)
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 4 + ["user"] and turns[-1] == message
    for example, answer in MATH500.examples:
        assert MATH500.grade(example, answer).correct and MATH500.grade(example, answer).published.right
        assert math(reward="recipe").reward(example, answer) == {"correct": 2.0, "format": 1.0}


def test_the_solutions_of_the_shipped_problems_are_right_by_both_gradings_and_no_problem_is_in_both_splits():
    task = math()
    train, test = task.load("toy/data/math500_train.jsonl"), task.load("toy/data/math500_test.jsonl")
    assert (len(train), len(test)) == (40, 20) and len({item.problem for item in train + test}) == 60
    assert {item.kind for item in train} == {f"level {n}" for n in range(1, 6)}
    rows = [yaml.safe_load(row) for split in ("train", "test") for row in Path(f"toy/data/math500_{split}.jsonl").read_text().splitlines()]
    for item, row in zip(train + test, rows, strict=True):
        grade = task.grade(item, row["solution"])
        assert grade.correct and grade.published.right, row


# Sums and other answers that can be computed without the solution's words.
COMPUTED = {
    "What is the sum of the first five prime numbers?": sum(n for n in range(2, 12) if all(n % d for d in range(2, n))),
    "What is the greatest common divisor of 84 and 126?": max(d for d in range(1, 85) if 84 % d == 126 % d == 0),
    "How many ways are there to arrange the letters of the word MOON?": 12,
    "How many positive divisors has 72?": sum(72 % d == 0 for d in range(1, 73)),
    "What is the smallest positive integer that leaves 2 when divided by 5 and 3 when divided by 7?": next(
        n for n in range(1, 40) if n % 5 == 2 and n % 7 == 3
    ),
    "What is the least common multiple of 12 and 18?": next(n for n in range(1, 300) if n % 12 == n % 18 == 0),
    "For how many integers $n$ is $n^2 - 6n + 8$ negative?": sum(n * n - 6 * n + 8 < 0 for n in range(-99, 99)),
    "How many numbers of three digits have only odd digits?": sum(set(str(n)) <= set("13579") for n in range(100, 1000)),
    "What is the last digit of $3^{22}$?": 3**22 % 10,
    r"What is $\sum_{k=1}^{10} k^2$?": sum(k * k for k in range(1, 11)),
}


def test_answers_of_shipped_problems_that_can_be_counted_are_right():
    items = {item.problem: item.answer for split in ("train", "test") for item in math().load(f"toy/data/math500_{split}.jsonl")}
    assert {problem: items[problem] for problem in COMPUTED} == {problem: str(answer) for problem, answer in COMPUTED.items()}


def test_the_answer_is_a_column_or_the_box_of_the_solution(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(
        '{"problem": "p", "answer": "7"}\n{"problem": "q", "solution": "so $\\\\boxed{\\\\frac{1}{2}}$.", "level": "Level 4"}\n'
    )
    assert math().load(str(file)) == [Problem("p", "7", "all"), Problem("q", r"\frac{1}{2}", "level 4")]
    for row in (
        '{"problem": "p"}',
        '{"problem": "p", "answer": " "}',
        '{"problem": "p", "solution": "so 7"}',
        '{"problem": "p", "solution": "\\\\boxed{7"}',
    ):
        file.write_text(row)
        with pytest.raises(ValueError, match=r"rows\.jsonl, row 1: an answer is needed"):
            math().load(str(file))


def test_a_problem_typed_by_hand():
    task = math()
    assert task.parse("Why? #### \\frac{1}{2}") == Problem("Why?", "\\frac{1}{2}") and task.parse(" Why? ") == Problem("Why?", "")
    assert task.show(task.parse("Why?")) == "Why?"
    assert task.show(Problem("?", "7"), "<answer>6</answer>").endswith("[the last <answer>: not equal; the right answer is 7]")
    assert not task.grade(task.parse("Why?"), "\\boxed{7}").correct and not task.grade(task.parse("Why?"), "").published.right
    for wrong in ("", " ", "#### 5", "Why? ####"):
        with pytest.raises(ValueError, match="give a problem"):
            task.parse(wrong)


def test_a_record_holds_the_answer_and_gives_the_problem_back():
    item = Problem("Why?", r"\frac{1}{2}")
    assert MATH500.record(item) == ("Why?", r"\frac{1}{2}") and MATH500.from_record(*MATH500.record(item)) == item


@pytest.mark.parametrize(
    ("question", "truth"),
    [
        ("Why?", 18.0),
        ("Why?", None),
        ("Why?", [[1, 2], 3]),
        (None, "7"),
        ("1200341221434321", "1234341221434321"),
        ("Sudoku puzzle: 1200341221434321", "1234341221434321"),
    ],
)
def test_records_of_other_tasks_are_refused_in_one_line(question, truth):
    with pytest.raises(ValueError, match="a math500 record is a problem and its answer, both text") as caught:
        MATH500.from_record(question, truth)
    assert "\n" not in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(soups | st.text(max_size=50), st.sampled_from(["1", r"\text{odd}", "(1,2)", r"\frac{1}{2}", "x=1", ""]))
def test_nothing_that_a_model_writes_raises(text, truth):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "are_equal", lambda truth, answer: None)
        assert MATH500.grade(Problem("?", truth), text).strict.right in (0, 1)
        for name in ("solved", "recipe", "published"):
            assert all(isinstance(value, float) for value in math(reward=name, prefill=True).reward(Problem("?", truth), text).values())


@settings(max_examples=40, deadline=None)
@given(soups | st.text(max_size=20))
def test_nothing_that_a_model_writes_breaks_the_comparison(text):
    assert are_equal("1", text) in (True, False, None)


def spoilt_answers(draw: random.Random, count: int):
    for _ in range(count):
        text = list("<answer>\n\\boxed{\\frac{12}{35}}\n</answer>")
        for _ in range(draw.randrange(1, 4)):
            at = draw.randrange(len(text))
            text[at] = draw.choice(["", text[at] * 2, draw.choice(TOKENS)])
        yield "".join(text)


def test_ten_thousand_mutated_answers_are_graded(no_comparison):
    """Without the comparison an answer is right only if it says the same but for spacing."""
    right = 0
    for text in spoilt_answers(random.Random(0), 10_000):
        grade = MATH500.grade(Problem("?", r"\frac{12}{35}"), text)
        right += grade.strict.right
        if grade.strict.right:
            assert "1235" in re.sub(r"[^0-9]", "", text)
    assert 2000 < right < 10_000


@pytest.mark.long
def test_mutated_answers_are_right_only_if_their_digits_make_the_truth():
    for text in spoilt_answers(random.Random(1), 2000):
        if MATH500.grade(Problem("?", r"\frac{12}{35}"), text).correct:
            assert {"1", "2", "3", "5"} <= set(text), text


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "\\boxed{",
            "\\boxed ",
            "\\fbox{",
            "}",
            "{",
            "\\{",
            "<answer>",
            "</answer>",
            "<answer>\\boxed{",
            "\\boxed{1}",
            "\n",
            " ",
            "9",
            "1/2",
        ),
        *("\\frac{1}", "\\frac1", "\\sqrt2", "\\text{ ", "^{", "(", "\\", "=", "\x00"),
    ],
)
def test_a_megabyte_of_anything_takes_work_in_proportion(piece):
    long = piece * (1_000_000 // len(piece))
    for text in (long, f"<answer>\\boxed{{{long}}}"):
        MATH500.grade(Problem("?", "12"), text)
        math(reward="recipe").reward(Problem("?", "12"), text)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("so \\boxed{5} is it", "5"),
        ("\\boxed{1} and \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("so \\fbox{5} is it", "\\fbox{5}"),  # with what is around it, unlike a \boxed one
        ("\\fbox{5} then \\boxed{6}", "6"),
        ("so $\\boxed 5$ is it", "5"),
        ("no box", "no box"),
        ("\\boxed{5", None),
        ("\\fbox{{5}", None),
    ],
)
def test_what_the_published_evaluation_takes_for_the_answer(text, content):
    assert published_box(text) == content


@pytest.mark.parametrize("answer", [True, float("nan"), float("inf"), ["1", "2"], "['1', '2']", '["x"]', {"a": 1}])
def test_an_answer_that_is_no_text_and_no_number_is_refused_with_its_row(answer):
    with pytest.raises(ValueError, match=r"^file, row 3: problem and answer must be text; got 'What\?' and "):
        from_row({"problem": "What?", "answer": answer}, "file, row 3")
    assert (
        from_row({"problem": "What?", "answer": "[1, 2]"}, "").answer == "[1, 2]"
        and from_row({"problem": "", "answer": 5}, "").answer == "5"
    )


@pytest.mark.parametrize("text", ["x=" * 1000, "(1," * 480 + "2" + ")" * 480, r"\{" * 480 + "1,2" + r"\}" * 480])
def test_names_and_lists_within_each_other_end_in_no_error(text):
    assert not MATH500.grade(Problem("?", "5"), rf"\boxed{{{text}}}").strict.right
