"""The rewriting of LaTeX answers behind the published tables of MATH-500, mistakes included (Hendrycks et al., arXiv 2103.03874).

Everything here takes time proportional to the length of the text.
"""

from __future__ import annotations

from dmpo_ref.tasks.answers.marked import closing


def published_equal(answer: str, truth: str) -> bool:
    """Whether two answers are the same string after `normalise`; if that fails for either, whether they are the same unchanged."""
    try:
        return normalise(answer) == normalise(truth)
    except ValueError:
        return answer == truth


def normalise(text: str) -> str:
    """An answer rewritten as by the published evaluation, in its order, with its mistakes.

    Raises:
        ValueError: the rewriting fails: more than one `\\text{ `, a `\\sqrt` without anything after it, or `a/b` that are not integers.
    """
    for old, new in (("\n", ""), (r"\!", ""), (r"\\", "\\"), ("tfrac", "frac"), ("dfrac", "frac"), (r"\left", ""), (r"\right", "")):
        text = text.replace(old, new)
    for old in (r"^{\circ}", r"^\circ", r"\$"):
        text = text.replace(old, "")
    if text.count(r"\text{ ") > 1:
        raise ValueError(r"more than one \text{ ")
    text = text.partition(r"\text{ ")[0].replace(r"\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if not text:
        return text
    text = "0" + text if text[0] == "." else text
    if text.count("=") == 1 and text.index("=") <= 2:
        text = text.partition("=")[2]
    text = brace_fractions(brace_roots(text).replace(" ", ""))
    return slash_fraction(r"\frac{1}{2}" if text == "0.5" else text)


def brace_roots(text: str) -> str:
    """`\\sqrt3` → `\\sqrt{3}`; the character after `\\sqrt` is taken whatever it is."""
    first, *pieces = text.split(r"\sqrt")
    if "" in pieces:
        raise ValueError(r"nothing after \sqrt")
    return first + "".join(r"\sqrt" + (piece if piece[0] == "{" else f"{{{piece[0]}}}{piece[1:]}") for piece in pieces)


def brace_fractions(text: str) -> str:
    """`\\frac12`, `\\frac1{2}`, `\\frac{1}2` → `\\frac{1}{2}`; with too little after a `\\frac`, the text is unchanged."""
    first, *pieces = text.split(r"\frac")
    done = [first]
    for piece in pieces:
        if piece.startswith("{"):
            end = closing(piece)
            below = piece[end + 1 : end + 2]
            done.append(f"{piece[: end + 1]}{{{below}}}{piece[end + 2 :]}" if end > 0 and below not in ("", "{") else piece)
        elif len(piece) < 2:
            return text
        else:
            done.append(f"{{{piece[0]}}}{piece[1:]}" if piece[1] == "{" else f"{{{piece[0]}}}{{{piece[1]}}}{piece[2:]}")
    return r"\frac".join(done)


def slash_fraction(text: str) -> str:
    """`a/b` → `\\frac{a}{b}` for two integers written plainly; ValueError if either is not an integer."""
    if text.count("/") != 1:
        return text
    above, below = (int(side) for side in text.split("/"))  # too many digits are a ValueError too
    return rf"\frac{{{above}}}{{{below}}}" if text == f"{above}/{below}" else text
