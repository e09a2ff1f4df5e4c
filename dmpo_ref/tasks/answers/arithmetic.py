"""Arithmetic in text, without `eval`: exact values for the strict grading, Python's own for the published one.

Both take any string, do a bounded amount of work, and say by a ValueError why a text has no value.
"""

from __future__ import annotations

import ast
import operator
import re
from dataclasses import dataclass
from fractions import Fraction

from dmpo_ref.tasks.answers.writing import one_writing

MAX_LENGTH = 500  # characters of an expression
MAX_DEPTH = 50  # brackets inside brackets
MAX_DIGITS = 20  # digits of a number
MAX_SOURCE = 1000  # characters of an expression read as Python
MAX_BITS = 100_000  # of an intermediate integer, for which Python has no limit

OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
PYTHON_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}
BRACKETS = {"(": ")", "[": "]", "{": "}"}
PLAIN = str.maketrans("•∗", "**")
COMMANDS = {"times": "*", "cdot": "*", "ast": "*", "bullet": "*", "centerdot": "*", "div": "/", "frac": r"\frac"}
COMMANDS |= dict.fromkeys(("implies", "Rightarrow", "Longrightarrow", "rightarrow", "to"), "=")
GROUPED = re.compile(r"(?<![0-9.])[0-9]{1,3}(?:[, ][0-9]{3})+(?![0-9.])")
TIMES = re.compile(r"(?<=[0-9)\]}])( ?)[xX]( ?)(?=[0-9(\[{\\])")


@dataclass(frozen=True)
class Expression:
    """The exact value of an expression, and the numbers written in it, in order."""

    value: Fraction
    numbers: tuple[int, ...]


def evaluate_expression(text: str) -> Expression:
    r"""The value of an expression of non-negative integers, + − × ÷ and brackets, as a fraction.

    `*` and `/` bind closer than `+` and `-`, equals from the left. Brackets ( ), [ ], { } must match in kind; `\frac{a}{b}` is (a)/(b).
    A minus may stand before the first term of an expression or bracket, nowhere else; no other sign, no product without its
    operator. Digits separated by space are two numbers, and two numbers without an operator are an error.

    Raises:
        ValueError: anything else, a division by zero, or more than MAX_LENGTH characters, MAX_DEPTH brackets, MAX_DIGITS digits.
    """
    if len(text) > MAX_LENGTH:
        raise ValueError(f"longer than {MAX_LENGTH} characters")
    return ExpressionParser(re.findall(r"[0-9]+|\\frac|\S", text)).parse()


class ExpressionParser:
    """Recursive descent over tokens; the recursion ends at MAX_DEPTH brackets."""

    def __init__(self, tokens: list[str]):
        self.tokens, self.at, self.depth = tokens, 0, 0
        self.numbers: list[int] = []

    def parse(self) -> Expression:
        value = self.sum()
        if self.next:
            raise ValueError(f"{self.next!r} where an operator or the end should be")
        return Expression(value, tuple(self.numbers))

    @property
    def next(self) -> str:
        """The next token to read, "" at the end."""
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        token, self.at = self.next, self.at + 1
        return token

    def sum(self) -> Fraction:
        is_negative = self.next == "-"
        self.at += is_negative
        value = -self.product() if is_negative else self.product()
        while self.next in ("+", "-"):
            value = OPERATORS[self.take()](value, self.product())
        return value

    def product(self) -> Fraction:
        value = self.operand()
        while self.next in ("*", "/"):
            value = self.apply(self.take(), value, self.operand())
        return value

    def operand(self) -> Fraction:
        token = self.take()
        if not token:
            raise ValueError("it ends where a number should be")
        if token == r"\frac":
            return self.apply("/", self.bracket("{"), self.bracket("{"))
        if token in BRACKETS:
            self.at -= 1
            return self.bracket(token)
        if not re.fullmatch(r"[0-9]+", token):
            raise ValueError(f"{token!r} where a number should be")
        if len(token) > MAX_DIGITS:
            raise ValueError(f"a number of more than {MAX_DIGITS} digits")
        self.numbers.append(int(token))
        return Fraction(token)

    def bracket(self, left: str) -> Fraction:
        if (token := self.take()) != left:
            raise ValueError(f"{token!r} where {left!r} should be" if token else f"it ends where {left!r} should be")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ValueError(f"more than {MAX_DEPTH} brackets inside each other")
        value = self.sum()
        if (token := self.take()) != BRACKETS[left]:
            raise ValueError(f"{token!r} where {BRACKETS[left]!r} should be" if token else f"{left!r} is not closed")
        self.depth -= 1
        return value

    def apply(self, sign: str, left: Fraction, right: Fraction) -> Fraction:
        if sign == "/" and right == 0:
            raise ValueError("division by zero")
        return OPERATORS[sign](left, right)


def plain(text: str) -> str:
    r"""LaTeX and Unicode arithmetic in the characters that `evaluate_expression` reads.

    From `one_writing` the commands `\times \cdot \div` become operators, so does x between operands (as in 2 x 3); arrows become =;
    `\text{…}` its content; `1,000` is 1000; dollar signs go. A command that is none of these stays, for `evaluate_expression` to refuse.
    """
    text = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", one_writing(re.sub(r"\\math(?:bin|rel|op)\b", "", text))).replace("$", " ")
    text = re.sub(r"\{ ?(\\[a-z]+|[-+*/]) ?\}", r" \1 ", re.sub(r"\\([*{}])", r"\1", text))  # \* in Markdown; a sign in braces
    text = re.sub(r"\\([A-Za-z]+)", lambda found: COMMANDS.get(found[1], found[0]), text)
    text = re.sub(r"[-=]>", "=", GROUPED.sub(lambda number: re.sub("[, ]", "", number[0]), text))
    return TIMES.sub(r"\1*\2", text).translate(PLAIN)


def python_value(text: str) -> complex:
    """The value that `eval` gives for a text of digits + - * / ( ) . and white space; `**` and `//` are among what Python understands.

    Python's own parser reads the text, so that its rules hold: no leading zeros, no line break outside brackets, signs anywhere.
    A power can be complex. A text whose value is not a number, or that fails, is an error, and so is one that `eval` might never finish:
    the result differs from `eval` only above MAX_SOURCE characters (white space in a row counts once) and above MAX_BITS bits.

    Raises:
        ValueError: no value.
    """
    if not re.fullmatch(r"[0-9+\-*/().\s]+", text):
        raise ValueError("other characters than digits + - * / ( ) . and white space")
    source = re.sub(r"[ \t\f]+", " ", text.strip())
    if len(source) > MAX_SOURCE:
        raise ValueError(f"longer than {MAX_SOURCE} characters")
    values: dict[ast.AST, complex] = {}
    try:
        nodes = list(ast.walk(ast.parse(source, mode="eval").body))
        for node in reversed(nodes):  # breadth first, reversed: every operand before its operation, without recursion
            if isinstance(node, ast.expr):
                values[node] = compute(node, values)
    except (SyntaxError, ArithmeticError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"no value in Python: {type(error).__name__}") from error
    return values[nodes[0]]


def compute(node: ast.expr, values: dict[ast.AST, complex]) -> complex:
    """The value of one node from those of its operands."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return node.value
    if isinstance(node, ast.UnaryOp):
        return -values[node.operand] if isinstance(node.op, ast.USub) else +values[node.operand]
    if not isinstance(node, ast.BinOp):
        raise ValueError(f"no value in Python: {type(node).__name__}")
    left, right = values[node.left], values[node.right]
    is_power = isinstance(node.op, ast.Pow)
    if is_power and isinstance(left, int) and isinstance(right, int) and (left.bit_length() - 1) * right > MAX_BITS:
        raise ValueError("a power too large to compute")
    value = PYTHON_OPERATORS[type(node.op)](left, right)
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise ValueError("a value too large to compute")
    return value
