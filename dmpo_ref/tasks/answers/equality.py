"""Whether two LaTeX answers are equal, by math-verify, in a separate process that can be abandoned.

math-verify's own time limit is a signal, which works neither outside the main thread nor on Windows, and cannot interrupt one
long multiplication such as 9^{9^{9}}. Here a second Python process compares, one pair after another. It ends itself when a pair
takes longer than `SECONDS` or more than `MEMORY`, and the next pair starts a new one. This file is also what that process runs.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import importlib.util
import json
import logging
import os
import re
import subprocess
import sys
from subprocess import PIPE
from threading import Lock
from typing import Any

SECONDS, START_SECONDS = 5, 120  # for one pair; for the imports of a new process, which may share its core with a training run
MEMORY = 4 << 30  # bytes of address space, where the system can limit it
DIGITS = 40  # to which equal numbers are equal
POINTS = (2, -3, 11)  # at which expressions are compared, a little beside
MAX_LENGTH = 500  # characters of an answer; the longest of MATH is 53
# Towers of powers, long exponents and factorials; powers of a power with three digits.
HUGE = re.compile(
    r"\^\s*(?:[{(][^{}()]*|[0-9]+)\^|\^\s*[{(]?\s*-?\s*[0-9]{4,}|[0-9]{4,}\s*!|!\s*\)?\s*!|\^\s*[{(]?-?[0-9]{2,}[})]?\)\s*\^\s*[{(]?-?[0-9]{3}"
)


def need_math_verify() -> None:
    """Raise ValueError if math-verify is not installed."""
    if importlib.util.find_spec("math_verify") is None:
        raise ValueError("the strict grading of math500 needs the package math-verify: pip install 'dmpo-ref[benchmarks]'")


def are_equal(truth: str, answer: str) -> bool | None:
    """Whether an answer is mathematically equal to the truth; None if that was not decided within the bounds.

    Raises:
        ValueError: math-verify is not installed. Nothing in the texts raises.
    """
    need_math_verify()
    if max(len(truth), len(answer)) > MAX_LENGTH or HUGE.search(answer):
        return None
    # One process for each that asks: one that was forked must not share pipes with its parent.
    return HELPERS.setdefault(os.getpid(), Helper()).ask(truth, answer)


class Helper:
    """The process that compares, started when it is first asked. Threads take turns."""

    def __init__(self):
        self.lock = Lock()
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, truth: str, answer: str) -> bool | None:
        """As `are_equal`; None if the process ended instead of answering."""
        with self.lock:
            try:
                if self.process is None or self.process.poll() is not None:
                    self.stop()
                    command = [sys.executable, os.path.abspath(__file__), str(SECONDS)]
                    self.process = subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=subprocess.DEVNULL)
                assert self.process.stdin and self.process.stdout  # both are pipes
                self.process.stdin.write(json.dumps([truth, answer]).encode() + b"\n")
                self.process.stdin.flush()
                return json.loads(self.process.stdout.readline())
            except (OSError, ValueError):  # a broken pipe, or its end instead of a line
                self.stop()
                return None
            except BaseException:  # Ctrl-C: its answer, still to come, must not be taken for the next one
                self.stop()
                raise

    def stop(self) -> None:
        """End the process, whatever it does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in filter(None, (self.process.stdin, self.process.stdout)):
                with contextlib.suppress(OSError):
                    pipe.close()
            self.process = None


HELPERS: dict[int, Helper] = {}  # by process id


@atexit.register
def stop_helper() -> None:
    """End this process's own helper."""
    if helper := HELPERS.get(os.getpid()):
        helper.stop()


def verify_pair(truth: str, answer: str) -> bool:
    """Whether two answers are equal, by math-verify's reading; runs in the separate process.

    Fractions are compared exactly, decimals among them; other numbers are equal if `DIGITS` digits are, expressions if they are so at
    every one of `POINTS`. math-verify itself compares what is no value, as equations and inequalities.
    """
    # optional, and only this process needs it
    import sympy
    from math_verify import verify

    gold, target = read(truth), read(answer)
    if not all(isinstance(value, sympy.Expr) for value in (gold, target)):
        return bool(verify(gold, target, float_rounding=DIGITS, numeric_precision=DIGITS, timeout_seconds=None))
    symbols = sorted((gold - target).free_symbols | gold.free_symbols | target.free_symbols, key=str)
    for start in POINTS if symbols else POINTS[:1]:
        point = {symbol: start + sympy.Rational(n * n + 1, 7 * n + 3) for n, symbol in enumerate(symbols)}
        point |= {symbol: sympy.I for symbol in symbols if symbol.name == "i"}
        a, b = (value.subs(point).doit() for value in (gold, target))
        if a.is_Rational and b.is_Rational:
            is_equal = a == b
        else:
            a, b = (value.evalf(2 * DIGITS) for value in (a, b))
            is_equal = a == b or a.is_finite and b.is_finite and abs(a - b) <= abs(a) * sympy.Float(10) ** -DIGITS
        if not is_equal:
            return False
    return True


def read(text: str) -> Any:
    """What math-verify's parser makes of an answer, its decimals as fractions."""
    # comes with math-verify, which is optional
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
    from latex2sympy2_extended.math_normalization import NormalizationConfig, normalize_latex

    decimals = r"(?<![0-9])([0-9]*)\.([0-9]+)"
    text = re.sub(decimals, lambda found: rf"(\frac{{{int(found[1] + found[2])}}}{{{10 ** len(found[2])}}})", text)
    text = normalize_latex(text, NormalizationConfig(basic_latex=True, malformed_operators=True, nits=True, boxed="none"))
    return latex2sympy(text, is_real=True, normalization_config=None, conversion_config=ConversionConfig(lowercase_symbols=False))


def main(seconds: float) -> None:
    """Read pairs as lines of JSON, answer true or false, end with the input or at a pair that takes longer than `seconds`."""
    sys.path.pop(0)  # the folder of this file, whose names are not top-level modules
    logging.disable()
    output, sys.stdout = sys.stdout, sys.stderr
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource  # optional: Windows has none

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    # A watchdog outside the interpreter: it ends the process even in the middle of one long operation.
    faulthandler.dump_traceback_later(START_SECONDS, exit=True)
    verify_pair("1", "2")
    for line in sys.stdin:
        faulthandler.dump_traceback_later(seconds, exit=True)
        try:
            equal = verify_pair(*json.loads(line))
        except (Exception, RecursionError, MemoryError):
            equal = False
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(equal), file=output, flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]))
