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


def interval(k, n, z):
    centre = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    return centre - half, centre + half


def at_k_by_factorials(n, c, k):
    def factorial(x):
        return math.exp(math.lgamma(x + 1))

    return 1.0 if n - c < k else 1 - factorial(n - c) * factorial(n - k) / (factorial(n - c - k) * factorial(n))


def grade(
    text,
    numbers,
    target,
    *,
    tolerance=0.0,
    rule=None,
    operators=(ast.Add, ast.Sub, ast.Mult, ast.Div),
    total=True,
    form=r"[0-9+\-*/() ]+",
    read=Fraction,
    near=None,
    is_number=lambda x: type(x) is int,
    signs_too=False,
    longest=200,
    zeros=False,
):
    signs = {ast.Add: "__add__", ast.Sub: "__sub__", ast.Mult: "__mul__", ast.Div: "__truediv__", ast.Pow: "__pow__"}
    used = []

    def value(node):
        if isinstance(node, ast.Constant) and is_number(node.value):
            used.append(node.value)
            return read(node.value)
        if signs_too and isinstance(node, ast.UnaryOp):
            return -value(node.operand) if isinstance(node.op, ast.USub) else value(node.operand)
        if isinstance(node, ast.BinOp) and isinstance(node.op, operators):
            return getattr(value(node.left), signs[type(node.op)])(value(node.right))
        raise ValueError("not arithmetic")

    if len(text) > longest or not re.fullmatch(form, text) or (not zeros and re.search(r"\b0[0-9]", text)):
        return False
    try:
        found = value(ast.parse(text.strip(), mode="eval").body)
        is_near = abs(found - target) <= tolerance if near is None else near(found, target)
    except ZeroDivisionError:
        if not total:
            raise
        return False
    except (RecursionError, MemoryError):
        if longest > 200:
            raise
        return False
    except (SyntaxError, ValueError):
        return False
    return is_near and (rule or (lambda a, b: sorted(a) == sorted(b)))(used, numbers)


def without_spaces(text, numbers, target):
    """The numbers are read from the text, the value without its spaces."""
    given = sorted(re.findall("[0-9]+", text)) == sorted(map(str, numbers))
    return given and grade(text.replace(" ", ""), numbers, target, rule=lambda *_: True)


def right_to_left(text, numbers, target):
    """A parser of its own, in which 100 - 30 - 93 is 100 - (30 - 93)."""
    tokens = re.findall(r"[0-9]+|[-+*/()]", text)

    def chain(signs, operand):
        left = operand()
        if tokens and tokens[0] in signs:
            sign, right = tokens.pop(0), chain(signs, operand)
            return {"+": left + right, "-": left - right, "*": left * right}[sign] if sign != "/" else left / right
        return left

    def operand():
        if (token := tokens.pop(0)) != "(":
            return Fraction(int(token))
        inside = chain("+-", lambda: chain("*/", operand))
        if tokens.pop(0) != ")":
            raise ValueError
        return inside

    if not re.fullmatch(r"[0-9+\-*/() ]{1,200}", text) or sorted(re.findall("[0-9]+", text)) != sorted(map(str, numbers)):
        return False
    try:
        return chain("+-", lambda: chain("*/", operand)) == target and not tokens
    except (IndexError, ValueError, ZeroDivisionError):
        return False


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
        "the ends exchanged": lambda k, n, z: interval(k, n, z)[::-1],
        "centre and half width": lambda k, n, z: (sum(interval(k, n, z)) / 2, (interval(k, n, z)[1] - interval(k, n, z)[0]) / 2),
        "always 95 %": lambda k, n, z: interval(k, n, 1.96),
        "in per cent": lambda k, n, z: tuple(100 * end for end in interval(k, n, z)),
        "rounded to four digits": lambda k, n, z: tuple(round(end, 4) for end in interval(k, n, z)),
    },
    "pass_at_k": {
        "draws with replacement": lambda n, c, k: 1 - (1 - c / n) ** k,
        "k times the share": lambda n, c, k: min(1.0, k * c / n),
        "exactly one right": lambda n, c, k: c * math.comb(n - c, k - 1) / math.comb(n, k),
        "factorials that overflow": at_k_by_factorials,
        "all k right": lambda n, c, k: math.comb(c, k) / math.comb(n, k),
    },
    "exploit": {
        "solves one problem": lambda numbers, target: "30 + 100 - 93",
        "the target alone": lambda numbers, target: str(target),
        "works where the target is small": lambda numbers, target: f"0 * ({' + '.join(map(str, numbers))})" + " + 1" * min(target, 40),
        "as long as the target is large": lambda numbers, target: f"{' + '.join(['1'] * target)} + 0 * ({' + '.join(map(str, numbers))})",
        "an equation": lambda numbers, target: f"{' + '.join(map(str, numbers))} = {target}",
        "a number, not a text": lambda numbers, target: target,
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
        "floats, a tolerance of 1e-9": lambda t, n, g: grade(t, n, g, tolerance=1e-9, read=float),
        "floats, a relative tolerance": lambda t, n, g: grade(t, n, g, near=math.isclose, read=float),
        "floats, equal": lambda t, n, g: grade(t, n, g, read=float),
        "rounded": lambda t, n, g: grade(t, n, g, near=lambda value, target: round(value) == target),
        "signs allowed": lambda t, n, g: grade(t, n, g, signs_too=True),
        "all that Python reads as an integer": lambda t, n, g: grade(t, n, g, form=r"(?s).*"),
        "letters refused, underscores not": lambda t, n, g: grade(t, n, g, form=r"[^A-Za-z#]*"),
        "comments": lambda t, n, g: grade(t, n, g, form=r"[0-9+\-*/() ]+(#.*)?"),
        "a final line break": lambda t, n, g: grade(t, n, g, form=r"[0-9+\-*/() ]+\n?"),
        "any white space": lambda t, n, g: grade(t, n, g, form=r"[0-9+\-*/()\s]+"),
        "decimals": lambda t, n, g: grade(t, n, g, form=r"[0-9+\-*/(). ]+", is_number=lambda x: isinstance(x, (int, float))),
        "True is 1": lambda t, n, g: grade(t, n, g, form=r"[0-9True+\-*/() ]+", is_number=lambda x: isinstance(x, int)),
        "zero written as 00": lambda t, n, g: grade(t, n, g, zeros=True),
        "spaces taken out": lambda t, n, g: grade(t.replace(" ", ""), n, g),
        "spaces taken out of what is computed": without_spaces,
        "signs of brackets": lambda t, n, g: not re.search(r"(^|[-+*/(]) *[-+] *[0-9]", t) and grade(t, n, g, signs_too=True),
        "form feeds": lambda t, n, g: grade(t, n, g, form=r"[0-9+\-*/() \x0c]+"),
        "carriage returns": lambda t, n, g: grade(t, n, g, form=r"[0-9+\-*/() \r]+"),
        "any space": lambda t, n, g: grade(t.replace("\xa0", " "), n, g),
        "the left side of an equation": lambda t, n, g: grade(t.split("=")[0], n, g),
        "the first line": lambda t, n, g: grade(t.split("\n")[0], n, g),
        "square brackets": lambda t, n, g: grade(t.translate(str.maketrans("[]", "()")), n, g),
        "a set of numbers, and how many": lambda t, n, g: grade(t, n, g, rule=lambda a, b: set(a) == set(b) and len(a) == len(b)),
        "zeros do not count": lambda t, n, g: grade(t, n, g, rule=lambda a, b: sorted(filter(None, a)) == sorted(filter(None, b))),
        "from right to left": right_to_left,
        "None for no": lambda t, n, g: grade(t, n, g) or None,
        "fails on very long texts": lambda t, n, g: grade(t, n, g, longest=10**9),
        "no division": lambda t, n, g: grade(t, n, g, operators=(ast.Add, ast.Sub, ast.Mult)),
    },
}
