"""The strict reading of a 4x4 grid from an answer."""

from __future__ import annotations

import re

from dmpo_ref.tasks.answers.marked import marked_answer, until_end
from dmpo_ref.tasks.answers.writing import usual_form

MAX_ANSWER = 1000  # characters in which the strict grading looks for more than a grid

SEPARATORS = re.compile(r"[\s|+,;/\[\](){}`*$\"'│─┼-]+")  # what may stand between the digits of a grid
LABEL = re.compile(r"\br(?:ow)?\s*([0-9])(?![0-9])\s*(?:is\b)?\s*[:.)=]?", flags=re.IGNORECASE)
ORDINALS = ["first", "second", "third", "fourth"]
ORDINAL = re.compile(rf"\b({'|'.join(ORDINALS)}) row\b", flags=re.IGNORECASE)
LATEX = re.compile(r"\\(?:begin|end) ?\{[a-z]*(?:matrix|array)\}(?:\{[clr| ]*\})?|\\\\|&|\\hline")  # around and between cells
# What may stand before a grid: a name of it, the language of a block of code.
STATED = re.compile(
    r"^\s*(?:\*\*)?(?:the )?(?:final |correct |completed? |solved )*(?:answer|solution|grid|sudoku|puzzle)(?: grid)?(?: is)?(?:\s*:|\b)"
    r"|(?<=```)[a-z]+(?=\n)",
    flags=re.IGNORECASE,
)
# Words that may describe a grid on the lines after it, with the digits 1 to 4.
ABOUT = """
    a all and answer are block blocks box boxes cell cells clue clues column columns complete completed constraint constraints contain
    contains correct digit digits each every exactly filled final follows from given grid has have here holds in is it keeps kept
    number numbers of once puzzle row rows satisfies so solution solved subgrid sudoku the this to using valid with
"""
COMMENT = rf"(?=[a-z])(?:(?:{'|'.join(ABOUT.split())})\b|2x2|(?<![0-9])[1-4](?![0-9])|[ .,:;!\s-])*"
COMMENTED = re.compile(rf"(?P<grid>[^a-z]*?)(?:[.!]|[.!]?\n\s*{COMMENT})?", flags=re.IGNORECASE)


def read_grid(text: str) -> tuple[str, str]:
    """The grid in an answer and where it was found, for the strict grading.

    From the last `<answer>` or the last `\\boxed{…}` (see `marked_answer`), or, in a text without either, the whole text up to its first
    end token. Removed are white space, brackets and lines between the digits (see `SEPARATORS`), a LaTeX matrix around them, a name
    before the grid (see `STATED`), the labels `Row 1:` or `First row:` to the fourth, a full stop at the end, and lines after the grid
    that describe it in known words (see `ABOUT`). Everything else stays, and makes the answer wrong.
    """
    answer, source = marked_answer(text)
    if answer is None:
        answer, source = until_end(text), "the whole text"
    if len(answer) > MAX_ANSWER:
        return SEPARATORS.sub("", answer), source
    answer = STATED.sub("", LATEX.sub(" ", "".join(map(usual_form, answer)))).strip()
    labelled = ORDINAL.sub(lambda name: f"row {ORDINALS.index(name[1].casefold()) + 1}", answer.replace("*", ""))
    if LABEL.findall(labelled) == ["1", "2", "3", "4"]:
        answer = re.sub(r"[.,;]\s*\n", "\n", LABEL.sub("", labelled))
    found = COMMENTED.fullmatch(answer)
    return SEPARATORS.sub("", found["grid"] if found else answer), source
