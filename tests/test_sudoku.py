"""Sudoku: grids, puzzles, splits, files, text in and text out; both gradings against hand-worked cases and a slow second reading."""

import json
import re
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmpo_ref.config import ModelConfig, TaskConfig
from dmpo_ref.models.loading import load_policy
from dmpo_ref.rollout import Prompts
from dmpo_ref.tasks.answers.grid import read_grid
from dmpo_ref.tasks.base import BLANK
from dmpo_ref.tasks.encoding import decode, encode
from dmpo_ref.tasks.sudoku import Puzzle, Sudoku, is_solution, published_grid, read_puzzles, write_puzzles
from tests.cases.sudoku import ALL, AMBIGUOUS, CASES, SWAPPED, TWO
from toy.reference import careless_answer
from toy.small_llada import make_checkpoint
from toy.worlds.sudoku import all_grids, build_tokenizer, make_puzzles, solutions, split_grids

GRID = "1234341221434321"


def test_there_are_288_grids_and_each_obeys_the_rules_checked_by_sums_of_powers():
    """Independent of the set-based check: digits 1..4 are a permutation iff their sum of 10^digit is 11110."""
    assert len(all_grids()) == len(set(all_grids())) == 288
    for grid in all_grids():
        cells = torch.tensor([10 ** int(d) for d in grid]).view(4, 4)
        boxes = cells.view(2, 2, 2, 2).sum(dim=(1, 3)).flatten()
        assert {*cells.sum(0).tolist(), *cells.sum(1).tolist(), *boxes.tolist()} == {11110}


def test_solutions_are_those_found_by_trying_every_filling():
    puzzle = "1200340021434301"
    tried = []
    for digits in product("1234", repeat=puzzle.count("0")):
        values = iter(digits)
        text = "".join(next(values) if d == "0" else d for d in puzzle)
        if is_solution(puzzle, text):
            tried.append(text)
    assert sorted(solutions(puzzle)) == sorted(tried)


def test_train_and_test_share_no_grid_and_no_puzzle_has_an_answer_in_the_other_split():
    train, test = split_grids()
    assert not set(train) & set(test)
    assert len(train) + len(test) == 288
    for puzzle in make_puzzles(test, 30, blanks=(8, 10), seed=3):
        assert set(solutions(puzzle.puzzle)) <= set(test)


def test_shipped_puzzles_are_what_the_generator_makes_and_are_split_by_grid():
    train, test = split_grids()
    shipped_train, shipped_test = read_puzzles("toy/data/train.csv"), read_puzzles("toy/data/test.csv")
    assert shipped_test == make_puzzles(test, 256, seed=2)
    assert shipped_train[:50] == make_puzzles(train, 50, seed=1)
    assert {p.solution for p in shipped_train} <= set(train)
    assert len(shipped_test) == 256
    assert {p.num_blanks for p in shipped_test} == {6, 7, 8, 9, 10}


def test_puzzles_are_deterministic_distinct_and_have_what_was_asked():
    grids = list(all_grids())
    puzzles = make_puzzles(grids, 20, blanks=(5, 6), num_solutions=2, seed=4)
    assert puzzles == make_puzzles(grids, 20, blanks=(5, 6), num_solutions=2, seed=4)
    assert puzzles != make_puzzles(grids, 20, blanks=(5, 6), num_solutions=2, seed=5)
    assert len({p.puzzle for p in puzzles}) == 20
    assert all(len(solutions(p.puzzle)) == 2 and p.num_blanks in (5, 6) for p in puzzles)


@pytest.mark.parametrize("blanks", [(0, 3), (5, 4), (3, 17)])
def test_impossible_numbers_of_blanks_are_refused(blanks):
    with pytest.raises(ValueError, match="must lie in 1…16"):
        make_puzzles(list(all_grids()), 1, blanks=blanks)


def test_asking_for_puzzles_that_do_not_exist_says_so():
    with pytest.raises(ValueError, match="found 0 of 1 puzzles with 1 to 1 blanks and 2 solutions"):
        make_puzzles(list(all_grids()), 1, blanks=(1, 1), num_solutions=2, max_tries=50)


def test_csv_round_trip(tmp_path):
    puzzles = make_puzzles(list(all_grids()), 5, seed=0)
    write_puzzles(tmp_path / "p.csv", puzzles)
    assert (tmp_path / "p.csv").read_text().startswith("Puzzle,Solution\n")
    assert read_puzzles(tmp_path / "p.csv") == puzzles


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Puzzle,Solution\n", "holds no row"),
        ("puzzle,answer\n1,2\n", "row 1: the columns Puzzle, Solution are needed"),
        (f"Puzzle,Solution\n123,{GRID}\n", "row 1: puzzle '123' has 3 characters, 16 are needed"),
        (f"Puzzle,Solution\n12343412214343x0,{GRID}\n", "row 1: puzzle '12343412214343x0' contains 'x'"),
        (f"Puzzle,Solution\n{GRID},{GRID}\n", "nothing blank"),
        (f"Puzzle,Solution\n1204341221434321,{GRID}\n1104341221434321,{GRID}\n", "row 2: .*contradictory clues"),
        ("Puzzle,Solution\n1204341221434321,1234341221434312\n", "row 1: solution .* is not a solution"),
        ("Puzzle,Solution\n1204341221434321\n", "row 1: the columns Puzzle, Solution are needed"),
    ],
)
def test_malformed_files_name_the_file_the_line_and_what_is_wrong(tmp_path, content, message):
    file = tmp_path / "bad.csv"
    file.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_puzzles(file)
    assert str(file) in str(caught.value)


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv"):
        read_puzzles("nowhere.csv")


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (GRID, True),
        ("1234341221434312", False),  # the last row breaks two columns and a box
        ("1234432121433412", False),  # rows and columns right, boxes broken
        ("2134341221434321", False),  # a clue changed
        (GRID[:15], False),
        (GRID + "1", False),
        ("", False),
        ("1234341221434 21", False),
    ],
)
def test_an_answer_is_right_only_as_a_full_valid_grid_that_keeps_the_clues(answer, right):
    task, item = Sudoku(TaskConfig()), Puzzle("1204041221434320", GRID)
    assert task.grade(item, answer).correct is right
    assert task.reward(item, answer) == {"solved": float(right)}


def test_every_solution_of_a_puzzle_counts():
    item = make_puzzles(list(all_grids()), 1, blanks=(5, 5), num_solutions=2, seed=1)[0]
    task = Sudoku(TaskConfig())
    assert all(task.grade(item, answer).correct for answer in solutions(item.puzzle))


def test_the_cells_reward_is_the_share_of_blanks_right():
    task, item = Sudoku(TaskConfig(reward="recipe")), Puzzle("1200341221434321", GRID)
    assert task.reward(item, GRID) == {"cells": 1.0}
    assert task.reward(item, GRID[:3] + "1" + GRID[4:]) == {"cells": 0.5}
    assert task.reward(item, "") == {"cells": 0.0}


@pytest.mark.parametrize("generate", ["blanks", "all"])
def test_text_survives_the_way_through_tokens(generate):
    tokenizer, task = build_tokenizer(), Sudoku(TaskConfig(generate=generate))
    items = [Puzzle("1200341221434321", GRID), Puzzle("0000000000000000", GRID)]
    prompts = encode(tokenizer, task, items)
    assert prompts.response_mask.sum(dim=-1).tolist() == ([2, 16] if generate == "blanks" else [16, 16])
    assert prompts.tokens.shape[1] == (16 if generate == "blanks" else 32)
    answered = prompts.tokens.masked_fill(prompts.response_mask, tokenizer.convert_tokens_to_ids("4"))
    texts = decode(tokenizer, answered, prompts.attention_mask, prompts.prompt_mask)
    expected = ["1244341221434321", "4" * 16] if generate == "blanks" else ["4" * 16] * 2
    assert texts == expected


def test_prompts_of_different_lengths_are_padded_on_the_left():
    class TwoLengths:
        def prompt(self, item):
            return "12" * item

        def template(self, item):
            return BLANK * 3

    tokenizer = build_tokenizer()
    prompts: Prompts = encode(tokenizer, TwoLengths(), [1, 2])
    assert prompts.attention_mask.int().tolist() == [[0, 0, 1, 1, 1, 1, 1], [1] * 7]
    assert prompts.prompt_mask.int().tolist() == [[0, 0, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0]]
    assert prompts.tokens[0, :2].tolist() == [tokenizer.pad_token_id] * 2


def test_an_item_with_nothing_to_generate_is_refused():
    with pytest.raises(ValueError, match="nothing to generate"):
        encode(build_tokenizer(), Sudoku(TaskConfig()), [Puzzle(GRID, GRID)])


def test_the_careless_teacher_gets_rows_right_and_the_rest_mostly_wrong():
    assert careless_answer("1003341200004320") == "1243341212344321"
    puzzles = [p.puzzle for p in read_puzzles("toy/data/test.csv")]
    right = sum(is_solution(p, careless_answer(p)) for p in puzzles)
    assert right / len(puzzles) < 0.1


PUZZLE = Puzzle("1200341221434321", GRID)  # blanks: cells 2 and 3, which hold 3 and 4


def chat_task(**options) -> Sudoku:
    return Sudoku(TaskConfig(generate="chat", **options))


@pytest.fixture(scope="module")
def chat_tokenizer(tmp_path_factory):
    folder = make_checkpoint(tmp_path_factory.mktemp("small") / "llada", d_model=8, n_layers=1, n_heads=1)
    return load_policy(ModelConfig(path=str(folder)), torch.device("cpu"))[1]


def test_a_chat_prompt_is_one_user_message_with_the_puzzle_up_to_the_assistants_turn(chat_tokenizer):
    task = chat_task()
    (message,) = task.prompt(PUZZLE)
    assert message["role"] == "user" and message["content"].count(PUZZLE.puzzle) == 1
    assert all(tag in message["content"] for tag in ("<reasoning>", "</reasoning>", "<answer>", "</answer>"))
    assert PUZZLE.solution not in message["content"]
    prompts = encode(chat_tokenizer, task, [PUZZLE], response_length=5)
    expected = (
        f"<|startoftext|><|start_header_id|>user<|end_header_id|>\n\n{message['content']}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert chat_tokenizer.decode(prompts.tokens[0][prompts.prompt_mask[0]]) == expected
    assert prompts.tokens[0].tolist().count(chat_tokenizer.bos_token_id) == 1


def test_a_chat_response_is_as_many_masks_as_asked_for_after_the_prompt(chat_tokenizer):
    prompts = encode(chat_tokenizer, chat_task(), [PUZZLE, Puzzle("0" * 16, GRID)], response_length=7)
    assert prompts.response_mask[:, -7:].all() and not prompts.response_mask[:, :-7].any()
    assert (prompts.tokens[:, -7:] == chat_tokenizer.mask_token_id).all()
    assert torch.equal(prompts.attention_mask, prompts.prompt_mask | prompts.response_mask)


@pytest.mark.parametrize(
    ("response", "text"),
    [
        ("a 12<|eot_id|>b", "a 12"),
        ("a 12<|endoftext|>b<|eot_id|>", "a 12"),
        ("a 12<|eot_id|><|endoftext|><|endoftext|>", "a 12"),
        ("<|eot_id|>a 12", ""),
        ("a 12", "a 12"),
        ("a<|start_header_id|> 12<|mdm_mask|>\n<|eot_id|>", "a 12\n"),
    ],
)
def test_a_chat_answer_ends_at_its_first_end_token_and_holds_no_special_token(chat_tokenizer, response, text):
    tokens = chat_tokenizer(response, add_special_tokens=False).input_ids
    prompts = encode(chat_tokenizer, chat_task(), [PUZZLE], response_length=len(tokens))
    answered = prompts.tokens.masked_scatter(prompts.response_mask, torch.tensor(tokens))
    assert decode(chat_tokenizer, answered, prompts.attention_mask, prompts.prompt_mask) == [text]


def test_what_a_chat_task_needs_and_does_not_have_is_one_clear_line(chat_tokenizer):
    for tokenizer, task, length, message in (
        (build_tokenizer(), chat_task(), 8, "no chat template"),
        (chat_tokenizer, chat_task(), None, "give sampler.response_length, or evaluation.sampler.response_length to evaluate"),
        (build_tokenizer(), Sudoku(TaskConfig()), 8, "sampler.response_length=8, or that of evaluation.sampler: .* use null"),
        (chat_tokenizer, chat_task(), 0, "nothing to generate"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            encode(tokenizer, task, [PUZZLE], length)
        assert "\n" not in str(caught.value)


def test_the_toy_layouts_work_with_a_chat_tokenizer_too(chat_tokenizer):
    prompts = encode(chat_tokenizer, Sudoku(TaskConfig()), [PUZZLE])
    assert prompts.response_mask[0].nonzero().flatten().tolist() == [2, 3] and prompts.tokens.shape == (1, 16)


def test_only_the_toy_layouts_have_an_alphabet():
    assert Sudoku.alphabet == Sudoku(TaskConfig()).alphabet == Sudoku(TaskConfig(generate="all")).alphabet == "1234"
    assert chat_task().alphabet is None and chat_task().template(PUZZLE) is None


@pytest.mark.parametrize(
    ("text", "solved", "recipe", "published"),
    [
        (f"<reasoning>\nso\n</reasoning>\n<answer>\n{GRID}\n</answer>", 1, 1, 1),
        ("<answer>1 2 3 4\n3412\t2143\n4321\n</answer> and so on 9", 1, 1, 1),  # white space does not count
        (f"<answer>{GRID}", 1, 1, 0),  # not closed
        (f"<answer>{SWAPPED}</answer><answer>{GRID}</answer>", 1, 1, 1),  # the last one counts
        (f"<answer>{GRID}</answer><answer>{SWAPPED}</answer>", 0, 0, 0),
        (f"<answer>{GRID}</answer><answer>", 0, 0, 1),  # published skips what is not closed
        (GRID, 1, 1, 0),  # no tags: strict reads the whole text
        (f"{GRID}</answer>", 0, 0, 0),
        (f"<answer>{GRID}1</answer>", 0, 0, 1),  # 17 digits: published cuts
        ("<answer>123</answer>", 0, 0, 0.5),  # published pads: cell 2 right, cell 3 missing
        (f"<answer>The grid: {GRID}</answer>", 1, 1, 1),  # published reads the digits alone
        (f"<answer>Row 1: {GRID}</answer>", 0, 0, 0),  # all of them: 1 1 2 3 …
        (f"<answer>{SWAPPED}</answer>", 0, 0, 0),
        ("<answer>1233341221434321</answer>", 0, 0.5, 0.5),
        ("<answer>4134341221434321</answer>", 0, 0, 1),  # blanks right, a clue changed
        ("<answer>0034000000000000</answer>", 0, 0, 1),  # clues left out
        (f"<answer>\\boxed{{{GRID}}}</answer>", 1, 1, 1),
        ("", 0, 0, 0),
        ("<answer></answer>", 0, 0, 0),
        ("</answer><answer>\x00é數</answer>", 0, 0, 0),
    ],
)
def test_rewards_of_a_chat_answer_by_hand(text, solved, recipe, published):
    assert chat_task().reward(PUZZLE, text) == {"solved": solved}
    assert chat_task(reward="recipe").reward(PUZZLE, text) == {"cells": recipe}
    assert chat_task(reward="published").reward(PUZZLE, text) == {"cells": published}


def test_the_recipe_knows_every_solution_and_the_published_reward_one():
    for answer in solutions(AMBIGUOUS.puzzle):
        assert chat_task(reward="recipe").reward(AMBIGUOUS, f"<answer>{answer}</answer>") == {"cells": 1.0}
        share = sum(a == s for a, s, p in zip(answer, AMBIGUOUS.solution, AMBIGUOUS.puzzle, strict=True) if p == "0") / 5
        assert chat_task(reward="published").reward(AMBIGUOUS, f"<answer>{answer}</answer>") == {"cells": share}
    assert len(solutions(AMBIGUOUS.puzzle)) == 2


@pytest.mark.parametrize(("reward", "cells"), [("recipe", 0.0), ("published", 1.0)])
def test_without_words_too_only_the_published_reward_lets_clues_change(reward, cells):
    task = Sudoku(TaskConfig(generate="all", reward=reward))
    assert task.reward(PUZZLE, "4134341221434321") == {"cells": cells}
    assert task.reward(PUZZLE, "1233341221434321") == {"cells": 0.5}
    assert task.reward(PUZZLE, GRID) == {"cells": 1.0}


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_hand_worked_answers_under_both_gradings(case):
    grade = Sudoku.grade(case.item, case.text)
    assert (grade.correct, grade.published.right) == (case.strict, case.published), case.why
    assert grade.published.total == case.item.puzzle.count("0") and grade.strict.total == 1
    assert grade.kind == f"{case.item.puzzle.count('0')} blanks"
    assert published_by_patterns(case.item, case.text) == case.published
    check_verdicts(grade)


def check_verdicts(grade) -> None:
    for verdict in (grade.strict, grade.published):
        assert verdict.right in range(verdict.total + 1)
        assert verdict.source and verdict.reason and "\n" not in verdict.reason and len(verdict.reason) < 200


def published_by_patterns(item: Puzzle, text: str) -> int:
    """The published rule once more, as one list of slow regular expressions."""
    end = r"(?:<[|]eot_id[|]>|<[|]endoftext[|]>"
    readings = [
        r"<answer>[\s\S]*?```([\d\s]+)```",
        rf"<answer>([\s\S]*?){end}|</answer>)",
        rf"</answer>([\s\S]*?){end}|\Z)",
        r"(?=(\d{16})\s*</answer>)",
        r"(?<!\w)(\d{16})(?!\w)",
    ]
    found = [re.search(reading, text) for reading in readings]
    cells = next((match[1] for match in found if match and match[1].strip()), "")
    cells = re.sub(r"\s", "", cells).ljust(16, "0")
    return [cells[i] == item.solution[i] for i in range(16) if item.puzzle[i] == "0"].count(True)


PIECES = [
    *"01234", GRID, "\n", " ", "|", "-", ",", "[", "]", "```", "`", "<answer>", "</answer>", "\\boxed{", "}", "<|eot_id|>", "<|endoftext|>",
    "a", "٣", "３", "\x00", "\ud800", "\x85",
]  # fmt: skip


@st.composite
def mutated(draw):
    """An answer of the table with pieces put in, and parts taken out or doubled."""
    text = draw(st.sampled_from([case.text for case in CASES]) | st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
    for _ in range(draw(st.integers(0, 4))):
        start, stop = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
        text = text[:start] + draw(st.sampled_from(["", text[start:stop] * 2, *PIECES])) + text[stop:]
    return text


@settings(max_examples=400)
@given(st.text() | mutated(), st.sampled_from([TWO, ALL, AMBIGUOUS]))
def test_no_answer_makes_a_grade_or_a_reward_fail_and_the_published_grade_is_that_of_the_patterns(text, item):
    grade = Sudoku.grade(item, text)
    check_verdicts(grade)
    assert grade.published.right == published_by_patterns(item, text)
    assert grade.correct == chat_task().reward(item, text)["solved"] == (grade.strict.answer in solutions(item.puzzle))
    for reward in ("recipe", "published"):
        assert 0.0 <= chat_task(reward=reward).reward(item, text)["cells"] <= 1.0
        assert 0.0 <= Sudoku(TaskConfig(reward=reward)).reward(item, text)["cells"] <= 1.0
    assert len(chat_task().show(item, text).split("\n")) >= 5


SHORTER = ["<answer>{}</answer>", "\\boxed{{{}}}", "<answer>{}"]


@pytest.mark.parametrize(("form", "length"), [("{}", 10**6), *((form, 50_000) for form in SHORTER)])
def test_a_megabyte_of_anything_is_graded(form, length):
    """Any step that is quadratic in the text would take hours here."""
    for piece in (
        GRID,
        GRID + " ",
        "1",
        " ",
        "`",
        "``` ",
        "```1",
        "<answer>",
        "</answer>",
        "<answer></answer>",
        "{",
        "\\boxed{",
        "|",
        "\ud800",
    ):
        text = form.format(piece * (length // len(piece)))
        check_verdicts(Sudoku.grade(PUZZLE, text))
        for reward in ("recipe", "published"):
            assert chat_task(reward=reward).reward(PUZZLE, text)["cells"] <= 1.0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GRID, "a full grid that obeys the rules and keeps every clue"),
        ("123", "3 digits, a grid has 16"),
        ("", "0 digits, a grid has 16"),
        ("1234341221434320", "the answer contains '0'; a grid has the digits 1 to 4"),
        ("1234341221434329", "the answer contains '9'; a grid has the digits 1 to 4"),
        ("4134341221434321", "the clue 1 in row 1, column 1 became 4"),
        ("1233341221434321", "row 1 holds a digit twice"),
        (SWAPPED, "column 3 holds a digit twice"),
    ],
)
def test_the_strict_verdict_says_why(text, reason):
    assert Sudoku.grade(PUZZLE, f"<answer>{text}</answer>").strict.reason == reason
    if text:
        assert Sudoku.grade(PUZZLE, text).strict.source == "the whole text"


def test_a_grid_with_broken_boxes_says_so():
    assert Sudoku.grade(ALL, "1234234134124123").strict.reason == "box 1 holds a digit twice"


def test_the_published_verdict_says_what_it_read():
    verdict = Sudoku.grade(PUZZLE, f"<answer> </answer> so\n{GRID}").published
    assert (verdict.source, verdict.answer, verdict.right, verdict.total) == ("after </answer>", f"so{GRID}", 0, 2)
    assert verdict.reason == "0 of 2 blank cells as in the stored solution"
    assert Sudoku.grade(PUZZLE, "no").published.answer is None


def test_worked_examples_are_right_and_unlike_the_shipped_test_puzzles():
    test_grids = {item.solution for item in read_puzzles("toy/data/test.csv")}
    for item, answer in Sudoku.examples:
        grade = Sudoku.grade(item, answer)
        assert grade.correct and grade.published.right == grade.published.total
        assert solutions(item.puzzle) == [item.solution] and item.solution not in test_grids


def test_a_chat_prompt_comes_after_as_many_examples_as_wanted(tmp_path):
    messages = chat_task(few_shot=2).prompt(PUZZLE)
    assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant", "user"]
    assert Sudoku.examples[1][0].puzzle in messages[2]["content"] and messages[3]["content"] == Sudoku.examples[1][1]
    assert chat_task(prefill=True).prefill == "<reasoning>\n"
    (tmp_path / "p.txt").write_text("Solve {puzzle}!")
    assert chat_task(prompt_file=str(tmp_path / "p.txt")).prompt(PUZZLE)[0]["content"] == f"Solve {PUZZLE.puzzle}!"
    with pytest.raises(ValueError, match="task.few_shot=3: Sudoku has 2 worked examples"):
        chat_task(few_shot=3)


@pytest.mark.parametrize("generate", ["blanks", "all"])
@pytest.mark.parametrize("option", [{"few_shot": 1}, {"prefill": True}, {"prompt_file": "p.txt"}])
def test_what_only_a_chat_can_use_is_refused_by_name_elsewhere(generate, option):
    ((name, value),) = option.items()
    with pytest.raises(ValueError, match=f"task.{name}={value}: task.generate={generate} asks nothing in words"):
        Sudoku(TaskConfig(generate=generate, **option))


def test_records_give_the_puzzle_back_also_through_json():
    for item in read_puzzles("toy/data/test.csv")[:20]:
        assert Sudoku.from_record(*json.loads(json.dumps(Sudoku.record(item)))) == item
        assert Sudoku.from_record(f"Solve the following Sudoku puzzle: {item.puzzle}\n", item.solution) == item
        assert Sudoku.from_record(f"{item.puzzle}5 and {'1' * 17}", item.solution) == item  # the first 16 characters
        assert Sudoku.from_record(f"12 {'1' * 17} {item.puzzle}", item.solution) == item


@pytest.mark.parametrize(
    ("question", "truth"),
    [
        ("Numbers: [1, 2]\nTarget: 3", [[1, 2], 3]),
        ("What is 1 + 1?", 2.0),
        ("What is 1 + 1?", "2"),
        (PUZZLE.puzzle, None),
        (PUZZLE.puzzle, GRID[::-1][:15]),
        (PUZZLE.puzzle, SWAPPED),
        (GRID, GRID),
        (None, GRID),
        ("", ""),
    ],
)
def test_a_record_of_another_task_is_refused_in_one_line(question, truth):
    with pytest.raises(ValueError) as caught:
        Sudoku.from_record(question, truth)
    assert "\n" not in str(caught.value)


def test_a_chat_answer_is_shown_as_its_board():
    task = chat_task()
    board = "1 2 | 3 4\n3 4 | 1 2\n----+----\n2 1 | 4 3\n4 3 | 2 1"
    assert task.show(PUZZLE, f"thinking <answer>\n{GRID}\n</answer>") == board
    assert task.show(task.parse(PUZZLE.puzzle)) == board.replace("1 2 | 3 4\n3", "1 2 | . .\n3")
    assert len(task.show(PUZZLE, "no answer").splitlines()) == 5


def test_a_csv_file_that_excel_wrote(tmp_path):
    """Excel puts a byte order mark before the first line."""
    (tmp_path / "own.csv").write_text("\ufeffPuzzle,Solution\n2341412314323210,2341412314323214\n", encoding="utf-8")
    assert [item.puzzle for item in read_puzzles(tmp_path / "own.csv")] == ["2341412314323210"]


@pytest.mark.parametrize(("length", "is_read"), [(1000, True), (1001, False)])
def test_words_around_a_grid_are_read_in_an_answer_of_up_to_1000_characters(length, is_read):
    rows = "Row 1: 1234", "Row 2: 3412\nRow 3: 2143\nRow 4: 4321"
    answer = rows[0] + "\n" * (length - len("".join(rows))) + rows[1]
    assert (read_grid(f"<answer>{answer}</answer>")[0] == "1234341221434321") is is_read


def test_where_the_published_evaluation_found_the_grid():
    grid = "1234341221434321"
    assert published_grid(f"{grid}</answer>") == (grid, "before </answer>")
    assert published_grid(f"1{grid}</answer>") == (grid, "before </answer>")
    assert published_grid(f"<b> {grid}\t \n</answer>") == (grid, "before </answer>")
    assert published_grid(grid) == (grid, "16 digits that stand alone")
    assert published_grid(f"<answer>{grid}</answer>") == (grid, "the first <answer>")
    assert published_grid(f"</answer> {grid}") == (grid, "after </answer>")
    assert published_grid("1234") == ("", "nowhere")
