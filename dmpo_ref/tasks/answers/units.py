"""What may stand around a number without changing it: units of measure, things that are counted, words of a sentence that states it.

Words that are not listed make a number doubtful: too many words can change one (dozen, squared, at least, half).
"""

from __future__ import annotations

import re

# A name and the ways to write it; a plural is understood.
MEASURES = {
    "m": "meter metre", "cm": "centimeter centimetre", "mm": "millimeter millimetre", "km": "kilometer kilometre", "ft": "foot feet",
    "in": "inch", "yd": "yard", "mi": "mile", "g": "gram gramme", "kg": "kilogram", "mg": "milligram", "lb": "lbs pound",
    "oz": "ounce", "ton": "tonne", "L": "l liter litre", "mL": "ml milliliter millilitre", "gal": "gallon", "qt": "quart", "pt": "pint",
    "cup": "", "tsp": "teaspoon", "tbsp": "tablespoon", "s": "sec second", "min": "minute", "h": "hr hour", "day": "", "week": "wk",
    "month": "", "year": "yr", "decade": "", "century": "", "mph": "", "kmh": "kph", "mpg": "", "acre": "", "hectare": "", "unit": "",
    "degree": "deg", "radian": "rad", "celsius": "", "fahrenheit": "", "%": "percent pct percentage", "dollar": "$ usd us$ buck",
    "cent": "¢", "euro": "€ eur", "gbp": "£", "yen": "¥", "yuan": "rmb", "rupee": "rs ₹ inr inr", "peso": "", "watt": "W", "volt": "V",
    "hertz": "hz", "byte": "", "calorie": "kcal",
}  # fmt: skip
KINDS = {
    "a length": "m cm mm km ft in yd mi", "a mass": "g kg mg lb oz ton", "a volume": "L mL gal qt pt cup tsp tbsp",
    "a time": "s min h day week month year decade century", "an amount of money": "dollar cent euro gbp yen yuan rupee peso",
}  # fmt: skip
KIND = {name: kind for kind, names in KINDS.items() for name in names.split()}
ASKS_FOR = {  # the kind of a measure, by the words of the sentence that asks for it
    "a mass": r"how heavy\b|how much\b.*\bweigh",
    "an amount of money": r"how much (?:money\b|(?:in \w+ )?(?:do|does|did|will|would|can|should|is|are|was|were|has|have|had)\b.*"
    r"\b(?:pay|paid|costs?|spen[dt]|earn|earned|charge|owe|worth|price)\b)|what\b.*\b(?:price|cost|profit|salary|revenue)\b",
    "a length": r"how (?:far|tall|high|wide|deep)\b|what\b.*\b(?:distance|height|width|perimeter)\b",
    "a time": r"how old\b|how much (?:more |longer )?time\b",
}
PERCENTAGE = re.compile(r"(?:what|how many) (?:percent|per cent|%)|\bpercentage\b|\b(?:as|in) (?:a )?percent\b")
HOW_MANY = re.compile(r"how (?:many|much) ([a-z]+)(?: ([a-z]+))?")
IN_MEASURE = re.compile(r"\b(?:in|number of) ([a-z]{2,})\b")
SAME = {"lb": "gbp", "gbp": "lb"}  # pounds
SAID = {"night": "day", "nightly": "day", "daily": "day", "morning": "day", "evening": "day", "hourly": "h", "weekly": "week"}
SAID |= {"weekend": "week", "monthly": "month", "yearly": "year", "annual": "year", "annually": "year", "old": "year", "age": "year"}
THINGS = """
    adult album animal answer ant apple arrangement attempt bag bagel ball balloon banana bar barrel basket bead bean bear bed bee
    berry bike bird block board boat book bottle bouquet bowl box boy bracelet branch brick brother bug building bun bunch bus bushel
    button cake can candle candy car card carrot cat cd chair chapter chicken child children chip chocolate choice class clip coin
    color colour combination container cookie corner cow crayon cube cupcake customer deck desk diagonal different digit dinner dish
    distinct divisor doctor dog doll donut door dress drink duck dvd edge egg element employee error event exam face factor family fan
    farmer fence field figure finger fish floor flower friend frog fruit function game geese gift girl glass goal goat goose grape
    group guest hat hen hole horse house idea integer item jar job juice key kid kilowatt kitten lap leaf leaves lemon lesson letter
    level light line lion list loaf loaves log lollipop lunch machine magazine man marble mark match meal member men message mice
    mistake mouse movie muffin mug neighbor night notebook number nut object onion orange order outcome pack package packet page
    painting pan pancake paper parent park part party passenger path peach pear pen pencil pennies penny people permutation person
    phone photo picture pie piece pig pill pizza place plane plant plate player plum points polygon possible potato potatoes present
    prime prize problem project pupil puppy puzzle question rabbit race real recipe region ride ring roll room roots rope rose round
    row sandwich school seat seed sequence serving session set sheep sheet shelf shelves shirt shoe shop shot side sister slice snack
    solution song spider spoon stair stamp star state step stick sticker stop store story straw strawberry student subset suit sweet
    table tail task teacher team teeth term test ticket tile time tire toe token tomato tomatoes tooth towel town toy train tray tree
    triangle trip truck turn turtle value van vegetable vertex vertices visitor vote walk wall watch way wheel win window wing woman
    women word worker zebra
"""
# Words of a sentence that states a number, before and after it. Chinese has no spaces, so there parts of words are listed.
LEAD = """
    a all also altogether amount an and ans answer are area average be because by charged contains correct cost count distance earned equal
    equals exactly final finally for gets get had has have he height hence her his i in is it it's its just left length made make makes
    mean must my need now number of on only our paid pay perimeter price probability profit remain remaining required result says she
    should since size so solution spend spent speed sum takes that that's the their then there therefore these they this thus took total
    value volume was we were weight width will would you your die la antwort respuesta réponse ist es est
"""
FOLLOW = """
    a all altogether an and are as at away altogether birthday by correct current currently daily day deep each earlier earned every extra
    fast final for from full had has have he her high his hourly in is it its later left long made money monthly need needed now o'clock
    of old on only our overall own paid per pm am remain remaining required saved she sold spent tall the their them there they today
    together tomorrow total used was we weekly were whole wide will with work worth would yearly you your
"""
CHINESE = """
    答案 最终 最后 结果 因此 所以 总共 一共 等于 是 为 共 的 有 个 個 元 美元 米 厘米 千米
    公里 克 千克 公斤 小时 分钟 秒 天 周 月 年 岁 人 本 页 次 块 度 升 毫升
"""
# Words that change a number are not units, even where the question uses them, unless it asks for just that (how many dozen?).
CHANGING = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen
    twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion trillion dozen score gross pair couple lakh
    crore half halve quarter third fourth fifth sixth seventh eighth ninth tenth hundredth thousandth twice thrice double triple quadruple
    doubled tripled halved squared cubed more less few fewer than over under below above at least most about around nearly almost
    approximately roughly between up down to off not no never none neither nor cannot or and without except but minus plus times
    multiplied divided increased decreased reduced negative point another other rest against until before after some any many several
    wrong false incorrect ratio k m b if unless when
"""
# A profit of 5 and a loss of 5 are not the same: these words are right only where the last sentence of the question has one of them.
SIGNS = "debt deficit lose loses losing loss losses lost owe owed owes owing"
NAMES = CHANGING.split()[:20]  # of the numbers up to nineteen
TENS = CHANGING.split()[20:28]
BESIDE_NUMBER = re.compile(
    rf"(?:[0-9]|\b(?:{'|'.join((*NAMES, *TENS))}|hundred|thousand))[ -]*([a-z]{{2,}}|[a-z](?![a-z'])|[¢€£¥₹])|([$€£¥₹])(?= ?[0-9])"
)
LENGTHS = r"(?:[cmk]?m|ft|in|yd|mi|(?:centi|milli|kilo)?met(?:er|re)s?|inch(?:es)?|f(?:ee|oo)t|yards?|miles?|units?)"


def forms(words: str) -> set[str]:
    """Words and their plurals."""
    plurals = ((word, f"{word}s", f"{word}es", f"{word[:-1]}ies" if word.endswith("y") else word) for word in words.split())
    return {form for group in plurals for form in (group if len(group[0]) > 1 else group[:1])}


CANONICAL = {form: name for name, words in MEASURES.items() for form in forms(f"{name} {words}")}
CANONICAL |= {form: thing for thing in THINGS.split() for form in forms(thing) if form not in CANONICAL}
BEFORE = set(LEAD.split()) | {"$", "€", "£", "¥", "₹", "us$", "usd", "eur", "gbp", "inr", "rs", "rs."}
BEHIND = set(FOLLOW.split()) | CANONICAL.keys() - {"k"}
NO_UNIT = forms(CHANGING)


def small(word: str) -> str:
    """A word in lower case, except a single letter and MM: M, MM and K do not mean metres, millimetres and so on."""
    return word if len(word) == 1 or word == "MM" else word.casefold()


def words_of(question: str) -> tuple[set[str], set[str]]:
    """(words that may stand around an answer to a question, words that may stand after it, being what is asked for)."""
    signs = set(SIGNS.split())
    words = set(re.findall("[a-z]+", question.casefold())) - NO_UNIT - signs
    if signs & set(re.findall("[a-z]+", last_sentence(question))):
        words |= signs
    asked = {form for pair in HOW_MANY.findall(question.casefold()) for word in pair if word for form in (word, f"{word}s", word[:-1])}
    return {word for word in words if len(word) > 2}, asked


def last_sentence(question: str) -> str:
    """The sentence that asks, in lower case."""
    return re.split(r"(?<=[.!?])(?<!Mr\.)(?<!Mrs\.)(?<!Ms\.)(?<!Dr\.)\s+", question.strip())[-1].casefold()


def other_measure(first: str, question: str) -> str:
    """The message that a number has another measure than a question asks for; "" if it has not.

    A question names its measure (how many hours, in hours), or a thing that is counted, or asks for a kind (how much does it cost). What
    is left open there is one of the measures that the question uses with a number. Speeds are asked for as miles per hour.

    Args:
        first: the first word or sign after the number.
    """
    unit = "" if first == "in" else CANONICAL.get(small(first), "")
    if unit not in MEASURES or unit in ("unit", "mph", "kmh", "mpg"):
        return ""
    name, kind = asked_measure(question)
    if name:
        return "" if name in (unit, SAME.get(unit)) else f"{unit} in place of {name}"
    if kind and kind != KIND.get(unit):
        return f"{unit} in place of {kind}"
    return f"{unit}, which the question does not use" if unit not in used_measures(question, KIND.get(unit)) else ""


def asked_measure(question: str) -> tuple[str, str]:
    """(the one name of the measure that a question asks for, or ""; what it asks for otherwise: a kind of measure, a thing, or "")."""
    last = last_sentence(question)
    if PERCENTAGE.search(last):
        return "%", ""
    *_, pair = [("", ""), *HOW_MANY.findall(question.casefold())]
    words = [] if pair[0] in ("per", "a", "an", "each", "every", "in") else [word for word in pair if word in CANONICAL and word != "in"]
    # A singular after "in" may be a time that passes (in a week) or a part of a name; a measure is asked for in the plural.
    inside = [
        word for word in IN_MEASURE.findall(last) if CANONICAL.get(word) in KIND and (word[-1] == "s" or word in ("feet", "cm", "km"))
    ]
    for word in (*words, *inside[-1:]):
        if CANONICAL[word] in MEASURES:
            return CANONICAL[word], ""
    if words and pair[0] in CANONICAL:
        return "", pair[0]
    return "", next((kind for kind, expression in ASKS_FOR.items() if re.search(expression, last)), "")


def used_measures(question: str, kind: str | None) -> set[str]:
    """Measures of a kind that an answer may have: those that a question mentions, or all if none of them stands beside a number there."""
    text, all_of_kind = question.casefold(), {name for name in MEASURES if KIND.get(name) == kind}
    beside = {CANONICAL.get(word or sign) for word, sign in BESIDE_NUMBER.findall(text) if word != "in"}
    mentioned = {SAID.get(word.removesuffix("s"), CANONICAL.get(word)) for word in re.findall("[a-z]{2,}", text) if word != "in"}
    return all_of_kind & (mentioned | beside) if kind and all_of_kind & beside else all_of_kind


def in_words(number: int) -> str:
    """The English name of a number below 100."""
    if number < len(NAMES):
        return NAMES[number]
    return TENS[number // 10 - 2] + ("" if number % 10 == 0 else f"-{NAMES[number % 10]}")


def read_unit(text: str) -> str | None:
    r"""The one name of a unit, as in "cm^2" for `\text{ square centimeters}`; None if it is not a unit."""
    text = re.sub(r"\\text|[{}]", " ", text).replace(r"^\circ", " degree ").strip(" .")
    text = re.sub(r"(?<=degree) +([CF])$", lambda letter: " celsius" if letter[1] == "C" else " fahrenheit", text)
    if modulus := re.fullmatch(r"\(? ?\\[pb]?mod ?([0-9]+) ?\)?", text):
        return f"mod {modulus[1]}"
    parts = [read_factor(part) for part in re.split(r" ?/ ?| per ", text)] if len(text) < 80 else [None]
    return None if None in parts else "/".join(filter(None, parts))


def read_factor(text: str) -> str | None:
    """The one name of a part of a unit, with its power."""
    found = re.fullmatch(r" *(?:(square|sq\.?|cubic|cu\.?) )?([^ ^]+(?: [^ ^]+)*?) *(?:\^ ?([23])|(squared|cubed))? *", text)
    names = [CANONICAL.get(small(word)) for word in found[2].split()] if found else [None]
    if found is None or None in names:
        return None
    power = found[3] or {"s": "2", "c": "3"}.get((found[1] or found[4] or " ")[0])
    return " ".join(filter(None, names)) + (f"^{power}" if power else "")
