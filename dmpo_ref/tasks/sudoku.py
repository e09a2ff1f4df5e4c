"""4x4 Sudoku: each row, column and 2x2 box holds the digits 1 to 4.

A puzzle is 16 digits in reading order, 0 for a blank; a file is CSV with the columns `Puzzle,Solution`, the form
of the public 4x4 Sudoku data of d1 (Zhao et al., arXiv 2504.12216).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from dmpo_ref.config import TaskConfig
from dmpo_ref.tasks import BLANK, Grade

ROWS = [[4 * r + c for c in range(4)] for r in range(4)]
COLUMNS = [[4 * r + c for r in range(4)] for c in range(4)]
BOXES = [[4 * (r + i) + c + j for i in (0, 1) for j in (0, 1)] for r in (0, 2) for c in (0, 2)]
UNITS = ROWS + COLUMNS + BOXES

CHAT_PROMPT = """\
Complete this 4x4 Sudoku. The grid is written as 16 digits, row by row from the top left, and 0 is a blank:

{puzzle}

Put 1, 2, 3 or 4 in place of every 0 so that each row, each column and each of the four 2x2 boxes holds all four digits. \
The other digits must stay as they are. Think step by step, then give the completed grid as 16 digits, in this form:

<reasoning>
your reasoning
</reasoning>
<answer>
the 16 digits
</answer>"""


@dataclass(frozen=True)
class Puzzle:
    """A puzzle and one of its solutions, each 16 digits; `puzzle` has 0 where a digit is to be found."""

    puzzle: str
    solution: str

    @property
    def num_blanks(self) -> int:
        return self.puzzle.count("0")


class Sudoku:
    """The task as `train` and `evaluate` see it: items, prompts, reward, grade. Text in, text out, no model.

    `generate: blanks` writes into the grid itself: the clues stand where they are and only blanks are generated.
    `generate: all` gives the puzzle as the prompt and generates all 16 cells after it.
    `generate: chat` asks in words; the answer is free text that ends in the 16 digits between <answer> and </answer>.
    """

    alphabet: str | None = "1234"

    def __init__(self, config: TaskConfig):
        self.config = config
        self.is_chat = config.generate == "chat"
        if self.is_chat:
            self.alphabet = None

    def load(self, path: str) -> list[Puzzle]:
        """Puzzles of a CSV file (see `read_puzzles`)."""
        return read_puzzles(path)

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

    def prompt(self, item: Puzzle) -> str | list[dict[str, str]]:
        """Text before the response; in chat form the messages of the conversation so far."""
        if self.is_chat:
            return [{"role": "user", "content": CHAT_PROMPT.format(puzzle=item.puzzle)}]
        return item.puzzle if self.config.generate == "all" else ""

    def template(self, item: Puzzle) -> str | None:
        """The response as it stands before generation: `BLANK` at every position that is to be generated; None: free text."""
        if self.is_chat:
            return None
        return BLANK * 16 if self.config.generate == "all" else item.puzzle.replace("0", BLANK)

    def extract(self, text: str) -> str:
        """The grid in an answer: in chat form what stands between the last <answer> and </answer>, white space removed."""
        if not self.is_chat:
            return text
        _, tag, rest = text.rpartition("<answer>")
        return "".join(rest.partition("</answer>")[0].split()) if tag else ""

    def reward(self, item: Puzzle, text: str) -> dict[str, float]:
        """Reward by component, their sum is r: `solved` 1 or 0, or `cells`, the share of blanks filled as in the solution."""
        grid = self.extract(text)
        if self.config.reward == "cells":
            # As published: digits only, whatever stands between them; compared as far as both go.
            digits = [c for c in grid if c.isdecimal()]
            right = sum(a == s for a, s, p in zip(digits, item.solution, item.puzzle, strict=False) if p == "0")
            return {"cells": right / item.num_blanks}
        return {"solved": float(is_solution(item.puzzle, grid))}

    def grade(self, item: Puzzle, text: str) -> Grade:
        """Right if the answer is a valid full grid that keeps every clue (any solution counts); kept apart by blanks."""
        return Grade(correct=is_solution(item.puzzle, self.extract(text)), kind=f"{item.num_blanks} blanks")


def is_solution(puzzle: str, text: str) -> bool:
    """Whether `text` is 16 digits that keep the clues of `puzzle` and satisfy every row, column and box."""
    return is_valid_grid(text) and all(p in ("0", t) for p, t in zip(puzzle, text, strict=True))


def is_valid_grid(text: str) -> bool:
    """Whether each of the 12 units of the 16 characters holds 1, 2, 3, 4 once."""
    return len(text) == 16 and all({text[i] for i in unit} == set("1234") for unit in UNITS)


def read_puzzles(path: str | Path) -> list[Puzzle]:
    """Read and check a CSV file of puzzles.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no rows, a missing column, or a malformed row, with its line number.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no puzzle file {path}: give a CSV with the columns Puzzle,Solution")
    puzzles = []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.DictReader(file)
        if not {"Puzzle", "Solution"} <= set(reader.fieldnames or []):
            raise ValueError(f"{path}: the first line must name the columns Puzzle,Solution; got {reader.fieldnames}")
        for row in reader:
            puzzle = Puzzle((row["Puzzle"] or "").strip(), (row["Solution"] or "").strip())
            if problem := describe_problem(puzzle):
                raise ValueError(f"{path}, line {reader.line_num}: {problem}")
            puzzles.append(puzzle)
    if not puzzles:
        raise ValueError(f"{path} holds no puzzle: at least one row after the header is needed")
    return puzzles


def describe_problem(item: Puzzle) -> str | None:
    """What is wrong with a puzzle or its solution, in one line; None if all is well."""
    if problem := describe_clues(item.puzzle):
        return problem
    if not is_solution(item.puzzle, item.solution):
        return f"solution {item.solution!r} is not a solution of puzzle {item.puzzle!r}: 16 digits that keep the clues are needed"
    return None


def describe_clues(puzzle: str) -> str | None:
    """What is wrong with the clues of a puzzle, in one line; None if all is well."""
    if len(puzzle) != 16:
        return f"puzzle {puzzle!r} has {len(puzzle)} characters, 16 are needed"
    if wrong := sorted(set(puzzle) - set("01234")):
        return f"puzzle {puzzle!r} contains {wrong[0]!r}; only the digits 0 (blank) to 4 may stand there"
    if "0" not in puzzle:
        return f"puzzle {puzzle!r} has nothing blank, so there is nothing to generate"
    for unit in UNITS:
        clues = [puzzle[i] for i in unit if puzzle[i] != "0"]
        if len(clues) != len(set(clues)):
            return f"puzzle {puzzle!r} has contradictory clues: a digit twice in one row, column or box"
    return None


def write_puzzles(path: str | Path, puzzles: list[Puzzle]) -> None:
    """Write puzzles as CSV, `Puzzle,Solution`."""
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["Puzzle", "Solution"])
        writer.writerows((item.puzzle, item.solution) for item in puzzles)
