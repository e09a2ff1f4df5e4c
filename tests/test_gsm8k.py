"""GSM8K: prompts, what is read from answers, both gradings against cases worked by hand, rewards."""

import random
import re
from fractions import Fraction
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dmpo_ref.config import TaskConfig
from dmpo_ref.tasks.answers.numerals import read_number
from dmpo_ref.tasks.data import read_rows
from dmpo_ref.tasks.gsm8k import GSM8K, Problem, published_boxes, published_number, published_tags, starts_with_tags

CASES = yaml.safe_load(Path("tests/cases/gsm8k.yaml").read_text(encoding="utf-8"))
TOKENS = [
    *("<reasoning>", "</reasoning>", "<answer>", "</answer>", "\\boxed{", "}", "{", "\\boxed", "\n", " ", "...", "####", "<|eot_id|>"),
    *(
        "1",
        "12",
        ",",
        ".",
        "-",
        "−",
        "=",
        "/",
        "\\frac{1}{2}",
        "$",
        "%",
        "\\text{",
        "e",
        "nan",
        "inf",
        "x",
        "\x00",
        "\ud800",
        "٣",
        "²",
        "\\",
    ),
]
soups = st.lists(st.sampled_from(TOKENS), max_size=30).map("".join)


def gsm8k(**options) -> GSM8K:
    return GSM8K(TaskConfig(name="gsm8k", train="-", test="-", **options))


@pytest.mark.parametrize(("text", "truth", "strict", "published", "why"), CASES, ids=[case[0][:40] for case in CASES])
def test_both_gradings_of_a_case_worked_by_hand(text, truth, strict, published, why):
    grade = GSM8K.grade(Problem("?", truth), text.replace("⏎", "\n"))
    assert (grade.strict.right, grade.published.right) == (strict, published), (why, grade)
    assert grade.strict.total == grade.published.total == 1 and grade.correct is strict
    for verdict in (grade.strict, grade.published):
        assert verdict.source and verdict.reason and "\n" not in verdict.reason


@settings(max_examples=200, deadline=None)
@given(
    st.integers(-(10**9), 10**9),
    st.integers(0, 10**4),
    st.sampled_from(["{}", "${}", "\\${}", "{} apples", "x = {}", "\\text{{{}}}", "**{}**"]),
)
def test_a_number_is_read_exactly_however_it_is_written(whole, fraction, around):
    digits = f"{fraction:04d}"
    value = Fraction(whole) + (1 if whole >= 0 else -1) * Fraction(int(digits), 10 ** len(digits))
    for grouped in (
        f"{whole}",
        f"{whole:,}",
        f"{whole:,}".replace(",", " "),
        f"{whole:,}".replace(",", "{,}"),
        f"{whole:,}".replace(",", r"\,"),
    ):
        number, reason = read_number(around.format(f"{grouped}.{digits}"))
        assert number == value, (grouped, reason)


@given(
    st.integers(0, 999),
    st.integers(0, 999),
    st.sampled_from([" or ", " and ", ", ", "-", " - ", " x ", " * ", "^", ":", " \\times ", "; ", " to "]),
)
def test_two_numbers_are_no_answer(first, second, between):
    assert read_number(f"{first}{between}{second}")[0] is None
    states_another = between in (" or ", ", ", "; ") and first not in (7, second)  # "18, 3 = 7" states 18 and 7
    assert read_number(f"{first}{between}{second} = 7")[0] == (None if states_another else 7)


def test_a_story_is_no_number():
    assert read_number("18" + " apples" * 20)[0] == 18 and read_number("18" + " apples" * 40)[0] is None


@settings(max_examples=200, deadline=None)
@given(soups)
def test_published_boxes_are_those_of_the_plain_regular_expression(text):
    assert published_boxes(text) == [box.strip() for box in re.findall(r"\\boxed{(.*?)}", text)]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(["<reasoning>", "</reasoning>", "<answer>", "</answer>", "\n", " ", "a"]), max_size=12).map("".join))
def test_the_format_of_a_text_is_that_of_the_plain_regular_expression(soup):
    soft = r"<reasoning>.*?</reasoning>\s*<answer>.*?</answer>"
    for text in (soup, "<reasoning>" + soup):
        assert starts_with_tags(text, across_lines=True) == bool(re.match(soft, text, flags=re.DOTALL))
        assert starts_with_tags(text, across_lines=False) == bool(re.match(soft, text))
    strict = r"^<reasoning>\n.*?\n</reasoning>\n<answer>\n.*?\n</answer>\n$"
    form = "<reasoning>\n{}\n</reasoning>\n<answer>\n5\n</answer>\n"
    for text in (soup, form.format(soup), form.format("a") + "\n", form.format("a") + soup):
        reward = gsm8k(reward="published").reward(Problem("?", "5"), text)
        assert reward["strict_format"] == 0.5 * bool(re.match(strict, text))


def test_a_published_number_is_a_float_or_one_of_the_numbers():
    assert published_number("1e3", 0) == 1000 and published_number("-7.50 to 8", 0) == -7.5 and published_number("-7.50 to 8", -1) == 8
    assert published_number("1,000", 0) == 1 and published_number("", 0) is None and published_number("no", -1) is None
    assert published_number("12.", 0) == 12 and published_number("- 5", 0) == 5


ONE_LINE = "<reasoning>\n{}\n</reasoning>\n<answer>\n{}\n</answer>"


@pytest.mark.parametrize(
    ("text", "tags", "soft", "strict", "integer", "correct"),
    [
        # Nothing behind "\n</answer>\n"; behind "\n</answer>" a line break, from which one character is taken off.
        (ONE_LINE.format("so", 18) + "\n", 0.5, 0.0, 0.5, 0.5, 2.0),
        # No "\n</answer>\n": the whole text of 49 characters counts as behind; behind "\n</answer>" are −1.
        (ONE_LINE.format("so", 18), 0.5 - 0.049 + 0.001, 0.0, 0.0, 0.5, 2.0),
        # Behind the answer are 4 characters, and again 5 − 1.
        (ONE_LINE.format("so", 18) + "\nabcd", 0.5 - 0.004 - 0.004, 0.0, 0.0, 0.5, 2.0),
        # `.` matches no line break: reasoning of two lines has no strict form.
        (ONE_LINE.format("so\nand so", 18) + "\n", 0.5, 0.0, 0.0, 0.5, 2.0),
        ("<reasoning>so</reasoning> <answer>18</answer>", 0.0, 0.5, 0.0, 0.5, 2.0),
        ("<reasoning>so</reasoning>\n<answer>18</answer>", 0.0, 0.5, 0.0, 0.5, 2.0),
        ("<reasoning>so\n</reasoning><answer>18</answer>", 0.0, 0.0, 0.0, 0.5, 2.0),
        ("x<reasoning>so</reasoning><answer>18</answer>", 0.0, 0.0, 0.0, 0.5, 2.0),
        ("18", 0.0, 0.0, 0.0, 0.5, 2.0),  # the whole text where there is no <answer>
        ("<answer>17</answer><answer>18</answer>", 0.0, 0.0, 0.0, 0.5, 2.0),  # the last one
        ("<answer>18.0</answer>", 0.0, 0.0, 0.0, 0.0, 0.0),  # compared as text
        ("<answer>$18</answer>", 0.0, 0.0, 0.0, 0.0, 0.0),
        ("<answer>\\boxed{18}</answer>", 0.0, 0.0, 0.0, 0.0, 0.0),
        ("<answer>19</answer>", 0.0, 0.0, 0.0, 0.5, 0.0),
        ("<reasoning>\n<reasoning>\n", 0.0, 0.0, 0.0, 0.0, 0.0),  # a tag that occurs twice
        ("", 0.0, 0.0, 0.0, 0.0, 0.0),
    ],
)
def test_published_rewards_of_cases_worked_by_hand(text, tags, soft, strict, integer, correct):
    reward = gsm8k(reward="published").reward(Problem("?", "18"), text)
    assert reward == pytest.approx({"tags": tags, "soft_format": soft, "strict_format": strict, "integer": integer, "correct": correct})


def test_published_tags_can_cost_more_than_they_give():
    assert published_tags("\n<answer>\n" + "a" * 500) == pytest.approx(0.125 - 0.510)


@pytest.mark.parametrize(
    ("text", "tags", "soft", "strict", "integer", "correct"),
    [
        (ONE_LINE.format("so\nand so", 18), 0.5, 0.5, 0.5, 0.5, 2.0),
        (ONE_LINE.format("so", "\\boxed{18.00}"), 0.5, 0.5, 0.5, 0.5, 2.0),
        (ONE_LINE.format("so", "\\boxed{17.5}"), 0.5, 0.5, 0.5, 0.0, 0.0),
        (ONE_LINE.format("so", 18) + "\nabcd", 0.5 - 0.005, 0.5, 0.0, 0.5, 2.0),
        (ONE_LINE.format("so", 18) + "a" * 900, 0.0, 0.5, 0.0, 0.5, 2.0),
        ("<reasoning>so</reasoning> <answer>18</answer>", 0.5, 0.5, 0.0, 0.5, 2.0),
        ("<answer>1</answer><answer>18</answer>", 0.0, 0.0, 0.0, 0.5, 2.0),
        ("18", 0.0, 0.0, 0.0, 0.0, 0.0),
        ("", 0.0, 0.0, 0.0, 0.0, 0.0),
    ],
)
def test_mended_rewards_of_cases_worked_by_hand(text, tags, soft, strict, integer, correct):
    reward = gsm8k(reward="recipe").reward(Problem("?", "18"), text)
    assert reward == pytest.approx({"tags": tags, "soft_format": soft, "strict_format": strict, "integer": integer, "correct": correct})


def test_a_prefilled_start_belongs_to_what_is_rewarded():
    text = ONE_LINE.format("so", 18).removeprefix("<reasoning>\n")
    assert gsm8k(reward="recipe").reward(Problem("?", "18"), text)["strict_format"] == 0.0
    task = gsm8k(reward="recipe", prefill=True)
    assert task.prefill == "<reasoning>\n" and task.reward(Problem("?", "18"), text)["strict_format"] == 0.5
    assert task.show(Problem("?", "18"), text).startswith("<reasoning>\nso\n")


def test_solved_is_the_strict_grading():
    item = Problem("?", "1000")
    assert gsm8k().reward(item, "\\boxed{1,000}") == {"solved": 1.0} and gsm8k().reward(item, "\\boxed{1}") == {"solved": 0.0}


def test_a_prompt_asks_the_question_after_the_worked_examples():
    item = Problem("How many {question} and {braces}?", "18")
    (message,) = gsm8k().prompt(item)
    assert message["role"] == "user" and message["content"].startswith(item.question + "\n")
    assert (
        all(part in message["content"] for part in ("<reasoning>\n", "</reasoning>\n<answer>\n", "\\boxed{"))
        and "18" not in message["content"]
    )
    turns = gsm8k(few_shot=3).prompt(item)
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 3 + ["user"] and turns[-1] == message
    with pytest.raises(ValueError, match="few_shot=9: GSM8K has 4 worked examples"):
        gsm8k(few_shot=9)


def test_the_worked_examples_are_right_and_in_form():
    for item, answer in GSM8K.examples:
        grade = GSM8K.grade(item, answer)
        assert grade.correct and grade.published.right and gsm8k(reward="recipe").reward(item, answer)["strict_format"] == 0.5
        assert_arithmetic(answer)


def assert_arithmetic(text: str) -> None:
    """Every `a op b … = c` in a text is true, and there is at least one."""
    steps = re.findall(r"(-?[0-9.]+(?: [*/+-] -?[0-9.]+)+) = (-?[0-9]+(?:\.[0-9]+)?)", text)
    assert steps
    for expression, result in steps:
        assert eval(re.sub(r"([0-9.]+)", r"Fraction('\1')", expression), {"Fraction": Fraction}) == Fraction(result), (expression, result)


def test_the_shipped_problems_add_up_and_no_question_is_in_both_splits():
    task = gsm8k()
    train, test = task.load("toy/data/gsm8k_train.jsonl"), task.load("toy/data/gsm8k_test.jsonl")
    assert (len(train), len(test)) == (40, 20) and len({item.question for item in train + test}) == 60
    rows = [row for split in ("train", "test") for row in read_rows(f"toy/data/gsm8k_{split}.jsonl", ("question", "answer"))]
    for answer in (row["answer"] for row in rows):
        assert_arithmetic(answer)
        steps, _, truth = answer.rpartition("\n#### ")
        assert Fraction(re.findall(r"= (-?[0-9]+(?:\.[0-9]+)?)", steps)[-1]) == Fraction(truth.replace(",", ""))


def test_the_truth_stands_after_the_last_mark(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text('question,answer\nWhy?,"So #### 3\n#### -1,234.50 "\n')
    (item,) = gsm8k().load(str(file))
    assert item == Problem("Why?", "-1,234.50") and item.value == Fraction(-12345, 10)
    for wrong in ("18", "#### ", "#### x", "#### 1 or 2", "#### " + "9" * 99):
        file.write_text(f"question,answer\nWhy?,{wrong}\n")
        with pytest.raises(ValueError, match=r"rows\.csv, row 1: a number is needed after ####"):
            gsm8k().load(str(file))


def test_a_question_typed_by_hand():
    task = gsm8k()
    assert task.parse("How many? #### 1,000") == Problem("How many?", "1,000") and task.parse(" How many? ") == Problem("How many?", None)
    assert task.show(task.parse("How many?")) == "How many?"
    assert task.show(Problem("?", "18"), "<answer>17</answer>").endswith("[the last <answer>: reads 17, the right answer is 18]")
    for wrong in ("", " ", "#### 5", "How many? #### five"):
        with pytest.raises(ValueError, match="question") as caught:
            task.parse(wrong)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("answer", "truth"), [("18", 18.0), ("1,000", 1000.0), ("-4.5", -4.5), ("0.1", 0.1), (None, None)])
def test_a_record_holds_a_number_and_gives_the_problem_back(answer, truth):
    assert GSM8K.record(Problem("Why?", answer)) == ("Why?", truth)
    back = GSM8K.from_record("Why?", truth)
    assert back.value == Problem("Why?", answer).value and GSM8K.record(back) == ("Why?", truth)


def test_a_whole_number_comes_back_as_digits_for_the_reward_that_compares_text():
    assert GSM8K.from_record("Why?", 18.0).answer == "18"


@pytest.mark.parametrize("truth", ["18", [[1, 2], 3], True, float("nan"), float("inf"), 10**400, {}])
def test_records_of_other_tasks_are_refused_in_one_line(truth):
    with pytest.raises(ValueError, match="a gsm8k record is a question and a number, or null") as caught:
        GSM8K.from_record("Why?", truth)
    assert "\n" not in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(soups | st.text(max_size=50))
def test_nothing_that_a_model_writes_raises(text):
    item = Problem("?", "12")
    assert GSM8K.grade(item, text).strict.right in (0, 1)
    for name in ("solved", "recipe", "published"):
        assert all(isinstance(value, float) for value in gsm8k(reward=name, prefill=True).reward(item, text).values())


def test_ten_thousand_mutated_answers_are_graded_and_only_those_that_say_it_are_right():
    """An answer is spoilt at up to three places; whatever is then found right still holds the digits of the truth in a row."""
    draw, item, right = random.Random(0), Problem("?", "1234"), 0
    for _ in range(10_000):
        text = list("<reasoning>\nso\n</reasoning>\n<answer>\n\\boxed{1,234}\n</answer>")
        for _ in range(draw.randrange(1, 4)):
            at = draw.randrange(len(text))
            text[at] = draw.choice(["", text[at] * 2, draw.choice(TOKENS)])
        text = "".join(text)
        grade = GSM8K.grade(item, text)
        right += grade.strict.right
        assert not grade.strict.right or "1234" in re.sub(r"[^0-9]", "", text)
    assert 5000 < right < 10_000


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "\\boxed{",
            "}",
            "{",
            "<answer>",
            "</answer>",
            "<reasoning>",
            "</reasoning><answer>",
            "</reasoning> ",
            "\\boxed{1}",
            "9",
            "9,",
            "-",
            " ",
        ),
        *("####", "\x00", "<answer>\n", "\n</answer>", "\\frac{", "\\text{", "$", "\n", "\\", "\\boxed{ ", "1 "),
    ],
)
def test_a_megabyte_of_anything_takes_work_in_proportion(piece):
    """Each of these makes the plain regular expression, or a scan for each brace, take the square of the length: hours."""
    long = "<reasoning>" + piece * (1_000_000 // len(piece))
    for text in (long, long + "\n</answer>", f"<answer>{long}"):
        GSM8K.grade(Problem("?", "12"), text)
        gsm8k(reward="recipe").reward(Problem("?", "12"), text)
        gsm8k(reward="published").reward(Problem("?", "12"), text)
