"""Reading one number from a short answer, exactly or not at all."""

from __future__ import annotations

import re
from fractions import Fraction

from dmpo_ref.tasks.answers.asked import CUBIC, PERCENTAGE, SQUARE, last_sentence, other_measure, other_rate, turned_words, words_of
from dmpo_ref.tasks.answers.units import BEFORE, BEHIND, CANONICAL, CHINESE, LENGTHS, NO_UNIT, NUMBER, OPERATION_OF, in_words, small
from dmpo_ref.tasks.answers.writing import one_writing

MAX_LENGTH = 200  # characters; a longer text is not a short answer, and the time for a number grows as the square of its length

DECIMAL = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?: [0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|(?<![A-Za-z])\.[0-9]+"
FRACTION = r"(?:(?P<whole>[0-9]+) )?(?P<above>[1-9][0-9]*|0) ?/ ?(?P<below>[1-9][0-9]*)"
ANSWER = re.compile(rf"(?P<before>[^0-9]*?)(?P<sign>[-+]?)(?P<gap>[$€£¥₹ ]*)(?:{FRACTION}|(?P<decimal>{DECIMAL}))(?P<after>[^0-9]*)")
RELATION = re.compile(r"[<>~]|[!/]=|\\(?:[lg]e(?:q|qq|qslant)?|[lg]t|ne|neq|not|approx|pm|mp|sim|simeq|cong|equiv|propto)(?![A-Za-z])")
DOUBT_BEFORE = re.compile(r"^ ?[,.;]|(?<!\bRs)[,.;']$|(?<=[a-z])\W+and\W*$")
DOUBT_BEHIND = re.compile(
    r"^ ?[!'\"\[(:]|%\W*%|\.\.|/ ?$|-(?![A-Za-z]{2})|^\S*[,;]$|\b(?:square|cubic)$|^[A-Za-z] (?!per\b)[a-z]|\band an?\b|^ ?from\b"
)
SHARE = re.compile(r" ?(?:%|per ?cent\b|percentage\b) ?(?:points? )?of\b")
NAMED = re.compile(r"^(?:the value of )?[A-Za-z] ?(?::|is\b|equals\b) ?")
TOKEN = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?|\S")
RELATIONS = {"than", "not", "before", "after", "under", "over", "off", "between", "without", "below", "above"}
SIGNS_BEFORE, SIGNS_BEHIND = set(":,;()[]\"'#.∴"), set(",.;()[]\"'/-!")
CHINESE_WORDS = re.compile(f"(?:{'|'.join(sorted(CHINESE.split(), key=len, reverse=True))})+")
# Words that may stand there if it is asked in them: "to download the file", "the difference between Ann and Bo is".
ASKED_BEHIND, ASKED_BEFORE = re.compile(r"\b(?:to|over|for|during|from) .*?(?=\W*$)"), re.compile(r"\bbetween .*?(?= (?:is|was)\b)")
VARIABLE = re.compile(r"[0-9] ?[a-zA-Z](?![A-Za-z])|(?<![A-Za-z'])[b-hj-zB-HJ-Z](?![A-Za-z'])")
BOUND = r"(?:about|nearly|almost|approximately|roughly|around|over|under|up to|at least|at most|(?:more|less|fewer|greater) than|minus)"
ABOUT_ANOTHER = re.compile(  # words that make an equation one about another number, where it has no number before its =
    r"\b(?:not|never|half|thrice|twice|doubled?|tripled?|quadrupled?|squared|cubed|negative|minus|than|wrong|false|incorrect|about|nearly"
    rf"|almost|approximately|roughly|at (?:least|most)|(?:plus|less) {NUMBER}|{NUMBER} [a-z]|[a-z] (?:hundred|thousand|million))\b|n't\b",
    flags=re.IGNORECASE,
)
# What denies or bounds a whole equation: "not 9*2 = 18", "it is at least 9*2 = 18"; not "20 minus 2 = 18", "cars not sold = 20 - 2".
DENIED = re.compile(
    r"(?:\b(?:not|never|cannot|no)|n't)(?:,| be| equal| exactly)* ?[$(]*[0-9]|\b(?:wrong|false|incorrect|doubt)\b"
    rf"|(?<!difference )\bbetween [$]?[0-9]|(?:^|\b(?:is|are|be|was|equals|answer:?) ){BOUND} ?[$(]*[0-9]",
    flags=re.IGNORECASE,
)
# A clause before the equation that states an answer itself: "The answer is 20. 9*2 = 18", "20, since 9*2 = 18".
CLAUSE_END = re.compile(r"; ?|[,.] |,? \((?=[a-z])| or ", flags=re.IGNORECASE)
STATES = re.compile(
    r"(?:(?:so |thus )?(?:the |my )?(?:final |correct )?(?:answer|total|result)(?: is| was)?:?|it is|i think|[a-z ]* ?=)?"
    rf" ?[$]?({DECIMAL})(?: [a-z]+)*\W*",
    flags=re.IGNORECASE,
)

REWRITE = [  # in this order
    (re.compile(r"\\(?:implies|Rightarrow|Longrightarrow|rightarrow|to)(?![A-Za-z])|[-=]>"), "="),
    (re.compile(r"\\frac ?\{ ?\\text\{([^{}]*)\} ?\} ?\{ ?\\text\{([^{}]*)\} ?\}"), r" \1/\2 "),
    (re.compile(r"\\text\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"(?:\^\\circ *|\bdeg(?:ree)?s? )(?:C|celsius)(?![A-Za-z])", flags=re.IGNORECASE), " celsius "),
    (re.compile(r"(?:\^\\circ *|\bdeg(?:ree)?s? )(?:F|fahrenheit)(?![A-Za-z])", flags=re.IGNORECASE), " fahrenheit "),
    (re.compile(r"\^\\circ(?![A-Za-z])"), " degrees "),
    (re.compile(r"(?<=[0-9]):00(?= ?[ap]\.?m\b|$)", flags=re.IGNORECASE), ""),
    (re.compile(r"(?<=[0-9 ])([ap])\.m(?:\.|\b)", flags=re.IGNORECASE), r"\1m"),
    (re.compile(rf"(?<=[0-9 ])({LENGTHS}) ?\^ ?(?:[23]|\{{ ?[23] ?\}})|(?<![a-z])({LENGTHS}) (?:squared|cubed)\b"), r" \1\2 "),
    (re.compile(rf"\b(?:square|sq\.?|cubic|cu\.?) (?={LENGTHS}\b)"), " "),
    (re.compile(r"(?<=[0-9]) ?\\frac"), r" \\frac"),
    (re.compile(r"\\frac ?(?:\{ ?([0-9]+) ?\}|([0-9])) ?(?:\{ ?([0-9]+) ?\}|([0-9]))"), r"\1\2/\3\4"),
    (re.compile(r"(?<![\\^_])\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\b[A-Z]{1,3}\$"), "$"),
    (re.compile(r"(?<=[0-9]) (?:more|extra|additional) (?!than)(?=[a-z]{3})"), " "),
    (re.compile(r"\bleft[ -]?over\b"), "left"),
    (re.compile(rf"(?<=[0-9]) ?\( ?(?!{NUMBER}\b)([A-Za-z]{{3,}}) ?\)"), r" \1 "),
]


def read_number(text: str, question: str = "") -> tuple[Fraction | None, str]:
    """The number that an answer states, or None, and why.

    It reads signs, decimals, thousands (`1,000`, `1 000`, `1{,}000`, `1\\,000`), fractions (`1/2`, `\\frac{1}{2}`, `1 1/2`). Around
    them only text that does not change them may stand: a currency, a unit, words of a sentence (see `units`) and words of the question,
    as far as they go with what it asks for (see `asked`).
    For `a = b` it is b, unless a has a variable, as in `2x = 6`, denies or bounds b, or states another answer. Anything else is refused:
    two numbers (`12 or 13`, `3,5`), an operator or a relation, `1e3`, `5 million`, `5 dozen`, `3!`, a word that is not known. A percentage
    is its number: 5% is 5.
    """
    if len(text) > MAX_LENGTH:
        return None, f"more than {MAX_LENGTH} characters are no number"
    text = one_writing(text)
    power = "2" if SQUARE.search(text) else "3" if CUBIC.search(text) else ""
    for pattern, new in REWRITE:
        text = pattern.sub(new, text)
    text = " ".join(text.split())
    if RELATION.search(text):
        return None, "a comparison, not a number"
    *sides, stated = (part.strip() for part in text.split("="))
    for side in sides:
        if re.search(r"[0-9+*/^|\\-]", side) and VARIABLE.search(re.sub(r"(?<=[0-9]) ?[xX] ?(?=[0-9])", "*", side)):
            return None, "an equation in a variable, not a number"
    left = " = ".join(sides)
    if DENIED.search(left) or not re.search("[0-9]", left) and (ABOUT_ANOTHER.search(left) or OPERATION_OF.search(left)):
        return None, f"an equation about {left[:40]!r}, not a number"
    while len(stated) > 2 and stated[0] + stated[-1] in ("**", "__", '""', "''", "()", "[]"):
        stated = stated[1:-1].strip()
    stated = NAMED.sub("", stated)
    found = ANSWER.fullmatch(stated)
    if found is None:
        return None, "no number" if not re.search("[0-9]", stated) else "not one plain number"
    sign = -1 if found["sign"] == "-" else 1
    if found["decimal"]:
        number, kind = sign * Fraction(re.sub("[, ]", "", found["decimal"])), "a number"
    else:
        part = Fraction(int(found["above"]), int(found["below"]))
        if found["whole"] and not 0 < part < 1:
            return None, "not one plain number"
        number, kind = sign * (int(found["whole"] or 0) + part), "a fraction"
    *clauses, equation = CLAUSE_END.split(left)
    for said in filter(None, map(STATES.fullmatch, clauses)):
        if Fraction(re.sub("[, ]", "", said[1])) != number and not re.search(rf"(?<![0-9.]){said[1]}(?![0-9])", equation):
            return None, f"{said[1]} is stated before the equation"
    problem = describe_number_doubt(found, number, question, power)
    return (None, problem) if problem else (number, kind)


def describe_number_doubt(found: re.Match[str], number: Fraction, question: str, power: str) -> str | None:
    """Why the one number in an answer may not be what the answer says; None if it is. The power, 2 or 3, is that of its unit."""
    before, after = found["before"], found["after"]
    if found["sign"]:
        # "x-5" is a difference, "answer - 5" may be one; "-5", "is -5" and "- 5" alone are not.
        if before.strip() and (before[-1].isalpha() or before[-1] in ")%" or " " in found["gap"]):
            return "a difference, not a number"
    elif before[-1:].isalpha() and not found["gap"] and before.isascii():
        return "a number that is part of a name"
    if number.denominator == 1 and 0 <= number < 100:
        name = in_words(int(number))
        before, after = (re.sub(rf"\( ?{name}\b([^()]*)\)|\b{name} ?(?=\()", r"\1", part, flags=re.IGNORECASE) for part in (before, after))
    if doubt := DOUBT_BEFORE.search(before + found["gap"]) or DOUBT_BEHIND.search(after):
        return f"{doubt[0]!r} beside the number may change it"
    if re.match("[A-Za-z](?![A-Za-z'])", after) and ("$" in before + found["gap"] or after[0] not in CANONICAL):
        return f"{after[0]!r} behind the number may change it"
    if SHARE.match(after) and not PERCENTAGE.search(last_sentence(question)):
        return "a share of something, not a number"
    after = re.sub(r"(?<=[a-z]) of ([a-z]+)", lambda of: of[0] if of[1] in NO_UNIT else "", after)  # 5 cups of flour
    behind = [*re.findall("[$€£¥₹]", before + found["gap"]), *TOKEN.findall(after)[:1]]
    problems = [*(other_measure(word, question, power) for word in behind), other_rate(after, question)]
    if problem := next(filter(None, problems), ""):
        return problem
    (known, asked), turned = words_of(question), turned_words(question)
    said = last_sentence(question)
    after = ASKED_BEHIND.sub(lambda part: "" if part[0].casefold() in said else part[0], after)
    before = ASKED_BEFORE.sub(lambda part: "" if part[0].casefold() in said else part[0], before)
    others = set(re.findall(r"\bthan (?:(?:on|in|at) )?(?:the )?([a-z]+)", said)) - BEFORE
    if any(re.match(rf"\W*(?:(?:on|in|at) )?(?:the )?{name}\b(?!')", before, flags=re.IGNORECASE) for name in others):
        return "the one that another is compared with, not the one that is asked about"
    for part, words, signs in ((before, BEFORE | known, SIGNS_BEFORE), (after, BEHIND | known | asked, SIGNS_BEHIND)):
        tokens = TOKEN.findall(part)
        for previous, token, following in zip(["", *tokens], tokens, [*tokens[1:], ""], strict=False):
            if small(token) in turned and previous != "not":
                return f"{token!r} is the opposite of what is asked for"
            if part is after and token in RELATIONS and f"{token} {following}".casefold() in said:
                continue  # "than Bob", "not sold", where just that is asked for
            if not (small(token).removesuffix("'s") in words or token in signs or CHINESE_WORDS.fullmatch(token)):
                return f"{token!r} beside the number may change it"
    return None
