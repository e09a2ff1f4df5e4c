r"""Whether two answers in LaTeX say the same: words, units, lists, intervals and matrices by their text, single values by `equality`.

math-verify alone ignores what it cannot read: words and units after a number, the left side of an equals sign, dots.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from dmpo_ref.tasks.answers.asked import IN_MEASURE, PERCENTAGE, asked_measure, asked_power
from dmpo_ref.tasks.answers.equality import are_equal
from dmpo_ref.tasks.answers.marked import closing
from dmpo_ref.tasks.answers.statement import NAME, names_a_value, tidy, without_asked
from dmpo_ref.tasks.answers.units import GLUED, MEASURES, read_unit

MAX_LENGTH, MAX_PARTS, MAX_DEPTH = 2000, 40, 12  # characters of an answer that is looked at, values of a list, lists in lists
NOT_EQUAL, UNDECIDED = "not equal", "too long, too large or too slow to compare"

WORDS = re.compile(r"(?:\\text\{ ?\(?[A-Za-z][^{}]*\}|[A-Za-z]{4,})[0-9 ]*")
CHOICE = re.compile(r"(?:\\text\{)? ?\(([A-Z])\) ?\}?((?:\\[a-z]+|[^A-Za-z(\\?'])*)")
# A choice with its text: C. Monday
CHOSEN = re.compile(r"(?:\\text\{ ?)?\(?([A-Z])(?:[).:]\}? ?(?!.*(?:\b(?:or|and|not|wrong|false|incorrect)\b|\([A-Z]\)|[?])).*)?")
IN_BASE = re.compile(r"(\()?(-?[0-9][0-9A-F]*)(?(1)\))(?:_\{?([0-9]+)\}?)?")
BRACKETS = r"[()\[\]{}]"
RELATION = re.compile(r"[<>]|\\(?:[lg]e(?:q|qslant)?|[lg]t|neq?|approx|sim)(?![A-Za-z])")
SEPARATOR = r",|;|\\(?:lor|vee)(?![A-Za-z])|\\text\{,? ?(?:or|and) ?\}|(?<![A-Za-z\\])(?:or|and)(?![A-Za-z])"
UPPER, LOWER = r"\\pm(?![A-Za-z])", r"\\mp(?![A-Za-z])"
THOUSANDS = re.compile(r"(?<![0-9.,{])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])")
UNIT_START = re.compile(
    rf"\\frac\{{\\text|\\text\{{|(?<=[0-9)}}\]])(?=(?:{GLUED}|[A-Za-z]{{4,}})(?![A-Za-z]))|"
    r"(?<= )(?=[A-Za-z])|\^\\circ|[%$€£¥¢₹]|\( ?\\bmod|\(? ?\\p?mod(?![A-Za-z])"
)
LETTERS = re.compile(r"\\text\{[^{}]*\}|\\[A-Za-z]+|[A-Za-z]")
# Commands that math-verify reads correctly. Any other in an answer must be in the truth too, as must its letters.
READ = r"""
    \frac \sqrt \pi \cdot \times \div \infty \sin \cos \tan \cot \sec \csc \arcsin \arccos \arctan \log \ln \exp \binom \cap \emptyset \le
    \leq \leqslant \ge \geq \geqslant \ne \neq \lt \gt \lfloor \rfloor \lceil \rceil e i
"""
ODD = re.compile(r"[0-9] [0-9.]|[0-9]e[+-]?[0-9]|[?~:\"#@&`$%]|\*\*|[^\x00-\x7f]")


def describe_difference(truth: str, answer: str, problem: str = "") -> str | None:
    """Why an answer is not the truth, in LaTeX both; None if they are equal.

    Values are equal as numbers, exactly, or as expressions. In a list or set the order does not count, but how often a value occurs does;
    in a pair, an interval and a matrix the order counts, and so do the brackets. A unit may be left out, a different one is wrong; a
    percentage equals a hundredth of its number, and the number itself from 1; a base may be left out, and so may `\\pmod`. A name before a
    value (`x =`) is optional; any other equation is not a value. In multiple choice the letter counts, whatever value follows. Words,
    letters and commands that are not in the truth and are not known to leave a value unchanged make an answer wrong. The problem, if it is
    given, says what may stand before = (`a+b` where that is asked for) and which unit an answer may have.
    """
    if len(answer) > MAX_LENGTH:
        return f"more than {MAX_LENGTH} characters"
    truth, answer = tidy(truth), without_asked(tidy(answer), problem)
    if PERCENTAGE.search(problem.casefold()) and not re.search(r"%|per ?cent", truth):
        answer = re.sub(r" ?%$|\\text\{ ?per ?cent ?\}$", "", answer)  # what is asked for in percent is no hundredth
    if truth == answer:
        return None
    choices = [CHOICE.fullmatch(truth), CHOICE.fullmatch(answer) or CHOSEN.fullmatch(answer)]
    if choices[0] and choices[1]:
        return None if choices[0][1] == choices[1][1] else f"the choice {choices[1][1]}"
    if WORDS.fullmatch(truth) or WORDS.fullmatch(answer):
        words, others = bare_words(truth), bare_words(answer)
        is_name = words.isupper() and len(words) > 1 and "text" not in truth  # the segment ABCD, not the word YES
        return None if (words == others if is_name else words.casefold() == others.casefold()) else "not the same words"
    bases = [IN_BASE.fullmatch(text) for text in (truth, answer)]
    if bases[0] and bases[1] and (bases[0][3] or bases[1][3]):
        if bases[1][3] not in (None, bases[0][3] or "10"):
            return "numbers in two bases"
        return None if bases[0][2].lstrip("0") == bases[1][2].lstrip("0") else NOT_EQUAL
    parts = parse(truth), parse(answer)
    if not parts[0].parts:
        answer = join_thousands(answer)
    if not parts[1].parts:
        truth = join_thousands(truth)
    return find_difference([parse(truth)], [parse(answer)]) or other_unit(truth, answer, problem)


def other_unit(truth: str, answer: str, problem: str) -> str | None:
    """Why the unit of an answer is not the one that a problem names, where the truth has none; None if it is."""
    name, (_, unit) = asked_measure(problem)[0], with_unit(answer)
    base, _, power = unit.partition("^")
    if not unit or with_unit(truth)[1] or base not in MEASURES or base == "unit":
        return None
    if name and base not in (name, *map(read_unit, IN_MEASURE.findall(problem.casefold()))):
        return f"{base} in place of {name}"
    asked = asked_power(problem, name) if power else ""
    return f"{unit} in place of {name}^{asked}" if asked and power != asked else None


def join_thousands(text: str) -> str:
    """`1,234` as `1234`."""
    return THOUSANDS.sub(lambda number: number[0].replace(",", ""), text)


def bare_words(text: str) -> str:
    """Words of an answer without `\\text`, brackets, quotes, an article, and what stands before =, as in "The graph is an ellipse"."""
    words = re.sub(r"\\text|[{}().\"]|^ ?'(?=.*'$)|'$(?<=[a-z]')", " ", text)
    name, _, last = words.rpartition("=")
    return re.sub("^(?:an?|the) (?=[a-z]{3})", "", " ".join((last if names_a_value(name.strip()) else words).split()), flags=re.IGNORECASE)


@dataclass(frozen=True)
class Part:
    """An answer or a part of one.

    Attributes:
        form: "" for one value, "{}" for a set or a bare list, "()", "[]", "(]", "[)", "∪", or "matrix" with its shape.
        parts: its parts; () for a value.
        text: without its name.
        name: the text before = or ∈, "" if there is none.
    """

    form: str
    parts: tuple[Part, ...]
    text: str
    name: str = ""


def parse(text: str, depth: int = 0) -> Part:
    """The parts of an answer; what lies deeper than MAX_DEPTH brackets or names is one value."""
    if depth > MAX_DEPTH:
        return Part("", (), text)
    inside = partial(parse, depth=depth + 1)
    if matrix := re.fullmatch(r"\\begin\{[pbB]?(?:small)?matrix\}((?:(?!\\begin).)*)\\end\{[pbB]?(?:small)?matrix\}", text):
        rows = [split(row, "&") for row in split(matrix[1], r"\\\\")]
        return join_parts(f"matrix {[len(row) for row in rows]}", [inside(entry) for row in rows for entry in row], text)
    for form, separator in (("{}", SEPARATOR), ("∪", r"\\cup(?![A-Za-z])")):
        if len(pieces := split(text, separator)) > 1:
            return join_parts(form, [inside(piece) for piece in pieces], text)
    named = NAME.fullmatch(text)
    if named and names_a_value(named[1]) and (named[1] not in LETTERS.findall(named[2]) or RELATION.search(named[2])):
        value = inside(named[2].strip())
        return replace(value, name=value.name if value.name and " " in named[1] else named[1].strip())  # "The line is y = 2x"
    if text.startswith(r"\{") and text.endswith(r"\}"):
        return join_parts("{}", [inside(piece) for piece in split(text[2:-2], SEPARATOR)], text)
    ends = text[:1] + text[-1:]
    if (
        ends in ("()", "[]", "(]", "[)")
        and closing(text, brackets=BRACKETS) == len(text) - 1
        and len(pieces := split(text[1:-1], SEPARATOR)) > 1
    ):
        return join_parts(ends, [inside(piece) for piece in pieces], text)
    if re.search(f"{UPPER}|{LOWER}", text) and not RELATION.search(text):
        both = [re.sub(UPPER, plus, re.sub(LOWER, minus, text)).removeprefix("+") for plus, minus in ("+-", "-+")]
        return join_parts("{}", [Part("", (), one) for one in both], text)
    return Part("", (), text)


def split(text: str, separator: str) -> list[str]:
    """Parts of a text between separators that are in no brackets; one part where there is none."""
    parts, depth, start = [], 0, 0
    for found in re.finditer(f"({separator})|{BRACKETS}", text):
        if found[1] is None:
            depth += 1 if found[0] in "([{" else -1
        elif depth == 0:
            parts.append(text[start : found.start()])
            start = found.end()
    return [part.strip() for part in (*parts, text[start:]) if part.strip()] or [text]


def join_parts(form: str, parts: list[Part], text: str) -> Part:
    """Parts that belong together; a list within a list is one list, a list of one value is that value."""
    if form == "{}":
        parts = [replace(inner, name=inner.name or part.name) for part in parts for inner in (part.parts if part.form == "{}" else (part,))]
    return parts[0] if form == "{}" and len(parts) == 1 else Part(form, tuple(parts), text)


def find_difference(truth: Sequence[Part], answer: Sequence[Part], *, in_order: bool = True) -> str | None:
    """Why the parts differ from those of the truth; None if they do not. Each part of the truth needs a separate partner."""
    if len(truth) != len(answer) or len(truth) > MAX_PARTS:
        return f"{len(answer)} values, not {len(truth)}"
    names = {part.name or part.text[: part.text.find("=") + 1] for part in (*truth, *answer)}
    if "" in names and len({name.partition("_")[0] for name in names}) <= 2:  # x may be left out, and so may its index
        truth, answer = ([replace(part, name="") for part in parts] for parts in (truth, answer))
    left = list(answer)
    for part in truth:
        problem: str | None = NOT_EQUAL
        for other in left[:1] if in_order else sorted(left, key=lambda other: other.text != part.text):
            if (problem := compare_one(part, other)) in (None, UNDECIDED):
                break
        if problem is not None:
            return problem
        left.remove(other)
    return None


def compare_one(truth: Part, answer: Part) -> str | None:
    """Why a part differs from that of the truth; None if it does not."""
    if RELATION.search(truth.text) and re.search(r"\bor\b|\\lor", truth.text) and re.search(r"\band\b|\\land", answer.text):
        return "and in place of or"
    names = {part.name for part in answer.parts}
    if truth.form + answer.form == "(){}" and "" not in names and len(names) == len(answer.parts):
        in_order = sorted(answer.parts, key=lambda part: (part.name[0] == "\\", part.name))  # x = 2, y = 3; r = 2, θ = 3
        answer = Part("()", tuple(replace(part, name="") for part in in_order), answer.text)
    if truth.form != answer.form:
        if RELATION.search(truth.text + answer.text) and truth.form + answer.form in ("()", "[]", "(]", "[)"):
            return decide(truth.text, answer.text)
        return "one value, a list, a pair or an interval in place of another of these"
    if truth.name != answer.name:
        wholes = [f"{part.name}={part.text}" if part.name else part.text for part in (truth, answer)]
        if truth.form or not all("=" in whole for whole in wholes):
            return f"{answer.name or 'no name'} in place of {truth.name or 'no name'}"
        return compare_values(*wholes)
    if truth.form:
        return find_difference(truth.parts, answer.parts, in_order=truth.form not in ("{}", "∪"))
    return compare_values(truth.text, answer.text)


def compare_values(truth: str, answer: str) -> str | None:
    """Why a value is not the truth; None if it is. For `a = b` both sides must be the truth, unless the truth is an equation too."""
    if truth == answer:
        return None
    if "=" in answer and "=" not in truth:
        if re.search("[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", answer)):
            return "an equation in place of a value"
        return next(filter(None, (compare_values(truth, side) for side in answer.split("=")[:MAX_PARTS])), None)
    if "=" in truth and "=" not in answer:
        return "a value in place of an equation"
    (truth, unit), (answer, other) = with_unit(truth), with_unit(answer)
    if unit and other and unit != other:
        return f"{other} in place of {unit}"
    if other == "degree" and not unit and "\\pi" in truth:
        return "degrees in place of radians"
    problem = describe_doubt(truth, answer) or decide(truth, answer)
    if problem is None and other == "%" and not unit and not re.fullmatch(r"-?0*[1-9][0-9]*(?:\.[0-9]+)?", truth):
        problem = NOT_EQUAL  # 50% for 50, but half a percent is not one half
    if problem == NOT_EQUAL and "%" in (unit, other) and unit != other:
        problem = decide(*(rf"\frac{{{text}}}{{100}}" if one == "%" else text for text, one in ((truth, unit), (answer, other))))
    return problem


def with_unit(text: str) -> tuple[str, str]:
    """(value, unit by its one name or "") of a value; a single letter is a unit only after a space and a number without letters."""
    if currency := re.match(r"(-?)(?:[A-Z]{0,2}(\$)|([€£¥₹]))(?=[0-9.])", text):
        return currency[1] + text[currency.end() :], read_unit(currency[2] or currency[3]) or ""
    for found in islice(UNIT_START.finditer(text), 20):
        value, unit = text[: found.start()].strip(), text[found.start() :].strip()
        is_letter = re.match(r"[A-Za-z](?![A-Za-z])", unit)
        if is_letter and (text[found.start() - 1] != " " or re.search("[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", value))):
            continue
        if value and (name := read_unit(unit)):
            return value, name
    return text, ""


def describe_doubt(truth: str, answer: str) -> str | None:
    """What math-verify would ignore or misread in an answer; None if there is nothing."""
    if (found := ODD.search(answer)) and found[0] not in truth:
        return f"{found[0]!r} in the value"
    known = {*LETTERS.findall(truth), *READ.split()}
    if unknown := [sign for sign in LETTERS.findall(answer) if sign not in known]:
        return f"{unknown[0][:40]} in the value"
    if {*re.findall("_.[^}]*", re.sub(r"\\log_", "", answer)), *re.findall("'+", answer)} - {*re.findall("_.[^}]*|'+", truth)}:
        return "an index or a prime that is not in the truth"
    return None


def decide(truth: str, answer: str) -> str | None:
    """Why a value is not equal to the truth; None if it is."""
    equal = are_equal(truth, answer)
    return UNDECIDED if equal is None else None if equal else NOT_EQUAL
