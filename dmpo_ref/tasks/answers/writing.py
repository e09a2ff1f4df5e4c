r"""A uniform way to write an answer: Unicode signs as LaTeX, without fonts, colours, sizes and spacing. The meaning stays the same.

What is not known here stays unchanged, for the graders to refuse.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from unicodedata import decomposition, normalize

# Each of these is a minus before a number. A wave dash (about) and the bar of Japanese vowels are not.
MINUS = "‐‑‒–—―⸺⸻﹘﹣－−⁻₋➖˗⁃"
SIGNS = {
    "×": r"\times ", "✕": r"\times ", "✖": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": r"\div ", "∕": "/", "⁄": "/",
    "±": r"\pm ", "∓": r"\mp ", "∞": r"\infty ", "≤": r"\le ", "⩽": r"\le ", "≦": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≧": r"\ge ",
    "≠": r"\ne ", "≈": r"\approx ", "≡": r"\equiv ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "°": r"^\circ ",
    "º": r"^\circ ", "˚": r"^\circ ", "℃": r"^\circ C", "℉": r"^\circ F", "…": r"\ldots ", "⋯": r"\ldots ", "→": r"\to ", "⇒": r"\implies ",
    "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ", "ε": r"\epsilon ", "θ": r"\theta ", "λ": r"\lambda ", "μ": r"\mu ",
    "π": r"\pi ", "ρ": r"\rho ", "σ": r"\sigma ", "φ": r"\phi ", "ϕ": r"\phi ", "ω": r"\omega ", "Δ": r"\Delta ", "Θ": r"\Theta ",
    "∠": r"\angle ", "。": ".", "、": ",", "“": '"', "”": '"', "’": "'", "‘": "'", "【": "[", "】": "]",
    "⟹": r"\implies ", "⟶": r"\to ", "➜": r"\to ", "➡": r"\to ", "⨯": r"\times ", "⋆": r"\cdot ", "➕": "+", "➗": r"\div ",
}  # fmt: skip
NOTHING = dict.fromkeys("\u200b\u200c\u200d\u200e\u2060\ufe0e\ufe0f\ufeff✓✔✅☑", "")  # without width, or ornaments
CHARACTERS = str.maketrans(SIGNS | NOTHING | dict.fromkeys(MINUS, "-"))
RAISED, LOWERED = "⁰¹²³⁴⁵⁶⁷⁸⁹ⁿ", "₀₁₂₃₄₅₆₇₈₉"
LEVEL = str.maketrans(RAISED + LOWERED + "⁻⁺", "0123456789n0123456789-+")
BASE = r"(?<=[0-9A-Za-zπθ)}\]])"  # what a raised sign is raised from

UNICODE: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [  # the characters next to these signs decide what they mean
    (re.compile(rf"{BASE}([⁻⁺]?[{RAISED}]+)"), lambda run: f"^{{{run[1].translate(LEVEL)}}}"),
    (re.compile(rf"{BASE}([{LOWERED}]+)"), lambda run: f"_{{{run[1].translate(LEVEL)}}}"),
    (re.compile(r"√ ?([0-9]+(?:\.[0-9]+)?|[A-Za-zπ]|(?=\{))"), lambda root: rf"\sqrt{{{root[1]}}}" if root[1] else r"\sqrt"),
    (re.compile(r"√ ?\(([^()]*)\)"), r"\\sqrt{\1}"),
]
TEXT_FONT = r"text(?:bf|it|rm|tt|sf|up|md|normal)?|emph|[mh]box"
MATH_FONT = r"math(?:rm|bf|it|sf|tt|normal)|operatorname"
LAYOUT = r"left|right|[bB]ig{1,2}[lrm]?|(?:display|text)style|normalsize|rm|bf|it|bfseries|[lL]arge|LARGE|[hH]uge|small|limits"
SIGN = r"(?<= )[A-Za-z]|\\(?:pi|theta)(?![A-Za-z])"  # above or below a fraction's line, without braces
LATEX_REWRITES = [  # in this order
    (r"\\(?:text)?color ?\{[^{}]*\}", ""),
    (r"\\[hv]space\*? ?\{[^{}]*\}", " "),
    (r"(?<!\\)\\[()\[\]]", ""),
    (r"(?<=[0-9])(?:\{,\}|, ?\\! ?)(?=[0-9]{3}(?![0-9]))", ""),
    (r"\{,\}", ","),
    (r"\\!|(?<!\\)\\$|(?:\\(?:\\|newline|checkmark|(?:black)?square|qed)\s*)+$", ""),
    (r"(?<!\\)\\[,;:> ]|\\(?:q?quad|enspace|thinspace)(?![A-Za-z])|(?<=[0-9A-Za-z}{])~(?=[A-Za-z\\])", " "),
    (rf"\\(?:{LAYOUT})(?![A-Za-z])", ""),
    (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
    (rf"\\frac ?(?:\{{([^{{}}]*)\}}|([0-9]|{SIGN})) ?(?:\{{([^{{}}]*)\}}|([0-9](?![0-9])|[A-Za-z]|{SIGN}))", r"\\frac{\1\2}{\3\4}"),
    (r"\\[lr]?vert(?![A-Za-z])", "|"),
    (r"\\log_ ?([0-9]) ?(?=[0-9(])", r"\\log_{\1}"),
    (r"(?<=[0-9)]) ?pi(?![A-Za-z])", r"\\pi "),
    (r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}", r"\\frac{\1}{\2}"),
    (r"\\([$%])", r"\1"),
    (r"\\math(?:rm|sf|tt|normal) ?\{ ?([eid]) ?\}", r"{\1}"),
    (rf"\\(?:{TEXT_FONT}|mathrm) ?\{{([^{{}}]*)\}}|\\(?:{MATH_FONT}) ?\{{ ?([A-Za-z]{{2}}[A-Za-z ]*)\}}", r"\\text{\1\2}"),
    (rf"\\(?:{MATH_FONT}|[fu]?boxed|fbox|underline|boldsymbol|pmb|bm|ensuremath) ?(?=\{{)", ""),
    (r"\\text\{([^A-Za-z{}]*)\}", r" \1 "),
    (r"(?<![0-9A-Za-z)\]}])\*\*([^*]+)\*\*(?![0-9A-Za-z(\[{])", r" \1 "),
    ("`+", " "),
    (r"\\varnothing(?![A-Za-z])", r"\\emptyset "),
    (r"(?<=[0-9]) ?\^ ?(?:\{ ?o ?\}|o(?![A-Za-z])|\\text\{ ?o ?\})", r"^\\circ "),
    (r"\^ ?(?:\\(?:circ|degree)(?![A-Za-z])|\{ ?\\(?:circ|degree) ?\})|\\degree(?![A-Za-z])", r"^\\circ "),
]
SPEEDS = {"mph": "miles/hour", "km?ph|kmh": "km/hour", "mpg": "miles/gallon", "mps": "m/s", "gpm": "gallons/minute", "sqft": "square feet"}
LATEX_REWRITES += [(rf"(?<![A-Za-z\\])(?i:{short})(?![A-Za-z])", long) for short, long in SPEEDS.items()]
LATEX = [(re.compile(expression), replacement) for expression, replacement in LATEX_REWRITES]


def one_writing(text: str) -> str:
    r"""An answer in a uniform way of writing: digits and signs of ASCII, the rest LaTeX.

    Unicode and fullwidth signs become their LaTeX, each kind of minus "-"; `\dfrac`, `\left`, colours, spacing and formula marks go;
    fonts of words become `\text{…}`, other fonts their content; white space counts once. A `$` that is left is a currency.
    """
    text = "".join(map(usual_form, text))
    for pattern, new in UNICODE:
        text = pattern.sub(new, text)
    text = text.translate(CHARACTERS)
    if len(re.findall(r"(?<!\\)\$", text)) % 2 == 0:  # marks of formulas come in pairs
        text = re.sub(r"(?<!\\)\$", "", text)
    for expression, replacement in LATEX:
        text = expression.sub(replacement, text)
    return " ".join(text.split())


def usual_form(sign: str) -> str:
    """A fullwidth or small sign as that of ASCII, a letter or digit in a font of formulas as the plain one; ½ and ㎡ in LaTeX."""
    if not decomposition(sign).startswith(("<wide>", "<small>", "<font>", "<fraction>", "<square>")):
        return sign
    form = re.sub("(.)⁄(.+)", r"\\frac{\1}{\2}", normalize("NFKC", sign))
    return re.sub("^([a-z]*m)([23])$", r" \1^{\2}", form)
