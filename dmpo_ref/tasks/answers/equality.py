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

SECONDS, START_SECONDS = 5, 120  # for one pair; for the imports of a new process, which may share its core with a training run
MEMORY = 4 << 30  # bytes of address space, where the system can limit it
MAX_LENGTH = 500  # characters of an answer; the longest of MATH is 53
HUGE = re.compile(r"\^\s*\{[^{}]*\^|\^\s*\{?\s*-?\s*[0-9]{4,}|[0-9]{4,}\s*!|!\s*!")  # towers, long exponents and factorials


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
    """Whether math-verify finds two answers equal; runs in the separate process."""
    # optional, and only this process needs it
    from math_verify import LatexExtractionConfig, parse, verify

    # LaTeX alone: the other extraction takes the last number of what it cannot read.
    texts = ("$" + text.replace(r"\$", "").replace("$", "") + "$" for text in (truth, answer))
    gold, target = (parse(text, [LatexExtractionConfig(boxed_match_priority=-1)], parsing_timeout=None) for text in texts)
    # 12 decimals: the default of 6 takes 0.333333 for 1/3.
    return bool(verify(gold, target, float_rounding=12, timeout_seconds=None))


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
