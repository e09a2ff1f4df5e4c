"""What may stand around a number without changing it: units of measure, things that are counted, words of a sentence that states it.

Words that are not listed make a number doubtful: too many words can change one (dozen, squared, at least, half).
"""

from __future__ import annotations

import re

# A name and the ways to write it; a plural is understood.
MEASURES = {
    "m": "meter metre", "cm": "centimeter centimetre", "mm": "millimeter millimetre", "km": "kilometer kilometre", "ft": "foot feet",
    "in": "inch", "yd": "yard", "mi": "mile", "g": "gram gramme", "kg": "kilogram kilos", "mg": "milligram", "lb": "lbs pound",
    "oz": "ounce", "ton": "tonne", "L": "l liter litre", "mL": "ml milliliter millilitre", "gal": "gallon", "qt": "quart", "pt": "pint",
    "cup": "", "tsp": "teaspoon", "tbsp": "tablespoon", "s": "sec second", "min": "minute", "h": "hr hour", "day": "", "week": "wk",
    "month": "", "year": "yr", "decade": "", "century": "", "acre": "", "hectare": "", "unit": "",
    "degree": "deg", "radian": "rad", "celsius": "", "fahrenheit": "", "%": "percent pct percentage", "dollar": "$ usd us$ buck",
    "cent": "¢ penny", "euro": "€ eur", "gbp": "£", "yen": "¥", "yuan": "rmb", "rupee": "rs ₹ inr", "peso": "", "watt": "W", "volt": "V",
    "hertz": "hz", "byte": "", "calorie": "kcal cal",
    "gb": "gigabyte", "kwh": "", "knot": "",
}  # fmt: skip
THINGS = """
    adult album animal answer ant apple arrangement attempt bag bagel ball balloon banana bar barrel basket bead bean bear bed bee berry
    bike bird block board boat book bottle bouquet bowl box boy bracelet branch brick brother bug building bun bunch bus bushel button
    cake can candle candy car card carrot cat cd chair chapter chicken child children chip chocolate choice class clip code coin color
    colour combination committee container cookie corner cow crayon cube cupcake customer deck desk diagonal different digit dinner dish
    distinct divisor doctor dog doll donut door dress drink duck dvd edge egg element employee error event exam face factor family fan
    farmer fence field figure finger fish floor flower friend frog fruit function game geese gift girl glass goal goat goose grape group
    guest handshake hat hen hole horse house idea integer item jar job juice key kid kilowatt kitten lap lattice leaf leaves lemon
    lesson letter level light line lion list loaf loaves log lollipop lunch machine magazine man marble mark match meal member men
    message mice mistake mouse movie muffin mug multiple neighbor night notebook number nut object onion orange order outcome pack
    package packet page painting palindrome pan pancake paper parent park part party passenger path peach pear pen pencil people
    permutation person phone photo picture pie piece pig pill pizza place plane plant plate player plum points polygon positive possible
    potato potatoes present prime prize problem project pupil puppy puzzle question rabbit race real recipe rectangle region revolution
    ride ring roll room roots rope rose round row sandwich school seat seed sequence serving session set sheep sheet shelf shelves shirt
    shoe shop shot side sister slice snack sock solution song spider spoon stair stamp star state step stick sticker stop store story
    straw strawberry student subset suit sweet table tail task teacher team teeth term test ticket tile time tire toe token tomato
    tomatoes tooth towel town toy train tray tree triangle trip truck turn turtle value van vegetable vertex vertices visitor vote walk
    wall watch way wheel win window wing woman women word worker zebra
"""
# Words of a sentence that states a number, before and after it. Chinese has no spaces, so there parts of words are listed.
LEAD = """
    a all also altogether amount an and ans answer are area average be because by charged contains correct cost count distance earned
    equal equals exactly final finally for gets get had has have he height hence her his i in is it it's its just left length made make
    makes mean must my need now number of on only our paid pay perimeter price probability profit remain remaining required result says
    she should since size so solution spend spent speed sum takes that that's the their then there therefore these they this thus took
    total value volume was we were weight width will would you your die la antwort respuesta réponse ist es est us age aged at buys
    comes costs difference each earns gave gives I needed needs output pays per precisely receives remainder remains saved saves sells
    spends to which with
"""
FOLLOW = """
    a afternoon all altogether an and are as at away be birthday by correct current currently daily day deep each earlier earned evening
    every extra fast final for from full had has have he her high his hourly in is it its later left long made money monthly need needed
    now o'clock of old on only our overall own paid per pm am remain remaining required saved she sold spent tall the their them there
    they today together tomorrow total used was we weekly were whole wide will with work worth would yearly you your annually apiece us
    do does did
"""
CHINESE = """
    答案 最终 最后 结果 因此 所以 总共 一共 等于 是 为 共 的 有 个 個 元 美元 米 厘米 千米
    公里 克 千克 公斤 小时 分钟 秒 天 周 月 年 岁 人 本 页 次 块 度 升 毫升
"""
# Words that change a number are not units, even where the question uses them, unless it asks for just that (how many dozen?).
CHANGING = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen
    twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion trillion dozen score gross pair couple lakh
    crore half halve quarter third fourth fifth sixth seventh eighth ninth tenth hundredth thousandth twice thrice double triple
    quadruple doubled tripled halved squared cubed more less few fewer than over under below above at least most about around nearly
    almost approximately roughly between up down to off not no never none neither nor cannot or and without except but minus plus times
    multiplied divided increased decreased reduced negative point another other rest against until before after some any many several
    wrong false incorrect ratio k m b if unless when grand reciprocal opposite root factorial complement invalid impossible failed
    rejected extraneous
"""
# What makes another number of one: "the square of x is 5", "log x = 5" say nothing of x.
OPERATION_OF = re.compile(
    r"\b(?:square|root|cube|inverse|reciprocal|opposite|negation|negative|sine|cosine|tangent|logarithm|absolute value|double|twice"
    r"|percent(?= of [a-z]\b)|conjugate|hal(?:f|ves)|thirds?|quarters?|fourths?|fifths?|tenths?) of\b"
    r"|\b(?:sqrt|log|ln|exp|abs|(?:arc)?(?:sin|cos|tan)|cot|sec|csc)(?= ?[(\\]| [A-Za-z]\b|$)",
    flags=re.IGNORECASE,
)
NAMES = CHANGING.split()[:20]  # of the numbers up to nineteen
TENS = CHANGING.split()[20:28]
NUMBER = rf"(?:{'|'.join((*NAMES, *TENS))})"
# Names of lengths, which areas and volumes have too: cm^2, square feet.
LENGTHS = r"(?:[cmk]?m|ft|in|yd|mi|(?:centi|milli|kilo)?met(?:er|re)s?|inch(?:es)?|f(?:ee|oo)t|yards?|miles?|units?)"
GLUED = r"(?:[ckm]m|[km]g|m[lL]|ft|in)"  # units that stand behind a number without a space; other letters there are a product


def forms(words: str) -> set[str]:
    """Words and their plurals."""
    plurals = ((word, f"{word}s", f"{word}es", f"{word[:-1]}ies" if word.endswith("y") else word) for word in words.split())
    return {form for group in plurals for form in (group if len(group[0]) > 1 else group[:1])}


CANONICAL = {form: name for name, words in MEASURES.items() for form in forms(f"{name} {words}")}
CANONICAL |= {form: thing for thing in THINGS.split() for form in forms(thing) if form not in CANONICAL}
BEFORE = set(LEAD.split()) | {"$", "€", "£", "¥", "₹", "us$", "usd", "eur", "gbp", "inr", "rs"}
BEHIND = set(FOLLOW.split()) | CANONICAL.keys()
NO_UNIT = forms(CHANGING)


def small(word: str) -> str:
    """A word in lower case, except a single letter but A, and MM: M, MM and K do not mean metres, millimetres and so on."""
    return word if len(word) == 1 and word != "A" or word == "MM" else word.casefold()


def in_words(number: int) -> str:
    """The English name of a number below 100."""
    if number < len(NAMES):
        return NAMES[number]
    return TENS[number // 10 - 2] + ("" if number % 10 == 0 else f"-{NAMES[number % 10]}")


def read_unit(text: str) -> str | None:
    r"""The one name of a unit, as in "cm^2" for `\text{ square centimeters}`; None if it is not a unit."""
    text = re.sub(r"\\frac ?\{ ?\\text\{([^{}]*)\} ?\} ?\{ ?\\text\{([^{}]*)\} ?\}", r"\1/\2", text)
    text = re.sub(r"\\text|[{}]", " ", text).replace(r"^\circ", " degree ").strip(" .")
    text = re.sub(r"(?<=degree) +([CF])$", lambda letter: " celsius" if letter[1] == "C" else " fahrenheit", text)
    if modulus := re.fullmatch(r"\(? ?\\[pb]?mod ?([0-9]+) ?\)?", text):
        return f"mod {modulus[1]}"
    parts = [read_factor(part) for part in re.split(r" ?/ ?| per | an? ", text)] if len(text) < 80 else [None]
    return None if None in parts else "/".join(filter(None, parts))


def read_factor(text: str) -> str | None:
    """The one name of a part of a unit, with its power."""
    found = re.fullmatch(r" *(?:(square|sq\.?|cubic|cu\.?) )?([^ ^]+(?: [^ ^]+)*?) *(?:\^ ?([23])|(squared|cubed))? *", text)
    names = [CANONICAL.get(small(word)) for word in found[2].split()] if found else [None]
    if found is None or None in names:
        return None
    power = found[3] or {"s": "2", "c": "3"}.get((found[1] or found[4] or " ")[0])
    return " ".join(filter(None, names)) + (f"^{power}" if power else "")
