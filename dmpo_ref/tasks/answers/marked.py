"""Where the answer stands in a text: between tags, in a box, before the first end token."""

from __future__ import annotations

import re
from collections.abc import Iterator

END_TOKENS = ("<|eot_id|>", "<|endoftext|>")  # of a chat turn and of a text, for LLaDA


def until_end(text: str) -> str:
    """An answer up to its first end token."""
    return re.split("|".join(map(re.escape, END_TOKENS)), text, maxsplit=1)[0]


def last_answer(text: str) -> str | None:
    """What stands between the last `<answer>` and the `</answer>` after it (or the end), stripped; None without `<answer>`."""
    _, tag, rest = text.rpartition("<answer>")
    return rest.partition("</answer>")[0].strip() if tag else None


def marked_answer(text: str) -> tuple[str | None, str]:
    """The answer by the strict reading, and where it was found: in the last `<answer>` or the last `\\boxed{…}`, whichever begins later.

    So a box inside the answer is the answer. A box that is not closed does not count, an answer that is not closed does. Nothing
    after the first end token is read.
    """
    text = until_end(text)
    start = text.rfind("\\boxed{")
    if start > text.rfind("<answer>"):
        depth = 0
        for brace in re.finditer(r"\\.|[{}]", text[start:], flags=re.DOTALL):  # \{ and \} are signs, not braces
            depth += {"{": 1, "}": -1}.get(brace[0], 0)
            if depth == 0 and brace[0] == "}":
                return text[start + len("\\boxed{") : start + brace.start()].strip(), "the last \\boxed"
    return (None, "nowhere") if (answer := last_answer(text)) is None else (answer, "the last <answer>")


def closed_answers(text: str) -> Iterator[str]:
    """What stands in each `<answer>…</answer>`, stripped, in order; one that is not closed does not count. Linear in the text."""
    at = 0
    while (start := text.find("<answer>", at)) >= 0 and (end := text.find("</answer>", start)) >= 0:
        yield text[start + len("<answer>") : end].strip()
        at = end + len("</answer>")


def published_box(text: str) -> str | None:
    """What the published evaluation takes from a text with `\\boxed`, for MATH-500 and Countdown.

    What follows the last `\\boxed ` (with a space) up to `$`, if there is one; else the content of the last `\\boxed{…}`. Without
    `\\boxed`, from the last `\\fbox` to its brace; without that, the whole text. None if the braces do not balance.
    """
    if "\\boxed " in text:
        return text.rpartition("\\boxed ")[2].partition("$")[0]
    start = text.rfind("\\boxed")
    if start < 0 and (start := text.rfind("\\fbox")) < 0:
        return text
    depth = 0
    for brace in re.finditer(r"[{}]", text[start:]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0 and brace[0] == "}":
            boxed = text[start : start + brace.end()]
            return boxed[len("\\boxed{") : -1] if boxed.startswith("\\boxed{") else boxed
    return None
