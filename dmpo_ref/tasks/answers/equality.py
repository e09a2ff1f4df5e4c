"""Whether two LaTeX answers are equal, by math-verify, in a separate process (`helper`).

math-verify's own time limit is a signal, which works neither outside the main thread nor on Windows, and cannot interrupt one
long multiplication such as 9^{9^{9}}.
"""

from __future__ import annotations

import importlib.util
import re
from typing import Any

from dmpo_ref.tasks.answers.helper import ask

DIGITS = 40  # that must agree for numbers to be equal
POINTS = (2, -3, 11, -211, 317)  # near which expressions are compared
MAX_LENGTH = 500  # characters of an answer; the longest of MATH is 53
# Towers of powers, long exponents and factorials; powers of a power with three digits.
HUGE = re.compile(
    r"\^\s*(?:[{(][^{}()]*|[0-9]+)\^|\^\s*[{(]?\s*-?\s*[0-9]{4,}|[0-9]{4,}\s*!|!\s*\)?\s*!|\^\s*[{(]?-?[0-9]{2,}[})]?\)\s*\^\s*[{(]?-?[0-9]{3}"
)


def need_math_verify() -> None:
    """Raise ValueError if math-verify is not installed."""
    if importlib.util.find_spec("math_verify") is None:
        raise ValueError("the strict grading of math500 needs the package math-verify: pip install 'dmpo-ref[benchmarks]'")


def are_equal(truth: str, answer: str) -> bool | None:
    """Whether an answer is mathematically equal to the truth; None if that was not decided within the bounds.

    Raises:
        ValueError: math-verify is not installed. The texts themselves raise nothing.
    """
    need_math_verify()
    if max(len(truth), len(answer)) > MAX_LENGTH or HUGE.search(answer):
        return None
    return ask("dmpo_ref.tasks.answers.equality:equal_by_math_verify", truth, answer)


def prepare() -> None:
    """The imports of math-verify, in the separate process, before the first pair."""
    verify_pair("1", "2")


def equal_by_math_verify(truth: str, answer: str) -> bool:
    """`verify_pair`; answers that cannot be read are not equal."""
    try:
        return verify_pair(truth, answer)
    except (Exception, RecursionError, MemoryError):
        return False


def verify_pair(truth: str, answer: str) -> bool:
    """Whether two answers are equal, by math-verify's reading; runs in the separate process.

    Fractions are compared exactly, decimals among them; other numbers are equal if `DIGITS` digits are, expressions if they are so at
    every one of `POINTS`. math-verify itself compares what is not a value, such as equations and inequalities.
    """
    # optional, and only this process needs it
    import sympy
    from math_verify import verify

    gold, target = read(truth), read(answer)
    if not all(isinstance(value, sympy.Expr) for value in (gold, target)):
        return bool(verify(gold, target, float_rounding=DIGITS, numeric_precision=DIGITS, timeout_seconds=None))
    symbols = sorted(gold.free_symbols | target.free_symbols, key=str)
    for start in POINTS if symbols else POINTS[:1]:
        point = {symbol: start + sympy.Rational(n * n + 1, 7 * n + 3) for n, symbol in enumerate(symbols)}
        point |= {symbol: sympy.I for symbol in symbols if symbol.name == "i"}
        a, b = (value.subs(point).doit() for value in (gold, target))
        if a.is_Rational and b.is_Rational:
            is_equal = a == b
        else:
            a, b = (value.evalf(2 * DIGITS) for value in (a, b))
            is_equal = a == b or a.is_finite and b.is_finite and abs(a - b) <= abs(a) * sympy.Float(10) ** -DIGITS
        if not is_equal:
            return False
    return True


def read(text: str) -> Any:
    """An answer as parsed by math-verify, with its decimals as fractions."""
    # comes with math-verify, which is optional
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
    from latex2sympy2_extended.math_normalization import NormalizationConfig, normalize_latex

    decimals = r"(?<![0-9])([0-9]*)\.([0-9]+)"
    text = re.sub(decimals, lambda found: rf"(\frac{{{int(found[1] + found[2])}}}{{{10 ** len(found[2])}}})", text)
    text = normalize_latex(text, NormalizationConfig(basic_latex=True, malformed_operators=True, boxed="none"))
    return latex2sympy(text, is_real=True, normalization_config=None, conversion_config=ConversionConfig(lowercase_symbols=False))
