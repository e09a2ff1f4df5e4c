"""Arithmetic in text against Python's own: `eval` over fractions for exact values, plain `eval` for the published ones."""

import re
import warnings
from fractions import Fraction
from itertools import product

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dmpo_ref.tasks.answers.arithmetic import MAX_BITS, MAX_DEPTH, MAX_DIGITS, MAX_LENGTH, evaluate_expression, plain, python_value

pytestmark = pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")

NUMBERS = st.integers(0, 10**6)
TREES = st.recursive(NUMBERS, lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner), max_leaves=8)


def written(tree, latex: bool = False) -> str:
    """A tree as text, every operation in parentheses; in LaTeX with its own operators and fractions."""
    if isinstance(tree, int):
        return str(tree)
    left, sign, right = written(tree[0], latex), tree[1], written(tree[2], latex)
    if not latex:
        return f"({left}{sign}{right})"
    if sign == "/" and len(left) % 2:
        return rf"\frac{{{left}}}{{{right}}}"
    return rf"\left({left} {dict(zip('+-*/', ('+', '-', chr(92) + 'times', chr(92) + 'div'), strict=True))[sign]} {right}\right)"


def leaves(tree) -> tuple[int, ...]:
    return (tree,) if isinstance(tree, int) else leaves(tree[0]) + leaves(tree[2])


def as_fractions(text: str) -> Fraction | None:
    """The exact value by `eval`, every integer made a fraction; None for a division by zero."""
    try:
        return eval(re.sub(r"\d+", lambda run: f"Fraction({int(run[0])})", text), {"Fraction": Fraction})
    except ZeroDivisionError:
        return None


def value_or_none(function, text: str):
    try:
        return function(text)
    except ValueError:
        return None


@given(TREES)
def test_exact_values_are_those_of_eval_over_fractions(tree):
    expected, found = as_fractions(written(tree)), value_or_none(evaluate_expression, written(tree))
    assert found is None if expected is None else (found.value, found.numbers) == (expected, leaves(tree))


@given(TREES)
def test_latex_has_the_value_of_the_plain_expression(tree):
    expected, found = as_fractions(written(tree)), value_or_none(evaluate_expression, plain(written(tree, latex=True)))
    assert found is None if expected is None else (found.value, found.numbers) == (expected, leaves(tree))


@given(st.lists(st.tuples(st.sampled_from("+-*/"), st.integers(1, 99)), min_size=1, max_size=8), st.booleans())
def test_without_brackets_the_operators_bind_as_in_python(terms, is_negative):
    text = ("-" if is_negative else "") + "7" + "".join(f" {sign} {number}" for sign, number in terms)
    assert evaluate_expression(text).value == as_fractions(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2×3", 6), ("2✕3", 6), ("2⋅3", 6), ("2∙3", 6), ("2•3", 6), ("2∗3", 6), ("2＊3", 6), ("2 X 3", 6), ("6÷3", 2), ("6∕3", 2),
        ("6⁄3", 2), ("6／3", 2), ("6−3", 3), ("6–3", 3), ("6—3", 3), ("6－3", 3), ("6＋3", 9), ("（6＋3）", 9), ("１２ + 3", 15),
        (r"2\ast 3", 6), (r"\tfrac{6}{4}", Fraction(3, 2)), (r"\frac{\frac{1}{2}}{3}", Fraction(1, 6)), (r"\mathrm{2} \; + \! 3", 5),
        (r"\Bigl[2 + \{3\}\Bigr]", 5), (r"\Bigl[2 + {3}\Bigr]", 5), (r"$2 \quad + \text{ 3 }$", 5), (r"\(2 + 3\)", 5),
        ("-2 + 3", 1), ("(-2) * (-3)", 6), ("-(2 + 3)", -5), ("-2 * 3", -6),
    ],
)  # fmt: skip
def test_signs_of_latex_and_unicode_mean_what_they_mean(text, value):
    found = value_or_none(evaluate_expression, plain(text))
    assert (found and found.value) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it ends where a number should be"),
        ("2 +", "it ends where a number should be"),
        ("2 3", "'3' where an operator or the end should be"),
        ("2(3)", "'(' where an operator or the end should be"),
        ("(2)(3)", "'(' where an operator or the end should be"),
        ("2**3", "'*' where a number should be"),
        ("2//3", "'/' where a number should be"),
        ("+2", "'+' where a number should be"),
        ("2--3", "'-' where a number should be"),
        ("--2", "'-' where a number should be"),
        ("2*-3", "'-' where a number should be"),
        ("2.5", "'.' where an operator or the end should be"),
        ("0x1E", "'x' where an operator or the end should be"),
        ("0b11", "'b' where an operator or the end should be"),
        ("3_0", "'_' where an operator or the end should be"),
        ("3e1", "'e' where an operator or the end should be"),
        ("2 + 3 # 5", "'#' where an operator or the end should be"),
        ("1,000", "',' where an operator or the end should be"),
        ("(2", "'(' is not closed"),
        ("2)", "')' where an operator or the end should be"),
        ("(2]", "']' where ')' should be"),
        (r"\frac{1}2", "'2' where '{' should be"),
        (r"\frac{1}", "it ends where '{' should be"),
        ("()", "')' where a number should be"),
        ("1/0", "division by zero"),
        (r"\frac{1}{2-2}", "division by zero"),
        ("x", "'x' where a number should be"),
        ("٣", "'٣' where a number should be"),
        ("²", "'²' where a number should be"),
        ("1" * (MAX_DIGITS + 1), "a number of more than 20 digits"),
        ("(" * (MAX_DEPTH + 1) + "1" + ")" * (MAX_DEPTH + 1), "more than 50 brackets inside each other"),
        ("(" * 100_000, "longer than 500 characters"),
        ("1+" * 500_000, "longer than 500 characters"),
    ],
)
def test_what_is_no_expression_is_refused_with_the_reason(text, reason):
    with pytest.raises(ValueError) as caught:
        evaluate_expression(text)
    assert str(caught.value) == reason


def test_the_bounds_themselves_are_allowed():
    assert evaluate_expression("(" * MAX_DEPTH + "1" + ")" * MAX_DEPTH).value == 1
    assert evaluate_expression("9" * MAX_DIGITS).value == 10**MAX_DIGITS - 1
    assert evaluate_expression(("1+" * MAX_LENGTH)[: MAX_LENGTH - 1]).value == MAX_LENGTH // 2
    assert evaluate_expression("(1)+" * 80 + "1").value == 81  # depth counts brackets inside each other, not beside


@given(st.text() | st.text("0123456789+-*/()[]{}\\frac .=x"))
def test_any_text_has_a_value_or_is_refused(text):
    for function in (evaluate_expression, python_value):
        value_or_none(function, text)
        value_or_none(function, plain(text))


# What eval would say, without eval.


def by_eval(text: str):
    """The number that `eval` gives; None where it fails or gives something else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            value = eval(text.strip(), {"__builtins__": None}, {})
        except Exception:
            return None
    return value if type(value) in (int, float, complex) else None


def test_every_short_string_has_the_value_of_eval():
    """37,448 strings, among them powers, floor division, decimals, calls, sign chains and nonsense."""
    num_values = 0
    for length in range(1, 6):
        for symbols in product("2*/.(-) ", repeat=length):
            text = "".join(symbols)
            expected = by_eval(text)
            assert value_or_none(python_value, text) == expected, text
            num_values += expected is not None
    assert num_values > 500


TOKENS = ["0", "1", "2", "7", "12", "007", "1.5", ".5", "3.", "00", "0.", "+", "-", "*", "/", "//", "**", "(", ")", *" \n\t\f\r"]


@settings(max_examples=500)
@given(st.lists(st.sampled_from(TOKENS), max_size=10))
def test_random_tokens_have_the_value_of_eval(tokens):
    text = "".join(tokens)
    assume(text.count("**") < 2 and not re.search(r"\d{4}", text))  # else eval may never return
    assert repr(value_or_none(python_value, text)) == repr(by_eval(text))


POWERS = st.tuples(st.sampled_from(["2", "-3", "(-8)", "0", "1.5", "(1-3)"]), st.integers(-3, 5), st.integers(1, 4)).map(
    lambda part: f"({part[0]}**({part[1]}/{part[2]}))" if part[2] > 1 else f"{part[0]}**{part[1]}"
)
PYTHON = st.recursive(
    st.sampled_from(["0", "3", "17", "2.5", "-4", "+6"]) | POWERS,
    lambda inner: st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", " - "]), inner).map(lambda part: f"({''.join(part)})"),
    max_leaves=6,
)


@settings(max_examples=300)
@given(PYTHON)
def test_valid_python_has_the_value_of_eval(text):
    """With negative bases and fractional powers, which are complex."""
    expected, found = by_eval(text), value_or_none(python_value, text)
    assert (type(found), repr(found)) == (type(expected), repr(expected))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("9**9**9", "a power too large to compute"),
        ("95**99**87", "a power too large to compute"),
        ("(9**9)**(9**9)", "a power too large to compute"),
        ("*".join(["9**9999"] * 90), "a value too large to compute"),
        ("2.0**99999", "no value in Python: OverflowError"),
        ("2**20000/3", "no value in Python: OverflowError"),
        ("1/0", "no value in Python: ZeroDivisionError"),
        ("0**-1", "no value in Python: ZeroDivisionError"),
        ("(-2)**.5//1", "no value in Python: TypeError"),
        ("012", "no value in Python: SyntaxError"),
        ("(" * 300 + "1" + ")" * 300, "no value in Python: SyntaxError"),
        ("2(3)", "no value in Python: Call"),
        ("()", "no value in Python: Tuple"),
        ("...", "no value in Python: Constant"),
        ("", "other characters than digits + - * / ( ) . and white space"),
        *(
            (text, "other characters than digits + - * / ( ) . and white space")
            for text in ("0x1E", "3_0", "3e1", "2j", "2 + 3 # 5", "2 \\\n+ 3")
        ),
        ("2\x00", "other characters than digits + - * / ( ) . and white space"),
        ("__import__('os')", "other characters than digits + - * / ( ) . and white space"),
        ("٣", "other characters than digits + - * / ( ) . and white space"),
        ("1" + "+1" * 10**5, "longer than 1000 characters"),
    ],
)
def test_what_python_could_not_compute_is_refused_with_the_reason(text, reason):
    with pytest.raises(ValueError) as caught:
        python_value(text)
    assert str(caught.value) == reason


def test_large_and_long_expressions_below_the_bounds_have_their_value():
    assert python_value(f"2**{MAX_BITS - 1}") == 2 ** (MAX_BITS - 1)
    assert python_value("1**99999999999999 + 0**99999999999 - (-1)**999999999999") == 2
    assert python_value("-" * 199 + "1") == -1
    assert python_value("  1" + " " * 10**6 + "+ 2 ") == 3
