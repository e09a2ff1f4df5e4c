"""The strict reading of a 4x4 grid from an answer."""

from __future__ import annotations

import re

from dmpo_ref.tasks.answers.marked import marked_answer, until_end
from dmpo_ref.tasks.answers.writing import CHARACTERS, usual_form

MAX_ANSWER = 1000  # characters in which the strict grading looks for more than a grid

# What may stand between the digits of a grid.
SEPARATORS = re.compile(r"[\s|+,;/\[\](){}`*$\"'•\u2500-\u257f-]+|={2,}|:-+:?|^\s*>", flags=re.MULTILINE)
LABEL = re.compile(  # "Row 1:", "r1 =", "1." at the start of a line
    r"(?:\br(?:ow)?\s*#?|^\s*\(?(?=[1-4][.)]\s))([0-9])(?![0-9])\s*(?:is\b)?\s*(?:[:.)=]|\\to)?", flags=re.IGNORECASE | re.MULTILINE
)
ORDINALS = ["first", "second", "third", "fourth"]
ORDINAL = re.compile(rf"(?:\bthe )?\b(?:({'|'.join(ORDINALS)})|([1-4])(?:st|nd|rd|th)) row\b", flags=re.IGNORECASE)
LATEX = re.compile(  # around and between cells
    r"\\(?:begin|end) ?\{(?:[a-z]*(?:matrix|array)|tabular)\}(?:\{[clr| ]*\})?|\\\\|&|\\hline|\\[\[\]()]"
    r"|\\(?:left|right)(?![a-z])|\\(?:text|math)[a-z]*(?=\{)"
)
# What may stand before a grid: a name of it, the language of a block of code.
LEAD = """
    a answer are as board complete completed correct digits filled final follows grid here is my output puzzle result so solution solved
    sudoku the therefore thus
"""
STATED = re.compile(
    rf"^[\s#*>]*(?:(?:(?:{'|'.join(LEAD.split())})\b(?:'s\b)?|4x4\b|16(?= digits))[\s,*]*)+[:=]?|(?<=```)[a-z]+(?=\n)",
    flags=re.IGNORECASE,
)
# Words that may describe a grid on the lines after it, with the digits 1 to 4.
ABOUT = """
    a all and answer are block blocks box boxes cell cells clue clues column columns complete completed constraint constraints contain
    condition conditions contains correct digit digits each every exactly filled final follows four from given grid has have here holds
    in is it keeps kept meets number numbers of once puzzle repetition requirements row rows rules satisfies satisfying so solution
    solved subgrid sudoku the this to using valid which with without
"""
# A range of digits, or one alone: several in a row are another grid.
SOME_DIGITS = r"(?<![0-9])1(?: ?- ?|, 2, 3,? (?:and )?| (?:to|through) )4(?![0-9])|2x2|4x4|(?<![0-9])(?<!\bis )(?<!: )[1-4](?![^a-z]*[0-9])"
COMMENT = rf"(?=[a-z])(?:(?:{'|'.join(ABOUT.split())})\b|{SOME_DIGITS}|[ .,:;!\s-])*"
COMMENTED = re.compile(rf"(?P<grid>[^a-z]*?)(?:[.!]|(?:[.!]\s|\n)\s*{COMMENT})?", flags=re.IGNORECASE)


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
    answer = STATED.sub("", LATEX.sub(" ", "".join(map(usual_form, answer)).translate(CHARACTERS))).strip()
    labelled = ORDINAL.sub(lambda name: f"row {name[2] or ORDINALS.index(name[1].casefold()) + 1}", answer.replace("*", ""))
    if LABEL.findall(labelled) == ["1", "2", "3", "4"]:
        answer = re.sub(r"[.,;](?=\s|$)", "", LABEL.sub("", labelled))
    found = COMMENTED.fullmatch(answer)
    return SEPARATORS.sub("", found["grid"] if found else answer), source
