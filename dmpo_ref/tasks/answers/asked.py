"""What a word problem asks for, as far as it decides what may stand beside the number of its answer.

The rules are written so that a right answer is rarely refused: where the words of the question leave it open, every measure is right.
"""

from __future__ import annotations

import re

from dmpo_ref.tasks.answers.units import CANONICAL, LENGTHS, MEASURES, NO_UNIT, NUMBER, small

KINDS = {
    "a length": "m cm mm km ft in yd mi", "a mass": "g kg mg lb oz ton", "a volume": "L mL gal qt pt cup tsp tbsp",
    "a time": "s min h day week month year decade century", "an amount of money": "dollar cent euro gbp yen yuan rupee peso",
    "an angle": "degree radian",
}  # fmt: skip
KIND = {name: kind for kind, names in KINDS.items() for name in names.split()}
AUXILIARY = r"(?:do|does|did|will|would|can|should|is|are|was|were|has|have|had)\b"
ASKS_FOR = {  # a kind of measure, by the words of the sentence that asks
    "a mass": r"how heavy\b|how much\b[^,]*\bweigh(?:ed)?\b",
    "an amount of money": rf"how much (?:money\b|(?:in \w+ )?{AUXILIARY}.*\b"
    r"(?:pay|paid|costs?|spen[dt]|earn|earned|charge|owe|worth|price)\b)"
    r"|(?:what|how much)(?: is|'s| was| are| were| will be)\b[^,]*?\b(?:price|cost|profit|salary|wage|earnings|income|revenue|pay|bill)\b",
    "a length": r"how (?:far|tall|wide|deep)\b(?! over| under| behind| below)"
    r"|what(?: is|'s| was)? (?:the )?(?:total |average )?(?:distance|height|width|perimeter)\b",
    "a time": r"how old\b|how long (?:does|did|will) [a-z]+ take\b|how much (?:more |longer |total )?time\b",
}
PERCENTAGE = re.compile(
    r"(?:what|how many|as an?|at what|in) (?:percent|per cent|percentage)\b|what %|(?:what(?: is|'s| was)|find|calculate) the percentage\b"
)
HOW_MANY = re.compile(r"how (many|much) ([a-z]+)(?: ([a-z]+))?")
NUMBER_OF = re.compile(r"\b(?:find|calculate|determine|what(?: is|'s| was| will be)) the (?:[a-z]+ )?number of ([a-z]{2,})\b")
IN_MEASURE = re.compile(r"\bin ([a-z]+s|feet|cm|km)\b")  # in hours; a singular may be a time that passes (in a week), or a name
ASKS = re.compile(r"\b(?:what|how|which|find|calculate|determine)\b")
# A unit or a currency beside a number: 5 km, twenty hours, $5.
BESIDE_NUMBER = re.compile(rf"(?:[0-9]|\b(?:{NUMBER}|hundred|thousand))[ -]*([a-z]{{2,}}|[a-z](?![a-z'])|[¢€£¥₹])|([$€£¥₹])(?= ?[0-9])")
IMPLIED = {  # units of a time, by other words
    "night": "day", "nightly": "day", "daily": "day", "morning": "day", "evening": "day", "weekly": "week", "weekend": "week",
    "monthly": "month", "yearly": "year", "annual": "year", "annually": "year", "old": "year", "age": "year", "hourly": "h", "mph": "h",
    "kmh": "h", "kph": "h", "am": "h", "pm": "h",
}  # fmt: skip
IMPLIED |= dict.fromkeys(("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"), "week")
# How much per day, how much in total, how many does he have.
NO_NOUNS = ("per", "a", "an", "each", "every", "in", "does", "is", "was", "has", "his", "its", "this", "as", "less")
COUNTED_IN = {"dozen": "dozen", "dozens": "dozen", "pairs": "pair", "hundreds": "hundred", "thousands": "thousand", "millions": "million"}
POUNDS = {"lb", "gbp"}
SQUARE = re.compile(rf"\b(?:square|sq)\b\.?[ -]*(?!in [a-z]){LENGTHS}\b|\b{LENGTHS}[.}} ]*(?:\^ ?\{{? ?2|squared)")
CUBIC = re.compile(rf"\b(?:cubic|cu)\b\.?[ -]*{LENGTHS}\b|\b{LENGTHS}[.}} ]*(?:\^ ?\{{? ?3|cubed)")
RATE = re.compile(r"(?:\b(?:per|an?|one|each|every) |/ ?)([a-z]+)|\b(hourly|daily|nightly|weekly|monthly|yearly|annual|annually)\b")
# A profit of 5 and a loss of 5 are not the same: these words are right only where the asking sentence has one of them.
LOSSES = {
    *("debt", "deficit", "drop", "dropped", "fell", "lose", "loses", "losing", "loss", "losses", "lost"),
    *("owe", "owed", "owes", "owing", "short"),
}
# Of such a pair one is wrong where the asking sentence has only the other.
OPPOSITES = """
    older/younger increase/decrease increases/decreases increase/reduction early/late earlier/later warmer/colder warmer/cooler
    hotter/colder taller/shorter longer/shorter heavier/lighter faster/slower higher/lower bigger/smaller larger/smaller greater/smaller
    won/lost gained/lost spent/left spent/saved spent/earned
"""


def last_sentence(question: str) -> str:
    """The sentence that asks, in lower case."""
    return re.split(r"(?<=[.!?])(?<!Mr\.)(?<!Mrs\.)(?<!Ms\.)(?<!Dr\.)\s+", question.strip())[-1].casefold()


def words_of(question: str) -> tuple[set[str], set[str]]:
    """(words that may stand around an answer to a question, words that may stand after it, being what is asked for)."""
    words = set(re.findall("[a-z]+", question.casefold())) - NO_UNIT - LOSSES
    if LOSSES & set(re.findall("[a-z]+", last_sentence(question))):
        words |= LOSSES
    counted = [word for _, *pair in HOW_MANY.findall(question.casefold()) for word in pair if word]
    words = {word for word in words if len(word) > 2}
    endings = ("s", "es", "d", "ed", "ing", "ings")
    words |= (
        {form for word in words for form in (word.removesuffix("s"), *(f"{word}{end}" for end in endings))} - NO_UNIT - (LOSSES - words)
    )
    words |= {name.casefold() for name in re.findall(r"\b[A-Z][a-z]\b", question)} - NO_UNIT  # Jo and Al
    return words, {form for word in counted for form in (word, f"{word}s", word[:-1])}


def turned_words(question: str) -> set[str]:
    """Words of the opposite of what a question asks for: younger for older, sold for not sold."""
    said, pairs = re.findall("[a-z]+", last := last_sentence(question)), [pair.split("/") for pair in OPPOSITES.split()]
    turned = {other for pair in pairs for one, other in (pair, pair[::-1]) if one in said and other not in said}
    return turned | set(re.findall(r"(?:\bnot|n't) (?:be |been |yet )?([a-z]+)", last))


def other_rate(after: str, question: str) -> str:
    """The message that an answer is per another unit than the sentence that asks (per day, each week, monthly); "" if it is not.

    Where that sentence has no rate, miles per hour are no miles.
    """
    names = {word.removesuffix("s"): one_name(word) for word in re.findall("[a-z]+", question.casefold())}
    asked = [name for name in map(one_name, rates(ASKS.split(last_sentence(question))[-1])) if name in {*MEASURES, *CANONICAL}]
    given = [names.get(word, one_name(word)) for word in rates(after.casefold())]
    wrong = [name for name in given if name not in asked and (name in MEASURES or name in names.values())]
    is_speed = KIND.get(asked_measure(question)[0]) == "a length" and any(KIND.get(name) == "a time" for name in wrong)
    return f"per {wrong[0]}, which is not asked for" if wrong and (asked or is_speed) else ""


def rates(text: str) -> list[str]:
    """What a text counts by, each in one word."""
    return [word for pair in RATE.findall(text) for word in pair if word]


def one_name(word: str) -> str:
    """The one name of what a word names or implies, as in "week" for weekly."""
    return CANONICAL.get(word) or IMPLIED.get(word, word)


def other_measure(first: str, question: str, power: str = "") -> str:
    """The message that a number has another measure than a question asks for; "" if it has not.

    A question names its measure (how many hours, in hours), or a thing that is counted, or asks for a kind (how much does it cost).
    Otherwise the measures that it uses beside its own numbers are right.

    Args:
        first: the first word or sign after the number.
        power: 2 if the number is one of square units, 3 of cubic ones.
    """
    counted = [COUNTED_IN[word] for _, word, _ in HOW_MANY.findall(last_sentence(question)) if word in COUNTED_IN]
    if counted and first in CANONICAL and first.removesuffix("s") != counted[-1]:
        return f"{first} in place of {counted[-1]}"  # 60 eggs are 5 dozen
    unit = "" if first == "in" and not power else CANONICAL.get(small(first), "")
    name, kind = asked_measure(question)
    if unit not in MEASURES:  # a thing, or what the question counts, is no measure
        if unit == "time" and kind and kind != first:
            return f"{first}, but {kind} are asked for"
        is_thing = unit or first.endswith("s") and first in {word for word, _ in BESIDE_NUMBER.findall(question.casefold())}
        return f"{first} in place of {name or kind}" if is_thing and (name or kind in KINDS) else ""
    if unit in ("celsius", "fahrenheit"):
        scales = {"celsius", "fahrenheit"} & set(re.findall("[a-z]+", question.casefold()))
        return f"{unit} in place of {scales.pop()}" if scales and unit not in scales else ""
    if unit in ("unit", "knot"):
        return ""
    meant = POUNDS if unit in POUNDS else {unit}
    if name and name not in meant:
        return f"{unit} in place of {name}"
    if KIND.get(unit) == "a length" and (dimension := asked_power(question, name)) and dimension != (power or "1"):
        return f"the power {power or 1} of {unit} in place of {dimension}"
    if name:
        return ""
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
    things = [word for word in pair if word in CANONICAL or word.endswith("s") and word not in NO_NOUNS]
    if how == "many" and things and pair[0] not in NO_NOUNS:  # how much juice: a volume, money, or what the juice is counted in
        return "", things[0]
    named = [CANONICAL.get(word, "") for word in (*IN_MEASURE.findall(last), *NUMBER_OF.findall(last))]
    if named and (kind := KIND.get(named[-1])) and (not kinds or kind in kinds):
        return named[-1], ""
    return "", kinds[0] if len(kinds) == 1 else ""


def asked_power(question: str, name: str) -> str:
    """1, 2 or 3 if a question asks for a length, an area or a volume in units that it names; "" if that is open."""
    last = last_sentence(question)
    powers = [power for power, expression in (("2", SQUARE), ("3", CUBIC)) if expression.search(last)]
    if len(powers) == 1:
        return powers[0]
    return "1" if KIND.get(name) == "a length" and not powers and not re.search(r"\b(?:area|volume|capacity|surface)\b", last) else ""


def used_measures(question: str, kind: str | None) -> set[str]:
    """Measures of a kind that an answer may have: those that a question mentions, or all if none of them stands beside a number there."""
    text, all_of_kind = question.casefold(), {name for name in MEASURES if KIND.get(name) == kind}
    beside = {CANONICAL.get(word or sign) for word, sign in BESIDE_NUMBER.findall(text) if word != "in"}
    words = [word for word in re.findall("[a-z]{2,}", text.replace(".m.", "m")) if word != "in"]
    mentioned = {name for word in words for name in (IMPLIED.get(word.removesuffix("s")), CANONICAL.get(word))}
    return all_of_kind & (mentioned | beside) if kind and all_of_kind & beside else all_of_kind
