"""Finding the answer in a text: between tags, in a box, before the first end token."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator

END_TOKENS = ("<|eot_id|>", "<|endoftext|>")  # of a chat turn and of a text, for LLaDA
NO_ANSWER = "no <answer> and no \\boxed"


def until_end(text: str) -> str:
    """An answer up to its first end token."""
    return re.split("|".join(map(re.escape, END_TOKENS)), text, maxsplit=1)[0]


# How models write a box and a tag: space before the brace, a full stop or no backslash, a backspace for \b; `</<answer>`, `</ans`.
BOX = re.compile(r"\\\.?(?:boxed|fbox|framebox)\s*\{|(?:(?<![A-Za-z\\])b|\x08)oxed\s*\{")
OPEN = re.compile(r"(?<!/)<answer>")
CLOSE = re.compile(r"<[/\\]+ ?<?/?[aA]nswer ?>?|</[a-z]{0,6}$")


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
    box = deque(BOX.finditer(text), maxlen=1)
    if box and (answer is None or box[0].start() >= answer[0]):
        start = box[0].end()
        inside = answer is not None and answer[2] >= 0 and start <= answer[1]
        rest = text[: answer[1]] if answer and inside else text
        if (end := closing(rest, start - 1, r"(?s:\\.)|[{}]")) >= 0:  # \{ and \} are signs, not braces
            return text[start:end].strip(), "the last \\boxed"
        if inside:
            return rest[start:].strip(), "the last \\boxed, which the end of the answer closes"
    if answer is None:
        return None, "the last \\boxed is not closed" if box else NO_ANSWER
    return text[answer[0] : answer[1]].strip(), "the last <answer>"


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
