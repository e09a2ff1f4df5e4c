r"""What is written around and before a value in LaTeX: a lead-in (`Thus x is`), a name (`x =`), the expression that was asked for.

Here answers in plain text (`sqrt(2)`, `x**2`, `<=`) become LaTeX too. What is not known stays, for `comparison` to refuse.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice

from dmpo_ref.tasks.answers.units import NO_UNIT, OPERATION_OF
from dmpo_ref.tasks.answers.writing import one_writing

ARGUMENTS = r"\((?:-?[A-Za-z0-9]+|\\[a-z]+)(?:,(?:[A-Za-z0-9]+|\\[a-z]+))*\)"
LETTER = r"(?:[A-Za-z]|\\[a-z]+)"
NAME = re.compile(
    rf"((?:m?\\angle ?[A-Z]{{1,3}}|\|[A-Z]{{2}}\||\[[A-Z]{{3,}}\]"
    rf"|\\overline\{{[A-Z]+\}}|\\text\{{[A-Za-z ]*\}}|[fghFGH]\^\{{-1\}}|\\[A-Za-z]+|[A-Za-z ]+|\({LETTER}(?:,{LETTER})*\))"
    rf"(?:{ARGUMENTS})?'*(?:_(?:[A-Za-z0-9]|\{{[^{{}}]*\}}))?)(?:=|\\equiv|\\in(?![A-Za-z])|:)(.*)"
)
# Short words that are no products of letters where they stand before =.
SHORT_NAMES = """
    all ans area arg avg cost deg det dim for gcd gcf hcf is it lcm let lim max mean min mod new num of our rate rem side size so sum
    the time val vol we
"""

SO = r"(?:so|thus|therefore|hence|then),?(?![A-Za-z]) ?"
STATED = r"(?:the )?(?:final |correct )?(?:answer|option|choice)s?(?: is| are)?(?![A-Za-z0-9]) ?:? ?"
TIDY: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [  # after `one_writing`, in this order
    (re.compile(r"^(?:#+ ?|(?:\\therefore|\\implies|\\Rightarrow|\\to)(?![A-Za-z])|∴) ?"), ""),
    (re.compile(rf"^(\\text\{{ ?)?{SO}(?!$)", flags=re.IGNORECASE), r"\1"),
    (re.compile(rf"^(?:\\text\{{ ?{STATED}\}}|{STATED}(?!$)) ?:?", flags=re.IGNORECASE), ""),
    (re.compile(r"^\\text\{([^{}]*=[^{}]*)\}$"), r"\1"),
    # The sum is 5, x equals 5, Area: 5: as with =, if the words name a value (see `names_a_value`)
    (re.compile(r"^(?:\\text\{ ?)?([A-Za-z][A-Za-z ]*?)(?: (?:is|are|equals)(?: equal to)?:?|(?<=[a-z]{3}):) ?\}? ?(?=[^ }])"), r"\1="),
    (re.compile(r"^(?=[^=0-9]*[0-9])([^=<>!]+)= ?([A-Za-z])$"), r"\2=\1"),
    (re.compile(r"^\\\{ ?([a-z]) ?(?:\\mid|\|) ?"), r"\\{\1:"),
    (re.compile(r"^([0-9]+) ?\\bmod ?\{?([1-9][0-9]{0,8})\}?$"), lambda found: str(int(found[1]) % int(found[2]))),
    (re.compile(r"^(?:\\text\{ ?)?(?:option|choice) \(?([A-Z])\)?\.?(?: ?\})?$", flags=re.IGNORECASE), r"\\text{(\1)}"),
    (re.compile(r"(?<![\\A-Za-z])sqrt ?(?:\(([^()]*)\)|\{([^{}]*)\}|([0-9]+))"), r"\\sqrt{\1\2\3}"),
    (re.compile(r"(?:\^|(?<=[0-9A-Za-z)])\*\*) ?(-[0-9]+|-[a-z]|(?<=\*)[0-9]+)"), r"^{\1}"),
    (re.compile(r"(?<![\\A-Za-z])pi(?![A-Za-z])"), r"\\pi "),
    (re.compile(r"(?<![\\A-Za-z])(?:infinity|inf|oo)(?![A-Za-z])|\\text\{ ?infinity ?\}"), r"\\infty "),
    (re.compile(r"([<>])= ?"), lambda sign: r"\le " if sign[1] == "<" else r"\ge "),
    (re.compile(r"[(\[] ?\\begin\{(?:array\}\{[clr| ]*|(?:small)?matrix)\}"), r"\\begin{pmatrix}"),
    (re.compile(r"\\end\{(?:array|(?:small)?matrix)\} ?[)\]]"), r"\\end{pmatrix}"),
    (re.compile(r"\\cr(?![A-Za-z])|\\\\ ?\[[0-9.]+[a-z]{2}\]"), r"\\\\"),
    (
        re.compile(r"(?<![0-9])([0-9]*)\.([0-9]*)(?: ?\\(?:overline|bar|dot) ?\{?|\((?=[0-9]+\)))([0-9]+)[})]?"),
        lambda found: repeating(*found.groups()),
    ),
    (re.compile(r"(?<![0-9./}])([0-9]+) ([0-9]+) ?/ ?([0-9]+)(?![0-9.])"), r"\1\\frac{\2}{\3}"),
    (re.compile(r"(?<![0-9.,{])[0-9]{1,3}(?: [0-9]{3})+(?![0-9,])"), lambda number: number[0].replace(" ", "")),
    (re.compile(r"(?<=\{)[0-9]{1,3}(?:,[0-9]{3})+(?=\})"), lambda number: number[0].replace(",", "")),
    (re.compile(r"(?<![\\^_A-Za-z}\]])\{([^{}]*)\}(?!\{)"), r"\1"),
    (re.compile(r"\\text\{ ?(-?[0-9][0-9.,/]*)(?= )"), r"\1\\text{"),
    (re.compile(r"(?<![0-9A-Za-z.]) | (?![0-9A-Za-z.])"), ""),  # the rest stays: 5 6 is not 56
    (re.compile(r"\.$|^[+=]"), ""),
]
# The formula that a problem asks for: "Find $a+b$", "What is the value of $xy$?"
ASKED = re.compile(
    r"\b(?:find|compute|evaluate|determine|calculate|what is|simplify)\s+(?:the (?:exact )?value of )?\s*"
    r"(?:\$+([^$]{1,200})\$|\\\[([^$]{1,200}?)\\\])",
    flags=re.IGNORECASE,
)


def tidy(text: str) -> str:
    """An answer in a uniform way of writing, without meaningless spaces."""
    text = one_writing(text)
    for pattern, new in TIDY:
        text = pattern.sub(new, text.strip())
    return text


def repeating(whole: str, fixed: str, period: str) -> str:
    """A repeating decimal as a fraction: 0.1666… is (16 − 1)/90."""
    above = int(f"0{whole}{fixed}{period}") - int(f"0{whole}{fixed}")
    return rf"\frac{{{above}}}{{{(10 ** len(period) - 1) * 10 ** len(fixed)}}}"


def without_asked(answer: str, problem: str) -> str:
    """A tidy answer without the expression that its problem asks for and the = behind it."""
    asked = {squeeze(tidy(formula.rstrip(" .,?"))) for pair in ASKED.findall(problem) for formula in pair if formula}
    for found in islice(re.finditer("=", answer), 20):
        if squeeze(answer[: found.start()]) in asked:
            return answer[found.end() :]
    return answer


def squeeze(text: str) -> str:
    """A formula without braces, spaces, and brackets around one letter."""
    return re.sub(r"\((\\?[A-Za-z]+)\)", r"\1", re.sub(r"[{}\s]", "", text))


def names_a_value(text: str) -> bool:
    """Whether what stands before = names a value; not a product (`xy`, `a b`), nor an operation, nor words that change a number."""
    words = text.split() if re.fullmatch("[A-Za-z ]+", text) else ["a", "phrase"]
    only_letters = all(len(word) == 1 or word.islower() and len(word) < 5 and word not in SHORT_NAMES.split() for word in words)
    is_product = only_letters and len("".join(words)) > 1 and not text.isupper()
    # (y, x) is not (x, y), nor is (θ, r) the polar (r, θ)
    letters = re.findall(r"\\?[A-Za-z]+", text) if text.startswith("(") else []
    is_reversed = letters != sorted(letters, key=lambda letter: (letter[0] == "\\", letter))
    changes = (NO_UNIT - {"point"}) & set(re.findall("[a-z]{2,}", text.casefold())) or OPERATION_OF.search(text) or text == "\\frac"
    return not (is_product or is_reversed or changes)
