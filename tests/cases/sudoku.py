"""Answers to 4x4 Sudoku, graded by hand from the rules.

Each case: the answer; right by the strict grading; blank cells right by the published rule; why, in words; the puzzle. Most are about
a puzzle with the blanks 3 and 4 at the end of its first row.
"""

from typing import NamedTuple

from dmpo_ref.tasks.sudoku import Puzzle

GRID = "1234341221434321"
SWAPPED = "1243341221434321"  # both blanks wrong
TWO = Puzzle("1200341221434321", GRID)
ALL = Puzzle("0" * 16, GRID)
AMBIGUOUS = Puzzle("2431002400404213", "2431312413424213")  # 2431132431424213 solves it as well


class Case(NamedTuple):
    text: str
    strict: bool
    published: int
    why: str
    item: Puzzle = TWO


RIGHT, WRONG = True, False

CASES = [
    # Where the answer stands.
    Case(GRID, RIGHT, 2, "nothing but the grid"),
    Case(f"<answer>{GRID}</answer>", RIGHT, 2, "the plain form"),
    Case(f"<reasoning>\nso\n</reasoning>\n<answer>\n{GRID}\n</answer>", RIGHT, 2, "the form that is asked for"),
    Case(f"<answer>{GRID}", RIGHT, 2, "not closed: published finds 16 digits that stand alone"),
    Case(f"<answer>{GRID}<|eot_id|>", RIGHT, 2, "ended by the end token"),
    Case(f"<answer>{SWAPPED}</answer><answer>{GRID}</answer>", RIGHT, 0, "strict takes the last answer, published the first"),
    Case(f"<answer>{GRID}</answer><answer>{SWAPPED}</answer>", WRONG, 2, "likewise"),
    Case(f"<answer>{GRID}</answer><answer>", WRONG, 2, "the last answer is empty"),
    Case(f"{GRID}</answer>", WRONG, 2, "no answer begins; published takes the 16 digits before </answer>"),
    Case(f"</answer>{GRID}", WRONG, 2, "published takes what follows </answer>"),
    Case(f"<answer></answer>{GRID}", WRONG, 2, "likewise, as the answer is empty"),
    Case(f"<answer> </answer> so {GRID}", WRONG, 0, "likewise, and 'so' fills the first two cells"),
    Case(f"The grid is {GRID}.", RIGHT, 2, "words that name it, no answer; published finds 16 digits that stand alone"),
    Case(f"<reasoning>\nso {GRID}\n</reasoning>", WRONG, 2, "likewise, in the reasoning"),
    Case(f"{SWAPPED} or {GRID}", WRONG, 0, "published takes the first 16 digits that stand alone"),
    Case(f"\\boxed{{{GRID}}}", RIGHT, 2, "a box"),
    Case(f"<answer>\\boxed{{{GRID}}}</answer>", RIGHT, 0, r"published fills the first cells with \boxed{"),
    Case(f"<answer>{SWAPPED}</answer> no: \\boxed{{{GRID}}}", RIGHT, 0, "strict takes what comes last"),
    Case(f"\\boxed{{{GRID}}} no: <answer>{SWAPPED}</answer>", WRONG, 0, "likewise"),
    Case(f"\\boxed{{{GRID}", WRONG, 2, "a box that is not closed is none, and the whole text has letters"),
    Case(f"<answer>{GRID}</answer><|endoftext|>and more {SWAPPED}", RIGHT, 2, "what follows the end is not read"),
    Case(f"<|eot_id|>{GRID}", WRONG, 2, "strict reads nothing after the end token"),
    Case(f"<answer>{GRID}<|eot_id|></answer><answer>{SWAPPED}</answer>", RIGHT, 2, "strict stops at the end token"),
    Case(f"<ANSWER>{GRID}</ANSWER>", WRONG, 2, "tags are written small"),
    Case("", WRONG, 0, "nothing"),
    Case("<answer></answer>", WRONG, 0, "an empty answer"),
    # Digits.
    Case(f"<answer>{TWO.puzzle}</answer>", WRONG, 0, "the puzzle as it was"),
    Case(f"<answer>{SWAPPED}</answer>", WRONG, 0, "two columns hold a digit twice"),
    Case("<answer>1233341221434321</answer>", WRONG, 1, "the row holds 3 twice"),
    Case("<answer>4134341221434321</answer>", WRONG, 2, "the blanks are right, a clue is not"),
    Case("<answer>0034000000000000</answer>", WRONG, 2, "only the blanks"),
    Case(f"<answer>{GRID}1</answer>", WRONG, 2, "17 digits: published cuts"),
    Case(f"<answer>{GRID} {GRID}</answer>", WRONG, 2, "32 digits"),
    Case("<answer>123</answer>", WRONG, 1, "3 digits: published fills up with 0"),
    Case("<answer>1234</answer>", WRONG, 2, "a row"),
    Case("<answer>34</answer>", WRONG, 0, "the two digits alone stand in the wrong cells"),
    Case("<answer>12343412</answer><answer>21434321</answer>", WRONG, 2, "two halves"),
    Case(f"{GRID}1", WRONG, 0, "17 digits do not hold 16 that stand alone"),
    Case(f"{GRID}1</answer>", WRONG, 0, "before </answer> the last 16 of them: 2343…"),
    Case(f"<answer>{AMBIGUOUS.solution}</answer>", RIGHT, 5, "the stored solution", AMBIGUOUS),
    Case("<answer>2431132431424213</answer>", RIGHT, 1, "the other solution; published knows one", AMBIGUOUS),
    Case("<answer>2431312431424213</answer>", WRONG, 3, "a row of each", AMBIGUOUS),
    Case("2143341212344321", RIGHT, 8, "a grid that shares two rows with the stored one", ALL),
    Case("1234" * 4, WRONG, 4, "rows right, columns wrong", ALL),
    Case("1234234134124123", WRONG, 6, "rows and columns right, boxes wrong", ALL),
    Case("1" * 16, WRONG, 4, "one of each row is right by chance", ALL),
    Case("5234341221434321", WRONG, 15, "5 is no digit of this game", ALL),
    Case("0" * 16, WRONG, 0, "nothing filled in", ALL),
    # Layout.
    Case("<answer>\n1234\n3412\n2143\n4321\n</answer>", RIGHT, 2, "four lines"),
    Case("\t1234\r\n3412\r\n2143\r\n4321\r\n", RIGHT, 0, "four lines without tags: no 16 digits in a row"),
    Case("<answer>1 2 3 4 3 4 1 2 2 1 4 3 4 3 2 1</answer>", RIGHT, 2, "blanks"),
    Case("1 2 3 4 3 4 1 2 2 1 4 3 4 3 2 1", RIGHT, 0, "blanks without tags"),
    Case("<answer>1234|3412|2143|4321</answer>", RIGHT, 2, "bars: published keeps them, after the first row"),
    Case("<answer>12|34\n34|12\n--+--\n21|43\n43|21</answer>", RIGHT, 0, "a board: a bar in the third cell"),
    Case("<answer>1,2,3,4,3,4,1,2,2,1,4,3,4,3,2,1</answer>", RIGHT, 0, "commas"),
    Case("<answer>[[1,2,3,4],[3,4,1,2],[2,1,4,3],[4,3,2,1]]</answer>", RIGHT, 0, "a list of lists"),
    Case("<answer>1-2-3-4-3-4-1-2-2-1-4-3-4-3-2-1</answer>", RIGHT, 0, "dashes"),
    Case("<answer>1234/3412/2143/4321</answer>", RIGHT, 2, "slashes"),
    Case("<answer>1234_3412_2143_4321</answer>", WRONG, 2, "strict does not take underscores"),
    Case(f"<answer>```\n{GRID}\n```</answer>", RIGHT, 2, "a block"),
    Case(f"<answer>```text\n{GRID}\n```</answer>", RIGHT, 0, "a block with the name of a language"),
    Case(f"<answer>````{GRID}```</answer>", RIGHT, 2, "one mark too many"),
    Case(f"<answer>``` ```{GRID}</answer>", RIGHT, 0, "an empty block: published goes on with the text, marks included"),
    Case(f"<answer>a```{SWAPPED}```b```{GRID}```</answer>", WRONG, 0, "published takes the first block"),
    Case(f"<answer>x</answer> ```{GRID}```", WRONG, 2, "a block after the answer counts for published"),
    Case(f"```{GRID}``` <answer>{SWAPPED}</answer>", WRONG, 0, "a block before the answer does not"),
    Case(f"<answer>The grid: {GRID}</answer>", RIGHT, 0, "words that name it"),
    Case(f"**{GRID}**", RIGHT, 2, "in bold"),
    Case("\\boxed{1234\\\\3412\\\\2143\\\\4321}", RIGHT, 0, "LaTeX rows"),
    # Characters.
    Case("<answer>１２３４３４１２２１４３４３２１</answer>", RIGHT, 0, "fullwidth digits"),
    Case(f"<answer>{GRID}\x00</answer>", WRONG, 2, "a null character, which published cuts off"),
    Case("<answer>\ud800</answer>", WRONG, 0, "half a character"),
    Case("</answer><answer>\x00é數</answer>", WRONG, 0, "neither digits nor words"),
]
