"""Plausible wrong answers to `05_evaluation`, each named after its misconception; the checks must refuse all of them."""

import ast
import math
import re
from fractions import Fraction


def wald(k, n, z):
    half = z * math.sqrt(k / n * (1 - k / n) / n)
    return k / n - half, k / n + half


def wald_inside(k, n, z):
    low, high = wald(k, n, z)
    return max(0.0, low), min(1.0, high)


def agresti_coull(k, n, z):
    return wald_inside(k + z * z / 2, n + z * z, z)


def grade(text, numbers, target, *, tolerance=0.0, rule=None, operators=(ast.Add, ast.Sub, ast.Mult, ast.Div), total=True):
    signs = {ast.Add: "__add__", ast.Sub: "__sub__", ast.Mult: "__mul__", ast.Div: "__truediv__", ast.Pow: "__pow__"}
    used = []

    def value(node):
        if isinstance(node, ast.Constant) and type(node.value) is int:
            used.append(node.value)
            return Fraction(node.value)
        if isinstance(node, ast.BinOp) and isinstance(node.op, operators):
            return getattr(value(node.left), signs[type(node.op)])(value(node.right))
        raise ValueError("not arithmetic")

    if len(text) > 200:
        return False
    try:
        near = abs(value(ast.parse(text.strip(), mode="eval").body) - target) <= tolerance
    except ZeroDivisionError:
        if not total:
            raise
        return False
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return near and (rule or (lambda a, b: sorted(a) == sorted(b)))(used, numbers)


def digits_in_text(text, numbers, target):
    """The numbers are read from the text, the value by Python."""
    try:
        value = eval(text, {"__builtins__": {}})
    except Exception:
        return False
    return sorted(map(int, re.findall(r"\d+", text))) == sorted(numbers) and abs(value - target) < 1e-5


WRONG = {
    "wilson": {
        "the textbook interval": wald,
        "the textbook interval, cut to [0, 1]": wald_inside,
        "the right centre with the textbook width": agresti_coull,
    },
    "pass_at_k": {
        "draws with replacement": lambda n, c, k: 1 - (1 - c / n) ** k,
        "k times the share": lambda n, c, k: min(1.0, k * c / n),
        "all k right": lambda n, c, k: math.comb(c, k) / math.comb(n, k),
    },
    "exploit": {
        "solves one problem": lambda numbers, target: "30 + 100 - 93",
        "the target alone": lambda numbers, target: str(target),
        "works where the target is small": lambda numbers, target: f"0 * ({' + '.join(map(str, numbers))})" + " + 1" * min(target, 40),
        "a call, which the reward refuses": lambda numbers, target: f"int('{target}') + 0 * sum({numbers})",
    },
    "countdown_grade": {
        "a set of numbers": lambda t, n, g: grade(t, n, g, rule=lambda a, b: set(a) == set(b)),
        "numbers may be left out": lambda t, n, g: grade(t, n, g, rule=lambda a, b: all(a.count(x) <= b.count(x) for x in a)),
        "other numbers allowed": lambda t, n, g: grade(t, n, g, rule=lambda a, b: all(x in a for x in b)),
        "an approximate value accepted": lambda t, n, g: grade(t, n, g, tolerance=1e-5),
        "powers allowed": lambda t, n, g: grade(t, n, g, operators=(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow)),
        "raises on division by zero": lambda t, n, g: grade(t, n, g, total=False),
        "eval, numbers read from the text": digits_in_text,
        "no division": lambda t, n, g: grade(t, n, g, operators=(ast.Add, ast.Sub, ast.Mult)),
    },
}
