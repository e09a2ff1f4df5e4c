"""Finding the answer in a text: between tags, in a box, before the first end token."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dmpo_ref.tasks.answers.units import GLUED

END_TOKENS = ("<|eot_id|>", "<|endoftext|>")  # of a chat turn and of a text, for LLaDA
NO_ANSWER = "no <answer> and no \\boxed"
NOT_CLOSED = (None, "the last \\boxed is not closed")


def until_end(text: str) -> str:
    """An answer up to its first end token."""
    return re.split("|".join(map(re.escape, END_TOKENS)), text, maxsplit=1)[0]


# How models write a box and a tag: space before the brace, a full stop or no backslash, a backspace for \b; `</<answer>`, `</ans`.
BOX = re.compile(r"\\\.?(?:boxed|fbox|framebox)\s*\{|(?:(?<![A-Za-z\\])b|\x08)oxed\s*\{")
OPEN = re.compile(r"(?<!/)<answer>")
CLOSE = re.compile(r"<[/\\]+ ?<?/?[aA]nswer ?>?|</[a-z]{0,6}$")
# What changes a box from outside, on its line: a sign, an operation, a bound, a denial. A bullet, a quote, an arrow, bold type do not; nor
# does ≈, as a number that was asked for rounded is boxed behind it.
OPENING, CLOSING = r"(?:[ \t~${(\[]|\\[(\[])*$", r"(?:[ \t~$)}\]]|\\[)\]])*"
COMMANDS = r"(?:times|cdot|div|pm|mp|pi|sqrt(?: ?\[[^\]]*\])?|[dt]?frac(?: ?\{[^{}]*\})?)(?![A-Za-z])"
CHANGES_BEFORE = re.compile(
    r"[-−–][${(\[]*$|[0-9]$|(?<![A-Za-z\\])[A-Za-z]$|(?:(?:[0-9)}]|(?<![A-Za-z\\])[A-Za-z]) ?(?:[-−–+*]|[<>]=?)|[/^√×·÷±≥≤≠<]"
    rf"|\\(?:{COMMANDS}|(?:neq?|not|[gl]eq?(?:slant)?|[gl]t|x?cancel)(?![A-Za-z]))"
    r"|(?:\b(?:not|never|cannot|minus|negative|than|half of|twice|at (?:least|most))|n't)"
    rf"(?: be| exactly| equal| to| need| have| get| make| pay)* ?\}}?){OPENING}",
    flags=re.IGNORECASE,
)
CHANGES_AFTER = re.compile(
    rf"\.?[0-9]|(?!(?:{GLUED}|a|st|nd|rd|th)(?![A-Za-z]))[A-Za-z]{{1,2}}(?![A-Za-z])"
    rf"|{CLOSING}(?:\^(?! ?{{? ?\\?(?:circ|deg|text|mathrm|th))|[+×·÷±√]|[-−–/] ?[0-9]|\*[0-9(]|\\{COMMANDS}|[xyzn](?![A-Za-z])"
    r"|(?:\\text\{ ?)?(?:(?:is|was) (?:not|wrong|false|incorrect)|or (?:more|less|fewer)|squared|cubed|factorial)\b)"
)
MULTIPLE = re.compile(rf"{CLOSING}(?:\\text\{{)? ?((?:hundred|thousand|million|billion|trillion|dozen)(?:th)?s?)\b")
INDEX = r"(?:_\{?[0-9]\}?)?"
JOINT = re.compile(rf"[\s$]*(?:[,;]|(?:,\s*)?(?:\\text\s?\{{\s?(?:or|and)\s?\}}|\b(?:or|and)\b))[\s$]*(?:([A-Za-z]){INDEX} ?= ?[$]*)?")
TAG = re.compile(r"</?[A-Za-z][^<>\s]*>")


def last_answer(text: str) -> tuple[int, int, int] | None:
    """Where the text of the last `<answer>` starts and ends, and where what closes it ends: −1 if it is not closed; None without one.

    An `<answer>` at the end of the text, where the one before it is not closed, closes that one.
    """
    starts = [found.end() for found in OPEN.finditer(text)]
    if len(starts) > 1 and not text[starts[-1] :].strip() and CLOSE.search(text, starts[-2]) is None:
        return starts[-2], starts[-1] - len("<answer>"), starts[-1]
    if not starts:
        return None
    close = CLOSE.search(text, starts[-1])
    return (starts[-1], len(text), -1) if close is None else (starts[-1], close.start(), close.end())


def marked_answer(text: str) -> tuple[str | None, str]:
    """The answer by the strict reading, and where it was found: in the last `<answer>` or the last `\\boxed{…}`, whichever begins later.

    So a box inside the answer is the answer. An answer that is not closed counts. A box that is not closed does not, unless the answer
    around it is closed: then both end there. Nothing after the first end token is read. Without an answer: None, and why.
    """
    text = until_end(text)
    answer = last_answer(text)
    if answer is None:
        return read_boxes(text) or (None, NO_ANSWER)
    start, end, behind = answer
    if behind >= 0 and (found := read_boxes(text[behind:])) and found != NOT_CLOSED:
        return found
    if (found := read_boxes(text[start:end], is_closed=behind >= 0)) and found != NOT_CLOSED:
        return found
    return text[start:end].strip(), "the last <answer>"


def read_boxes(text: str, *, is_closed: bool = False) -> tuple[str | None, str] | None:
    """The content of the last box of a text and where it was found; None and why, if it cannot be told; None alone without a box.

    A box in another is read with all that stands in the outer one. Boxes with nothing but `,` `;` `or` `and` between them are one list.
    What changes the box from outside (see `CHANGES_AFTER`, `CHANGES_BEFORE`) makes the answer doubtful.

    Args:
        is_closed: whether the end of the text closes what is open.
    """
    boxes = find_boxes(text)
    if not boxes:
        return None
    first, start, end = boxes[-1]
    if end < 0:
        return (text[start:].strip(), "the last \\boxed, which the end of the answer closes") if is_closed else NOT_CLOSED
    last = end
    for outer, inside, closed in reversed(boxes[:-1]):
        if closed > last:
            if re.sub(r"\\text|[{}$\s]", "", text[inside:first] + text[last + 1 : closed]):
                start, end = inside, closed
            first, last = outer, closed
    parts = [text[start:end].strip()]
    behind, change = MULTIPLE.match(text, last + 1), CHANGES_AFTER.match(text, last + 1)
    for before, inside, closed in reversed(boxes):
        if 0 <= closed < first:
            joined = JOINT.fullmatch(text, closed + 1, first)
            name = rf"(?<![A-Za-z]){joined[1]}{INDEX} ?= ?[$]*$" if joined and joined[1] else ""
            if joined is None or name and not re.search(name, text[max(0, before - 20) : before]):
                break
            first = before
            parts.append(text[inside:closed].strip())
    line = text[max(0, first - 80) : first].rpartition("\n")[2]
    if change := change or CHANGES_BEFORE.search(TAG.sub(" ", line)):
        return None, f"{' '.join(change[0].split())[:40]!r} beside the last \\boxed may change it"
    content = ", ".join(reversed(parts)) + (f"\\text{{ {behind[1]}}}" if behind else "")
    return content, "the last \\boxed" if len(parts) == 1 else "the last \\boxed and those before it"


def find_boxes(text: str) -> list[tuple[int, int, int]]:
    """Where each box begins, its content begins and its content ends, −1 if it is not closed. Linear in the text."""
    boxes = {found.end() - 1: found.start() for found in BOX.finditer(text)}
    ends, opened = dict.fromkeys(boxes, -1), []
    for found in re.finditer(r"(?s:\\.)|[{}]", text):  # \{ and \} are signs, not braces
        if found[0] == "{":
            opened.append(found.start())
        elif found[0] == "}" and opened and (brace := opened.pop()) in ends:
            ends[brace] = found.start()
    return [(start, brace + 1, ends[brace]) for brace, start in boxes.items()]


def closed_answers(text: str) -> Iterator[str]:
    """The text in each `<answer>…</answer>`, stripped, in order; one that is not closed does not count. Linear in the text."""
    at = 0
    while (start := text.find("<answer>", at)) >= 0 and (end := text.find("</answer>", start)) >= 0:
        yield text[start + len("<answer>") : end].strip()
        at = end + len("</answer>")


def published_box(text: str) -> str | None:
    """The text that the published evaluation takes from an answer with `\\boxed`, for MATH-500 and Countdown.

    The text after the last `\\boxed ` (with a space) up to `$`, if there is one; else the content of the last `\\boxed{…}`. Without
    `\\boxed`, from the last `\\fbox` to its brace; without that, the whole text. None if the braces do not balance.
    """
    if "\\boxed " in text:
        return text.rpartition("\\boxed ")[2].partition("$")[0]
    start = text.rfind("\\boxed")
    if start < 0 and (start := text.rfind("\\fbox")) < 0:
        return text
    if (end := closing(text, start)) < 0:
        return None
    return text[start : end + 1] if not text.startswith("\\boxed{", start) else text[start + len("\\boxed{") : end]


def closing(text: str, start: int = 0, brackets: str = "[{}]") -> int:
    """Where the brackets that begin at or after `start` are closed, of those that the expression finds; −1 if they are not."""
    depth = 0
    for found in re.compile(brackets).finditer(text, start):
        depth += (found[0] in "([{") - (closes := found[0] in ")]}")
        if closes and depth == 0:
            return found.start()
    return -1
