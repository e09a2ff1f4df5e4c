"""Checks of `05_evaluation`: intervals, pass@k, a reward with holes, and a strict grader."""

from __future__ import annotations

import ast
import itertools
import operator
import re
from collections.abc import Callable, Sequence
from math import comb, prod

from exercise_checks.common import require, same, show_value

PROBLEMS = (((30, 100, 93), 37), ((2, 3, 7), 13), ((5, 5, 5), 30), ((1, 8, 3, 3), 24))
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def check_wilson(f: Callable) -> None:
    """Both ends solve (k/n − p)² = z² p (1 − p)/n: there the observed share is exactly z standard errors away."""
    for k, n, z in ((5, 10, 1.96), (0, 20, 1.96), (20, 20, 1.96), (3, 256, 2.576), (250, 256, 1.0)):
        low, high = f(k, n, z)
        given = {"k": k, "n": n, "z": z}
        require(low <= high, "the first number is larger than the second: are the ends exchanged? (lower, upper) is expected", **given)
        require(-1e-12 <= low < high <= 1 + 1e-12, "the interval is not inside [0, 1]", **given)
        require(low <= k / n + 1e-12 and k / n - 1e-12 <= high, "k/n is outside the interval", **given)
        for name, p in (("lower", low), ("upper", high)):
            same((k / n - p) ** 2 - z**2 * p * (1 - p) / n, 0.0, f"(k/n − p)² − z² p (1 − p)/n at the {name} end", **given)


def check_pass_at_k(f: Callable) -> None:
    """Every choice of k of the n answers, counted."""
    for n, c, k in ((5, 2, 1), (5, 2, 3), (6, 0, 2), (6, 6, 2), (6, 5, 2), (8, 1, 4)):
        chosen = [any(i < c for i in choice) for choice in itertools.combinations(range(n), k)]
        same(f(n, c, k), sum(chosen) / comb(n, k), "pass@k", n=n, c=c, k=k)
    for n, c, k in ((256, 3, 64), (2000, 10, 1000)):  # one answer after the other is wrong; the factorials do not fit in a float
        same(f(n, c, k), 1 - prod((n - c - i) / (n - i) for i in range(k)), "pass@k", n=n, c=c, k=k)


def lenient_reward(text: str, numbers: Sequence[int], target: int) -> float:
    """A carelessly written Countdown reward: 1 if the numbers occur and the value is near the target. It has holes.

    Names, calls and powers are refused, so the holes are in the rules of the game, not in Python.
    """
    if not re.fullmatch(r"[0-9+\-*/(). ]{1,200}", text) or "**" in text or "//" in text:
        return 0.0
    if not set(numbers) <= {int(run) for run in re.findall(r"\d+", text)}:
        return 0.0
    try:
        value = plain_value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, OverflowError):
        return 0.0
    return float(abs(value - target) < 1e-5)


def plain_value(node: ast.AST) -> float:
    """Value of + − * / on numbers, as floats."""
    match node:
        case ast.Constant(value=int() | float() as value):
            return float(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -plain_value(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](plain_value(left), plain_value(right))
        case _:
            raise ValueError("something other than + - * / and numbers")


def check_exploit(f: Callable) -> None:
    """The lenient reward is 1 in every problem, and the text does not use each given number exactly once."""
    unsolvable = (((1, 1, 1), 99), ((2, 4, 6), 51), ((2, 4), 0), ((3, 8), -7), (tuple(range(1001, 1009)), 5000))
    for numbers, target in (*PROBLEMS, *unsolvable):
        text = f(list(numbers), target)
        given = {"numbers": numbers, "target": target}
        require(isinstance(text, str), "a text is expected", **given)
        require(lenient_reward(text, numbers, target) == 1.0, "lenient_reward is not 1 for your text", **given)
        used = sorted(int(run) for run in re.findall(r"\d+", text))
        require(used != sorted(numbers), "your text uses each number once, as the rules say: that is not a hole", **given)


CORRECT = (
    ("30 + 100 - 93", (30, 100, 93), 37, "a correct answer"),
    ("2 * 3 + 7", (2, 3, 7), 13, "a correct answer"),
    ("7 + 2 * 3", (2, 3, 7), 13, "a product behind a sum"),
    ("5 * 5 + 5", (5, 5, 5), 30, "an equal number as often as it is given"),
    ("93 - 30 - 37", (30, 37, 93), 26, "two differences, from the left"),
    ("84 / 4 / 3", (84, 4, 3), 7, "two quotients, from the left"),
    ("8 / (3 - 8 / 3)", (8, 3, 8, 3), 24, "a fraction on the way"),
    ("3 - 10", (3, 10), -7, "a negative target"),
    ("0 * 5 + 7", (0, 5, 7), 7, "a given zero"),
    (" ((7+2))*3 ", (2, 3, 7), 27, "spaces and brackets"),
    ("100000000000000000000 + 1 - 100000000000000000000", (10**20, 1, 10**20), 1, "numbers that a float rounds"),
)
ATTACKS = (
    ("0 * 30 * 100 * 93 + 37", (30, 100, 93), 37, "another number"),
    ("30 + 100 - 93 + 30 - 30", (30, 100, 93), 37, "a number three times"),
    ("100 - 63", (30, 100, 93), 37, "numbers left out"),
    ("30100 - 93", (30, 100, 93), 30007, "two numbers written as one"),
    ("3 0 + 100 - 93", (30, 100, 93), 37, "one number written as two"),
    ("3 0 + 100 - 93", (3, 0, 100, 93), 37, "two numbers with nothing between them"),
    ("5 * 5 + 5 + 5 - 5", (5, 5, 5), 30, "an equal number too often"),
    ("5 + 5 * 5 * 1", (5, 5, 5), 30, "a number that was not given"),
    ("5 * 6", (5, 6, 6), 30, "an equal number once instead of twice"),
    ("5 * 3 + 3", (5, 5, 3), 18, "the wrong one of two numbers twice"),
    ("5 + 7", (0, 5, 7), 12, "a given zero left out"),
    ("2 ** 3 + 7", (2, 3, 7), 15, "a power"),
    ("2 * * 3 + 7", (2, 3, 7), 15, "a power with a space in it"),
    ("7 // 3 + 2", (2, 3, 7), 4, "whole division"),
    ("7 % 3 + 2", (2, 3, 7), 3, "a remainder"),
    ("2 * 3 + 7", (2, 3, 7), 14, "another value"),
    ("7 + 2 * 3", (2, 3, 7), 27, "a sum taken before the product"),
    ("100 - 30 - 93", (30, 100, 93), 163, "differences taken from the right"),
    ("7 / 2 * 3", (2, 3, 7), 10, "a value that is the target only when rounded"),
    ("100000000 / 3 * 3 / 100000001", (3, 3, 100000000, 100000001), 1, "a value that is only near the target"),
    ("100000000000000001 / 100000000000000000", (10**17, 10**17 + 1), 1, "a value that only a float makes the target"),
    ("2 / (3 - 3) + 7", (2, 3, 3, 7), 7, "division by zero"),
    ("-93 + 30 + 100", (30, 100, 93), 37, "a minus that is a sign"),
    ("30 - (-100) - 93", (30, 100, 93), 37, "a minus that is a sign"),
    ("30 - -100 - 93", (30, 100, 93), 37, "a minus that is a sign"),
    ("-(3 - 10)", (3, 10), 7, "a minus that is a sign of a bracket"),
    ("+(30 + 100) - 93", (30, 100, 93), 37, "a plus that is a sign of a bracket"),
    ("+30 + 100 - 93", (30, 100, 93), 37, "a plus that is a sign"),
    ("0x1E + 100 - 93", (30, 100, 93), 37, "a hexadecimal number"),
    ("3_0 + 100 - 93", (30, 100, 93), 37, "a number with an underscore"),
    ("30.0 + 100 - 93", (30, 100, 93), 37, "a number with a decimal point"),
    ("3e1 + 100 - 93", (30, 100, 93), 37, "a number with an exponent"),
    ("030 + 100 - 93", (30, 100, 93), 37, "a number with a leading zero"),
    ("00 * 5 + 7", (0, 5, 7), 7, "zero written as 00"),
    ("３０ + 100 - 93", (30, 100, 93), 37, "fullwidth digits"),
    ("٣٠ + 100 - 93", (30, 100, 93), 37, "Arabic digits"),
    ("² * 3 + 7", (2, 3, 7), 13, "a raised digit"),
    ("True * 3 * 8", (1, 3, 8), 24, "True for 1"),
    ("'2' * 3 + 7", (2, 3, 7), 13, "a quoted number"),
    ("30 + 100 - 93 # = 37", (30, 100, 93), 37, "a comment"),
    ("30 + 100 - 93 = 37", (30, 100, 93), 37, "an equation"),
    ("37 = 30 + 100 - 93", (30, 100, 93), 37, "an equation"),
    ("The answer is 30 + 100 - 93", (30, 100, 93), 37, "words"),
    ("30 + 100 - 93,", (30, 100, 93), 37, "a comma"),
    ("30 + 100 - 93;", (30, 100, 93), 37, "a semicolon"),
    ("[30 + 100] - 93", (30, 100, 93), 37, "a square bracket"),
    ("2(3) + 7", (2, 3, 7), 13, "a product without its operator"),
    ("__import__('os').getpid() * 0 + 2 * 3 + 7", (2, 3, 7), 13, "a call"),
    ("2 * 3 + 7\n", (2, 3, 7), 13, "a line break at the end"),
    ("2 * 3 + 7\nprint", (2, 3, 7), 13, "a second line"),
    ("2 * 3 +\t7", (2, 3, 7), 13, "a tab"),
    ("2 * 3\x0c + 7", (2, 3, 7), 13, "a form feed"),
    ("2 * 3 + 7\r", (2, 3, 7), 13, "a carriage return"),
    ("2 * 3 +\u00a07", (2, 3, 7), 13, "a space that is not broken"),
    ("2 * 3 + 7\x00", (2, 3, 7), 13, "a zero byte"),
    ("", (2, 3, 7), 13, "nothing"),
    ("   ", (2, 3, 7), 13, "only spaces"),
    ("()", (2, 3, 7), 13, "an empty bracket"),
    ("2 * (3 + 7", (2, 3, 7), 20, "a bracket that is not closed"),
    ("2 * 3) + 7", (2, 3, 7), 13, "a bracket that is not opened"),
    ("2 * 3 + 7 +", (2, 3, 7), 13, "an operator without its right side"),
    ("(" * 5000 + "2", (2,), 2, "five thousand brackets"),
    ("1 + " * 2000 + "2", (2,), 2, "two thousand terms"),
    ("9" * 5000, (2,), 2, "a number of five thousand digits"),
)


def check_countdown_grade(f: Callable) -> None:
    """Correct answers are accepted, a list of attacks is refused, and none of them makes the grader raise."""
    for want, cases in ((True, CORRECT), (False, ATTACKS)):
        for text, numbers, target, kind in cases:
            given = {"text": text, "numbers": numbers, "target": target}
            got = f(text, list(numbers), target)
            require(isinstance(got, bool), f"returns {show_value(got)}, not True or False, on {kind},", **given)
            require(got == want, f"{'accepts' if got else 'refuses'} {kind},", **given)
