"""What a word problem asks for, as far as it decides what may stand beside the number of its answer.

The rules are written so that a right answer is rarely refused: where the words of the question leave it open, every measure is right.
"""

from __future__ import annotations

import re

from dmpo_ref.tasks.answers.units import CANONICAL, MEASURES, NAMES, NO_UNIT, TENS, small

KINDS = {
    "a length": "m cm mm km ft in yd mi", "a mass": "g kg mg lb oz ton", "a volume": "L mL gal qt pt cup tsp tbsp",
    "a time": "s min h day week month year decade century", "an amount of money": "dollar cent euro gbp yen yuan rupee peso",
}  # fmt: skip
KIND = {name: kind for kind, names in KINDS.items() for name in names.split()}
AUXILIARY = r"(?:do|does|did|will|would|can|should|is|are|was|were|has|have|had)\b"
ASKS_FOR = {  # a kind of measure, by the words of the sentence that asks
    "a mass": r"how heavy\b|how much\b[^,]*\bweigh(?:ed)?\b",
    "an amount of money": rf"how much (?:money\b|(?:in \w+ )?{AUXILIARY}.*\b"
    r"(?:pay|paid|costs?|spen[dt]|earn|earned|charge|owe|worth|price)\b)"
    r"|what(?: is|'s| was| were| will be)\b[^,]*?\b(?:price|cost|profit|salary|revenue|pay|bill)\b",
    "a length": r"how (?:far|tall|wide|deep)\b(?! over| under| behind| below)"
    r"|what(?: is|'s| was)? (?:the )?(?:total |average )?(?:distance|height|width|perimeter)\b",
    "a time": r"how old\b|how much (?:more |longer |total )?time\b",
}
PERCENTAGE = re.compile(
    r"(?:what|how many|as an?|at what|in) (?:percent|per cent|percentage)\b|what %|(?:what(?: is|'s| was)|find|calculate) the percentage\b"
)
HOW_MANY = re.compile(r"how (many|much) ([a-z]+)(?: ([a-z]+))?")
NUMBER_OF = re.compile(r"\b(?:find|calculate|determine|what(?: is|'s| was| will be)) the (?:[a-z]+ )?number of ([a-z]{2,})\b")
IN_MEASURE = re.compile(r"\bin ([a-z]+s|feet|cm|km)\b")  # in hours; a singular may be a time that passes (in a week), or a name
ASKS = re.compile(r"\b(?:what|how|which|find|calculate|determine)\b")
# A unit or a currency beside a number: 5 km, twenty hours, $5.
BESIDE_NUMBER = re.compile(
    rf"(?:[0-9]|\b(?:{'|'.join((*NAMES, *TENS))}|hundred|thousand))[ -]*([a-z]{{2,}}|[a-z](?![a-z'])|[¢€£¥₹])|([$€£¥₹])(?= ?[0-9])"
)
IMPLIED = {  # units of a time, by other words
    "night": "day", "nightly": "day", "daily": "day", "morning": "day", "evening": "day", "weekly": "week", "weekend": "week",
    "monthly": "month", "yearly": "year", "annual": "year", "annually": "year", "old": "year", "age": "year", "hourly": "h", "mph": "h",
    "kmh": "h", "kph": "h", "am": "h", "pm": "h",
}  # fmt: skip
IMPLIED |= dict.fromkeys(("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"), "week")
NO_NOUNS = ("per", "a", "an", "each", "every", "in")  # how much per day, how much in total
COUNTED_IN = {"dozen": "dozen", "dozens": "dozen", "pairs": "pair", "hundreds": "hundred", "thousands": "thousand", "millions": "million"}
POUNDS = {"lb", "gbp"}
SPEEDS = {"mph", "kmh", "mpg", "mps", "wpm", "gpm", "knot"}  # a question asks for them as miles per hour
# A profit of 5 and a loss of 5 are not the same: these words are right only where the asking sentence has one of them.
LOSSES = {
    *("debt", "deficit", "drop", "dropped", "fell", "lose", "loses", "losing", "loss", "losses", "lost"),
    *("owe", "owed", "owes", "owing", "short"),
}


def last_sentence(question: str) -> str:
    """The sentence that asks, in lower case."""
    return re.split(r"(?<=[.!?])(?<!Mr\.)(?<!Mrs\.)(?<!Ms\.)(?<!Dr\.)\s+", question.strip())[-1].casefold()


def words_of(question: str) -> tuple[set[str], set[str]]:
    """(words that may stand around an answer to a question, words that may stand after it, being what is asked for)."""
    words = set(re.findall("[a-z]+", question.casefold())) - NO_UNIT - LOSSES
    if LOSSES & set(re.findall("[a-z]+", last_sentence(question))):
        words |= LOSSES
    counted = [word for _, *pair in HOW_MANY.findall(question.casefold()) for word in pair if word]
    return {word for word in words if len(word) > 2}, {form for word in counted for form in (word, f"{word}s", word[:-1])}


def other_measure(first: str, question: str) -> str:
    """The message that a number has another measure than a question asks for; "" if it has not.

    A question names its measure (how many hours, in hours), or a thing that is counted, or asks for a kind (how much does it cost).
    Otherwise the measures that it uses beside its own numbers are right.

    Args:
        first: the first word or sign after the number.
    """
    counted = [COUNTED_IN[word] for _, word, _ in HOW_MANY.findall(last_sentence(question)) if word in COUNTED_IN]
    if counted and first in CANONICAL and first.removesuffix("s") != counted[-1]:
        return f"{first} in place of {counted[-1]}"  # 60 eggs are 5 dozen
    unit = "" if first == "in" else CANONICAL.get(small(first), "")
    if unit not in MEASURES or unit == "unit" or unit in SPEEDS:
        return ""
    name, kind = asked_measure(question)
    meant = POUNDS if unit in POUNDS else {unit}
    if name:
        return "" if name in meant else f"{unit} in place of {name}"
    possible = [one for one in meant if not kind or KIND.get(one) == kind]
    if not possible:
        return f"{unit} in place of {kind}"
    return "" if any(one in used_measures(question, KIND.get(one)) for one in possible) else f"{unit}, which the question does not use"


def asked_measure(question: str) -> tuple[str, str]:
    """(the one name of the measure that a question asks for, or ""; what it asks for otherwise: a kind of measure, a thing, or "")."""
    last = last_sentence(question)
    if PERCENTAGE.search(last):
        return "%", ""
    found = HOW_MANY.findall(last if ASKS.search(last) else question.casefold())
    how, *pair = found[-1] if found else ("", "", "")
    names = [CANONICAL[word] for word in pair if word in CANONICAL and word != "in"] if pair[0] not in NO_NOUNS else []
    if measures := [name for name in names if name in MEASURES]:
        return measures[0], ""
    kinds = [kind for kind, expression in ASKS_FOR.items() if re.search(expression, last)]
    if how == "many" and names and pair[0] in CANONICAL:  # how much juice: a volume, money, or what the juice is counted in
        return "", pair[0]
    named = [CANONICAL.get(word, "") for word in (*IN_MEASURE.findall(last), *NUMBER_OF.findall(last))]
    if named and (kind := KIND.get(named[-1])) and (not kinds or kind in kinds):
        return named[-1], ""
    return "", kinds[0] if len(kinds) == 1 else ""


def used_measures(question: str, kind: str | None) -> set[str]:
    """Measures of a kind that an answer may have: those that a question mentions, or all if none of them stands beside a number there."""
    text, all_of_kind = question.casefold(), {name for name in MEASURES if KIND.get(name) == kind}
    beside = {CANONICAL.get(word or sign) for word, sign in BESIDE_NUMBER.findall(text) if word != "in"}
    words = [word for word in re.findall("[a-z]{2,}", text.replace(".m.", "m")) if word != "in"]
    mentioned = {name for word in words for name in (IMPLIED.get(word.removesuffix("s")), CANONICAL.get(word))}
    return all_of_kind & (mentioned | beside) if kind and all_of_kind & beside else all_of_kind
