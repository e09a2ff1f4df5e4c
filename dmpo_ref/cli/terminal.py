"""The one place where text reaches a terminal. Answers of a model, data and file names may hold control characters, which could
rewrite earlier output: they are shown as escapes such as `\\x1b`, as are characters that the terminal's encoding lacks.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any

from dmpo_ref.config import shorten

# Control characters except tab and line break, marks that change the writing direction, halves of surrogate pairs.
CONTROL = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")
MOST = 600  # characters of an error line; a word in it has at most 200


def neutral(text: str, encoding: str = "utf-8") -> str:
    """The text, with control characters and characters that the encoding lacks written as escapes."""
    visible = CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)
    return visible.encode(encoding, "backslashreplace").decode(encoding)


class Terminal:
    """Wraps a text stream to write `neutral` text; everything else is passed to the stream."""

    def __init__(self, stream: Any):
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write; returns how many characters were given."""
        self.stream.write(neutral(text, getattr(self.stream, "encoding", None) or "utf-8"))
        return len(text)


@contextmanager
def neutral_output() -> Iterator[None]:
    """Within it, what is printed on stdout is `neutral`. It is flushed at the end, so that a closed pipe is noticed here."""
    stream = sys.stdout
    try:
        with redirect_stdout(Terminal(stream)):
            yield
        stream.flush()
    except BaseException:
        try:
            stream.flush()
        except OSError:  # discard what is still to be written, also at the end of the process
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise


def complain(message: str, *, code: int) -> int:
    """One line on stderr, long words and a long line cut in the middle; returns the exit code."""
    words = " ".join(shorten(word) for word in message.split())
    with suppress(OSError):  # the pipe may be closed
        print(f"dmpo: {neutral(shorten(words, MOST))}", file=sys.stderr, flush=True)
    return code
