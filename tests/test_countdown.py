"""Countdown: both gradings against hand-worked cases and a slow second reading, rewards, records, and the synthetic problems."""

import csv
import json
import re
import warnings
from itertools import combinations, permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmpo_ref.config import TaskConfig
from dmpo_ref.tasks import build_task
from dmpo_ref.tasks.countdown import Countdown, Problem
from tests.cases.countdown import CASES, HANGS, NINES, SUM
from toy.worlds.countdown import FILES, key, make_problems

NUMBERS_3 = "toy/data/countdown_test_3.csv"


def countdown(**options) -> Countdown:
    return build_task(TaskConfig(name="countdown", **options))


# Grading.


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_hand_worked_answers_under_both_gradings(case):
    grade = Countdown.grade(case.item, case.text)
    assert (grade.correct, grade.published.right) == (case.strict, case.published), case.why
    assert grade.kind == f"{len(case.item.numbers)} numbers"
    assert grade.strict.total == grade.published.total == 1
    check_verdicts(grade)
    if case.published and not case.strict:
        assert grade.strict.reason != grade.published.reason


def check_verdicts(grade) -> None:
    for verdict in (grade.strict, grade.published):
        assert verdict.right in range(verdict.total + 1)
        assert verdict.source and verdict.reason and "\n" not in verdict.reason and len(verdict.reason) < 400


def published_by_eval(item: Problem, text: str) -> bool:
    """The published rule once more, with greedy regular expressions and `eval`: for short texts that cannot hang."""
    if "\\boxed " in text:
        found = text.split("\\boxed ")[-1].split("$")[0]
    elif not re.search(r"\\boxed|\\fbox", text):
        found = text
    else:
        start = max(text.rfind("\\boxed"), -1) if "\\boxed" in text else text.rfind("\\fbox")
        ends = [i for i in range(start, len(text)) if text[i] == "}" and text.count("{", start, i + 1) == text.count("}", start, i + 1)]
        found = text[start : ends[0] + 1] if ends else None
        if found is not None and found.startswith("\\boxed"):
            found = found[7:-1] if found[6] == "{" else found
    if found is None:
        answers = re.findall(r"<answer>([\s\S]*?)</answer>", text)
        found = answers[0].strip() if answers else text
    found = found.replace("\\div", "/").replace("\\times", "*").replace("\\cdot", "*")
    if equation := re.search(r"([-+*/() 0-9]+)=[ .0-9]+", found):
        found = equation[1].strip()
    if sorted(int(run) for run in re.findall(r"\d+", found)) != sorted(item.numbers) or re.search(r"[^-+*/().\d\s]", found):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return bool(abs(eval(found.strip(), {}) - item.target) < 1e-5)
    except Exception:
        return False


PIECES = [
    "30", "100", "93", "37", " ", "+", "-", "*", "/", "(", ")", "=", " = 37", "\n", ".", "0", "30 + 100 - 93", "\\boxed{", "\\boxed ",
    "\\boxed", "\\fbox{", "}", "{", "$", "<answer>", "</answer>", "\\times", "\\div", "\\text{", "\\frac{", "<|eot_id|>", "x", "٣", "**1",
    "\x00", "\ud800",
]  # fmt: skip
SHORT = [case.text for case in CASES if case.item not in (NINES, HANGS)]


@st.composite
def mutated(draw):
    """An answer of the table with pieces put in, and parts taken out or doubled."""
    text = draw(st.sampled_from([case.text for case in CASES]) | st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
    for _ in range(draw(st.integers(0, 4))):
        start, stop = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
        middle = draw(st.sampled_from(["", text[start:stop] * 2, *PIECES]))
        text = text[:start] + middle + text[stop:]
    return text


@pytest.mark.parametrize("case", [case for case in CASES if case.text in SHORT], ids=lambda case: case.text[:30])
def test_the_published_grading_of_the_table_is_that_of_eval(case):
    assert published_by_eval(case.item, case.text) is case.published


@settings(max_examples=400)
@given(mutated())
def test_the_published_grading_is_that_of_eval_whatever_the_answer(text):
    """Where a power could be large, `eval` is not asked; then the numbers are wrong, or nothing is claimed."""
    grade = Countdown.grade(SUM, text)
    if not re.search(r"\*\s*\*", text):
        assert bool(grade.published.right) is published_by_eval(SUM, text)


@settings(max_examples=400)
@given(st.text() | mutated())
def test_no_answer_makes_a_grade_or_a_reward_fail(text):
    check_verdicts(Countdown.grade(SUM, text))
    assert countdown(reward="solved").reward(SUM, text)["solved"] == Countdown.grade(SUM, text).correct
    for reward in ("recipe", "published"):
        assert countdown(reward=reward).reward(SUM, text)["answer"] in (0.0, 0.1, 1.0)
    assert isinstance(countdown().show(SUM, text), str)


MEGABYTE = 10**6
HUGE = [
    "(" * 100_000 + "30+100-93" + ")" * 100_000, "\\boxed{" * 140_000, "{" * MEGABYTE, "\\boxed{" + "{" * MEGABYTE, "}" * MEGABYTE,
    "<answer>" * 120_000, "</answer>" * 110_000, "<answer></answer>" * 60_000, "\\boxed{30+100-93=37}" * 50_000, "=" * MEGABYTE,
    "30+100-93=37" * 80_000, "1" * MEGABYTE, "0" * MEGABYTE + "30+100-93", "٠" * MEGABYTE, " " * MEGABYTE, "1 " * 500_000,
    "30+100-93" + " " * MEGABYTE + "=37", "\\text{" * 160_000, "\\frac{" * 160_000, "\\text" + " " * MEGABYTE, "-" * MEGABYTE + "30+100-93",
    "9**9**9", "30**100**93", "(30**100)**93", "\x00" * MEGABYTE, "\ud800" * 100_000, "<|eot_id|>" * 100_000, "\\" * MEGABYTE,
]  # fmt: skip


SHORTER = ["<answer>{}</answer>", "\\boxed{{{}}}", "\\boxed {}", "<answer>{}"]


@pytest.mark.parametrize(("form", "length"), [("{}", MEGABYTE), *((form, 50_000) for form in SHORTER)])
def test_a_megabyte_of_anything_is_graded(form, length):
    """Any step that is quadratic in the text would take hours here, and so would 30^(100^93)."""
    tasks = [countdown(reward=reward) for reward in ("recipe", "published")]
    for text in HUGE:
        text = form.format(text[:length])
        check_verdicts(Countdown.grade(SUM, text))
        assert all(task.reward(SUM, text)["answer"] <= 1.0 for task in tasks)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no idea", "no <answer> and no \\boxed"),
        ("<answer>30 + 100</answer>", "is 130, not 37"),
        ("<answer>30 + 100 = 37</answer>", "a side is 130, not 37"),
        ("<answer>30 / 93</answer>", "is 10/31, not 37"),
        ("<answer>30 + 7</answer>", "uses 30, 7, not each of 30, 100, 93 once"),
        ("<answer>30 + + 7</answer>", "not an expression: '+' where a number should be"),
        ("<answer>30 / 0</answer>", "not an expression: division by zero"),
        ("<answer>100 - 93 + 30</answer>", "equals 37 and uses each number once"),
        ("<answer>" + "1 + " * 1000 + "</answer>", "longer than 2000 characters"),
    ],
)
def test_the_strict_verdict_says_why(text, reason):
    assert Countdown.grade(SUM, text).strict.reason == reason


@pytest.mark.parametrize(
    ("text", "source", "answer", "reason"),
    [
        (r"\boxed{1 + 2} \boxed{30 + 7}", "the last box", "30 + 7", "uses 30, 7, not each of 30, 100, 93 once"),
        (r"\boxed{30 + 93 - 100 = 37}", "the last box, before an =", "30 + 93 - 100", "is 23, not 37"),
        (
            r"\boxed{<answer>30 + 100 - 93</answer>",
            "the first <answer>",
            "30 + 100 - 93",
            "is within 1e-05 of 37 and uses each number once",
        ),
        ("30 + 100 + 93", "the whole text", "30 + 100 + 93", "is 223, not 37"),
        ("30**100**93", "the whole text", "30**100**93", "a power too large to compute"),
        ("30**100 + 93", "the whole text", "30**100 + 93", "is a large number, not 37"),
        ("so 30 + 100 - 93", "the whole text", "so 30 + 100 - 93", "other characters than digits + - * / ( ) . and white space"),
    ],
)
def test_the_published_verdict_says_what_it_read_and_why(text, source, answer, reason):
    verdict = Countdown.grade(SUM, text).published
    assert (verdict.source, verdict.answer, verdict.reason) == (source, answer, reason)


# Rewards.


@pytest.mark.parametrize(
    ("text", "solved", "recipe", "published"),
    [
        ("<answer>30 + 100 - 93</answer>", 1, 1, 1),
        ("<answer>30 + 100 - 93 = 37</answer>", 1, 1, 0.1),  # the training rule reads no equation
        ("<answer>30 + 100 + 93</answer>", 0, 0.1, 0.1),
        ("<answer></answer>", 0, 0.1, 0.1),
        ("30 + 100 - 93", 0, 0, 0),
        ("", 0, 0, 0),
        (r"\boxed{30 + 100 - 93}", 1, 0, 0),  # no <answer>
        (r"<answer>\boxed{30 + 100 - 93}</answer>", 1, 1, 0.1),
        (r"<answer>30 + 100</answer> \boxed{30 + 100 - 93}", 1, 0.1, 0.1),
        ("<answer>30 + 100 - 93", 1, 1, 0),  # not closed
        ("<answer>1</answer><answer>30 + 100 - 93</answer>", 1, 1, 1),
        ("<answer>30 + 100 - 93</answer><answer>1</answer>", 0, 0.1, 0.1),
        ("<answer>30 + 100 - 93</answer><answer>1", 0, 0.1, 1),  # published skips what is not closed
        ("<answer>30 - -100 - 93</answer>", 0, 0.1, 1),
        ("<answer>30 + 100 − 93</answer>", 1, 1, 0.1),
        ("<answer>30**100**93</answer>", 0, 0.1, 0.1),
    ],
)
def test_rewards_of_the_answer_by_hand(text, solved, recipe, published):
    assert countdown().reward(SUM, text) == {"solved": solved}
    assert countdown(reward="recipe").reward(SUM, text) == {"answer": recipe}
    assert countdown(reward="published").reward(SUM, text) == {"answer": published}


# Prompts, files, records.


@pytest.mark.parametrize("reward", ["solved", "recipe", "published"])
def test_worked_examples_earn_the_reward_and_are_unlike_the_shipped_test_problems(reward):
    task, shipped = countdown(reward=reward), {key(item) for item in countdown().load(NUMBERS_3)}
    for item, answer in task.examples:
        assert task.grade(item, answer).correct and key(item) not in shipped
        assert sum(task.reward(item, answer).values()) == 1.0
        assert task.grade(item, answer).published.right == (reward != "published")  # which asks for no box, as published


def test_only_with_the_published_reward_no_box_is_asked_for():
    with_box, without = (countdown(reward=reward, few_shot=3).prompt(SUM) for reward in ("recipe", "published"))
    assert all("boxed" in message["content"] for message in with_box)
    assert not any("boxed" in message["content"] or "{" in message["content"] for message in without)
    assert "then give the expression. Use" in without[-1]["content"] and "<answer>\n75 + 8 * 3\n</answer>" in without[1]["content"]


def test_the_prompt_asks_after_as_many_examples_as_wanted():
    messages = countdown(few_shot=2).prompt(SUM)
    assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant", "user"]
    assert messages[1]["content"] == Countdown.examples[0][1]
    question = messages[-1]["content"]
    assert "Reach 37 with the numbers 30, 100, 93:" in question and "then give the expression in \\boxed{}. Use" in question
    assert all(tag in question for tag in ("<reasoning>", "</reasoning>", "<answer>", "</answer>"))
    assert countdown(prefill=True).prefill == "<reasoning>\n" and countdown().prefill == "" and countdown().template(SUM) is None
    with pytest.raises(ValueError, match="task.few_shot=4: Countdown has 3 worked examples"):
        countdown(few_shot=4)


def test_a_prompt_file_replaces_the_question(tmp_path):
    (tmp_path / "p.txt").write_text("Make {target} from {numbers} in \\boxed{}.")
    assert countdown(prompt_file=str(tmp_path / "p.txt")).prompt(SUM)[0]["content"] == "Make 37 from 30, 100, 93 in \\boxed{}."
    (tmp_path / "p.txt").write_text("Make something from {numbers}.")
    with pytest.raises(ValueError, match="does not contain {target}"):
        countdown(prompt_file=str(tmp_path / "p.txt"))


def test_files_of_every_form_hold_the_same_problem(tmp_path):
    forms = {
        "published.jsonl": '{"input": "30,100,93", "output": "37"}\n',
        "hub.jsonl": '{"nums": [30, 100, 93], "target": 37}\n',
        "list.json": '[{"nums": [30, 100, 93], "target": 37}]',
        "table.csv": 'input,output\n"30,100,93",37\n',
        "written.csv": 'nums,target\n"[30, 100, 93]",37\n',
        "spaced.csv": "nums,target\n[ 30 100  93 ], 37\n",
    }
    for name, content in forms.items():
        (tmp_path / name).write_text(content)
        assert countdown().load(str(tmp_path / name)) == [SUM], name


def test_a_hub_data_set_gives_its_problems_of_three_numbers(tmp_path):
    """A local folder in the layout of a data set takes the same path as the hub."""
    rows = [{"nums": [30, 100, 93], "target": 37}, {"nums": [1, 2, 3, 4], "target": 24}, {"nums": [1, 2, 3], "target": 6}]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert countdown().load(f"{tmp_path / 'data'}:train") == [SUM, Problem((1, 2, 3), 6)]
    assert [len(item.numbers) for item in countdown().load(str(tmp_path / "data" / "train.jsonl"))] == [3, 4, 3]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"input": "30,100,x", "output": "37"}, "2 to 10 non-negative integers are needed, as in 30,100,93; got 30,100,x"),
        ({"input": "30", "output": "37"}, "2 to 10 non-negative integers"),
        ({"input": "", "output": "37"}, "2 to 10 non-negative integers"),
        ({"input": "30,-1", "output": "37"}, "2 to 10 non-negative integers"),
        ({"input": ",".join("1" * 11), "output": "37"}, "2 to 10 non-negative integers"),
        ({"input": "1,2", "output": ""}, "the target must be an integer"),
        ({"input": "1,2", "output": "1.5"}, "the target must be an integer; got 1.5"),
        ({"input": "1,2", "output": "9" * 21}, "the target must be an integer"),
        ({"nums": [1, 2.5], "target": 3}, "2 to 10 non-negative integers"),
        ({"nums": [True, 2], "target": 3}, "2 to 10 non-negative integers"),
        ({"nums": {"a": 1}, "target": 3}, "2 to 10 non-negative integers"),
        ({"nums": [1, 2]}, "the target must be an integer; got None"),
        ({"question": "1 + 1?"}, "2 to 10 non-negative integers are needed, as in 30,100,93; got None"),
    ],
)
def test_a_malformed_row_is_named_in_one_line(tmp_path, row, message):
    good = {"input": "30,100,93", "output": "37"}
    (tmp_path / "bad.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(row)}\n")
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        countdown().load(str(tmp_path / "bad.jsonl"))
    assert str(caught.value).startswith(f"{tmp_path / 'bad.jsonl'}, row 2: ") and "\n" not in str(caught.value)


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match="nowhere.jsonl"):
        countdown().load("nowhere.jsonl")


def test_a_problem_can_be_typed_and_shown():
    task = countdown()
    assert task.parse("30,100,93=37") == task.parse(" 30 100 93 = 37 ") == SUM
    assert task.show(SUM) == "30, 100, 93 -> 37"
    assert task.show(SUM, "<answer>30 +\n100</answer>") == "30 + 100: is 130, not 37"
    assert task.show(SUM, "well") == "no <answer> and no \\boxed"
    for text in ("", "30,100,93", "=3", "30=100=93", "a,b=3"):
        with pytest.raises(ValueError, match="needed|must be"):
            task.parse(text)


@given(st.lists(st.integers(0, 999), min_size=2, max_size=6), st.integers(-99, 999))
def test_records_give_the_problem_back_also_through_json(numbers, target):
    item = Problem(tuple(numbers), target)
    question, truth = json.loads(json.dumps(Countdown.record(item)))
    assert truth == [numbers, target] and str(target) in question
    assert Countdown.from_record(question, truth) == item


@pytest.mark.parametrize(
    "truth", [None, "1234341221434321", 72.0, [], [[1, 2]], [[1, 2], 3, 4], ["12", 3], [[1, 2], None], [[1, "x"], 3], [1, 2], {}]
)
def test_a_record_of_another_task_is_refused_in_one_line(truth):
    with pytest.raises(ValueError) as caught:
        Countdown.from_record("Numbers: [1, 2]\nTarget: 3", truth)
    assert "\n" not in str(caught.value)


# Synthetic problems.


def all_values(numbers: tuple[int, ...]) -> dict[float, str]:
    """Brute force, another way than the generator: every way to write the numbers between operators and brackets, by `eval`."""

    def ways(parts):
        if len(parts) == 1:
            yield parts[0]
        for cut in range(1, len(parts)):
            for left, right, sign in product(ways(parts[:cut]), ways(parts[cut:]), "+-*/"):
                yield f"({left}{sign}{right})"

    values = {}
    for order in set(permutations(map(str, numbers))):
        for text in ways(order):
            try:
                values[round(eval(text), 9)] = text
            except ZeroDivisionError:
                continue
    return values


@pytest.mark.parametrize("name", FILES)
def test_every_shipped_problem_has_an_expression_that_is_right_under_both_gradings(name):
    size, count = FILES[name]
    with open(f"toy/data/{name}", encoding="utf-8") as file:
        expressions = [row["expression"] for row in csv.DictReader(file)]
    items = countdown().load(f"toy/data/{name}")
    assert len(items) == len(expressions) == count and {len(item.numbers) for item in items} == {size}
    for item, expression in zip(items, expressions, strict=True):
        grade = Countdown.grade(item, f"\\boxed{{{expression}}}")
        assert grade.correct and grade.published.right == 1
        assert 10 <= item.target <= 99 and all(1 <= number <= 99 for number in item.numbers)


def test_targets_are_found_by_trying_every_expression():
    for item in countdown().load(NUMBERS_3)[:60] + countdown().load("toy/data/countdown_test_4.csv")[:2]:
        values = all_values(item.numbers)
        assert Countdown.grade(item, f"<answer>{values[item.target]}</answer>").correct
    assert 50 not in all_values((1, 1, 2)) and 24 in all_values((8, 3, 8, 3)) and 21 in all_values((1, 5, 6, 7))


def test_no_problem_is_in_two_files_and_shipped_files_are_what_the_generator_makes():
    keys = {name: {key(item) for item in countdown().load(f"toy/data/{name}")} for name in FILES}
    assert all(not keys[a] & keys[b] for a, b in combinations(FILES, 2))
    assert all(len(keys[name]) == count for name, (_, count) in FILES.items())
    train = [item for item, _ in make_problems(3, 50, seed=0, avoid=keys["countdown_test_3.csv"])]
    assert countdown().load("toy/data/countdown_train.csv")[:50] == train
    for size in (3, 4):
        assert countdown().load(f"toy/data/countdown_test_{size}.csv")[:50] == [item for item, _ in make_problems(size, 50, seed=0)]


def test_problems_are_deterministic_distinct_and_avoid_what_they_must():
    problems = make_problems(3, 40, seed=1)
    assert problems == make_problems(3, 40, seed=1) != make_problems(3, 40, seed=2)
    assert len({key(item) for item, _ in problems}) == 40
    avoided = make_problems(3, 40, seed=1, avoid={key(problems[0][0])})
    assert [item for item, _ in avoided][:39] == [item for item, _ in problems][1:]


def test_what_the_generator_cannot_make_is_said_in_one_line():
    with pytest.raises(ValueError, match="size=1: at least 2 numbers"):
        make_problems(1, 3, seed=0)
    with pytest.raises(ValueError, match="found 0 of 3 problems with 3 numbers in 1 tries|found 1 of 3"):
        make_problems(3, 3, seed=0, max_tries=1)
