"""4x4 Sudoku: each row, column and 2x2 box holds the digits 1 to 4.

A puzzle is 16 digits in reading order, 0 for a blank; a file is CSV with the columns `Puzzle,Solution`, the form
of the public 4x4 Sudoku data of d1 (Zhao et al., arXiv 2504.12216).
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmpo_ref.config import TaskConfig
from dmpo_ref.tasks.answers.grid import read_grid
from dmpo_ref.tasks.answers.marked import END_TOKENS, closed_answers
from dmpo_ref.tasks.base import ANSWER_FORM, BLANK, ChatTask, Grade, Verdict
from dmpo_ref.tasks.data import read_rows

ROWS = [[4 * r + c for c in range(4)] for r in range(4)]
COLUMNS = [[4 * r + c for r in range(4)] for c in range(4)]
BOXES = [[4 * (r + i) + c + j for i in (0, 1) for j in (0, 1)] for r in (0, 2) for c in (0, 2)]
UNITS = ROWS + COLUMNS + BOXES

QUESTION = """\
Complete this 4x4 Sudoku. The grid is written as 16 digits, row by row from the top left, and 0 is a blank:

{puzzle}

Put 1, 2, 3 or 4 in place of every 0 so that each row, each column and each of the four 2x2 boxes holds all four digits. \
The other digits must stay as they are. \
"""


@dataclass(frozen=True)
class Puzzle:
    """A puzzle and one of its solutions, each 16 digits; `puzzle` has 0 where a digit is to be found."""

    puzzle: str
    solution: str

    @property
    def num_blanks(self) -> int:
        return self.puzzle.count("0")


ROW_BY_ROW = """\
<reasoning>
Row 1 is 1 2 _ 4: it lacks 3. Row 2 is 3 _ 1 2: it lacks 4. Row 3 is _ 1 4 3: it lacks 2. Row 4 is 4 3 2 _: it lacks 1.
Rows: 1234, 3412, 2143, 4321. Every column and box holds 1 to 4.
</reasoning>
<answer>
1234341221434321
</answer>"""

BY_COLUMN_AND_BOX = """\
<reasoning>
Row 1 is _ _ 1 3: it lacks 2 and 4. Column 1 has a 2 in row 4, so row 1 is 4 2 1 3.
Row 2 is 1 3 _ 2: it lacks 4. Row 3 is 3 1 2 _: it lacks 4. Row 4 is 2 _ 3 1: it lacks 4.
Rows: 4213, 1342, 3124, 2431. Every column and box holds 1 to 4.
</reasoning>
<answer>
4213134231242431
</answer>"""


class Sudoku(ChatTask):
    """The task as `train` and `evaluate` see it: items, prompts, reward, grade. Text in, text out, no model.

    `generate: blanks` writes into the grid itself: the clues stand where they are and only blanks are generated.
    `generate: all` gives the puzzle as the prompt and generates all 16 cells after it.
    `generate: chat` asks in words; the answer is free text that ends in the 16 digits between <answer> and </answer>.
    """

    alphabet: str | None = "1234"
    prefill = ""
    question = QUESTION + ANSWER_FORM.format(what="the completed grid as 16 digits", example="the 16 digits")
    examples = (
        (Puzzle("1204301201434320", "1234341221434321"), ROW_BY_ROW),
        (Puzzle("0013130231202031", "4213134231242431"), BY_COLUMN_AND_BOX),
    )

    def __init__(self, config: TaskConfig):
        self.is_chat = config.generate == "chat"
        if self.is_chat:
            self.alphabet = None
            super().__init__(config)
            return
        for name, unused in (("few_shot", 0), ("prefill", False), ("prompt_file", None)):
            if (value := getattr(config, name)) != unused:
                raise ValueError(f"task.{name}={value}: task.generate={config.generate} asks nothing in words; use task.generate=chat")
        self.config = config

    def load(self, source: str) -> list[Puzzle]:
        """Puzzles of a file (see `read_puzzles`)."""
        return read_puzzles(source)

    def parse(self, text: str) -> Puzzle:
        """A puzzle typed by hand, its solution unknown.

        Raises:
            ValueError: malformed clues.
        """
        if problem := describe_clues(text):
            raise ValueError(problem)
        return Puzzle(text, solution="")

    def show(self, item: Puzzle, text: str | None = None) -> str:
        """The puzzle, or an answer to it, as a board of text: `.` for a blank."""
        cells = (item.puzzle if text is None else self.extract(text)).ljust(16).replace("0", ".")[:16]
        rows = [f"{cells[i]} {cells[i + 1]} | {cells[i + 2]} {cells[i + 3]}" for i in range(0, 16, 4)]
        return "\n".join([*rows[:2], "----+----", *rows[2:]])

    def fields(self, item: Puzzle) -> dict[str, str]:
        return {"puzzle": item.puzzle}

    def prompt(self, item: Puzzle) -> str | list[dict[str, str]]:
        """Text before the response; in chat form the messages of the conversation so far."""
        if self.is_chat:
            return super().prompt(item)
        return item.puzzle if self.config.generate == "all" else ""

    def template(self, item: Puzzle) -> str | None:
        """The response as it stands before generation: `BLANK` at every position to generate; None: free text."""
        if self.is_chat:
            return None
        return BLANK * 16 if self.config.generate == "all" else item.puzzle.replace("0", BLANK)

    def extract(self, text: str) -> str:
        """The grid in an answer: in chat form what `read_grid` finds."""
        return read_grid(text)[0] if self.is_chat else text

    def reward(self, item: Puzzle, text: str) -> dict[str, float]:
        """Reward by component: `solved` 1 or 0 by the strict grading; or `cells`, the share of the blanks that are right.

        `recipe`: the grid is read as in the strict grading and must be 16 digits that keep the clues, else 0; any solution is right.
        `published`: the digits of the last `<answer>…</answer>`, whatever stands between them, padded or cut to 16 and compared with
        the stored solution; clues may be changed. (In the layouts without words the grid is the answer.)
        """
        if self.config.reward == "published":
            answer = ([None, *closed_answers(text)])[-1] if self.is_chat else text
            digits = "".join(c for c in answer or "" if c.isdigit())
            return {"cells": count_right_cells(item, digits) / item.num_blanks}
        grid = self.extract(text)
        is_solved = is_solution(item.puzzle, grid)
        name = "solved" if self.config.reward == "solved" else "cells"
        if is_solved or name == "solved":
            return {name: float(is_solved)}
        keeps_clues = not describe_grid(grid) and all(clue in ("0", cell) for clue, cell in zip(item.puzzle, grid, strict=True))
        return {"cells": count_right_cells(item, grid) / item.num_blanks if keeps_clues else 0.0}

    @staticmethod
    def grade(item: Puzzle, text: str) -> Grade:
        """Both gradings, kept apart by the number of blanks.

        Strict: the grid (see `read_grid`) is full, obeys the rules and keeps every clue; any solution counts.
        Published: the blank cells that are as in the stored solution, of all blank cells (see `published_grid`).
        """
        grid, source = read_grid(text)
        reason = describe_grid(grid) or describe_answer(item.puzzle, grid)
        strict = Verdict(int(not reason), 1, grid or None, source, reason or "a full grid that obeys the rules and keeps every clue")
        cells, place = published_grid(text)
        right = count_right_cells(item, cells)
        reason = f"{right} of {item.num_blanks} blank cells as in the stored solution"
        return Grade(f"{item.num_blanks} blanks", strict, Verdict(right, item.num_blanks, cells or None, place, reason))

    @staticmethod
    def record(item: Puzzle) -> tuple[str, str]:
        """(question, ground truth) as in d1's result files, the question being the 16 digits of the puzzle."""
        return item.puzzle, item.solution

    @staticmethod
    def from_record(question: str, ground_truth: Any) -> Puzzle:
        """The puzzle of a record: the question's first 16 characters if they are digits, else its first 16 digits that stand alone.

        Raises:
            ValueError: a record of another task, or a malformed one.
        """
        question = question if isinstance(question, str) else ""
        found = re.match(r"[0-9]{16}", question) or re.search(r"\b[0-9]{16}\b", question)
        if found is None or not isinstance(ground_truth, str):
            raise ValueError("a Sudoku record has a question with 16 digits and as ground truth the 16 digits of the solution")
        item = Puzzle(found[0], ground_truth.strip())
        if problem := describe_problem(item):
            raise ValueError(problem)
        return item


def published_grid(text: str) -> tuple[str, str]:
    """The text that the published evaluation takes as the grid, white space removed, and where it was found.

    The first of these that is there and not blank: digits and white space between ``` after the first `<answer>`; the text from there
    to the next `</answer>` or end token; the text after the first `</answer>` to an end token or the end; 16 digits right before a
    `</answer>`; 16 digits that stand alone. Each search is linear in the text.
    """
    ends = "|".join(map(re.escape, END_TOKENS))
    rest = text.partition("<answer>")[2]
    closed = re.split(rf"{ends}|</answer>", rest, maxsplit=1)
    candidates = (
        (re.search(r"```([\d\s]+)```", rest), 1, "the block in the first <answer>"),
        (closed if len(closed) == 2 else None, 0, "the first <answer>"),
        (re.split(ends, text.partition("</answer>")[2], maxsplit=1), 0, "after </answer>"),
        (digits_before_end(text), 0, "before </answer>"),
        (re.search(r"\b(\d{16})\b", text), 1, "16 digits that stand alone"),
    )
    for found, group, source in candidates:
        if found and (cells := "".join(found[group].split())):
            return cells, source
    return "", "nowhere"


def digits_before_end(text: str) -> list[str]:
    """The 16 digits, white space apart, right before the first `</answer>` that has some; [] where none has."""
    for found in re.finditer("</answer>", text):
        end = found.start()
        while end and text[end - 1].isspace():
            end -= 1
        if re.fullmatch(r"\d{16}", digits := text[max(0, end - 16) : end]):
            return [digits]
    return []


def count_right_cells(item: Puzzle, cells: str) -> int:
    """Blank cells of the puzzle that are as in the stored solution, `cells` being padded or cut to 16."""
    return sum(cell == right for cell, right, clue in zip(cells, item.solution, item.puzzle, strict=False) if clue == "0")


def describe_grid(grid: str) -> str | None:
    """Why a text is not 16 digits from 1 to 4, in one line; None if it is."""
    if wrong := sorted(set(grid[:1000]) - set("1234")):
        return f"the answer contains {wrong[0]!r}; a grid has the digits 1 to 4"
    return f"{len(grid)} digits, a grid has 16" if len(grid) != 16 else None


def describe_answer(puzzle: str, grid: str) -> str | None:
    """Why 16 digits do not solve a puzzle, in one line; None if they do."""
    for i, (clue, cell) in enumerate(zip(puzzle, grid, strict=True)):
        if clue not in ("0", cell):
            return f"the clue {clue} in row {i // 4 + 1}, column {i % 4 + 1} became {cell}"
    for name, units in (("row", ROWS), ("column", COLUMNS), ("box", BOXES)):
        for number, unit in enumerate(units, start=1):
            if len({grid[i] for i in unit}) < 4:
                return f"{name} {number} holds a digit twice"
    return None


def is_solution(puzzle: str, text: str) -> bool:
    """Whether `text` is 16 digits that keep the clues of `puzzle` and satisfy every row, column and box."""
    return not (describe_grid(text) or describe_answer(puzzle, text))


def read_puzzles(path: str | Path) -> list[Puzzle]:
    """Read and check puzzles (see `read_rows`).

    Raises:
        FileNotFoundError, ValueError: as `read_rows`; a malformed row, with its number.
    """
    puzzles = []
    for number, row in enumerate(read_rows(str(path), ("Puzzle", "Solution")), start=1):
        puzzles.append(Puzzle(str(row["Puzzle"]).strip(), str(row["Solution"]).strip()))
        if problem := describe_problem(puzzles[-1]):
            raise ValueError(f"{path}, row {number}: {problem}")
    return puzzles


def describe_problem(item: Puzzle) -> str | None:
    """What is wrong with a puzzle or its solution, in one line; None if all is well."""
    if problem := describe_clues(item.puzzle):
        return problem
    if not is_solution(item.puzzle, item.solution):
        return f"solution {item.solution[:40]!r} is not a solution of puzzle {item.puzzle[:40]!r}: 16 digits that keep the clues are needed"
    return None


def describe_clues(puzzle: str) -> str | None:
    """What is wrong with the clues of a puzzle, in one line; None if all is well."""
    if len(puzzle) != 16:
        return f"puzzle {puzzle[:40]!r} has {len(puzzle)} characters, 16 are needed"
    if wrong := sorted(set(puzzle) - set("01234")):
        return f"puzzle {puzzle[:40]!r} contains {wrong[0]!r}; only the digits 0 (blank) to 4 may stand there"
    if "0" not in puzzle:
        return f"puzzle {puzzle[:40]!r} has nothing blank, so there is nothing to generate"
    for unit in UNITS:
        clues = [puzzle[i] for i in unit if puzzle[i] != "0"]
        if len(clues) != len(set(clues)):
            return f"puzzle {puzzle[:40]!r} has contradictory clues: a digit twice in one row, column or box"
    return None


def write_puzzles(path: str | Path, puzzles: list[Puzzle]) -> None:
    """Write puzzles as CSV, `Puzzle,Solution`."""
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["Puzzle", "Solution"])
        writer.writerows((item.puzzle, item.solution) for item in puzzles)
