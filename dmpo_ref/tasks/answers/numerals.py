"""One number out of a short answer, read exactly or not at all."""

from __future__ import annotations

import re
from fractions import Fraction

MAX_LENGTH = 200  # characters; a longer text is not a short answer, and the time for a number grows as the square of its length

DECIMAL = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?: [0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|(?<![A-Za-z])\.[0-9]+"
FRACTION = r"(?:(?P<whole>[0-9]+) )?(?P<above>[1-9][0-9]*|0) ?/ ?(?P<below>[1-9][0-9]*)"
ANSWER = re.compile(rf"(?P<before>[^0-9]*?)(?P<sign>[-+]?)(?P<gap>[$€£¥ ]*)(?:{FRACTION}|(?P<decimal>{DECIMAL}))(?P<after>[^0-9]*)")

RELATION = re.compile(r"[<>≤≥≠≈±∓]|!=|\\(?:[lg]eq?|neq?|approx|pm|sim)\b")
OPERATOR_BEFORE = re.compile(r"[+*×·÷^/_\\{}√|]|-(?![A-Za-z])")
OPERATOR_AFTER = re.compile(r"[+*×·÷^_\\{}√|]|-(?![A-Za-z]{2})|/(?! ?[A-Za-z])|^!|^ ?[kKMB]\b")
OTHER_NUMBER = re.compile(r"\b(?:not|or|minus|negative|plus|half|halves|hundred|thousand|million|billion|trillion)\b")

REWRITE = [  # in this order
    (re.compile(r"[−–‐‑]"), "-"),
    (re.compile(r"\\[()\[\]]|\\!"), ""),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\[,;: ]|~"), " "),
    (re.compile(r"\\([$%])"), r"\1"),
    (re.compile(r"\^ ?(?:\\circ|\{ ?\\circ ?\})"), "°"),
    (re.compile(r"\\(?:text|textbf|textit|mbox|hbox|mathrm|mathbf) ?\{([^{}]*)\}"), r"\1"),
    (re.compile(r"(?<=[0-9]) ?\\[dt]?frac"), r" \\frac"),
    (re.compile(r"\\[dt]?frac ?(?:\{ ?([0-9]+) ?\}|([0-9])) ?(?:\{ ?([0-9]+) ?\}|([0-9]))"), r"\1\2/\3\4"),
    (re.compile(r"\*\*"), " "),
]


def read_number(text: str) -> tuple[Fraction | None, str]:
    """The number that an answer states, or None, and why.

    Read are signs, decimals, thousands (`1,000`, `1 000`, `1{,}000`, `1\\,000`), fractions (`1/2`, `\\frac{1}{2}`, `1 1/2`), with
    currency, units and words around them. Of `a = b` it is b. Anything that could mean another number is refused: two numbers
    (`12 or 13`, `3 x 4`, `3,5`), an operator or a relation, `1e3`, `5 million`, `12k`, `3!`. A percentage is its number: 5% is 5.
    """
    if len(text) > MAX_LENGTH:
        return None, f"more than {MAX_LENGTH} characters are no number"
    text = " ".join(text.split())
    for pattern, new in REWRITE:
        text = pattern.sub(new, text)
    text = " ".join(text.split())
    if RELATION.search(text):
        return None, "a comparison, not a number"
    stated = text.rpartition("=")[2].strip()
    found = ANSWER.fullmatch(stated)
    if found is None:
        return None, "no number" if not re.search("[0-9]", stated) else "not one plain number"
    if problem := describe_doubt(found):
        return None, problem
    sign = -1 if found["sign"] == "-" else 1
    if found["decimal"]:
        return sign * Fraction(re.sub("[, ]", "", found["decimal"])), "a number"
    part = Fraction(int(found["above"]), int(found["below"]))
    if found["whole"] and not 0 < part < 1:
        return None, "not one plain number"
    return sign * (int(found["whole"] or 0) + part), "a fraction"


def describe_doubt(found: re.Match[str]) -> str | None:
    """Why the one number in an answer may not be what the answer says; None if it is."""
    before, after = found["before"], found["after"]
    if OPERATOR_BEFORE.search(before) or OPERATOR_AFTER.search(after):
        return "an operation, not a number"
    if any(c.isnumeric() for c in before + after) or OTHER_NUMBER.search(f"{before} {after}".casefold()):
        return "words or signs beside the number that change it"
    if found["sign"]:
        # "x-5" is a difference, "answer - 5" may be one; "-5", "is -5" and "- 5" alone are not.
        if before.strip() and (before[-1].isalpha() or before[-1] in ")%" or " " in found["gap"]):
            return "a difference, not a number"
    elif before[-1:].isalpha() and not found["gap"]:
        return "a number that is part of a name"
    return None
