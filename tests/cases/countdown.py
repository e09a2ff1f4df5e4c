r"""Answers to Countdown problems, graded by hand from the rules.

Each case: the answer; right by the strict grading; right by the published rule; why, in words; the problem. Most are about reaching 37
with 30, 100 and 93, which 30 + 100 - 93 does.
"""

from typing import NamedTuple

from dmpo_ref.tasks.countdown import Problem

SUM = Problem((30, 100, 93), 37)  # 30 + 100 - 93
PRODUCT = Problem((6, 3, 5), 23)  # 6 * 3 + 5
QUOTIENT = Problem((84, 4, 9), 30)  # 84 / 4 + 9
POWER = Problem((2, 3, 7), 15)  # only with 2 ** 3 + 7, which is not one of the four operations
TWINS = Problem((5, 5, 7), 7)  # 7 + 5 - 5
FRACTION = Problem((8, 3, 8, 3), 24)  # 8 / (3 - 8 / 3)
NEAR = Problem((1000000, 1000001), 1)  # not to be reached
FOUR = Problem((1, 2, 3, 4), 24)
NEGATIVE = Problem((3, 10), -7)
ZERO = Problem((0, 5, 7), 12)
NINES = Problem((9, 9, 9), 9)
HANGS = Problem((95, 99, 87), 10)
COMPLEX = Problem((9, 1, 2, 2), -9)


class Case(NamedTuple):
    text: str
    strict: bool
    published: bool
    why: str
    item: Problem = SUM


RIGHT, WRONG = True, False

CASES = [
    # Where the answer stands.
    Case("<answer>30 + 100 - 93</answer>", RIGHT, WRONG, "published reads the whole text, which has letters, where there is no box"),
    Case(r"\boxed{30 + 100 - 93}", RIGHT, RIGHT, "the plain form"),
    Case("<reasoning>\nso\n</reasoning>\n<answer>\n\\boxed{30 + 100 - 93}\n</answer>", RIGHT, RIGHT, "a box in the answer"),
    Case("30 + 100 - 93", WRONG, RIGHT, "strict wants the answer marked; published takes the whole text"),
    Case("So 30 + 100 - 93 = 37", WRONG, RIGHT, "published finds the equation in any text"),
    Case(r"\boxed{1 + 2} no: <answer>30 + 100 - 93</answer>", RIGHT, WRONG, "strict takes what comes last, published the box"),
    Case(r"<answer>1 + 2</answer> no: \boxed{30 + 100 - 93}", RIGHT, RIGHT, "the box comes last"),
    Case("<answer>1 + 2</answer><answer>30 + 100 - 93</answer>", RIGHT, WRONG, "strict takes the last answer"),
    Case("<answer>30 + 100 - 93</answer><answer>1 + 2</answer>", WRONG, WRONG, "the last answer is wrong"),
    Case(r"\boxed{1 + 2} \boxed{30 + 100 - 93}", RIGHT, RIGHT, "the last box"),
    Case(r"\boxed{30 + 100 - 93} \boxed{1 + 2}", WRONG, WRONG, "the last box is wrong"),
    Case("<answer>30 + 100 - 93", RIGHT, WRONG, "an answer that is not closed still counts for strict"),
    Case(r"\boxed{30 + 100 - 93", WRONG, WRONG, "a box that is not closed is none"),
    Case(r"\boxed{ or <answer>30 + 100 - 93</answer>", RIGHT, RIGHT, "unbalanced: published falls back to the first answer"),
    Case(r"\boxed{ <answer>1 + 2</answer> <answer>30 + 100 - 93</answer>", RIGHT, WRONG, "unbalanced: published takes the first answer"),
    Case(r"$\boxed 30 + 100 - 93$ and so on", WRONG, RIGHT, r"published knows `\boxed ` up to $; strict wants braces"),
    Case(r"\fbox{30 + 100 - 93}", RIGHT, WRONG, r"published does not unwrap \fbox, so letters remain"),
    Case(r"\fbox{30 + 100 - 93 = 37}", RIGHT, RIGHT, r"but the equation inside is found"),
    Case(r"\boxed{30 + 100 - 93}<|eot_id|>\boxed{1 + 2}", RIGHT, WRONG, "strict stops at the end token, published reads on"),
    Case(r"\boxed{1 + 2}<|endoftext|>\boxed{30 + 100 - 93}", WRONG, RIGHT, "the same the other way round"),
    Case("", WRONG, WRONG, "nothing"),
    Case("<answer></answer>", WRONG, WRONG, "an empty answer"),
    Case(r"\boxed{}", WRONG, WRONG, "an empty box"),
    Case("<answer>The expression is 30 + 100 - 93</answer>", WRONG, WRONG, "words"),
    # Equations.
    Case("<answer>30 + 100 - 93 = 37</answer>", RIGHT, RIGHT, "published finds the equation in the whole text"),
    Case(r"\boxed{30 + 100 - 93 = 37}", RIGHT, RIGHT, "an equation"),
    Case(r"\boxed{30 + 100 - 93 = 38}", WRONG, RIGHT, "published does not read the right side"),
    Case(r"\boxed{37 = 30 + 100 - 93}", RIGHT, WRONG, "published keeps the left side, 37"),
    Case(r"\boxed{30 + 100 - 93 = 130 - 93 = 37}", RIGHT, RIGHT, "every side is 37"),
    Case(r"\boxed{30 + 100 = 130 - 93 = 37}", WRONG, WRONG, "30 + 100 is not 37"),
    Case(r"\boxed{30 + 100 - 93 = ?}", WRONG, RIGHT, "for published a blank after = is enough"),
    Case(r"\boxed{30 + 100 - 93=y}", WRONG, WRONG, "y is no number, so published keeps the whole, with a letter"),
    Case(r"\boxed{37 = 37}", WRONG, WRONG, "no side uses the numbers"),
    Case("<answer>30 + 100 = 130\n130 - 93 = 37</answer>", WRONG, WRONG, "two steps are not one expression"),
    Case(r"<answer>\[30 + 100 - 93 = 37\]</answer>", RIGHT, RIGHT, "display mathematics"),
    # Numbers.
    Case(r"\boxed{100 - 93 + 30}", RIGHT, RIGHT, "the order is free"),
    Case(r"\boxed{(100 - 93) + 30}", RIGHT, RIGHT, "parentheses"),
    Case(r"\boxed{((((((30 + 100 - 93))))))}", RIGHT, RIGHT, "more of them"),
    Case(r"\boxed{30 + 93 - 100}", WRONG, WRONG, "is 23"),
    Case(r"\boxed{100 + 30 + 93}", WRONG, WRONG, "is 223"),
    Case(r"\boxed{30 + 7}", WRONG, WRONG, "the value is right, the numbers are not"),
    Case(r"\boxed{37}", WRONG, WRONG, "the target is not an expression of the numbers"),
    Case(r"\boxed{30 + 100 - 93 + 0}", WRONG, WRONG, "0 is not given"),
    Case(r"\boxed{30 + 100 - 93 + 30 - 30}", WRONG, WRONG, "30 three times"),
    Case(r"\boxed{3 0 + 100 - 93}", WRONG, WRONG, "3 and 0 are two numbers"),
    Case(r"\boxed{3\hspace{1em}0 + 100 - 93}", WRONG, WRONG, "the same, further apart"),
    Case(r"\boxed{30\hspace{1em}+ 100 - 93}", RIGHT, WRONG, "space of LaTeX between number and operator"),
    Case(r"\boxed{0x1E + 100 - 93}", WRONG, WRONG, "hexadecimal, as Python would read it"),
    Case(r"\boxed{3_0 + 100 - 93}", WRONG, WRONG, "an underscore, which Python would skip"),
    Case(r"\boxed{3e1 + 100 - 93}", WRONG, WRONG, "a float in Python"),
    Case(r"\boxed{30 + 100 - 93 # is 37}", WRONG, WRONG, "a comment"),
    Case(r"\boxed{301 + 00 - 93}", WRONG, WRONG, "other numbers of the same digits"),
    Case(r"\boxed{030 + 100 - 93}", RIGHT, WRONG, "030 is 30, but a syntax error in Python"),
    Case(r"\boxed{30.0 + 100 - 93}", WRONG, WRONG, "strict has no decimals; published sees the numbers 30, 0, 100, 93"),
    Case(r"\boxed{30. + 100 - 93}", WRONG, RIGHT, "30. is a float in Python, its digits 30"),
    Case(r"\boxed{7 + 5 - 5}", RIGHT, RIGHT, "a number given twice is used twice", TWINS),
    Case(r"\boxed{7 * 5 / 5}", RIGHT, RIGHT, "likewise", TWINS),
    Case(r"\boxed{7}", WRONG, WRONG, "both fives are missing", TWINS),
    Case(r"\boxed{7 / (5 - 5)}", WRONG, WRONG, "division by zero", TWINS),
    Case(r"\boxed{8 / (3 - 8 / 3)}", RIGHT, RIGHT, "exact as a fraction, near enough as a float", FRACTION),
    Case(r"\boxed{1000001 / 1000000}", WRONG, RIGHT, "1.000001 is within 1e-5 of 1, and not 1", NEAR),
    Case(r"\boxed{1000000 - 1000001}", WRONG, WRONG, "is -1", NEAR),
    Case(r"\boxed{1 * 2 * 3 * 4}", RIGHT, RIGHT, "four numbers", FOUR),
    Case(r"\boxed{(1 + 3) * (2 + 4)}", RIGHT, RIGHT, "another way", FOUR),
    Case(r"\boxed{1 * 2 * 3 + 4}", WRONG, WRONG, "is 10", FOUR),
    Case(r"\boxed{3 - 10}", RIGHT, RIGHT, "a negative target", NEGATIVE),
    Case(r"\boxed{0 + 5 + 7}", RIGHT, RIGHT, "zero is given", ZERO),
    Case(r"\boxed{00 + 5 + 7}", RIGHT, RIGHT, "Python allows zeros before zero", ZERO),
    Case(r"\boxed{5 + 7}", WRONG, WRONG, "zero must be used too", ZERO),
    # Signs and operators.
    Case(r"\boxed{-93 + 30 + 100}", RIGHT, RIGHT, "a minus may stand first"),
    Case(r"\boxed{30 - (-100) - 93}", RIGHT, RIGHT, "also in a bracket"),
    Case(r"\boxed{30 - -100 - 93}", WRONG, RIGHT, "but not after an operator"),
    Case(r"\boxed{+30 + 100 - 93}", WRONG, RIGHT, "a plus is no sign for strict"),
    Case(r"\boxed{6 * 3 + 5}", RIGHT, RIGHT, "the plain form", PRODUCT),
    Case(r"\boxed{5 + 6 * 3}", RIGHT, RIGHT, "the product binds closer", PRODUCT),
    Case(r"\boxed{(5 + 6) * 3}", WRONG, WRONG, "is 33", PRODUCT),
    Case(r"\boxed{6 \times 3 + 5}", RIGHT, RIGHT, "LaTeX that published knows", PRODUCT),
    Case(r"\boxed{6 \cdot 3 + 5}", RIGHT, RIGHT, "likewise", PRODUCT),
    Case(r"\boxed{6\times3+5}", RIGHT, RIGHT, "no blanks", PRODUCT),
    Case(r"\boxed{6 × 3 + 5}", RIGHT, WRONG, "published has no ×", PRODUCT),
    Case(r"\boxed{6 · 3 + 5}", RIGHT, WRONG, "nor ·", PRODUCT),
    Case(r"\boxed{6 x 3 + 5}", RIGHT, WRONG, "nor the letter x", PRODUCT),
    Case(r"\boxed{6 3 + 5}", WRONG, WRONG, "no operator", PRODUCT),
    Case(r"\boxed{6(3) + 5}", WRONG, WRONG, "a product without an operator; for Python a call", PRODUCT),
    Case(r"\boxed{(6)(3) + 5}", WRONG, WRONG, "likewise", PRODUCT),
    Case(r"\boxed{\left(6 \times 3\right) + 5}", RIGHT, WRONG, r"published has no \left", PRODUCT),
    Case(r"\boxed{6 \times 3 + 5 \text{ = 23}}", RIGHT, WRONG, "published takes the blank before = for the expression", PRODUCT),
    Case("<answer>6 * 3 + 5.</answer>", RIGHT, WRONG, "a full stop at the end", PRODUCT),
    Case(r"\boxed{84 / 4 + 9}", RIGHT, RIGHT, "the plain form", QUOTIENT),
    Case(r"\boxed{84 \div 4 + 9}", RIGHT, RIGHT, "LaTeX that published knows", QUOTIENT),
    Case(r"\boxed{84 ÷ 4 + 9}", RIGHT, WRONG, "published has no ÷", QUOTIENT),
    Case(r"\boxed{\frac{84}{4} + 9}", RIGHT, WRONG, r"published has no \frac", QUOTIENT),
    Case(r"\boxed{\dfrac{84}{4} + 9}", RIGHT, WRONG, r"nor \dfrac", QUOTIENT),
    Case(r"\boxed{84 // 4 + 9}", WRONG, RIGHT, "// is not one of the four operations", QUOTIENT),
    Case(r"\boxed{84 / (4 + 9)}", WRONG, WRONG, "is 84/13", QUOTIENT),
    Case(r"\boxed{2**3 + 7}", WRONG, RIGHT, "** is not one of the four operations", POWER),
    Case(r"\boxed{2^3 + 7}", WRONG, WRONG, "published has no ^", POWER),
    Case(r"\boxed{2 * 3 + 7}", WRONG, WRONG, "is 13", POWER),
    Case(r"\boxed{9**9**9}", WRONG, WRONG, "too large to compute", NINES),
    Case(r"\boxed{95**99**87}", WRONG, WRONG, "likewise", HANGS),
    Case(r"\boxed{((-9)**(1/2))**2}", WRONG, RIGHT, "complex on the way, -9 in the end but for rounding", COMPLEX),
    Case(r"\boxed{((-9)**(1/2))*2}", WRONG, WRONG, "is 6i", COMPLEX),
    # Characters.
    Case(r"\boxed{30 − 93 + 100}", RIGHT, WRONG, "the minus sign of typography"),
    Case(r"\boxed{[30 + 100] - 93}", RIGHT, WRONG, "published has no ["),
    Case(r"\boxed{{30 + 100} - 93}", RIGHT, WRONG, "nor {"),
    Case(r"\boxed{(30 + 100] - 93}", WRONG, WRONG, "brackets of two kinds"),
    Case(r"\boxed{(30 + 100 - 93}", WRONG, WRONG, "a bracket that is not closed"),
    Case(r"\boxed{30 + 100) - 93}", WRONG, WRONG, "a bracket that is not opened"),
    Case("\\boxed{30 + 100\n- 93}", RIGHT, WRONG, "for Python a line break ends the expression"),
    Case("\\boxed{(30 + 100\n- 93)}", RIGHT, RIGHT, "but not inside brackets"),
    Case("<answer>$30 + 100 - 93$</answer>", RIGHT, WRONG, "mathematics in dollars"),
    Case(r"\boxed{\mbox{30 + 100 - 93}}", RIGHT, WRONG, r"\mbox is unwrapped"),
    Case(r"\boxed{30 + 100 \, - 93}", RIGHT, WRONG, "a thin space"),
    Case(r"\boxed{\sqrt{30} + 100 - 93}", WRONG, WRONG, "a command that is no arithmetic"),
    Case(r"\boxed{３０+１００-９３}", RIGHT, WRONG, "fullwidth digits, a syntax error in Python"),
    Case(r"\boxed{٣٠+١٠٠-٩٣}", WRONG, WRONG, "Arabic digits"),
    Case("\\boxed{30 + 100 - 93\x00}", WRONG, WRONG, "a null character"),
    Case("\\boxed{30 + 100 - 93\ud800}", WRONG, WRONG, "half a character"),
]
