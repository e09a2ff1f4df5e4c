"""The strict grading of all tasks: what may stand around an answer, where it may stand, and that no text raises or takes long."""

import random
import time
from pathlib import Path

import pytest
import yaml

from dmpo_ref.tasks import TASKS
from dmpo_ref.tasks.answers import comparison, equality
from dmpo_ref.tasks.answers.equality import are_equal
from dmpo_ref.tasks.answers.marked import marked_answer
from dmpo_ref.tasks.answers.numerals import read_number
from dmpo_ref.tasks.answers.units import CANONICAL, CHANGING, in_words, read_unit
from dmpo_ref.tasks.answers.writing import MINUS, one_writing
from dmpo_ref.tasks.countdown import Problem as Countdown
from dmpo_ref.tasks.gsm8k import GSM8K
from dmpo_ref.tasks.gsm8k import Problem as GSM8KProblem
from dmpo_ref.tasks.math500 import Problem as MATHProblem
from dmpo_ref.tasks.sudoku import Puzzle

CASES = yaml.safe_load(Path("tests/cases/strict.yaml").read_text(encoding="utf-8"))
CLIPS = "Natalia sold clips to 48 friends in April, and half as many in May. How many clips did she sell? Tom sold a dozen more, at least."


def item_of(task: str, truth):
    """A problem whose answer is known."""
    if task == "sudoku":
        return Puzzle(*truth)
    return (
        Countdown(tuple(truth[0]), truth[1]) if task == "countdown" else {"gsm8k": GSM8KProblem, "math500": MATHProblem}[task]("?", truth)
    )


@pytest.mark.parametrize(("task", "truth", "right", "answers"), CASES, ids=[f"{case[0]} {case[1]} {case[2]}" for case in CASES])
def test_answers_worked_by_hand(task, truth, right, answers):
    form = "<answer>{}</answer>" if task == "sudoku" else "\\boxed{{{}}}"
    for answer in answers:
        verdict = TASKS[task].grade(item_of(task, truth), form.format(answer.replace("⏎", "\n"))).strict
        assert bool(verdict.right) is right, (answer, verdict.reason)


@pytest.mark.parametrize(
    ("question", "answer", "is_read"),
    [
        (CLIPS, "Natalia sold 72 clips in April and May.", True),
        (CLIPS, "In April and May she sold 72 clips", True),
        ("How many?", "Natalia sold 72 clips", False),  # no word of this question, and none that is known
        (CLIPS, "72 clips, half as many", False),
        (CLIPS, "72 dozen", False),  # a number word is none of the question's units
        (CLIPS, "at least 72", False),
        ("How many dozen eggs are left?", "72 dozen eggs", True),  # unless it is what is asked for
        ("How many dozen eggs are left?", "dozen 72", False),
        ("How many more apples has Tom?", "72 more", True),
        ("How many hours does she work?", "72 minutes", False),  # another measure than the one that is asked for
        ("How many hours does she work?", "72 hours", True),
        ("How many hours does she work?", "72 hrs a week", True),
        ("How many hours does she work?", "72 in total", True),
        ("How many hours does she work?", "$72", False),
        ("A toy costs $2. How many cents is it?", "$72", False),
        ("How many dollars is it?", "72 cents", False),
        ("How many dollars is it?", "72¢", False),
        ("How many dollars is it?", "72 USD", True),
        ("How many square feet is it?", "72 sq ft", True),
        ("How many more meters is it?", "72 km", False),
        ("How many miles per hour is it?", "72 mph", True),
        ("She knows how many hours she works. How much money is it?", "$72", True),
        ("How many apples is it?", "72 kg", False),
    ],
)
def test_words_of_the_question_may_stand_around_a_number_unless_they_change_it(question, answer, is_read):
    assert (read_number(answer, question)[0] == 72) is is_read


MEASURES = yaml.safe_load(Path("tests/cases/measures.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("question", "right", "wrong"), MEASURES, ids=[case[0][:40] for case in MEASURES])
def test_a_number_has_the_measure_that_is_asked_for(question, right, wrong):
    for answer, is_right in [*((answer, True) for answer in right), *((answer, False) for answer in wrong)]:
        number, reason = read_number(answer, question)
        assert (number == 5) is is_right, (answer, reason)


def test_no_unit_is_a_word_that_changes_a_number():
    assert {word for word in CHANGING.split() if len(word) > 1} & CANONICAL.keys() == {"times"}  # how many times
    assert [in_words(number) for number in (0, 13, 20, 21, 99)] == ["zero", "thirteen", "twenty", "twenty-one", "ninety-nine"]


@pytest.mark.parametrize("sign", MINUS)
def test_every_minus_is_one(sign):
    assert read_number(f"{sign}5")[0] == read_number(f"is {sign}5")[0] == -5 and one_writing(f"x{sign}5") == "x-5"


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        *(
            (text, "cm^2")
            for text in (r"\text{ cm}^2", "cm^{2}", "square centimeters", r"\text{ sq. cm}", "centimetres squared", r"{cm}^2")
        ),
        *((text, "mi/h") for text in ("miles per hour", "mile/hour", r"\text{ mi/h}")),
        *((text, "dollar") for text in ("$", "dollars", "USD", "bucks")),
        *((text, "degree") for text in (r"^\circ", "degrees", "deg")),
        (r"^\circ C", "degree celsius"),
        (r"\pmod{7}", "mod 7"),
        *((text, None) for text in ("million", "dozen", "and a half", "M", "K", "squared", "cm dozen", "cm/", "", "cm" * 99)),
    ],
)
def test_a_unit_has_one_name(text, unit):
    assert read_unit(text) == unit


LOCATIONS = [
    "\x08oxed{{{}}}",
    "<answer>{}</answer>", "<answer>{}", "<answer>\n{}\n</answer>", "<answer>1</answer><answer>{}</answer>",
    "\\boxed{{1}}<answer>{}</answer>", "\\boxed{{{}}}", "\\boxed {{{}}}", "\\boxed\n{{{}}}", "boxed{{{}}}", "\\.boxed{{{}}}",
    "\\fbox{{{}}}", "<answer>1</answer> \\boxed{{{}}}", "<answer>{}</<answer>", "<answer>\n\\boxed{{{}}}\n</<answer>",
    "<answer>{}<\\answer>", "<answer>{}</answer", "<answer>{}</ans", "<answer>{}<answer>", "<answer>\\boxed{{{}</answer>",
    "<answer>\\boxed{{{}\n</answer> and }} more", "\\boxed{{{}}}<|eot_id|>\\boxed{{1}}",
]  # fmt: skip


@pytest.mark.parametrize("form", LOCATIONS)
@pytest.mark.parametrize("answer", ["20", "\\frac{1}{2}", "\\{1,2\\}"])
def test_an_answer_is_found_where_models_write_it(form, answer):
    assert marked_answer(form.format(answer))[0] == answer


TOUCHED = yaml.safe_load(Path("tests/cases/boxes.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("task", "truth", "right", "texts"), TOUCHED, ids=[f"{case[0]} {case[1]} {case[2]}" for case in TOUCHED])
def test_what_touches_a_box_changes_it(task, truth, right, texts):
    for text in texts:
        verdict = TASKS[task].grade(item_of(task, truth), text.replace("⏎", "\n")).strict
        assert bool(verdict.right) is right, (text, verdict.reason)


UNITS = [  # of a MATH problem whose truth has no unit, and what it asks for
    ("How many dollars does the book cost?", "12", ["12\\text{ dollars}", "\\$12"], ["12¢", "12\\text{ euros}"]),
    ("What is angle A, in degrees?", "60", ["60^\\circ", "60\\text{ degrees}"], ["60\\text{ radians}", "60\\%", "60\\text{ cm}"]),
    ("How many hours does the trip take?", "3", ["3\\text{ hours}", "3"], ["3\\text{ minutes}", "3\\text{ days}", "3\\text{ miles}"]),
    ("How many square centimeters is it?", "12", ["12\\text{ cm}^2", "12\\text{ square cm}"], ["12\\text{ m}^2", "12\\text{ cm}^3"]),
    ("How many feet is it? Express your answer in yards.", "12", ["12\\text{ yards}", "12"], ["12\\text{ miles}"]),
    ("What percent of the students passed?", "50", ["50\\%", "50", "50\\text{ percent}"], ["5000\\%", "0.5\\%"]),
    ("What is the probability, as a percentage?", "0.5", ["0.5\\%"], ["50"]),
    ("Find $a+b+c$.", "25", ["a+b+c=25", "a + b + c = 25", "25"], ["a+b=25", "abc=25", "a+b+c=24"]),
    ("What is the value of $\\sin A$?", "1", ["\\sin A = 1", "\\sin(A)=1"], ["\\cos A = 1", "\\sin B = 1"]),
    ("Compute\n\\[\\lim_{x\\to 0} f(x).\\]", "2", ["\\lim_{x\\to 0} f(x) = 2"], ["\\lim_{x\\to 1} f(x) = 2"]),
    ("Find $x$ with $2x = 8$.", "4", ["x=4"], ["2x=4"]),
]  # fmt: skip


@pytest.mark.parametrize(("problem", "truth", "right", "wrong"), UNITS, ids=[case[0][:30] for case in UNITS])
def test_a_problem_says_which_unit_and_which_expression_are_asked_for(problem, truth, right, wrong):
    for answer, is_right in [*((answer, True) for answer in right), *((answer, False) for answer in wrong)]:
        assert (comparison.describe_difference(truth, answer, problem) is None) is is_right, answer


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("\\boxed{20", (None, "the last \\boxed is not closed")),
        ("20", (None, "no <answer> and no \\boxed")),
        ("unboxed{20}", (None, "no <answer> and no \\boxed")),
        ("<answer>\\boxed{20", ("\\boxed{20", "the last <answer>")),  # cut off: nobody knows how it goes on
        ("<answer>20</answer> \\boxed{3", ("20", "the last <answer>")),
        ("<answer>20</answer><answer>", ("", "the last <answer>")),
        ("<answer>\\boxed{20</answer>", ("20", "the last \\boxed, which the end of the answer closes")),
    ],
)
def test_where_no_whole_answer_is_the_reading_says_so(text, found):
    assert marked_answer(text) == found
    assert GSM8K.grade(GSM8KProblem("?", "7"), text).strict.reason


@pytest.mark.parametrize(
    ("task", "truth", "answer", "reason"),
    [
        ("gsm8k", "5", "\\boxed{5 dozen}", "'dozen' beside the number may change it"),
        ("gsm8k", "5", "\\boxed{≥ 5}", "a comparison, not a number"),
        ("gsm8k", "5", "\\boxed{2x = 5}", "an equation in a variable, not a number"),
        ("gsm8k", "5", "\\boxed{5", "the last \\boxed is not closed"),
        ("math500", "5", "\\boxed{5\\text{ dozen}}", "\\text{dozen} in the value; the right answer is 5"),
        ("math500", "5\\text{ cm}", "\\boxed{5\\text{ mm}}", "mm in place of cm; the right answer is 5\\text{ cm}"),
        ("math500", "5", "\\boxed{x^2=5}", "an equation in place of a value; the right answer is 5"),
        ("math500", "3R^2", "\\boxed{3r^2}", "r in the value; the right answer is 3R^2"),
        ("math500", "1,1,2", "\\boxed{1,2,2}", "not equal; the right answer is 1,1,2"),
        ("math500", "5", "\\boxed{9^{9^{9}}}", "too long, too large or too slow to compare; the right answer is 5"),
        ("math500", "5", "<answer></answer>", "an empty answer"),
        ("math500", "5", "$-\\boxed{5}$", "'-' beside the last \\boxed may change it"),
        ("gsm8k", "5", "\\boxed{5} million", "'million' beside the number may change it"),
        ("gsm8k", "5", "\\boxed{6, or 9-4 = 5}", "6 is stated before the equation"),
        ("countdown", [[30, 100, 93], 37], "\\boxed{30+100-93x}", "not an expression: 'x' where an operator or the end should be"),
        ("sudoku", ["1204301201434320", "1234341221434321"], "<answer>1</answer>", "1 digits, a grid has 16"),
    ],
)
def test_the_reason_names_the_cause(task, truth, answer, reason):
    assert TASKS[task].grade(item_of(task, truth), answer).strict.reason == reason


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.\\overline{3}", "1/3"), ("0.1\\overline{6}", "1/6"), ("2.\\overline{09}", "23/11"), ("-0.\\bar{3}", "-1/3"), (".(3)", "1/3")],
)
def test_a_repeating_decimal_is_its_fraction(text, value):
    """1/3 = 0.333…, 1/6 = 0.1666…, 23/11 = 2.0909…."""
    assert comparison.describe_difference(value, text) is None


def test_values_are_compared_exactly_however_small_or_large_they_are():
    for power in (1, 10, 30, 99):
        assert are_equal(f"\\frac{{1}}{{2^{{{power}}}}}", f"2^{{-{power}}}") and not are_equal(f"2^{{-{power}}}", f"2^{{-{power + 1}}}")
        assert not are_equal(f"10^{{{power}}}", f"10^{{{power}}}+1") and not are_equal("1", f"1+10^{{-{min(power, 30)}}}")
    assert not are_equal("\\frac{1}{0}", "1") and not are_equal("f(x)", "g(x)")


@pytest.mark.parametrize("answer", ["9^{9^{9}}", "9^(9^9)", "9^9^9", "((9^{99})^{999})", "(5!)!", "10^{100000}", "x^{-12345}"])
def test_towers_are_refused_before_anything_is_computed(monkeypatch, answer):
    monkeypatch.setattr(equality, "ask", lambda *_: pytest.fail("asked"))
    assert are_equal("5", answer) is None


# Fuzz: what models write, cut in pieces and put together at random.
PIECES = [
    "\\boxed{", "\\boxed {", "boxed{", "\\fbox{", "}", "{", "<answer>", "</answer>", "</<answer>", "<reasoning>", "</reasoning>",
    "<|eot_id|>", "1", "2", "30", "100", "93", "37", "1,000", "1 000", ".5", "0.", "1/2", "\\frac{1}{2}", "\\frac12", "½", "²", "√",
    "１２", "٣", "1e9", "9" * 40, "+", "-", "−", "－", "*", "/", "=", "^", "_", "!", "**", "\\times", "\\div", "\\cdot", "\\pm", "\\mp",
    "\\cup", "\\in", "\\pmod", "\\to", "(", ")", "[", "]", "\\{", "\\}", "\\left(", "\\right)", "|", ",", ";", ":", ".", "...",
    "\\ldots", "'", '"', "~", "$", "\\$", "%", "\\%", "°", "\\text{", "\\text{ cm}", "\\mathrm{m}", "\\textbf{", "\\color{red}",
    "\\overline{3}", "0.\\overline{3}", "\\sqrt{", "\\begin{pmatrix}", "&", "\\end{pmatrix}", "\\\\", "\\infty", "∞", "π", "\\theta",
    "x", "X", "x=", "e", "i", "E", " ", "  ", "\n", "\t", "\\", "\x00", "\ud800", "\u200b", "\ufeff", "apples", "dozen", "million",
    "at least", "half", "or", "and", "the answer is", "not", "minutes", "Row 1:", "答案是", "个半", "1234341221434321", "1234", "((((((((",
    "}}}}}}}}", "{{{{{{{{", "99999999", "9^{9^{9}}", "\\boxed{\\boxed{", "#### ", "-> ", "\\over ", "\\text{or}", "≤", ">", "\\le",
]  # fmt: skip
ITEMS = [
    *(("gsm8k", GSM8KProblem(CLIPS, truth)) for truth in ("72", "-5", "1,000", None)),
    *(("math500", MATHProblem("?", truth)) for truth in ("7", "\\frac{1}{2}", "(2,\\infty)", "1,-2", "\\text{(C)}", "15\\mbox{ cm}^2")),
    ("math500", MATHProblem("?", "")),
    *(("countdown", Countdown((30, 100, 93), 37)), ("sudoku", Puzzle("1204301201434320", "1234341221434321"))),
]  # fmt: skip
SLOWEST = 0.05  # seconds for one text, without math-verify, which has a limit of its own


def soup(draw: random.Random) -> str:
    """A text of up to 60 pieces, sometimes one of them very often."""
    pieces = draw.choices(PIECES, k=draw.choice((1, 3, 8, 20, 60)))
    if draw.random() < 0.05:
        pieces.insert(draw.randrange(len(pieces) + 1), draw.choice(PIECES) * draw.choice((100, 1000)))
    text = "".join(pieces)
    return draw.choice(("{}", "<answer>{}</answer>", "\\boxed{{{}}}", "<answer>\\boxed{{{}}}</answer>")).format(text)


def grade_soups(seed: int, count: int) -> float:
    """Grade random texts; the seconds that the slowest took, a text that seems slow being timed again, as the machine may be busy."""
    draw, slowest = random.Random(seed), 0.0
    for _ in range(count):
        text, (task, item) = soup(draw), draw.choice(ITEMS)
        for _ in range(3):
            start = time.perf_counter()
            grade = TASKS[task].grade(item, text)
            seconds = time.perf_counter() - start
            if seconds < SLOWEST:
                break
        assert grade.strict.right in (0, 1) and "\n" not in grade.strict.reason.replace(str(grade.strict.answer), ""), text
        assert seconds < SLOWEST, (task, text[:200], seconds)
        slowest = max(slowest, seconds)
    return slowest


@pytest.fixture
def undecided(monkeypatch):
    """What math-verify would be asked is not decided."""
    monkeypatch.setattr(comparison, "are_equal", lambda truth, answer: None)


@pytest.mark.parametrize("seed", range(2))
def test_random_texts_are_graded_in_no_time(undecided, seed):
    grade_soups(seed, 4000)


@pytest.mark.long
def test_a_million_random_texts_are_graded_in_no_time(undecided):
    print(f"the slowest of 1,000,000 texts took {1000 * grade_soups(9, 1_000_000):.1f} ms")


@pytest.mark.parametrize(("text", "reason"), [("none of them", "no number"), ("?", "no number"), ("5 6", "not one plain number")])
def test_a_text_without_a_number_is_told_from_one_that_is_no_plain_number(text, reason):
    assert read_number(text) == (None, reason)
