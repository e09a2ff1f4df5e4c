"""Sphinx extension: the docstrings of this project, which are plain text with `code` in single back quotes, as reStructuredText.

Sections such as `Args:` are left to napoleon, which runs after this. Text indented under a paragraph is an equation and
becomes a block of its own; `code` becomes literal text; what else has a meaning in reStructuredText (`|`, `*`, a
trailing `_`) is escaped.
"""

from __future__ import annotations

import re

SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields):$")
LIST_ITEM = re.compile(r"- ")
NAMED = re.compile(r"[a-z_]+(, [a-z_]+)*: ")  # one of several values that a function returns


def setup(app):
    """Before napoleon, whose priority is 500."""
    app.connect("autodoc-process-docstring", process, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def process(app, what, name, obj, options, lines: list[str]) -> None:
    lines[:] = to_rst(lines)


def to_rst(lines: list[str]) -> list[str]:
    """A docstring, line by line."""
    done: list[str] = []
    section, literal = "", False
    for line in lines:
        text, indent = line.strip(), len(line) - len(line.lstrip())
        if not text:
            done.append("")
            continue
        if indent == 0:
            found = SECTION.match(text)
            section, literal = found[1] if found else "", False
            if section == "Returns":
                done += ["", ":returns:"]
                continue
        if section == "Returns" and NAMED.match(text) and indent == 4:
            names, _, rest = text.partition(": ")
            done.append(f"    - **{names}**: {escape(rest)}")
        elif section:
            in_item = section == "Returns" and done[-1].startswith(("    - **", "      "))
            done.append(f"  {escape(line)}" if in_item else escape(line))
        elif literal or indent >= 4 and done and not done[-1]:
            done += [line] if literal else [".. code-block:: text", "", line]
            literal = True
        else:
            if starts_or_ends_list(done, text, indent):
                done.append("")
            done.append(escape(line))
    return done


def starts_or_ends_list(done: list[str], text: str, indent: int) -> bool:
    """Whether a list begins or ends at this line without the blank line that reStructuredText wants there."""
    if not done or not done[-1].strip():
        return False
    inside = is_in_list(done)
    return not inside if LIST_ITEM.match(text) else inside and indent == 0


def is_in_list(done: list[str]) -> bool:
    """Whether the last line belongs to a list item."""
    for line in reversed(done):
        if LIST_ITEM.match(line.strip()):
            return True
        if not line.startswith("  "):
            return False
    return False


def escape(line: str) -> str:
    """Text outside back quotes escaped, what is inside them as literal text."""
    parts = re.split(r"((?<!`)`[^`]+`(?!`))", line)
    return "".join(f"`{part}`" if i % 2 else plain(part) for i, part in enumerate(parts))


def plain(text: str) -> str:
    """No markup but *emphasis* of words, which docstrings use as Markdown does."""
    text = re.sub(r"[\\|`]", r"\\\g<0>", text)
    text = re.sub(r"(?<=\w)_(?!\w)", r"\\_", text)
    kept = re.split(r"((?<![\w)*])\*[A-Za-z][A-Za-z -]*[A-Za-z]\*(?![\w*]))", text)
    return "".join(part if i % 2 else part.replace("*", r"\*") for i, part in enumerate(kept))
